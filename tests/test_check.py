"""Checks of data sets: each problem is found where it is, and only there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from wordflock import check_labels as module
from wordflock.check import Check, check, format_check
from wordflock.check_labels import Judged, Ridge
from wordflock.check_page import check_page
from wordflock.data.clips import Clip
from wordflock.encoder.store import Features
from wordflock.prepare import load_table
from wordflock.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:.*who speaks", "ignore:.*opposite phase")
RATE = 16_000


@given(clips=st.integers(8, 30), size=st.integers(1, 40), labels=st.integers(2, 4), seed=st.integers(0, 99))
def test_leaving_one_out_in_closed_form_is_fitting_without_each_clip(
    clips: int, size: int, labels: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    z = generator.normal(2.0, 3.0, (clips, size)).astype(np.float32)
    targets = np.eye(labels)[np.arange(clips) % labels]
    scores = Ridge(z, np.arange(clips) % labels, labels, ridge=0.1).unseen
    x = (z - z.mean(axis=0)) / z.std(axis=0)
    penalty = 0.1 * np.trace(x.T @ x) / size * np.eye(size)
    for left in range(clips):
        rest = np.arange(clips) != left
        mean, share = x[rest].mean(axis=0), targets[rest].mean(axis=0)
        centred = x[rest] - mean
        weights = np.linalg.solve(centred.T @ centred + penalty, centred.T @ (targets[rest] - share))
        np.testing.assert_allclose(scores[left], (x[left] - mean) @ weights + share, atol=2e-3)


def tone(path: Path, frequency: float, gain: float = 0.3, rate: int = RATE, channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = gain * np.sin(2 * np.pi * frequency * np.arange(rate // 2) / rate)
    stereo = np.stack([wave, -wave], axis=1)
    soundfile.write(path, np.clip(stereo if channels == 2 else wave, -1, 1), rate)


def _is_door(clip: Clip) -> bool:
    """Whether the loudest stretch, or the window, is a door and the word comes later."""
    return "door" in clip.name and (clip.start is None or clip.start < 2.0)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features without an encoder: each label has a centre, and a name says which is heard."""

    def encode(clips: list[Clip], labels: list[int], *_: object) -> Features:
        generator = np.random.default_rng(3)
        centres = {"yes": 0, "no": 1}
        heard = ["no" if "odd" in clip.name or _is_door(clip) else clip.word for clip in clips]
        array = generator.normal(0, 0.3, (len(clips), 2, 4)).astype(np.float16)
        array[:, 0, 0] += np.array([4 * centres[word] for word in heard], dtype=np.float16)
        return Features(array, np.arange(len(clips)), np.array(labels))

    monkeypatch.setattr(module, "encode_clips", encode)


@pytest.fixture
def found(tmp_path: Path, encoded: None) -> Check:
    """The check of a data set with one of everything."""
    data = tmp_path / "words"
    for label in ("yes", "no"):
        for number in range(30):
            tone(data / label / f"speaker{number % 6}_nohash_{number}.wav", 300 + 10 * number + 400 * (label == "no"))
    bad = data / "yes"
    tone(bad / "speaker0_nohash_silent.wav", 500, 0.0)
    tone(bad / "speaker0_nohash_quiet.wav", 500, 0.004)
    tone(bad / "speaker0_nohash_clipped.wav", 500, 3.0)
    tone(bad / "speaker0_nohash_crossed.wav", 501, channels=2)
    tone(bad / "speaker0_nohash_telephone.wav", 502, rate=8000)
    tone(bad / "speaker0_nohash_odd.wav", 503)
    long = np.sin(np.arange(5 * RATE) / 9) / 3
    soundfile.write(bad / "speaker0_nohash_long.wav", long, RATE)
    for name in ("no/speaker0_nohash_again.wav", "yes/speaker0_nohash_again.wav"):
        tone(data / name, 504)
    return check(Settings(data=str(data), cache=str(tmp_path / "cache")), suggestions=3)


def test_each_problem_is_found_with_its_clips(found: Check) -> None:
    clips = {problem.kind: problem.clips for problem in found.problems}
    names = {kind: f"yes/speaker0_nohash_{name}.wav" for kind, name in (
        ("silent", "silent"), ("quiet", "quiet"), ("clipped", "clipped"), ("cancelled", "crossed"),
        ("low rate", "telephone"), ("long", "long"),
    )}  # fmt: skip
    assert {kind: clips[kind] for kind in names} == {kind: (name,) for kind, name in names.items()}
    both = ("no/speaker0_nohash_again.wav", "yes/speaker0_nohash_again.wav")
    assert clips["duplicates across labels"] == both
    assert set(clips) - set(names) <= {"duplicates across labels", "missing split"}


def test_a_clip_that_sounds_like_another_label_is_named(found: Check) -> None:
    best = found.suggestions[0]
    assert (best.name, best.label, best.suggested) == ("yes/speaker0_nohash_odd.wav", "yes", "no")
    assert best.margin > 0.5 and all(other.margin < best.margin for other in found.suggestions[1:])


def test_all_that_was_found_is_in_the_text_the_json_and_the_page(found: Check) -> None:
    text, page, parsed = format_check(found), check_page(found), json.loads(json.dumps(found.as_json()))
    for problem in found.problems:
        assert problem.message in text and problem.kind in page
    assert "yes/speaker0_nohash_odd.wav: yes, sounds like no" in text
    assert page.count("<audio") == len(found.suggestions) and "http" not in page
    assert parsed["suggestions"][0]["name"] == "yes/speaker0_nohash_odd.wav" and "clip" not in parsed["suggestions"][0]
    hostile = replace(found, source="<script>\x1b[2J", suggestions=())
    assert "<script>" not in check_page(hostile) and "\x1b" not in check_page(hostile)


def test_few_clips_few_speakers_and_imbalance_are_named(tmp_path: Path, encoded: None) -> None:
    for number in range(41):
        tone(tmp_path / "words" / "yes" / f"speaker{number % 2}_nohash_{number}.wav", 300 + 20 * number)
    tone(tmp_path / "words" / "no" / "speaker0_nohash_0.wav", 200)
    kinds = {problem.kind for problem in check(Settings(data=str(tmp_path / "words"), cache=str(tmp_path))).problems}
    assert {"few clips", "few speakers", "balance"} <= kinds


def test_a_clip_whose_word_is_not_where_it_is_loudest_is_named(tmp_path: Path, encoded: None) -> None:
    sound = np.sin(np.arange(4 * RATE) / 9) / 3
    for label in ("yes", "no"):
        for number in range(25):
            path = tmp_path / "words" / label / f"speaker{number % 6}_nohash_{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound * (1 + number / 50), RATE)
    soundfile.write(tmp_path / "words" / "yes" / "speaker0_nohash_door.wav", sound / 2, RATE)
    soundfile.write(tmp_path / "words" / "yes" / "speaker0_nohash_odd.wav", sound / 3, RATE)
    found = check(Settings(data=str(tmp_path / "words"), cache=str(tmp_path / "cache")))
    (misplaced,) = [problem for problem in found.problems if problem.kind == "misplaced"]
    assert misplaced.clips == ("yes/speaker0_nohash_door.wav",)
    assert "door.wav at 2." in misplaced.message and "odd.wav" not in misplaced.message


@pytest.mark.slow
def test_swapped_labels_of_real_clips_are_found(speech_commands_mini: Path, tmp_path: Path) -> None:
    settings = Settings(data=str(speech_commands_mini), cache=str(tmp_path), head="linear")
    clips = [clip for clip in load_table(settings).clips if clip.word in ("yes", "no", "up", "left", "go")][::8]
    generator = np.random.default_rng(0)
    swapped = generator.choice(len(clips), 20, replace=False)
    words = sorted({clip.word for clip in clips})
    for i in swapped:
        clips[i] = replace(clips[i], word=str(generator.choice([word for word in words if word != clips[i].word])))
    named = {suggestion.name for suggestion in Judged(clips, settings).mislabelled()[:40]}
    assert len(named & {clips[i].name for i in swapped}) >= 16
