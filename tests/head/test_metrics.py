from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.data.task import SILENCE, UNKNOWN
from wordflock.head.calibration import Calibration
from wordflock.head.metrics import score, wilson_interval

quickly = settings(max_examples=40)
proportions = st.integers(1, 10**6).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials)))


def outcomes(clips: int, labels: int, seed: int) -> tuple[Any, Any, list[str]]:
    """Random logits and true labels; with few clips some labels have none."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (clips, labels)).astype(np.float32)
    return logits, generator.integers(0, labels, clips), [f"word {index}" for index in range(labels)]


@quickly
@given(clips=st.integers(1, 60), labels=st.integers(2, 12), seed=st.integers(0, 2**32))
def test_the_score_is_what_sklearn_makes_of_it(clips: int, labels: int, seed: int) -> None:
    logits, truth, names = outcomes(clips, labels, seed)
    predicted, every = logits.argmax(axis=1), range(labels)
    ours = score(logits, truth, names, parameters=7)
    recall = sklearn.metrics.recall_score(truth, predicted, labels=every, average=None, zero_division=np.nan)
    shares = scipy.special.softmax(logits.astype(np.float64), axis=1)
    assert ours.accuracy == pytest.approx(sklearn.metrics.accuracy_score(truth, predicted), abs=1e-12)
    assert ours.confusion == sklearn.metrics.confusion_matrix(truth, predicted, labels=every).tolist()
    assert ours.loss == pytest.approx(sklearn.metrics.log_loss(truth, shares, labels=every), rel=1e-6)
    assert list(ours.recall) == names
    assert [np.nan if value is None else value for value in ours.recall.values()] == pytest.approx(recall, nan_ok=True)
    assert (ours.clips, ours.labels, ours.parameters) == (clips, names, 7)
    assert ours.interval == wilson_interval(round(ours.accuracy * clips), clips)


def test_what_is_answered_with_a_threshold_is_scored_as_well() -> None:
    labels, truth = ["yes", SILENCE, UNKNOWN], np.array([0, 0, 1, 2, 2, 2])
    shares = [[0.9, 0.0, 0.1], [0.6, 0.0, 0.4], [0.1, 0.6, 0.3], [0.6, 0.0, 0.4], [0.9, 0.0, 0.1], [0.1, 0.1, 0.8]]
    logits = 3 * np.log(np.array(shares, np.float32) + 1e-6)
    plain, careful = score(logits, truth, labels, 0), score(logits, truth, labels, 0, Calibration(3.0, 0.7))
    assert plain.accuracy_with_rejection == plain.accuracy == careful.accuracy == pytest.approx(4 / 6)
    assert plain.recall_with_rejection == plain.recall == careful.recall
    assert careful.recall_with_rejection == {"yes": 0.5, SILENCE: 1.0, UNKNOWN: pytest.approx(2 / 3)}
    assert (careful.threshold, careful.accuracy_with_rejection) == (0.7, pytest.approx(4 / 6))
    without = score(logits[:2, :2], truth[:2], labels[:2], 0, Calibration(3.0, 1.0))  # no label for what is refused
    assert (without.accuracy, without.accuracy_with_rejection) == (1.0, 0.0)


def test_the_loss_of_a_head_that_is_very_sure_is_exact() -> None:
    logits, truth, names = outcomes(50, 5, seed=1)
    logits *= 1e4
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(truth))
    assert score(logits, truth, names, 0).loss == pytest.approx(expected.item(), rel=1e-6)


@quickly
@given(seed=st.integers(0, 2**32))
def test_the_order_of_the_clips_does_not_matter(seed: int) -> None:
    logits, truth, names = outcomes(30, 4, seed)
    order = np.random.default_rng(seed).permutation(30)
    before, after = score(logits, truth, names, 0), score(logits[order], truth[order], names, 0)
    assert after.loss == pytest.approx(before.loss)
    assert after.calibration_error == pytest.approx(before.calibration_error)
    sums = {"loss": 0, "calibration_error": 0}  # which rounding makes depend on the order
    assert {**after.as_json(), **sums} == {**before.as_json(), **sums}


def test_a_label_without_clips_has_no_recall_and_json_says_null() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 2, 0]]
    whole = score(logits, np.array([0, 0, 0]), ["yes", "no", "_silence_"], parameters=12)
    assert whole.recall == {"yes": pytest.approx(2 / 3), "no": None, "_silence_": None}
    text = json.dumps(whole.as_json(), allow_nan=False)
    assert '"no": null' in text
    assert json.loads(text) == {**whole.as_json(), "interval": list(whole.interval)}


@quickly
@given(proportions)
def test_the_interval_is_scipy_s(proportion: tuple[int, int]) -> None:
    theirs = scipy.stats.binomtest(*proportion).proportion_ci(0.95, method="wilson")
    assert wilson_interval(*proportion) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


@given(proportions)
def test_the_interval_holds_the_proportion_between_0_and_1(proportion: tuple[int, int]) -> None:
    successes, trials = proportion
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials <= high <= 1
    assert low < high
    assert (low == 0) == (successes == 0) and (high == 1) == (successes == trials)


@given(proportions)
def test_failures_have_the_mirrored_interval(proportion: tuple[int, int]) -> None:
    successes, trials = proportion
    low, high = wilson_interval(successes, trials)
    assert wilson_interval(trials - successes, trials) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(proportions, st.integers(2, 50))
def test_more_clips_make_the_interval_narrower(proportion: tuple[int, int], times: int) -> None:
    low, high = wilson_interval(*proportion)
    nearer_low, nearer_high = wilson_interval(proportion[0] * times, proportion[1] * times)
    assert nearer_high - nearer_low < high - low


@pytest.mark.parametrize("clips", [20, 100])
def test_the_interval_holds_the_truth_95_times_in_100(clips: int) -> None:
    """Computed exactly: the probability of every count whose interval holds the true proportion."""
    ends = np.array([wilson_interval(successes, clips) for successes in range(clips + 1)])
    truths = np.linspace(0.05, 0.95, 181)[:, None]
    chances = scipy.stats.binom.pmf(np.arange(clips + 1), clips, truths)
    coverage = (chances * ((ends[:, 0] <= truths) & (truths <= ends[:, 1]))).sum(axis=1)
    assert abs(coverage.mean() - 0.95) < 0.01
    assert coverage.min() > 0.9
