"""Windows of recordings without keywords become training examples of `_unknown_`, and change nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wordflock.audio.reading import SAMPLE_RATE, read_clip
from wordflock.data.loading import load_clips, read_samples
from wordflock.data.negatives import negative_clips
from wordflock.data.task import UNKNOWN, choose_task, examples
from wordflock.errors import WordflockError
from wordflock.prepare import load_table
from wordflock.settings import TrainSettings

WINDOW = 0.6


@pytest.fixture
def talk(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    write_audio(tmp_path / "talk" / "a.wav", seconds=3.1)
    write_audio(tmp_path / "talk" / "b" / "short.wav", seconds=0.5)
    return tmp_path / "talk"


def test_the_windows_cover_each_recording_and_are_its_samples(talk: Path, tmp_path: Path) -> None:
    clips = negative_clips(talk, tmp_path / "cache", WINDOW)
    assert [clip.start for clip in clips if clip.name == "a.wav"] == pytest.approx(np.arange(9) * 0.3)
    assert {clip.word for clip in clips} == {UNKNOWN} and len({clip.key for clip in clips}) == len(clips) == 10
    whole = read_clip(talk / "a.wav")
    for clip, samples in zip(clips, read_samples(clips), strict=True):
        if clip.start is not None:
            first = round(clip.start * SAMPLE_RATE)
            assert np.array_equal(samples, whole[first : first + round(WINDOW * SAMPLE_RATE)])


def test_a_folder_without_recordings_is_said(tmp_path: Path) -> None:
    (tmp_path / "talk").mkdir()
    (tmp_path / "talk" / "bad.wav").write_bytes(b"nothing")
    with pytest.raises(WordflockError, match="--negatives"):
        negative_clips(tmp_path / "talk", tmp_path / "cache", WINDOW)


def test_they_are_unknown_in_training_and_other_splits_stay(
    talk: Path, small_speech_commands: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(data=str(small_speech_commands), cache=str(tmp_path / "cache"), window=WINDOW)
    without, table = load_table(settings), load_table(replace(settings, negatives=str(talk)))
    task = choose_task(table, ["yes", "no"], False, None)
    for split in ("train", "validation", "test"):
        before, after = (examples(one, task, split, 0) for one in (without, table))
        added = len(after.clips) - len(before.clips)
        assert after.clips[: len(before.clips)] == before.clips and added == (10 if split == "train" else 0)
        assert {task.labels[label] for label in after.labels[len(before.labels) :]} <= {UNKNOWN}


def test_a_folder_of_words_gets_the_label_with_them_and_without_it_they_are_refused(
    talk: Path, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    for word in ("ja", "nein"):
        write_audio(tmp_path / "words" / word / "1.wav")
    table = load_clips(tmp_path / "words", cache=tmp_path / "cache")
    assert choose_task(table, [], None, None).labels == ["ja", "nein"]
    table = replace(table, negatives=negative_clips(talk, tmp_path / "cache", WINDOW))
    assert choose_task(table, [], None, None).labels == ["ja", "nein", UNKNOWN]
    with pytest.raises(WordflockError, match="--no-unknown"):
        choose_task(table, [], None, False)
