"""Takes: a good one is kept and trimmed whatever chunks it comes in, and each fault is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from speakers import NOISE, RATE, word

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.loading import load_clips
from wordflock.errors import WordflockError
from wordflock.prepare import load_table
from wordflock.recording.session import Prompt, Session
from wordflock.recording.takes import PATIENCE, TakeFault, check_room, find_take
from wordflock.settings import Settings


def heard(*parts: object, seed: int = 0) -> np.ndarray:
    """Seconds of the room, and words, one after the other."""
    sound = np.concatenate([np.zeros(round(p * RATE)) if isinstance(p, int | float) else p for p in parts])
    return (sound + NOISE * np.random.default_rng(seed).standard_normal(len(sound))).astype(np.float32)


@given(st.floats(0.1, 2.0), st.floats(0.15, 1.5), st.floats(0.02, 0.6))
def test_a_word_is_found_and_trimmed(before: float, seconds: float, gain: float) -> None:
    take = find_take(heard(1.0, before, word(seconds, gain), 0.8), RATE)
    assert take and take.seconds == pytest.approx(seconds + 0.3, abs=0.08)
    assert abs(take.samples).max() == pytest.approx(gain, rel=0.3)


@given(st.integers(100, 4_000))
def test_what_comes_bit_by_bit_is_the_same_take(step: int) -> None:
    sound = heard(1.0, 0.7, word(0.5), 1.5)
    first = next(
        take
        for end in range(RATE, len(sound) + step, step)
        if (take := find_take(sound[:end], RATE, ended=False)) is not None
    )
    whole = find_take(sound, RATE)
    assert whole is not None and abs(first.seconds - whole.seconds) < 0.06


FAULTS = {
    "silent": np.zeros(3 * RATE, np.float32),
    "too quiet: no word rises above the noise": heard(3.0),
    "too quiet (": heard(1.5, word(0.5, 0.003), 1.0) - heard(1.5, np.zeros(round(0.5 * RATE)), 1.0) * 0.97,
    "clipped": np.clip(heard(1.5, word(0.5, 3.0), 1.0), -1, 1),
    "cut off at its beginning": heard(0.8, word(0.5), 1.0),
    "cut off at its end": heard(1.5, word(0.5)),
    "too long": heard(1.5, word(4.0), 1.0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str) -> None:
    with pytest.raises(TakeFault, match="^" + re.escape(fault)):
        find_take(FAULTS[fault], RATE)


def test_one_waits_for_a_speaker_but_not_for_ever() -> None:
    assert find_take(heard(1.0, PATIENCE / 2), RATE, ended=False) is None
    with pytest.raises(TakeFault, match="too quiet"):
        find_take(heard(1.0, PATIENCE), RATE, ended=False)
    assert find_take(heard(1.5, word(0.5), 0.2), RATE, ended=False) is None


def test_a_key_before_the_word_is_not_the_word() -> None:
    key = 0.3 * np.random.default_rng(1).standard_normal(RATE // 8)
    take = find_take(heard(1.2, key, 0.8, word(0.6, 0.5), 0.8), RATE)
    assert take and take.seconds == pytest.approx(0.9, abs=0.1)


def test_the_noise_of_a_room_is_that_of_nobody() -> None:
    assert len(check_room(heard(8.0))) == 8 * RATE
    for sound, fault in (
        (heard(3.0, word(0.5), 4.0), "not the room alone"),
        (np.zeros(RATE, np.float32), "silent"),
        (np.zeros(0, np.float32), "silent"),
        (np.ones(RATE, np.float32), "clipped"),
    ):
        with pytest.raises(TakeFault, match=fault):
            check_room(sound)


def test_a_session_goes_on_where_its_files_end_and_commands_find_its_speakers(tmp_path: Path) -> None:
    out = tmp_path / "recordings"
    for speaker in ("anna", "ben"):
        session = Session(out, ["yes", "hey savant"], speaker, 2)
        assert {(p.word, p.take) for p in session.missing()[:2]} == {("yes", 0), ("hey savant", 0)}
        session.keep_room(heard(8.0))
        for number, prompt in enumerate(session.missing()):
            assert session.keep(prompt, heard(1.5, word(0.5), 0.8, seed=number + 10 * len(speaker)), RATE)
            assert Session(out, ["yes", "hey savant"], speaker, 2).missing() == session.missing()
        assert session.missing() == []
        assert len(Session(out, ["yes", "no"], speaker, 3).missing()) == 4
        session.forget(Prompt("yes", 1))
        assert session.missing() == [Prompt("yes", 1)]
    table = load_clips(out, cache=tmp_path / "cache")
    assert sorted({(clip.word, clip.speaker) for clip in table.clips}) == [
        (word, speaker) for word in ("hey savant", "yes") for speaker in ("anna", "ben")
    ]
    assert len(table.background) == 2 and table.protocol == "folder"
    assert load_table(Settings(data=[str(out)], cache=str(tmp_path / "cache"))).clips == table.clips
    assert out.stat().st_mode & 0o777 == 0o700
    assert soundfile.info(next(out.rglob("anna_nohash_0.wav"))).samplerate == SAMPLE_RATE


@pytest.mark.parametrize(
    ("words", "speaker", "takes"),
    [
        ([], "anna", 1),
        (["yes", "Yes"], "anna", 1),
        (["../x"], "anna", 1),
        (["yes"], "", 1),
        (["yes"], "a/b", 1),
        (["yes"], "a_nohash_b", 1),
        (["yes"], ".anna", 1),
        (["yes"], "anna", 0),
        (["_background_noise_"], "anna", 1),
        (["ye\ns"], "anna", 1),
    ],
)
def test_names_that_cannot_be_files_are_refused(words: list[str], speaker: str, takes: int, tmp_path: Path) -> None:
    with pytest.raises(WordflockError):
        Session(tmp_path / "out", words, speaker, takes)
    assert not (tmp_path / "out").exists()
