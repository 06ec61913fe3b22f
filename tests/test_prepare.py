from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wordflock import prepare as module
from wordflock.data.clips import Clip, ClipTable
from wordflock.encoder.store import Features
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.prepare import prepare
from wordflock.settings import Settings


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"window": -1.0}, r"^A window of -1\.0 s is outside"),
        ({"layer": "last+2"}, r"^Layer 'last\+2' is neither"),
        ({"encoder": "huge"}, r"^There is no encoder 'huge'"),
    ],
    ids=str,
)
def test_features_that_no_encoder_has_are_refused_before_any_clip_is_looked_at(
    option: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WordflockError, match=message):
        prepare(Settings(data=str(tmp_path / "missing"), cache=str(tmp_path / "cache"), **option))
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def table_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the data set one with clips of some splits only, and encoding a matter of no time."""

    def make(*splits: str) -> None:
        clips = [Clip(word, "", split, 1.0, "/", word, 0, 0, word) for split in splits for word in ("yes", "no")]
        monkeypatch.setattr(module, "load_table", lambda settings: ClipTable("words", "folder", tuple(clips)))

    def encode(clips: list[Clip], labels: list[int], *_: Any) -> Features:
        return Features(np.zeros((len(clips), 2, 3), np.float16), np.arange(len(clips)), np.array(labels))

    monkeypatch.setattr(module, "encode_clips", encode)
    return make


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (("train", "validation"), "words has no test clips: the accuracy on new speakers is not measured."),
        (("train", "test"), "words has no validation clips: the last head counts as the best, .* not calibrated."),
        (("train",), "words has no validation and no test clips: the last .*; the accuracy .*"),
    ],
)
def test_a_split_that_is_missing_is_warned_of_and_the_others_are_there(
    there: tuple[str, ...], said: str, table_of: Callable[..., None]
) -> None:
    table_of(*there)
    with pytest.warns(WordflockWarning, match=f"^{said}$"):
        prepared = prepare(Settings())
    assert {split: len(those) for split, those in prepared.features.items()} == {
        split: 2 * (split in there) for split in ("train", "validation", "test")
    }


def test_what_cannot_do_without_a_split_is_refused(table_of: Callable[..., None]) -> None:
    table_of("test")
    with pytest.raises(WordflockError, match="no train clips with the labels no, yes; name the splits"):
        prepare(Settings())
    table_of("train")
    with pytest.raises(WordflockError, match="no validation clips"):
        prepare(Settings(), ["validation", "test"])
    with pytest.raises(WordflockError, match="no test clips"):
        prepare(Settings(), ["test"], optional=())
