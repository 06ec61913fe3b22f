"""Windows for streams hold what their label says, follow from their clip alone, and stay with its owner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.audio import placing
from wordflock.audio.placing import HALF, PAUSE, WHOLE, window_of
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spans import span
from wordflock.data.clips import Clip
from wordflock.data.loading import read_samples
from wordflock.data.stream_windows import MOST, PLENTY, stream_examples
from wordflock.data.task import SILENCE, UNKNOWN, Examples, Task, examples
from wordflock.federation.device import load_device, prepare_device
from wordflock.federation_settings import ClientSettings, FederationSettings
from wordflock.partition import federation
from wordflock.prepare import load_table, task_of
from wordflock.settings import TrainSettings

SIZE = round(1.4 * SAMPLE_RATE)
WINDOW = 0.6


def recording(before: int, length: int, after: int) -> NDArray[np.float32]:
    """A tone for a word in faint noise."""
    noise = np.random.default_rng(0).standard_normal(before + length + after).astype(np.float32)
    sound = noise * np.float32(1e-3)
    sound[before : before + length] += np.sin(np.arange(length) * 0.4, dtype=np.float32) * np.float32(0.3)
    return sound


@pytest.fixture
def quiet_rooms(monkeypatch: pytest.MonkeyPatch) -> None:
    """No talk beside the word, no echo and hardly any noise, so that what is left is the word."""
    monkeypatch.setattr(placing, "BESIDE_SHARE", 0.0)
    monkeypatch.setattr(placing, "ROOM_SHARE", 0.0)
    monkeypatch.setattr(placing, "NOISE_SHARE", 0.0)


@pytest.mark.usefixtures("quiet_rooms")
@given(st.integers(0, 30_000), st.integers(3_000, 16_000), st.integers(0, 30_000), st.integers(0, 99))
def test_a_window_has_the_whole_word_or_half_of_it(before: int, length: int, after: int, number: int) -> None:
    sound = recording(before, length, after)
    for kind, shares in ((WHOLE, (0.97, 1.03)), (HALF, (0.25, 0.75))):
        window = window_of(sound, "key", f"{kind}.{number}", SIZE)
        tones = np.abs(window).reshape(-1, 160).max(axis=1) > np.abs(window).max() / 4
        low, high = shares
        assert low * length / 1.1 - 480 <= tones.sum() * 160 <= high * length / 0.9 + 480
    pause = window_of(sound, "key", f"{PAUSE}.{number}", SIZE)
    assert np.isfinite(pause).all() and pause.std() > 0


@given(st.integers(1_600, 7_000), st.sampled_from([WHOLE, HALF, PAUSE]), st.integers(0, 99))
def test_any_recording_gives_windows_that_are_sound(samples: int, kind: str, number: int) -> None:
    sound = np.random.default_rng(samples).uniform(-1, 1, samples).astype(np.float32)
    for one in (sound, np.zeros_like(sound)):
        window = window_of(one, "key", f"{kind}.{number}", 3_200)
        assert window.shape == (3_200,) and window.dtype == np.float32
        assert np.isfinite(window).all() and np.abs(window).max() <= 1
        assert np.array_equal(window, window_of(one, "key", f"{kind}.{number}", 3_200))


@given(st.integers(1_600, 20_000), st.integers(3_000, 16_000), st.integers(1_600, 20_000))
def test_the_span_is_the_word_even_in_noise(before: int, length: int, after: int) -> None:
    sound = recording(before, length, after)
    begin, end = span(sound + np.random.default_rng(1).standard_normal(len(sound)).astype(np.float32) * 0.05)
    assert abs(begin - before) <= 0.05 * length + 320 and abs(end - before - length) <= 0.05 * length + 320


@pytest.fixture
def talk(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    for name in "abcd":
        write_audio(tmp_path / "talk" / f"{name}.wav", seconds=0.9)
    return tmp_path / "talk"


def test_each_window_comes_after_its_clip_and_is_named_and_stored_by_itself(
    small_speech_commands: Path, talk: Path, tmp_path: Path
) -> None:
    settings = TrainSettings(
        data=str(small_speech_commands), negatives=str(talk), cache=str(tmp_path / "cache"), keywords="yes,no"
    )
    assert settings.for_streams and not replace(settings, task="clips").for_streams
    table = load_table(replace(settings, window=WINDOW))
    task = task_of(table, settings)
    base = examples(table, task, "train", 0)
    whole = stream_examples(base, task, WINDOW)
    count = len(base.clips)
    assert whole.clips[:count] == base.clips and whole.labels[:count] == base.labels
    assert whole.origins[:count] == tuple(range(count)) and max(whole.origins) < count
    sounds = {(clip.content, clip.start, clip.gain, clip.view) for clip in whole.clips}  # some clips sound the same
    assert len({clip.key for clip in whole.clips}) == len(sounds)
    made = Counter(
        (clip.view.split(".")[0], task.labels[label])
        for clip, label in zip(whole.clips[count:], whole.labels[count:], strict=True)
    )
    assert {(kind, label) for kind, label in made if label in (SILENCE, UNKNOWN)} == {
        (WHOLE, UNKNOWN),
        (HALF, UNKNOWN),
        (PAUSE, SILENCE),
    }
    words = sum(clip.word == "yes" for clip in base.clips)
    assert made[WHOLE, "yes"] == MOST * words
    forwards = list(read_samples(whole.clips[count:]))
    backwards = list(read_samples(whole.clips[count:][::-1]))[::-1]
    assert all(np.array_equal(one, other) for one, other in zip(forwards, backwards, strict=True))
    assert {len(samples) for samples in forwards} == {round(WINDOW * SAMPLE_RATE)}


@pytest.mark.usefixtures("tiny_en")
def test_windows_stay_with_the_owner_of_their_clip(
    small_speech_commands: Path, talk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wordflock.data.stream_windows.MOST", 2)
    shared: dict[str, Any] = {
        "data": str(small_speech_commands),
        "negatives": str(talk),
        "cache": str(tmp_path / "cache"),
        "keywords": "yes,no",
        "window": WINDOW,
        "clients": 3,
    }
    made = federation(FederationSettings(**shared, holdout=0.1))  # as a device's
    owners: dict[str, set[int]] = {}
    clips = made.prepared.examples["train"].clips
    views = dict(zip(made.prepared.features["train"].rows.tolist(), clips, strict=True))
    for member in made.members:
        for row in member.train.rows.tolist():
            owners.setdefault(views[row].content + str(views[row].start), set()).add(member.client)
        assert not any(views[row].view for row in member.holdout.rows.tolist())
    assert all(len(those) == 1 for those in owners.values())
    held = sum(len(member.holdout) for member in made.members)
    windows_of_held = len(clips) - held - sum(len(member.train) for member in made.members)
    assert windows_of_held >= held  # nobody trains on windows of what is held back

    device = load_device(str(prepare_device(ClientSettings(cid=1, **shared))))
    train, holdout = device.features(made.prepared.task.labels)
    member = made.members[1]
    assert sorted(train.rows.tolist()) == sorted(member.train.rows.tolist())
    assert sorted(holdout.rows.tolist()) == sorted(member.holdout.rows.tolist())


def test_a_head_for_streams_is_trained_on_all_of_few_recordings(
    talk: Path, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    for number in range(20):
        for word in ("ja", "nein"):
            write_audio(tmp_path / "words" / word / f"{word}{number}.wav")
    settings = TrainSettings(data=str(tmp_path / "words"), cache=str(tmp_path / "cache"))
    splits = Counter(clip.split for clip in load_table(settings).clips)
    assert splits["train"] < 40
    assert {clip.split for clip in load_table(replace(settings, task="stream")).clips} == {"train"}
    (tmp_path / "table.csv").write_text("file,split\nja/ja1.wav,test\n")
    named = load_table(replace(settings, task="stream", table=str(tmp_path / "table.csv"))).clips
    assert [clip.name for clip in named if clip.split != "train"] == ["ja/ja1.wav"]


@settings_of_hypothesis(max_examples=30)
@given(st.integers(1, 600))
def test_windows_fill_a_label_up_to_plenty(clips: int) -> None:
    """About: clips make them by themselves. None where there are plenty of clips."""
    base = [
        Clip("yes", "", "train", 1.0, f"{n}.wav", f"{n}.wav", 0, 1, sha256(b"%d" % n).hexdigest()) for n in range(clips)
    ]
    task = Task(("yes",), silence=True, unknown=True)
    made = stream_examples(Examples.of(base, [0] * clips), task, 1.4)
    counts = Counter(clip.view.split(".")[0] for clip in made.clips)
    missing = min(max(0, PLENTY - clips), MOST * clips)
    assert abs(counts[WHOLE] - missing) <= 4 * np.sqrt(clips) / 2 * (missing % clips > 0)
    assert (counts[HALF] + counts[PAUSE] > 0) == (counts[WHOLE] > 0)
