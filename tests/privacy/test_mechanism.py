"""Differential privacy: as much noise as it takes, on what nobody can change by more, and an attack that tries."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.errors import WordflockError
from wordflock.federation_settings import FederationSettings
from wordflock.head.closed_form import Solution
from wordflock.privacy.mechanism import SPREAD, PrivateStatistics, gaussian_delta, gaussian_noise
from wordflock.settings import TrainSettings

epsilons, deltas = st.floats(0.05, 20), st.sampled_from([1e-3, 1e-5, 1e-8])


def mechanism(epsilon=math.inf, unit="clip", size=12, labels=3, dimensions=6, clip=1.0, seed=0, centre=None):
    return PrivateStatistics(size, labels, epsilon, 1e-5, unit, clip, dimensions, seed, centre)


def clips(seed: int, count: int, size: int = 12, labels: int = 3, apart: float = 1.0):
    """Representations of norm about one, some of them longer."""
    generator = np.random.default_rng(seed)
    y = np.arange(count) % labels
    z = apart * np.eye(labels, size)[y] + generator.normal(0, 1 / math.sqrt(size), (count, size))
    return z.astype(np.float32), y


@settings(max_examples=20)
@given(epsilons, deltas)
def test_the_noise_is_what_googles_accounting_finds(epsilon, delta):
    dp = pytest.importorskip("dp_accounting")
    theirs = dp.get_sigma_gaussian(epsilon, delta)
    assert gaussian_noise(epsilon, delta) == pytest.approx(theirs, rel=1e-6)


@settings(max_examples=20)
@given(epsilons, deltas)
def test_the_noise_is_enough_and_no_less_would_be(epsilon, delta):
    noise = gaussian_noise(epsilon, delta)
    assert gaussian_delta(epsilon, noise) <= delta * (1 + 1e-6)
    assert gaussian_delta(epsilon, 0.999 * noise) > delta
    if epsilon < 1:  # the classic bound, which is looser
        assert noise < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_infinite_epsilon_is_no_noise():
    m, (z, y) = mechanism(), clips(0, 30)
    v = m.contribution(z, y)
    np.testing.assert_array_equal(m.noisy(v), v)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    unit=st.sampled_from(["clip", "client"]),
    clip=st.floats(0.1, 30),
    stretch=st.floats(0, 100),
)
def test_nobody_changes_the_sums_or_the_centre_by_more_than_the_sensitivity(seed, unit, clip, stretch):
    """One clip more, whatever it is; one client more, whatever its clips are; wherever the centre is."""
    centre = np.random.default_rng(seed).normal(size=6)
    m, (z, y) = mechanism(unit=unit, clip=clip, centre=centre), clips(seed, 9)
    if unit == "client":
        change, moved = m.contribution(z * stretch, y), m.middle(z * stretch)
    else:
        more = np.vstack([z, z[:1] * stretch])
        change = m.contribution(more, np.append(y, seed % 3)) - m.contribution(z, y)
        moved = m.middle(more) - m.middle(z)
    assert np.linalg.norm(change) <= m.sensitivity * (1 + 1e-9)
    assert np.linalg.norm(moved) <= 1 + 1e-9


@pytest.mark.parametrize("epsilon", [0.5, 4.0])
def test_the_two_releases_are_together_as_private_as_is_said(epsilon):
    """By Google's accountant, which composes the distributions of the privacy loss by itself."""
    dp = pytest.importorskip("dp_accounting")
    m = mechanism(epsilon)
    accountant = dp.pld.PLDAccountant()
    accountant.compose(dp.GaussianDpEvent(m.noise / m.sensitivity))
    accountant.compose(dp.GaussianDpEvent(m.noise_of_centre))
    assert accountant.get_epsilon(1e-5) == pytest.approx(epsilon, rel=2e-3, abs=2e-3)


@pytest.mark.parametrize("unit", ["clip", "client"])
def test_the_centre_is_where_the_clips_are(unit):
    m, (z, y) = mechanism(unit=unit, size=6), clips(3, 40, size=6)
    z /= 2 * np.linalg.norm(z, axis=1, keepdims=True)  # so that none is clipped
    parts = [z[:10], z[10:20], z[20:]]
    centred = m.centred(sum(m.middle(part) for part in parts), 40 if unit == "clip" else 3)
    means = [part.mean(axis=0) for part in parts] if unit == "client" else z
    np.testing.assert_allclose(centred.centre, np.mean(means @ m._projection(), axis=0), atol=1e-6)
    # And the layer is the one of clips that were taken from there before.
    moved = ((z @ m._projection() - centred.centre) / SPREAD @ np.linalg.inv(m._projection())).astype(np.float32)
    layer, plain = centred.solve(centred.contribution(z, y)), m.solve(m.contribution(moved, y))
    np.testing.assert_allclose(z @ layer.weight.T + layer.bias, moved @ plain.weight.T + plain.bias, atol=1e-3)


def test_a_clip_at_the_bound_has_the_very_sensitivity():
    """So the bound is tight, whatever the direction: the triangle with √2 has the norm of the whole matrix."""
    m, (z, y) = mechanism(clip=0.7), clips(1, 5)
    for i in range(5):
        assert np.linalg.norm(m.contribution(z[i : i + 1] * 100, y[i : i + 1])) == pytest.approx(m.sensitivity)


def test_clients_sums_add_up():
    m, (z, y) = mechanism(), clips(2, 40)
    np.testing.assert_allclose(m.contribution(z[:13], y[:13]) + m.contribution(z[13:], y[13:]), m.contribution(z, y))


def test_a_client_cannot_send_more_than_its_bound():
    m = mechanism(unit="client", clip=2.0)
    assert np.linalg.norm(m.bounded(np.full(m.length, 1e6))) == pytest.approx(2.0)


def right(solution: Solution, z, y) -> float:
    return float((np.argmax(z @ solution.weight.T + solution.bias, axis=1) == y).mean())


def test_less_privacy_is_more_accuracy():
    z, y = clips(3, 3000, apart=1.5)
    test_z, test_y = clips(4, 3000, apart=1.5)

    def accuracy(epsilon):
        m = mechanism(epsilon)
        solved = (m.solve(m.noisy(m.contribution(z, y), np.random.default_rng(n))) for n in range(5))
        return np.mean([right(s, test_z, test_y) for s in solved])

    assert accuracy(math.inf) > 0.85
    assert accuracy(math.inf) >= accuracy(1.0) - 0.01 > accuracy(0.002)


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["clip", "client"]))
def test_any_noise_can_be_solved(seed, unit):
    m, (z, y) = mechanism(0.01, unit), clips(seed, 12)
    solution = m.solve(m.noisy(m.contribution(z, y), np.random.default_rng(seed)))
    assert np.isfinite(solution.weight).all() and np.isfinite(solution.bias).all()


def test_noise_is_never_the_same_twice():
    m, (z, y) = mechanism(1.0), clips(5, 12)
    v = m.contribution(z, y)
    assert not np.array_equal(m.noisy(v), m.noisy(v))


def attack(epsilon: float, trials: int = 40) -> float:
    """How often a membership attack on the solved layer tells a training clip from another (0.5: never).

    The strongest case for the attacker: few clips, many dimensions, and it knows a clip's label. A layer that has
    learnt its few clips by heart scores them higher than clips it has not seen. The area under the ROC curve.
    """
    generator, size, labels = np.random.default_rng(7), 64, 2
    inside, outside = [], []
    for trial in range(trials):
        z = generator.normal(0, 1 / math.sqrt(size), (80, size)).astype(np.float32)
        y = generator.integers(labels, size=80)
        m = PrivateStatistics(size, labels, epsilon, 1e-5, "clip", 1.0, size, trial)
        solution = m.solve(m.noisy(m.contribution(z[:40], y[:40]), generator))
        scores = z @ solution.weight.T + solution.bias
        margin = scores[np.arange(80), y] - scores[np.arange(80), 1 - y]
        inside.append(margin[:40] / np.abs(margin).mean())
        outside.append(margin[40:] / np.abs(margin).mean())
    a, b = np.concatenate(inside), np.concatenate(outside)
    ranks = np.argsort(np.argsort(np.concatenate([a, b])))[: len(a)]
    return float((ranks.sum() - len(a) * (len(a) - 1) / 2) / (len(a) * len(b)))


def test_an_attack_works_without_noise_and_not_with_it():
    assert attack(math.inf) > 0.7
    assert abs(attack(0.5) - 0.5) < 0.06


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (FederationSettings(strategy="closed-form", dp_epsilon=1.0, head="linear"), "--head normalized"),
        (FederationSettings(strategy="closed-form", dp_epsilon=1.0, keep_statistics="by-client"), "--keep-statistics"),
        (FederationSettings(strategy="closed-form", dp_epsilon=1.0, dp_delta=0.0), "--dp-delta"),
        (FederationSettings(rounds=10, dp_epsilon=1.0), "--dp-unit client"),
        (FederationSettings(dp_epsilon=1.0, dp_unit="client", init="closed-form"), "--init"),
        (TrainSettings(dp_epsilon=1.0), "--strategy closed-form"),
        (TrainSettings(strategy="closed-form", dp_epsilon=1.0, dp_unit="client"), "--dp-unit clip"),
    ],
)
def test_what_cannot_be_private_is_refused(settings, remedy):
    with pytest.raises(WordflockError, match=remedy):
        settings.check_together()


def test_what_is_promised_can_be_written_down():
    for epsilon in (1.0, math.inf):
        report = json.loads(json.dumps(mechanism(epsilon).report("server"), allow_nan=False))
        assert report["unit"] == "clip" and report["releases"] == 2 and report["assumptions"]


@pytest.mark.parametrize("epsilon", [1e9, 1e30, 1e308])
def test_an_epsilon_that_protects_nobody_has_a_noise_too(epsilon):
    assert 0 < gaussian_noise(epsilon, 1e-5) < 1e-4
