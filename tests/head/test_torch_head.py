from __future__ import annotations

import numpy as np
import pytest
import torch

from wordflock.errors import WordflockError
from wordflock.head.kinds import KINDS
from wordflock.head.numpy_head import Projection
from wordflock.head.torch_head import MAX_PARAMETERS, build_head, count_parameters

FRAMES, WIDTH, LABELS = 9, 16, 5
every_head = pytest.mark.parametrize("kind", KINDS)


def some_features(clips: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randn(clips, FRAMES, WIDTH, generator=torch.Generator().manual_seed(seed))


def anywhere(kind: str, seed: int = 0) -> torch.nn.Module:
    """A head far from its start, so that every part of it shows."""
    head = build_head(kind, FRAMES, WIDTH, LABELS)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    return head


@pytest.mark.parametrize(
    ("kind", "frames", "labels", "parameters"),
    [
        ("convolution", 1500, 12, 781_964),  # the seed system's
        ("attentive", 70, 10, 106_890),
        ("combined", 12, 12, 73_452),
        ("mean", 70, 10, 101_898),
        ("linear", 2, 12, 9228),
    ],
)
def test_heads_have_as_many_parameters_as_is_said_of_them(kind: str, frames: int, labels: int, parameters: int) -> None:
    assert count_parameters(build_head(kind, frames, 384, labels)) == parameters


@pytest.mark.parametrize(
    ("kind", "frames", "width"), [("convolution", 1500, 384), ("mean", 50, 3100), ("linear", 1500, 384)]
)
def test_a_head_of_over_800_000_parameters_is_refused_unless_allowed(kind: str, frames: int, width: int) -> None:
    size = count_parameters(build_head(kind, frames, width, 36, allow_large=True))
    assert size > MAX_PARAMETERS
    for seed in (0, None):
        with pytest.raises(WordflockError, match=rf"{size:,} parameters, over 800,000; .*--allow-large-head\.$"):
            build_head(kind, frames, width, 36, seed=seed)


@every_head
def test_the_usual_window_and_encoder_make_a_head_that_may_travel(kind: str) -> None:
    assert count_parameters(build_head(kind, 70, 384, 12)) <= MAX_PARAMETERS


def test_random_features_depend_on_the_seed_alone_and_keep_distances() -> None:
    features = some_features(40)
    plain, one, again, other = (
        build_head("normalized", FRAMES, WIDTH, LABELS, seed=None, projection=p and Projection(*p)).pool(features)
        for p in (None, (800, 3), (800, 3), (800, 4))
    )
    assert torch.equal(one, again) and not torch.equal(one, other) and one.shape == (40, 800)
    torch.testing.assert_close(torch.cdist(one, one), torch.cdist(plain, plain), rtol=0.15, atol=1e-3)
    with pytest.raises(WordflockError, match="--head normalized"):
        build_head("linear", FRAMES, WIDTH, LABELS, projection=Projection(8, 0))


def test_an_unknown_head_is_refused_and_the_known_ones_are_named() -> None:
    with pytest.raises(
        WordflockError, match="no head 'transformer'; choose one of combined, attentive, convolution, mean, linear"
    ):
        build_head("transformer", FRAMES, WIDTH, LABELS)


@every_head
def test_the_first_weights_depend_on_the_seed_alone(kind: str) -> None:
    torch.manual_seed(1)
    first = build_head(kind, FRAMES, WIDTH, LABELS, seed=3).state_dict()
    torch.manual_seed(2)
    again = build_head(kind, FRAMES, WIDTH, LABELS, seed=3).state_dict()
    other = build_head(kind, FRAMES, WIDTH, LABELS, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@every_head
@pytest.mark.parametrize("seed", [0, 7, None])
def test_building_leaves_torch_s_own_generator_as_it_was(kind: str, seed: int | None) -> None:
    before = torch.random.get_rng_state()
    build_head(kind, FRAMES, WIDTH, LABELS, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), before)


@every_head
def test_a_head_without_a_seed_takes_weights_from_elsewhere(kind: str) -> None:
    seeded, empty = anywhere(kind), build_head(kind, FRAMES, WIDTH, LABELS, seed=None)
    assert {parameter.device.type for parameter in empty.parameters()} == {"cpu"}
    empty.load_state_dict(seeded.state_dict())
    assert torch.equal(empty(some_features()), seeded(some_features()))


@every_head
def test_the_logits_are_a_linear_layer_of_what_is_pooled(kind: str) -> None:
    head, features = anywhere(kind), some_features()
    with torch.inference_mode():
        pooled = head.pool(features)
        assert pooled.shape == (len(features), head.output.in_features)
        assert torch.equal(head(features), head.output(pooled))


def test_the_linear_head_is_a_matrix_and_a_bias() -> None:
    head, features = anywhere("linear"), some_features()
    weight, bias = (parameter.detach().numpy() for parameter in head.parameters())
    with torch.inference_mode():
        logits = head(features).numpy()
    np.testing.assert_allclose(logits, features.numpy().reshape(6, FRAMES * WIDTH) @ weight.T + bias, atol=1e-4)


def test_the_untrained_attentive_head_pools_the_plain_mean_and_standard_deviation() -> None:
    head = build_head("attentive", FRAMES, WIDTH, LABELS)
    features = 3 * some_features().numpy().astype(np.float64) + 1
    centred = features - features.mean(axis=2, keepdims=True)
    x = centred / np.sqrt(np.square(centred).mean(axis=2, keepdims=True) + 1e-5)
    pooled = np.concatenate([x.mean(axis=1), x.std(axis=1)], axis=1)
    weight, bias = (parameter.detach().numpy() for parameter in (head.output.weight, head.output.bias))
    with torch.inference_mode():
        logits = head(torch.from_numpy(features).float()).numpy()
    np.testing.assert_allclose(logits, pooled @ weight.T + bias, atol=1e-5)


def test_attention_is_a_weighted_mean_and_standard_deviation() -> None:
    """The statistics of a head that attends, computed one clip and channel at a time."""
    head = anywhere("attentive")
    with torch.inference_mode():
        pooled = head.pool(some_features())
        x = head.norm(some_features())
        scores = head.attention_out(torch.tanh(head.attention_in(x))).double().numpy()
    x = x.double().numpy()
    for clip in range(len(x)):
        for channel in range(WIDTH):
            weights = np.exp(scores[clip, :, channel]) / np.exp(scores[clip, :, channel]).sum()
            mean = np.average(x[clip, :, channel], weights=weights)
            deviation = np.sqrt(np.average((x[clip, :, channel] - mean) ** 2, weights=weights))
            assert pooled[clip, channel] == pytest.approx(mean, abs=1e-4)
            assert pooled[clip, WIDTH + channel] == pytest.approx(max(deviation, 1e-5**0.5), abs=1e-3)


def gradients(head: torch.nn.Module) -> dict[str, float]:
    head.zero_grad()
    truth = torch.arange(6) % LABELS
    torch.nn.functional.cross_entropy(head(some_features()), truth).backward()
    return {name: parameter.grad.abs().max().item() for name, parameter in head.named_parameters()}


@every_head
def test_gradients_reach_every_parameter_after_a_step(kind: str) -> None:
    head = build_head(kind, FRAMES, WIDTH, LABELS)
    before = gradients(head)
    if kind == "attentive":  # zero weights let nothing through to what stands before them
        assert before["attention_in.weight"] == before["attention_in.bias"] == 0 < before["attention_out.weight"]
    torch.optim.SGD(head.parameters(), lr=0.1).step()
    assert {name for name, largest in gradients(head).items() if largest < 1e-5} == set()


def test_the_combined_head_trains_its_convolutions_and_what_is_on_top_of_them_only() -> None:
    head, features = anywhere("combined"), some_features()
    fixed, learned = head.parts
    assert (fixed, fixed + learned) == (2 * WIDTH, head.output.in_features)
    first = head.output.weight.detach().clone()
    loss = torch.nn.functional.cross_entropy(head(features), torch.arange(6) % LABELS)
    loss.backward()
    torch.optim.SGD(head.parameters(), lr=0.1).step()
    assert torch.equal(head.output.weight[:, :fixed], first[:, :fixed])
    assert not torch.isclose(head.output.weight[:, fixed:], first[:, fixed:]).all()
    with torch.inference_mode():
        pooled, in_training = head.eval().pool(features), head.train().pool(features)
    expected = torch.cat([features.mean(dim=1), features.std(dim=1, correction=0)], dim=1)
    torch.testing.assert_close(pooled[:, :fixed], expected)
    assert torch.equal(pooled[:, fixed:], in_training[:, fixed:]) and not in_training[:, :fixed].any()


def test_the_untrained_combined_head_scores_by_its_convolutions_alone() -> None:
    head, features = build_head("combined", FRAMES, WIDTH, LABELS), some_features()
    with torch.inference_mode():
        assert torch.equal(head.train()(features), head.eval()(features))


@every_head
@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_a_clip_do_not_depend_on_the_others_in_its_batch(kind: str, training: bool) -> None:
    head, features = anywhere(kind).train(training), some_features(8)
    with torch.inference_mode():
        alone = torch.cat([head(clip[None]) for clip in features])
        assert torch.allclose(head(features), alone, atol=1e-4)
        assert torch.allclose(head(features.flip(0)), alone.flip(0), atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "hears_order"),
    [("attentive", False), ("mean", False), ("convolution", True), ("linear", True), ("combined", True)],
)
def test_heads_that_average_over_the_frames_do_not_hear_their_order(kind: str, hears_order: bool) -> None:
    head, features = anywhere(kind), some_features()
    shuffled = features[:, torch.randperm(FRAMES, generator=torch.Generator().manual_seed(1))]
    with torch.inference_mode():
        assert torch.allclose(head(features), head(shuffled), atol=1e-4) != hears_order
