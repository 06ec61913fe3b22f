"""Live sound: nothing is lost silently, nothing stalls, errors are one sentence; and what is done with a word."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from listeners import heard, tone_listener, tones
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.errors import WordflockError
from wordflock.spotting.detector import Detection, Detector
from wordflock.spotting.hearing import listen
from wordflock.spotting.live import KEPT_SECONDS, Lost, Source, file_blocks, live, microphone, microphones, played
from wordflock.spotting.reactions import Command, Recorder


def source(chunks: Iterator[NDArray[Any]], rate: int = SAMPLE_RATE, patience: float | None = None) -> Source:
    return Source("microphone X", rate, chunks, patience)


def test_a_file_in_a_pipe_waits_for_a_slow_consumer_and_loses_nothing() -> None:
    chunks = [np.full(SAMPLE_RATE, number, np.float32) for number in range(4 * round(KEPT_SECONDS))]
    assert [item[0] for item in live(source(iter(chunks))) if not isinstance(item, Lost)] == list(range(len(chunks)))


def test_what_a_slow_consumer_cannot_take_is_dropped_and_counted_and_the_source_is_never_stalled() -> None:
    done = threading.Event()

    def endless() -> Iterator[NDArray[Any]]:
        """Never ahead of the clock, as its rate is that high; it ends though nobody reads what it gives."""
        for number in range(1_000):
            yield np.full(3, number, np.float32)
        done.set()

    items = live(source(endless(), rate=768_000_000))
    assert not isinstance(first := next(items), Lost) and first[0] == 0
    assert done.wait(30)
    rest = list(items)
    kept = [item for item in rest if not isinstance(item, Lost)]
    lost = [item.samples for item in rest if isinstance(item, Lost)]
    assert lost and sum(lost) + 3 * len(kept) + 3 == 3_000
    assert [item[0] for item in kept] == sorted(item[0] for item in kept)


def test_the_clock_of_a_detector_counts_what_was_lost() -> None:
    sound = tones(5, 4.0)
    detector = Detector(tone_listener())
    whole = heard(sound, SAMPLE_RATE)

    class Items:
        def __iter__(self) -> Iterator[Any]:
            yield sound
            yield Lost(3 * SAMPLE_RATE)
            yield sound

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wordflock.spotting.hearing.live", lambda _: Items())
        events = [item for item in listen(detector, source(iter([]))) if isinstance(item, Detection)]
    assert events[: len(whole)] == whole
    assert [event.end for event in events[len(whole) :]] == pytest.approx([event.end + 7 for event in whole])


def test_an_error_of_the_source_comes_after_the_sound_before_it() -> None:
    def unplugged() -> Iterator[NDArray[Any]]:
        yield np.zeros(5, np.float32)
        raise WordflockError("The microphone X cannot be read any more; plug it in.")

    items = live(source(unplugged()))
    assert len(np.asarray(next(items))) == 5
    with pytest.raises(WordflockError, match="plug it in"):
        next(items)


def test_a_microphone_that_gives_nothing_any_more_is_said() -> None:
    ended = threading.Event()

    def silent() -> Iterator[NDArray[Any]]:
        ended.wait()
        return iter(())

    def never() -> Iterator[NDArray[Any]]:
        yield from silent()

    with pytest.raises(WordflockError, match="microphone X gives no sound any more"):
        next(live(source(never(), patience=0.01)))
    ended.set()


def test_a_file_is_played_no_faster_than_its_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    for number, _ in enumerate(played(source(iter([np.zeros(1_600)] * 30))).chunks, start=1):
        assert now[0] == pytest.approx(100 + number / 10)


@pytest.mark.parametrize("content", [None, b"", b"no audio at all"])
def test_a_file_that_is_not_audio_is_said(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(WordflockError, match=r"x\.wav cannot be read as audio"):
        file_blocks(tmp_path / "x.wav")


def test_a_file_in_blocks_is_the_file(tmp_path: Path) -> None:
    sound = np.round(np.random.default_rng(0).uniform(-0.5, 0.5, (50_001, 2)) * 2**15) / 2**15
    soundfile.write(tmp_path / "x.wav", sound, 44_100)
    opened = file_blocks(tmp_path / "x.wav")
    assert opened.rate == 44_100 and np.allclose(np.concatenate(list(opened.chunks)), sound)


# Microphones, with sounddevice's functions replaced: there is no device here.


class FakeError(Exception):
    pass


def fake_sounddevice(read: Any = None, devices: Any = None) -> types.ModuleType:
    module = types.ModuleType("sounddevice")

    class InputStream:
        def __init__(self, *arguments: Any) -> None:
            if devices == []:
                raise FakeError("Error opening InputStream: Device unavailable [PaErrorCode -9985]")

        def start(self) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def read(self, samples: int) -> Any:
            return read(samples)

    usb = {"index": 1, "name": "USB", "default_samplerate": 44_100.0, "max_input_channels": 1}
    speaker = {"index": 0, "name": "Speaker", "default_samplerate": 44_100.0, "max_input_channels": 0}
    module.InputStream, module.PortAudioError = InputStream, FakeError  # type: ignore[attr-defined]
    module.query_devices = lambda number=None, kind=None: usb if kind else [speaker, usb]  # type: ignore[attr-defined]
    return module


def test_a_microphone_is_read_at_its_own_rate_until_it_is_unplugged(monkeypatch: pytest.MonkeyPatch) -> None:
    left = [3]

    def read(samples: int) -> tuple[NDArray[np.int16], bool]:
        left[0] -= 1
        if left[0] < 0:
            raise FakeError("Stream is stopped [PaErrorCode -9983]")
        return np.zeros((samples, 1), np.int16), False

    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(read))
    opened = microphone("USB")
    assert opened.rate == 44_100 and opened.patience
    items = live(opened)
    assert [np.asarray(next(items)).shape for _ in range(3)] == [(2_205, 1)] * 3
    with pytest.raises(WordflockError, match=r"The microphone USB cannot be read any more .*plug it in"):
        next(items)


def test_what_is_no_input_is_not_listed_and_what_cannot_be_opened_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice(devices=[]))
    assert microphones() == ["  1  USB, 1 channels, 44100 Hz"]
    with pytest.raises(WordflockError, match="--list-devices"):
        microphone()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(WordflockError, match=r"wordflock\[listen\]"):
        microphone()


# What is done with a word


@given(st.text(max_size=20))
def test_a_label_is_one_argument_whatever_is_in_it(label: str) -> None:
    made = Command("echo 'say {label}' --sure={confidence} {label}").words(Detection(label, 0.876, 1.0, 2.4))
    assert made == ["echo", f"say {label}", "--sure=0.88", label]


def test_a_command_runs_and_is_not_waited_for(tmp_path: Path) -> None:
    script = "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text(sys.argv[2])"
    command = Command(f"{sys.executable} -c '{script}' '{tmp_path}/said' {{label}}")
    command(Detection("$(touch x); `rm`", 0.9, 0.0, 1.0))
    command.wait()
    assert (tmp_path / "said").read_text() == "$(touch x); `rm`"


@pytest.mark.parametrize("template", ["", "'open", "no-such-program-at-all {label}"])
def test_a_command_that_cannot_run_is_said_before_the_first_word(template: str) -> None:
    with pytest.raises(WordflockError, match="--exec"):
        Command(template)


def test_the_sound_of_a_word_is_kept_with_its_place(tmp_path: Path) -> None:
    sound = np.round(np.random.default_rng(0).uniform(-0.5, 0.5, 10 * SAMPLE_RATE) * 2**15).astype(np.int16)
    recorder = Recorder(tmp_path / "kept", SAMPLE_RATE, 1.4)
    for first in range(0, 8 * SAMPLE_RATE, 1_000):
        recorder.add(sound[first : first + 1_000])
    path = recorder(Detection("../yes", 0.9, 6.5, 7.9))
    assert path.parent == tmp_path / "kept" and (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
    kept, rate = soundfile.read(path, dtype="int16")
    assert rate == SAMPLE_RATE and np.array_equal(kept, sound[round(6.3 * rate) : 8 * rate])
    recorder.gap(SAMPLE_RATE)
    recorder.add(sound[:SAMPLE_RATE])
    kept, _ = soundfile.read(recorder(Detection("yes", 0.9, 9.0, 9.5)), dtype="int16")
    assert np.array_equal(kept, sound[: round(0.7 * SAMPLE_RATE)])
