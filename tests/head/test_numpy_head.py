from __future__ import annotations

import numpy as np
import pytest
import torch

from wordflock.head.checkpoint import get_weights
from wordflock.head.numpy_head import Projection, logits, shapes
from wordflock.head.torch_head import build_head
from wordflock.settings import HEADS

FRAMES, WIDTH, LABELS = 9, 16, 5


@pytest.mark.parametrize(
    ("kind", "projection"), [*((kind, None) for kind in HEADS), ("normalized", Projection(12, seed=3))]
)
def test_it_answers_as_the_trained_head_does(kind: str, projection: Projection | None) -> None:
    head = build_head(kind, FRAMES, WIDTH, LABELS, projection=projection)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.5, generator=generator)  # far from its start, so that every part of it shows
    features = torch.randn(7, FRAMES, WIDTH, generator=generator)
    weights = get_weights(head)
    assert {name: array.shape for name, array in weights.items()} == shapes(kind, FRAMES, WIDTH, LABELS, projection)
    answers = logits(kind, weights, features.numpy(), projection)
    assert answers.dtype == np.float32
    with torch.inference_mode():
        np.testing.assert_allclose(answers, head.eval()(features).numpy(), rtol=1e-4, atol=1e-4)


def test_frames_that_are_all_alike_have_the_least_deviation() -> None:
    head, features = build_head("attentive", FRAMES, WIDTH, LABELS), torch.ones(2, FRAMES, WIDTH)
    with torch.inference_mode():
        expected = head.eval()(features).numpy()
    np.testing.assert_allclose(logits("attentive", get_weights(head), features.numpy()), expected, atol=1e-5)


def test_another_kind_has_no_weights() -> None:
    with pytest.raises(KeyError):
        shapes("decoder", FRAMES, WIDTH, LABELS)
