"""`wordflock listen` and `wordflock spot` as processes, with a FIFO as the microphone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from test_predict import saved

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.head.calibration import Calibration
from wordflock.head.checkpoint import save_checkpoint
from wordflock.spotting.detector import Detection, Detector

THRESHOLD = 5e-3  # of a random head that is made sharp: its probabilities differ by decades
RATE = 22_050


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    head = saved(path)
    save_checkpoint(path, replace(head, calibration=Calibration(temperature=0.05)))
    return path


@pytest.fixture(scope="module")
def sound() -> NDArray[np.int16]:
    """Bursts of noise at RATE, in some of which the random head hears its words."""
    generator = np.random.default_rng(5)
    loudness = np.repeat(generator.uniform(0, 1, 20) ** 4, RATE // 2)
    return np.round(generator.uniform(-8_000, 8_000, len(loudness)) * loudness).astype(np.int16)


@pytest.fixture(scope="module")
def expected(model: Path, sound: NDArray[np.int16]) -> list[Detection]:
    events = list(Detector(model, threshold=THRESHOLD, rate=RATE).stream([sound]))
    assert len(events) >= 2
    return events


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "wordflock", *map(str, arguments)]


@contextmanager
def listening(model: Path, microphone: Path, *more: object) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """A process that listens to a FIFO, and the FIFO's other end."""
    arguments = command("listen", model, "-", "--rate", RATE, "--threshold", THRESHOLD, "--json", *more)
    if not microphone.exists():
        os.mkfifo(microphone)
    reader = os.open(microphone, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reader, True)
    with (
        microphone.open("wb", buffering=0) as writer,
        subprocess.Popen(arguments, stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        os.close(reader)
        try:
            yield process, writer
        finally:
            process.kill()


def test_a_fifo_is_heard_as_its_samples_are_and_again_after_a_kill(
    model: Path, sound: NDArray[np.int16], expected: list[Detection], tmp_path: Path
) -> None:
    content = sound.tobytes()
    with listening(model, tmp_path / "microphone") as (process, writer):
        writer.write(content[: len(content) // 2])
        assert process.stdout and json.loads(process.stdout.readline()) == asdict(expected[0])
        process.kill()
    script = "import sys, pathlib; open(sys.argv[1], 'a').write(sys.argv[2] + chr(10))"
    more = "--save", tmp_path / "kept", "--exec", f'{sys.executable} -c "{script}" {tmp_path}/said {{label}}'
    with listening(model, tmp_path / "microphone", *more) as (process, writer):
        for first in range(0, len(content), 3_001):  # samples are cut in their middle too
            writer.write(content[first : first + 3_001])
        writer.close()
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert [json.loads(line) for line in out.splitlines()] == [asdict(event) for event in expected]
    assert sorted((tmp_path / "said").read_text().split()) == sorted(event.label for event in expected)
    assert len(list((tmp_path / "kept").iterdir())) == len(expected)


def test_ctrl_c_is_how_it_is_ended(model: Path, tmp_path: Path) -> None:
    with listening(model, tmp_path / "microphone") as (process, writer):
        writer.write(bytes(RATE))
        assert process.stderr and "Listening to standard input for yes, no." in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("form", ["table", "audacity", "csv", "json"])
def test_spot_says_where_words_are(
    form: str, model: Path, sound: NDArray[np.int16], expected: list[Detection], tmp_path: Path, capsys: Any
) -> None:
    from wordflock.cli.commands import run

    soundfile.write(tmp_path / "long.wav", sound, RATE)
    file = str(tmp_path / "long.wav")
    run(["spot", str(model), file, "--threshold", str(THRESHOLD), "--format", form])
    lines = capsys.readouterr().out.splitlines()
    first = expected[0]
    shown = {
        "table": f"{file}\t{first.start:8.2f} s  {first.label:<12} {first.confidence:.2f}",
        "audacity": f"{first.start:.3f}\t{first.end:.3f}\t{first.label}",
        "csv": f"{file},{first.label},{first.start:.3f},{first.end:.3f},{first.confidence:.4f}",
    }
    if form == "json":
        found = [json.loads(line) for line in lines]
        assert [(x["label"], x["end"]) for x in found] == [(x.label, x.end) for x in expected]
        assert [x["confidence"] for x in found] == pytest.approx([x.confidence for x in expected])
    else:
        assert lines[form == "csv"] == shown[form] and len(lines) == len(expected) + (form == "csv")


def test_a_file_that_cannot_be_read_does_not_end_the_others(model: Path, tmp_path: Path, capsys: Any) -> None:
    from wordflock.cli.commands import run

    (tmp_path / "bad.wav").write_bytes(b"nothing")
    soundfile.write(tmp_path / "good.wav", np.random.default_rng(0).uniform(-0.3, 0.3, 3 * SAMPLE_RATE), SAMPLE_RATE)
    with pytest.raises(SystemExit) as ended:
        run(["spot", str(model), str(tmp_path / "bad.wav"), str(tmp_path / "good.wav"), "--threshold", "1e-5"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and "bad.wav cannot be read as audio" in said.err and "good.wav" in said.out


def test_listen_plays_a_file_and_says_mistakes(
    model: Path, sound: NDArray[np.int16], tmp_path: Path, capsys: Any
) -> None:
    from wordflock.cli.commands import run
    from wordflock.errors import WordflockError

    soundfile.write(tmp_path / "short.wav", sound[: RATE // 2], RATE)
    run(["listen", str(model), str(tmp_path / "short.wav"), "--threshold", "1e-5"])
    events = Detector(model, threshold=1e-5, rate=RATE).stream([sound[: RATE // 2]])
    labels = [line.split()[2] for line in capsys.readouterr().out.splitlines()]
    assert labels == [event.label for event in events] != []
    for arguments, words in [([], "MODEL"), ([str(model), "--jsno"], "--jsno"), ([str(model), "no.wav"], r"no\.wav")]:
        with pytest.raises(WordflockError, match=words):
            run(["listen", *arguments])
