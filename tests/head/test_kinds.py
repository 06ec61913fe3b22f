"""The table of heads: numpy and torch agree on every row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wordflock.head import numpy_head, torch_head
from wordflock.head.checkpoint import get_weights
from wordflock.head.kinds import KINDS
from wordflock.head.numpy_head import Projection, logits
from wordflock.head.torch_head import Head, build_head

FRAMES, WIDTH, LABELS = 9, 16, 5
ROWS = [
    *((kind, None) for kind in KINDS),
    *((kind, Projection(12, seed=3)) for kind, row in KINDS.items() if row.random_features),
]


@pytest.mark.parametrize(("kind", "projection"), ROWS)
def test_numpy_computes_the_logits_that_torch_computes(kind: str, projection: Projection | None) -> None:
    head = build_head(kind, FRAMES, WIDTH, LABELS, projection=projection)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.5, generator=generator)  # far from its start, so that every part of it shows
    features = torch.randn(7, FRAMES, WIDTH, generator=generator)
    answers = logits(kind, get_weights(head), features.numpy(), projection)
    assert answers.dtype == np.float32
    with torch.inference_mode():
        np.testing.assert_allclose(answers, head.eval()(features).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "projection"), ROWS)
def test_the_shapes_are_those_of_the_class(kind: str, projection: Projection | None) -> None:
    weights = get_weights(build_head(kind, FRAMES, WIDTH, LABELS, projection=projection))
    shapes = KINDS[kind].shapes(FRAMES, WIDTH, LABELS, projection.size if projection else 0)
    assert {name: array.shape for name, array in weights.items()} == shapes


def test_every_head_class_and_every_numpy_function_has_a_row() -> None:
    classes = {name for name, value in vars(torch_head).items() if isinstance(value, type) and issubclass(value, Head)}
    assert classes - {"Head"} == {row.torch_class for row in KINDS.values()}
    assert {name for name in vars(numpy_head) if name.startswith("pool_")} == {row.numpy_pool for row in KINDS.values()}


def test_frames_that_are_all_alike_have_the_least_deviation() -> None:
    head, features = build_head("attentive", FRAMES, WIDTH, LABELS), torch.ones(2, FRAMES, WIDTH)
    with torch.inference_mode():
        expected = head.eval()(features).numpy()
    np.testing.assert_allclose(logits("attentive", get_weights(head), features.numpy()), expected, atol=1e-5)


def test_an_unknown_kind_has_no_logits() -> None:
    with pytest.raises(KeyError):
        logits("decoder", {}, np.zeros((1, FRAMES, WIDTH), np.float32))
