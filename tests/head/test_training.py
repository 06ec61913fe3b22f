from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.encoder.store import Features
from wordflock.head.adamw import AdamW
from wordflock.head.checkpoint import get_weights
from wordflock.head.kinds import KINDS
from wordflock.head.metrics import score
from wordflock.head.torch_head import build_head, count_parameters
from wordflock.head.training import (
    Recipe,
    balanced_order,
    evaluate_head,
    make_optimizer,
    predict,
    schedule,
    train_epoch,
)

FRAMES, WIDTH, LABELS = 6, 8, 3
NAMES = ["yes", "no", "_unknown_"]
RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=3e-3, weight_decay=0.01, label_smoothing=0.05)


def words(clips: int, seed: int = 0, noise: float = 1.0) -> Features:
    """Features of three words that are easily told apart, in rows that do not follow the clips' order."""
    centres = np.random.default_rng(99).normal(0, 2, (LABELS, FRAMES, WIDTH))
    generator = np.random.default_rng(seed)
    labels = np.sort(generator.integers(0, LABELS, clips))  # sorted by word, as clips come
    rows = generator.permutation(clips)
    array = np.empty((clips, FRAMES, WIDTH), dtype=np.float16)
    array[rows] = centres[labels] + generator.normal(0, noise, (clips, FRAMES, WIDTH))
    return Features(array, rows, labels)


def trained(kind: str, features: Features, recipe: Recipe, seed: int = 0) -> torch.nn.Module:
    head = build_head(kind, FRAMES, WIDTH, LABELS)
    optimizer, generator = make_optimizer(head, recipe), np.random.default_rng(seed)
    anchor = [parameter.detach().clone() for parameter in head.parameters()]
    for epoch in range(recipe.epochs):
        train_epoch(head, optimizer, features, recipe, generator, epoch=epoch, anchor=anchor)
    return head


def as_bytes(head: torch.nn.Module) -> bytes:
    return b"".join(array.tobytes() for array in get_weights(head).values())


label_lists = st.lists(st.sampled_from([0, 1, 2, 5, 9]), min_size=1, max_size=80).map(np.array)


# The order of the clips


@given(labels=label_lists, seed=st.integers(0, 2**32))
def test_every_label_that_occurs_is_drawn_equally_often(labels: NDArray[np.int64], seed: int) -> None:
    order = balanced_order(labels, np.random.default_rng(seed))
    assert len(order) == len(labels)
    drawn, counts = np.unique(labels[order], return_counts=True)
    assert set(drawn) == set(labels)
    assert counts.max() - counts.min() <= 1


@given(labels=label_lists, seed=st.integers(0, 2**32))
def test_no_clip_is_drawn_twice_before_all_of_its_label_are_once(labels: NDArray[np.int64], seed: int) -> None:
    times = np.bincount(balanced_order(labels, np.random.default_rng(seed)), minlength=len(labels))
    for label in np.unique(labels):
        mine = times[labels == label]
        assert mine.max() - mine.min() <= 1


def test_labels_come_in_random_order() -> None:
    labels = np.array([0] * 20 + [1] * 20 + [2] * 20)
    runs = [labels[balanced_order(labels, np.random.default_rng(seed))] for seed in range(40)]
    for place in (0, 30, 59):
        assert {int(run[place]) for run in runs} == {0, 1, 2}


def test_common_clips_take_turns_over_the_epochs() -> None:
    """A label with more clips than its share has another part of them in every epoch."""
    labels = np.array([0] * 60 + [1] * 4)
    generator = np.random.default_rng(0)
    seen = {int(clip) for _ in range(12) for clip in balanced_order(labels, generator)}
    assert seen == set(range(64))


@pytest.mark.parametrize("balanced", [True, False])
def test_an_epoch_has_as_many_clips_as_there_are_and_tells_of_each_batch(balanced: bool) -> None:
    features, told = words(50), []
    head = build_head("mean", FRAMES, WIDTH, LABELS)
    recipe = replace(RECIPE, balanced=balanced)
    optimizer = make_optimizer(head, recipe)
    loss = train_epoch(
        head, optimizer, features, recipe, np.random.default_rng(0), step=lambda *batch: told.append(batch)
    )
    assert [clips for clips, _ in told] == [16, 16, 16, 2]
    assert loss == pytest.approx(sum(clips * mean for clips, mean in told) / 50)


class Watched(Features):
    """Features that remember which clips were asked for."""

    asked: list[int] = []  # noqa: RUF012

    def batch(self, chosen: NDArray[np.int64], generator: Any = None) -> tuple[torch.Tensor, torch.Tensor]:
        self.asked.extend(chosen.tolist())
        return super().batch(chosen, generator)


def test_without_balance_an_epoch_is_every_clip_once_in_another_order_each_time() -> None:
    plain = words(50)
    features = Watched(plain.array, plain.rows, plain.labels)
    features.asked.clear()
    trained("mean", features, replace(RECIPE, epochs=2, balanced=False))
    first, second = features.asked[:50], features.asked[50:]
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second and first != sorted(first)


# Learning


@pytest.mark.parametrize("kind", KINDS)
def test_words_that_are_easily_told_apart_are_learned(kind: str) -> None:
    noise = 0.3 if kind == "linear-mean" else 1.0  # which sees the first of the frames alone
    heard, others = words(300, noise=noise), words(150, seed=1, noise=noise)
    before = evaluate_head(build_head(kind, FRAMES, WIDTH, LABELS), others, NAMES)
    after = evaluate_head(trained(kind, heard, replace(RECIPE, learning_rate=0.01)), others, NAMES)
    assert after.accuracy > 0.97
    assert after.loss < 0.6 < 0.9 < before.loss


def test_a_rare_word_is_learned_where_the_batches_are_balanced() -> None:
    everything = words(600, noise=6.0)
    rare = np.flatnonzero(everything.labels == 2)[:6]
    features = everything.select(np.concatenate([np.flatnonzero(everything.labels < 2), rare]))
    recalls = {}
    for balanced in (True, False):
        head = trained("mean", features, replace(RECIPE, balanced=balanced))
        recalls[balanced] = evaluate_head(head, words(300, seed=1, noise=6.0), NAMES).recall["_unknown_"]
    assert recalls[True] > recalls[False] + 0.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("balanced", [True, False])
def test_the_same_generator_gives_the_same_bytes_and_another_does_not(kind: str, balanced: bool) -> None:
    recipe = replace(RECIPE, epochs=2, balanced=balanced)
    torch.manual_seed(1)
    first = as_bytes(trained(kind, words(60), recipe, seed=5))
    torch.manual_seed(2)
    assert as_bytes(trained(kind, words(60), recipe, seed=5)) == first
    assert as_bytes(trained(kind, words(60), recipe, seed=6)) != first


def test_rows_in_another_order_train_the_same_head() -> None:
    """Two stores may hold the same clips in different rows."""
    features = words(60)
    straight = Features(features.array[features.rows], np.arange(60), features.labels)
    assert as_bytes(trained("attentive", features, RECIPE)) == as_bytes(trained("attentive", straight, RECIPE))


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_gradient_descent_with_fedprox_s_penalty(kind: str) -> None:
    """Against the formula, w ← w − η (∇loss(w) + μ (w − w₀)), with plain SGD in the optimizer's place."""
    features = words(40)
    recipe = replace(RECIPE, epochs=2, learning_rate=0.1, proximal=0.7, balanced=False)
    head = build_head(kind, FRAMES, WIDTH, LABELS)
    generator = np.random.default_rng(3)
    start = [parameter.detach().clone() for parameter in head.parameters()]
    now = [parameter.clone() for parameter in start]
    batches = [
        order[i : i + 16] for order in (generator.permutation(40), generator.permutation(40)) for i in (0, 16, 32)
    ]
    for step, batch in enumerate(batches):
        x, y = features.batch(batch)
        leaves = [w.clone().requires_grad_() for w in now]
        named = dict(zip((name for name, _ in head.named_parameters()), leaves, strict=True))
        loss = F.cross_entropy(torch.func.functional_call(head, named, (x,)), y, label_smoothing=0.05)
        rate = 0.1 * schedule(step / 6, 0.1)
        steps = zip(now, torch.autograd.grad(loss, leaves), start, strict=True)
        now = [w - rate * (gradient + 0.7 * (w - w0)) for w, gradient, w0 in steps]
    optimizer = torch.optim.SGD(head.parameters(), lr=123.0)  # the schedule has the say
    generator = np.random.default_rng(3)
    for epoch in range(2):
        train_epoch(head, optimizer, features, recipe, generator, epoch=epoch, anchor=start)
    for ours, formula in zip(head.parameters(), now, strict=True):
        assert torch.allclose(ours, formula, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stronger_the_proximal_term_the_nearer_the_head_stays_to_where_it_started(kind: str) -> None:
    start = torch.cat([parameter.flatten() for parameter in build_head(kind, FRAMES, WIDTH, LABELS).parameters()])
    distances = []
    for proximal in (0.0, 0.3, 3.0, 30.0):
        head = trained(kind, words(200), replace(RECIPE, epochs=2, proximal=proximal))
        now = torch.cat([parameter.detach().flatten() for parameter in head.parameters()])
        distances.append((now - start).norm().item())
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 0.8 * distances[0]


def test_over_several_epochs_of_one_batch_each_the_proximal_term_is_felt() -> None:
    """The first step starts at the anchor, where the term is nothing; were it taken anew, the term would stay so."""
    recipe = replace(RECIPE, epochs=4, batch_size=16)
    free, held = (as_bytes(trained("mean", words(16), replace(recipe, proximal=mu))) for mu in (0.0, 1000.0))
    assert free != held


def test_weight_decay_shrinks_matrices_and_leaves_biases_and_norms_alone() -> None:
    head = build_head("attentive", FRAMES, WIDTH, LABELS)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.fill_(1.0)
            parameter.grad = torch.zeros_like(parameter)
    make_optimizer(head, replace(RECIPE, learning_rate=0.1, weight_decay=0.5)).step()
    for name, parameter in head.named_parameters():
        expected = 0.95 if parameter.ndim > 1 else 1.0
        assert torch.allclose(parameter, torch.tensor(expected)), name


# The learning rate


@given(warm_up=st.floats(0, 0.95), one=st.floats(0, 1), other=st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_and_then_falls(warm_up: float, one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    before, after = schedule(earlier, warm_up), schedule(later, warm_up)
    assert 0 < before <= 1 + 1e-12 and 0 < after <= 1 + 1e-12
    if later < warm_up:
        assert before <= after
    if earlier >= warm_up:
        assert before >= after
    assert schedule(warm_up, warm_up) == pytest.approx(1)
    assert schedule(1.0, warm_up) == pytest.approx(0.01)


@given(warm_up=st.floats(0, 0.9), progress=st.floats(0, 1))
def test_the_learning_rate_never_jumps(warm_up: float, progress: float) -> None:
    nearby = min(1.0, progress + 1e-6)
    assert abs(schedule(nearby, warm_up) - schedule(progress, warm_up)) < 2e-4


def test_the_schedule_spans_all_batches_of_all_epochs() -> None:
    features, rates = words(50), []
    head = build_head("mean", FRAMES, WIDTH, LABELS)
    optimizer, generator = make_optimizer(head, RECIPE), np.random.default_rng(0)
    for epoch in range(RECIPE.epochs):
        train_epoch(
            head, optimizer, features, RECIPE, generator, epoch=epoch,
            step=lambda *_: rates.append({group["lr"] for group in optimizer.param_groups}),
        )  # fmt: skip
    batches = RECIPE.epochs * math.ceil(50 / 16)
    assert rates == [{RECIPE.learning_rate * schedule(batch / batches, 0.1)} for batch in range(batches)]


# Evaluation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clips", [1, 128, 300])
def test_predict_equals_the_head_called_on_everything_at_once(kind: str, clips: int) -> None:
    head, features = build_head(kind, FRAMES, WIDTH, LABELS), words(clips)
    with torch.inference_mode():
        at_once = head(torch.from_numpy(features.array[features.rows].astype(np.float32))).numpy()
    np.testing.assert_allclose(predict(head, features), at_once, atol=1e-5)
    expected: Any = score(at_once, features.labels, NAMES, count_parameters(head)).as_json()
    found = evaluate_head(head, features, NAMES).as_json()
    assert found.pop("loss") == pytest.approx(expected.pop("loss"), abs=1e-5)
    assert found == expected


def test_evaluation_leaves_the_head_as_it_was() -> None:
    head = build_head("attentive", FRAMES, WIDTH, LABELS)
    before = as_bytes(head)
    evaluate_head(head, words(20), NAMES)
    assert as_bytes(head) == before
    assert all(parameter.grad is None for parameter in head.parameters())


@settings(max_examples=30)
@given(chosen=st.lists(st.integers(0, 39), max_size=60), start=st.integers(0, 40), stop=st.integers(0, 40))
def test_some_of_the_features_are_the_same_as_those_of_some_clips(chosen: list[int], start: int, stop: int) -> None:
    features, picked = words(40), np.array(chosen, dtype=np.int64)
    whole, labels = features.array[features.rows].astype(np.float32), features.labels
    for part, clips in ((features.select(picked), picked), (features.part(start, stop), np.arange(40)[start:stop])):
        x, y = part.batch(np.arange(len(part)))
        assert x.dtype == torch.float32
        assert np.array_equal(x.numpy(), whole[clips]) and np.array_equal(y.numpy(), labels[clips])


# AdamW


def test_our_adamw_is_torch_s_to_the_last_byte() -> None:
    heads = [build_head("attentive", FRAMES, WIDTH, LABELS) for _ in range(2)]
    groups = [
        [{"params": [p for p in head.parameters() if (p.ndim > 1) is matrix], "lr": 0.0, "weight_decay": 0.1 * matrix}
         for matrix in (True, False)]
        for head in heads
    ]  # fmt: skip
    optimizers = AdamW(groups[0]), torch.optim.AdamW(groups[1], fused=True)
    for number in range(5):
        for head, optimizer in zip(heads, optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 * (number + 1)
            optimizer.zero_grad()
            head(torch.ones(2, FRAMES, WIDTH) * number).square().sum().backward()
            optimizer.step()
    for mine, theirs in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)
    remembered = [optimizer.state_dict()["state"] for optimizer in optimizers]
    assert remembered[0].keys() == remembered[1].keys()
    for place, slots in remembered[0].items():
        assert all(torch.equal(slots[key], remembered[1][place][key]) for key in slots)


def test_a_constant_learning_rate_is_its_peak_throughout() -> None:
    features, recipe = words(60), replace(RECIPE, constant=True)
    head = build_head("mean", FRAMES, WIDTH, LABELS)
    optimizer, rates = make_optimizer(head, recipe), set[float]()
    for epoch in range(recipe.epochs):
        train_epoch(
            head,
            optimizer,
            features,
            recipe,
            np.random.default_rng(0),
            epoch=epoch,
            step=lambda clips, loss: rates.update(group["lr"] for group in optimizer.param_groups),
        )
    assert rates == {recipe.learning_rate}
