from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from wordflock.data.task import SILENCE, UNKNOWN
from wordflock.head.calibration import (
    REJECTED_SHARE,
    Calibration,
    calibrate,
    calibration_error,
    certainty,
    cross_entropy,
    decide,
    probabilities,
)

quickly = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32)
LABELS = ["yes", "no", "go", SILENCE, UNKNOWN]


def outcomes(seed: int, clips: int = 400, labels: int = 5, sharpness: float = 1.0) -> tuple[Any, Any]:
    """Logits, and labels drawn with the probabilities that the logits stand for before they are sharpened."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 2, (clips, labels))
    truth = (scipy.special.softmax(logits, axis=1).cumsum(axis=1) < generator.random((clips, 1))).sum(axis=1)
    return (logits * sharpness).astype(np.float32), np.minimum(truth, labels - 1)


@quickly
@given(seed=seeds, sharpness=st.floats(0.2, 8))
def test_the_calibration_error_is_what_torchmetrics_makes_of_it(seed: int, sharpness: float) -> None:
    logits, truth = outcomes(seed, sharpness=sharpness)
    theirs = multiclass_calibration_error(
        torch.from_numpy(probabilities(logits)), torch.from_numpy(truth), num_classes=5, n_bins=15, norm="l1"
    )
    assert calibration_error(logits, truth) == pytest.approx(float(theirs), abs=1e-6)


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 6.0])
def test_the_temperature_undoes_what_made_the_logits_too_sharp(sharpness: float) -> None:
    logits, truth = outcomes(1, clips=20_000, sharpness=sharpness)
    assert calibrate(logits, truth, LABELS).temperature == pytest.approx(sharpness, rel=0.05)


@quickly
@given(seed=seeds, sharpness=st.floats(0.5, 4))
def test_the_temperature_is_where_torchs_optimizer_finds_it(seed: int, sharpness: float) -> None:
    logits, truth = outcomes(seed, sharpness=sharpness)
    log = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.cross_entropy(
            torch.from_numpy(logits).double() / log.exp(), torch.from_numpy(truth)
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    assert calibrate(logits, truth, LABELS).temperature == pytest.approx(float(log.exp().detach()), rel=1e-3)


@quickly
@given(seed=seeds, sharpness=st.floats(0.3, 4))
def test_calibration_never_makes_the_cross_entropy_worse(seed: int, sharpness: float) -> None:
    logits, truth = outcomes(seed, sharpness=sharpness)
    warm = logits / np.float32(calibrate(logits, truth, LABELS).temperature)
    assert cross_entropy(warm, truth) <= cross_entropy(logits, truth) + 1e-6


def answers(logits: Any, labels: list[str], calibration: Calibration) -> Any:
    """The index of each predicted label; -1 for a rejected keyword in a task without `_unknown_`."""
    return np.array([labels.index(x) if x in labels else -1 for x in decide(logits, labels, calibration)[0]])


@quickly
@given(seed=seeds, unknown=st.booleans(), rejected=st.sampled_from([0.0, REJECTED_SHARE, 0.02, 0.1]))
def test_rejection_loses_few_recognised_keywords_and_no_mean_recall(seed: int, unknown: bool, rejected: float) -> None:
    labels = LABELS if unknown else LABELS[:-1]
    logits, truth = outcomes(seed, labels=len(labels))
    found = calibrate(logits, truth, labels, rejected)
    plain, careful = (answers(logits, labels, c) for c in (Calibration(found.temperature), found))
    recognised = (plain == truth) & (truth < 3)
    assert (recognised & (careful != truth)).sum() <= rejected * recognised.sum()
    before, after = (
        [(answer == truth)[truth == label].mean() for label in np.unique(truth)] for answer in (plain, careful)
    )
    assert sum(after) >= sum(before) - 1e-9
    changed = careful != plain
    assert (plain[changed] < 3).all() and (careful[changed] == (4 if unknown else -1)).all()
    if rejected == 0:  # the highest one that loses nothing
        assert found.threshold == certainty(logits, labels, found.temperature)[recognised].min()


@quickly
@given(seed=seeds, temperature=st.floats(0.1, 10))
def test_the_certainty_of_a_keyword_is_its_odds_against_unknown(seed: int, temperature: float) -> None:
    logits, _ = outcomes(seed)
    margin = (logits.max(axis=1) - logits[:, LABELS.index(UNKNOWN)]) / temperature
    assert certainty(logits, LABELS, temperature) == pytest.approx(scipy.special.expit(margin), abs=1e-5)
    others = logits.copy()
    others[:, LABELS.index(SILENCE)] = -50.0  # what the other labels have plays no part
    same = logits.argmax(axis=1) != LABELS.index(SILENCE)
    assert certainty(others, LABELS, temperature)[same] == pytest.approx(
        certainty(logits, LABELS, temperature)[same], abs=1e-6
    )


@quickly
@given(seed=seeds)
def test_without_unknown_the_certainty_is_the_probability(seed: int) -> None:
    logits, _ = outcomes(seed)
    assert (certainty(logits, ["a", "b", "c", "d", "e"], 2.0) == probabilities(logits / 2).max(axis=1)).all()


def test_where_no_keyword_is_recognised_nothing_is_rejected() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=np.float32)
    assert calibrate(logits, np.array([1, 2]), ["yes", "no", UNKNOWN]).threshold == 0.0
