import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.errors import WordflockError
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve


def clips(seed: int, count: int = 120, size: int = 6, labels: int = 3):
    generator = np.random.default_rng(seed)
    y = np.concatenate([np.arange(labels), generator.integers(labels, size=count - labels)])
    centres = generator.normal(0, 2, (labels, size))
    z = (centres[y] + generator.normal(5, 1, (count, size))) * generator.uniform(0.1, 10, size)
    return z.astype(np.float32), y


def together(parts, labels=3, upload_dtype="float64"):
    """The solution of clients that each hold one part."""
    moments = [ScaleStatistics.of(z, y, labels) for z, y in parts]
    scale = sum(moments[1:], moments[0]).scale()
    sums = [Statistics.unpacked(Statistics.of(z, y, scale).packed(upload_dtype), z.shape[1], labels) for z, y in parts]
    return solve(sum(sums[1:], sums[0]), scale), scale, sums


@settings(max_examples=40)
@given(seed=st.integers(0, 10_000), cuts=st.lists(st.integers(1, 119), max_size=8, unique=True))
def test_any_partition_gives_the_centralized_solution(seed, cuts):
    z, y = clips(seed)
    order = np.random.default_rng(seed + 1).permutation(len(z))
    parts = [(z[part], y[part]) for part in np.split(order, sorted(cuts))]
    federated, _, _ = together(parts)
    central, _, _ = together([(z, y)])
    assert federated.ridges == central.ridges
    np.testing.assert_allclose(federated.weight, central.weight, atol=1e-6)
    np.testing.assert_allclose(federated.bias, central.bias, atol=1e-6)


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), leaver=st.integers(0, 3))
def test_subtracting_a_client_is_as_if_it_had_never_been(seed, leaver):
    z, y = clips(seed, count=160)
    parts = [(z[i::4], y[i::4]) for i in range(4)]
    _, scale, sums = together(parts)
    total = sums[0] + sums[1] + sums[2] + sums[3]
    stayed = [s for i, s in enumerate(sums) if i != leaver]
    forgotten, never = solve(total - sums[leaver], scale), solve(stayed[0] + stayed[1] + stayed[2], scale)
    np.testing.assert_allclose(forgotten.weight, never.weight, atol=1e-6)
    np.testing.assert_allclose(forgotten.bias, never.bias, atol=1e-6)


def test_equals_scikit_learns_weighted_ridge():
    linear_model = pytest.importorskip("sklearn.linear_model")
    z, y = clips(3)
    ours, scale, sums = together([(z, y)])
    x = (z - scale.mean) / scale.deviation
    penalty = ours.ridges[0] * np.trace(sums[0].gram[:-1, :-1]) / z.shape[1]
    theirs = linear_model.Ridge(alpha=penalty).fit(x, np.eye(3)[y], sample_weight=scale.label_weights[y])
    scores = z @ ours.weight.T + ours.bias
    np.testing.assert_allclose(scores, theirs.predict(x), atol=1e-8)


def test_cross_validation_from_sums_equals_the_definition():
    """The trace of the hat matrix and the residuals, computed clip by clip."""
    z, y = clips(4, count=60)
    _, scale, (sums,) = together([(z, y)])
    for ridge in (1e-2, 1.0):
        ours = solve(sums, scale, [ridge])
        root = np.sqrt(scale.label_weights[y])[:, None]
        x = root * np.hstack([(z - scale.mean) / scale.deviation, np.ones((len(z), 1))])
        penalty = np.diag([*[ridge * np.trace(x[:, :-1].T @ x[:, :-1]) / z.shape[1]] * z.shape[1], 0.0])
        hat = x @ np.linalg.solve(x.T @ x + penalty, x.T)
        residual = np.square((np.eye(60) - hat) @ (root * np.eye(3)[y])).sum() / 60
        assert ours.error == pytest.approx(residual / (1 - np.trace(hat) / 60) ** 2, rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(1, 5))
def test_parts_are_solved_each_by_itself_and_the_scores_are_the_mean_of_theirs(seed, cut):
    z, y = clips(seed)
    z[:, cut:] += np.random.default_rng(seed).normal(0, 30, (len(z), 1)).astype(np.float32)  # noise that they share
    _, scale, (sums,) = together([(z, y)])
    both = solve(sums, scale, parts=[cut, z.shape[1] - cut])
    alone = [together([(part, y)])[0] for part in (z[:, :cut], z[:, cut:])]
    scores = [part @ one.weight.T + one.bias for part, one in zip((z[:, :cut], z[:, cut:]), alone, strict=True)]
    np.testing.assert_allclose(z @ both.weight.T + both.bias, np.mean(scores, axis=0), atol=1e-6)
    assert both.ridges == (*alone[0].ridges, *alone[1].ridges)
    assert both.error == pytest.approx(np.mean([one.error for one in alone]))


@pytest.mark.parametrize(("upload_dtype", "tolerance"), [("float32", 1e-4), ("float16", 0.1)])
def test_fewer_bits_cost_little(upload_dtype, tolerance):
    z, y = clips(5, count=400)
    parts = [(z[i::8], y[i::8]) for i in range(8)]
    exact, _, _ = together(parts)
    coarse, _, _ = together(parts, upload_dtype=upload_dtype)
    truth, rounded = z @ exact.weight.T + exact.bias, z @ coarse.weight.T + coarse.bias
    assert np.abs(truth - rounded).max() < tolerance


def test_what_half_precision_rounded_is_solved_with_a_larger_penalty():
    """Nearly dependent coordinates: the Gram matrix has eigenvalues that rounding makes negative."""
    z, y = clips(9, count=400, size=20)
    z = np.hstack([z, z + 1e-4 * np.random.default_rng(0).normal(size=z.shape).astype(np.float32)])
    scale = ScaleStatistics.of(z, y, 3).scale()
    sums = Statistics.unpacked(Statistics.of(z, y, scale).packed("float16"), z.shape[1], 3)
    with pytest.raises(WordflockError, match="cannot be solved"):
        solve(sums, scale, [1e-6])
    solution = solve(sums, scale, [1e-6, 1e-1])
    assert solution.ridges == (1e-1,)
    assert (np.argmax(z @ solution.weight.T + solution.bias, axis=1) == y).mean() > 0.9


def test_a_label_that_nobody_has():
    z, y = clips(6)
    with pytest.raises(WordflockError, match="no training clips of label 3"):
        ScaleStatistics.of(z, y, 4).scale()
    with pytest.raises(WordflockError, match="no training clips of _unknown_;"):
        ScaleStatistics.of(z, y, 4).scale(["yes", "no", "go", "_unknown_"])


def test_a_coordinate_that_is_always_the_same():
    z, y = clips(7)
    z[:, 2] = 3.0
    solution, _, _ = together([(z, y)])
    assert np.isfinite(solution.weight).all()
    assert (np.argmax(z @ solution.weight.T + solution.bias, axis=1) == y).mean() > 0.9


def test_subtracting_what_was_never_added():
    z, y = clips(8)
    _, scale, (sums,) = together([(z, y)])
    with pytest.raises(WordflockError, match="subtract"):
        solve(sums - (sums + sums), scale)
