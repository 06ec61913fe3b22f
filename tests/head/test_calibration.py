from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import multiclass_calibration_error

from wordflock.head.calibration import REJECTED_SHARE, calibrate, calibration_error, cross_entropy, probabilities

quickly = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32)


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
    assert calibrate(logits, truth, 5).temperature == pytest.approx(sharpness, rel=0.05)


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
    assert calibrate(logits, truth, 5).temperature == pytest.approx(float(log.exp().detach()), rel=1e-3)


@quickly
@given(seed=seeds, sharpness=st.floats(0.3, 4))
def test_calibration_never_makes_the_cross_entropy_worse(seed: int, sharpness: float) -> None:
    logits, truth = outcomes(seed, sharpness=sharpness)
    warm = logits / np.float32(calibrate(logits, truth, 5).temperature)
    assert cross_entropy(warm, truth) <= cross_entropy(logits, truth) + 1e-6


@quickly
@given(seed=seeds, keywords=st.integers(1, 5), rejected=st.sampled_from([0.0025, REJECTED_SHARE, 0.1]))
def test_the_threshold_loses_the_share_of_recognised_keywords_at_most(
    seed: int, keywords: int, rejected: float
) -> None:
    logits, truth = outcomes(seed)
    found = calibrate(logits, truth, keywords, rejected)
    shares = probabilities(logits / np.float32(found.temperature))
    best = logits.argmax(axis=1)
    recognised = shares.max(axis=1)[(best == truth) & (truth < keywords)]
    lost = (recognised < found.threshold - 1e-9).sum()
    assert lost <= rejected * len(recognised) < lost + 1  # and no threshold could be higher


def test_where_no_keyword_is_recognised_nothing_is_rejected() -> None:
    logits = np.array([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=np.float32)
    assert calibrate(logits, np.array([1, 2]), 2).threshold == 0.0
