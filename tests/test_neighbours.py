from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.data.clips import Clip
from wordflock.encoder.store import Features
from wordflock.errors import WordflockError
from wordflock.neighbours import CHUNK, NEIGHBOURS, nearest, read_neighbours, write_neighbours

LABELS = ["yes", "no"]


def features(array: np.ndarray) -> Features:
    count = len(array)
    return Features(array.astype(np.float16), np.arange(count), np.arange(count) % 2)


def clips(count: int) -> list[Clip]:
    return [Clip("yes", f"s{n}", "train", 1.0, "x.tar", f"{n}.wav", 0, 1, "") for n in range(count)]


@given(st.integers(0, 1000), st.integers(2, 40), st.data())
def test_a_clip_that_is_in_training_is_found_there(seed: int, count: int, data: st.DataObject) -> None:
    generator = np.random.default_rng(seed)
    train, test = generator.normal(3, 1, (count, 2, 8)), generator.normal(3, 1, (2, 2, 8))
    copied = data.draw(st.integers(0, count - 1))
    test[1] = train[copied]
    found = nearest([("a", 0.0), ("b", 0.5)], features(test), features(train), clips(count), LABELS)
    assert [(one.clip, one.start) for one in found] == [("a", 0.0), ("b", 0.5)]
    assert found[1].similarity == pytest.approx(1, abs=1e-3) and found[0].similarity <= found[1].similarity + 1e-3
    known = features(train).array.astype(np.float64).mean(axis=1)
    directions = known - known.mean(axis=0)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    best = int((directions @ directions[copied]).argmax())
    assert found[1].nearest == f"{best}.wav" and found[1].label == LABELS[best % 2]


def test_in_many_clips_as_in_few() -> None:
    array = np.random.default_rng(0).normal(size=(CHUNK + 3, 1, 4))
    found = nearest([("a", 0.0)], features(array[-1:]), features(array), clips(len(array)), LABELS)
    assert found[0].nearest == f"{CHUNK + 2}.wav"


def test_without_mistakes_or_training_clips_there_are_none() -> None:
    some, nothing = features(np.ones((2, 1, 4))), features(np.ones((0, 1, 4)))
    assert nearest([], nothing, some, clips(2), LABELS) == []
    assert nearest([("a", 0.0)], some.part(0, 1), nothing, [], LABELS) == []


def test_they_are_read_as_written(tmp_path: Path) -> None:
    assert read_neighbours(tmp_path) == []
    found = nearest([("a", 0.0)], features(np.ones((1, 1, 4))), features(np.eye(4)[:, None]), clips(4), LABELS)
    write_neighbours(tmp_path, found)
    assert read_neighbours(tmp_path) == found
    (tmp_path / NEIGHBOURS).write_text('[{"clip": "a"}]')
    with pytest.raises(WordflockError, match="is damaged"):
        read_neighbours(tmp_path)
