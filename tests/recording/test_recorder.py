"""Sessions without a terminal: a source of chunks, a fake microphone, and raw samples through a FIFO."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from speakers import NOISE, RATE, spoken, word

from wordflock.errors import WordflockError
from wordflock.recording.recorder import Recorder
from wordflock.recording.session import Prompt, Session
from wordflock.recording.takes import Take, TakeFault
from wordflock.spotting.live import Source


class Notes:
    """A view that notes what happens; what its speaker presses at an event is in `keys`."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.keys: dict[str, str] = {}
        self._key = ""

    def _note(self, event: str) -> None:
        if not self.events or self.events[-1] != event:
            self.events.append(event)
            self._key = self.keys.pop(event, self._key)

    def key(self) -> str:
        key, self._key = self._key, ""
        return key

    def room(self, left: float) -> None:
        self._note("room")

    def ready(self, prompt: Prompt, left: float) -> None:
        self._note("ready")

    def ask(self, prompt: Prompt) -> None:
        self._note(f"{prompt.word} {prompt.take}")

    def heard(self, block: NDArray[np.float32]) -> None: ...

    def kept(self, prompt: Prompt, take: Take) -> None:
        self._note("kept")

    def fault(self, what: str, fault: TakeFault) -> None:
        self._note(f"{what}: {str(fault).split(';')[0]}")

    def paused(self) -> None:
        self._note("paused")


def source(sound: NDArray[Any], rate: int = RATE) -> Source:
    return Source("a pipe", rate, iter(np.array_split(sound, max(1, len(sound) // (rate // 20)))))


def test_a_whole_session_and_one_that_goes_on(tmp_path: Path) -> None:
    view = Notes()
    session = Session(tmp_path / "out", ["yes", "no"], "anna", 2)
    with pytest.raises(WordflockError, match="The sound ended, and 1 take is missing"):
        Recorder(session, source(spoken(3)), view, countdown=1.0).run()
    asked = [f"{p.word} {p.take}" for p in Session(tmp_path / "other", ["yes", "no"], "anna", 2).missing()]
    assert view.events == ["room", *(e for word in asked[:3] for e in ("ready", word, "kept")), "ready"]
    again = Notes()
    assert Recorder(session, source(spoken(1, room=0)), again, countdown=1.0).run()
    assert again.events == ["ready", asked[3], "kept"]
    assert len(list((tmp_path / "out").rglob("*_nohash_*.wav"))) == 4


def test_bad_takes_are_named_and_asked_for_again(tmp_path: Path) -> None:
    view, session = Notes(), Session(tmp_path, ["yes"], "anna", 1)
    loud = np.clip(word(0.5, 3.0), -1, 1)
    parts = [np.zeros(2 * RATE), loud, np.zeros(4 * RATE // 5), word(1.2), np.zeros(RATE), np.zeros(RATE), word(0.5)]
    sound = np.concatenate([*parts, np.zeros(RATE)])
    sound = np.clip(sound + NOISE * np.random.default_rng(0).standard_normal(len(sound)), -1, 1)
    assert Recorder(session, source(sound.astype(np.float32)), view, countdown=1.0).run(room=False)
    faults = [event for event in view.events if ":" in event]
    assert faults == ["yes: clipped", "yes: cut off at its beginning"] and view.events[-1] == "kept"


def test_a_muted_microphone_ends_it(tmp_path: Path) -> None:
    view, session = Notes(), Session(tmp_path, ["yes"], "anna", 1)
    with pytest.raises(WordflockError, match=r"5 recordings in a row could not be used: silent; .* --no-room"):
        Recorder(session, source(np.zeros(60 * RATE, np.int16)), view, countdown=0.5).run()
    with pytest.raises(WordflockError, match=r"5 recordings in a row .* silent"):
        Recorder(session, source(np.zeros(60 * RATE, np.int16)), view, countdown=0.5).run(room=False)
    assert not list(tmp_path.rglob("*.wav"))


def test_keys_redo_play_pause_and_quit(tmp_path: Path) -> None:
    view, session = Notes(), Session(tmp_path, ["yes"], "anna", 3)
    played: list[int] = []
    view.keys = {"yes 1": "r"}  # asked for the second take, the speaker wants the first once more
    Recorder(
        session, source(spoken(8, room=0)), view, countdown=1.0, key=view.key, play=lambda s: played.append(len(s))
    ).run(room=False)
    assert [e for e in view.events if e[:4] == "yes "] == ["yes 0", "yes 1", "yes 0", "yes 1", "yes 2"]
    for key, last in ((" ", "paused"), ("q", "yes 0")):
        view = Notes()
        view.keys = {"yes 0": key}
        session = Session(tmp_path / key.strip(), ["yes"], "ben", 1)
        recorder = Recorder(session, source(spoken(2, room=0)), view, countdown=1.0, key=view.key)
        if key == "q":
            assert not recorder.run(room=False)
        else:
            with pytest.raises(WordflockError, match="The sound ended"):
                recorder.run(room=False)
        assert last in view.events
    view = Notes()
    view.keys = {"kept": "p"}
    session = Session(tmp_path / "played", ["yes"], "ben", 2)
    sound = source(spoken(6, room=0))
    Recorder(session, sound, view, countdown=1.0, key=view.key, play=lambda s: played.append(len(s))).run(room=False)
    assert len(played) == 1 and played[0] == len(soundfile.read(session.file(Prompt("yes", 0)))[0])


def test_any_rate_and_any_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import soxr

    from wordflock.cli.commands import run

    sound = soxr.resample(spoken(2), RATE, 44_100)
    left = iter(np.array_split(sound, len(sound) // 2_205))

    class InputStream:
        def __init__(self, rate: int, *rest: Any) -> None:
            assert rate == 44_100

        def start(self) -> None: ...

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

        def read(self, samples: int) -> Any:
            return next(left)[:, None], False

    module = types.ModuleType("sounddevice")
    usb = {"index": 1, "name": "USB", "default_samplerate": 44_100.0, "max_input_channels": 1}
    module.InputStream, module.PortAudioError = InputStream, OSError  # type: ignore[attr-defined]
    module.query_devices = lambda number=None, kind=None: usb if kind else [usb]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    out = str(tmp_path / "out")
    run(["data", "record", "yes", "no", "--speaker", "anna", "--takes", "1", "--out", out, "--device", "USB"])
    said = capsys.readouterr()
    assert said.out == f"{out}: 2 takes of anna\n" and "Say “yes”" in said.err
    assert {soundfile.info(file).samplerate for file in Path(out).rglob("*.wav")} == {RATE}
    run(["data", "record", "--list-devices"])
    assert capsys.readouterr().out == "  1  USB, 1 channels, 44100 Hz\n"


def recording(out: Path, pipe: Path) -> subprocess.Popen[str]:
    arguments = ["data", "record", "yes", "no", "--speaker", "anna", "--takes", "2", "--out", str(out)]
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "wordflock", *arguments, "-"],
            stdin=reader,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(reader)


def test_raw_samples_through_a_fifo_and_a_kill(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    content = spoken(4).tobytes()

    def chunks(end: int) -> Iterator[bytes]:
        return (content[first : first + 3_001] for first in range(0, end, 3_001))

    with recording(tmp_path / "out", tmp_path / "pipe") as process, (tmp_path / "pipe").open("wb", 0) as writer:
        for chunk in chunks(2 * RATE * 14):
            writer.write(chunk)
        assert process.stderr
        while "kept" not in process.stderr.readline():
            pass
        process.kill()
    done = len(list((tmp_path / "out").rglob("*_nohash_*.wav")))
    assert 1 <= done < 4 and not list((tmp_path / "out").rglob(".*.wav.*"))
    with recording(tmp_path / "out", tmp_path / "pipe") as process, (tmp_path / "pipe").open("wb", 0) as writer:
        for chunk in chunks(len(content)):
            try:
                writer.write(chunk)
            except BrokenPipeError:  # nothing is missing any more
                break
        writer.close()
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and out == f"{tmp_path / 'out'}: 4 takes of anna\n", errors
    assert errors.count("kept") == 4 - done and "keep quiet" not in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["yes", "-"], "--speaker"),
        (["--speaker", "anna", "-"], "needs words; name them"),
        (["yes", "--speakr", "anna"], "speakr"),
        (["yes", "--speaker", "anna", "--countdown", "-1"], "countdown"),
        (["yes", "--speaker", "anna", "--takes", "0"], "takes"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    from cyclopts import CycloptsError

    from wordflock.cli.commands import run

    with pytest.raises((WordflockError, CycloptsError), match=words):
        run(["data", "record", *arguments, "--out", str(tmp_path / "out")])
