"""Whole commands as real processes, in one folder with a small data set and a small encoder of its own.

Commands take seconds, most of them for imports. So those that tests name in their mark `background` run one after the
other while the tests go on, beginning with the last; a test that comes to one that has not begun runs it itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from wordflock.encoder.backend import spec_of
from wordflock.encoder.store import FeatureStore
from wordflock.head.checkpoint import Checkpoint, get_weights, load_checkpoint, save_checkpoint
from wordflock.head.torch_head import build_head
from wordflock.settings import TrainSettings

LABELS = ["yes", "no", "stop", "_silence_", "_unknown_"]
ENCODER_WIDTH = 32
NO_DATABASE = b"no database " * 1000

PROGRAM = (sys.executable, "-c", "from wordflock.cli import main; main()")
LONGEST = 300  # seconds that any command may take, on a busy machine as well
WORDS = "data synthesize words --words yes,no,stop --others cat,bird --voices 12 --takes 2"
WORDS_OF_TINY_EN = "--data words --cache cache"
SMALL = "--encoder encoder --window 0.4"  # with the encoder of random weights: fast, and no words are learned
WORDS_OF_SMALL = f"{WORDS_OF_TINY_EN} {SMALL}"
TRAIN_LONG = f"train {WORDS_OF_SMALL} --epochs 60"
WHOLE = f"{TRAIN_LONG} --name whole"
FEDERATION = "--clients 6 --clients-per-round 3 --batch-size 8 --local-epochs 2"


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    status: int
    out: str
    err: str


class Wordflock:
    """Runs commands in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # One thread a process: small heads are trained faster so, and other commands run at the same time.
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "400",
        }
        self._pool = ThreadPoolExecutor(1)
        self._answers: dict[str, Future[Answer]] = {}
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, command: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command in a process group of its own; it is killed at the end at the latest."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        process = subprocess.Popen(
            [*PROGRAM, *command.split()],
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
            **streams,
        )
        self._started.append(process)
        return process

    def run(self, command: str) -> Answer:
        """Run a command to its end."""
        return ending(self.start(command))

    def later(self, command: str) -> None:
        """Run a command in the background when those before it are done."""
        self._answers[command] = self._pool.submit(self.run, command)

    def answer(self, command: str) -> Answer:
        """The answer of a command that is run once, in the background or now."""
        future = self._answers.get(command)
        if future is None or future.cancel():
            future = self._answers[command] = Future()
            future.set_result(self.run(command))
        return future.result()

    def path(self, name: str) -> Path:
        """A file in the folder that the commands run in."""
        return self.folder / name

    def close(self) -> None:
        """Stop everything that was started."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            with suppress(ProcessLookupError):
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._pool.shutdown()


def ending(process: subprocess.Popen[bytes]) -> Answer:
    """Wait for a command to end, and read what it still has to say."""
    out, err = process.communicate(timeout=LONGEST)
    return Answer(process.returncode, (out or b"").decode(), (err or b"").decode())


def assert_done(answer: Answer) -> None:
    """The command did what it was asked to, and complained of nothing."""
    assert answer.status == 0, answer
    assert answer.err == "", answer


def assert_one_sentence(answer: Answer, status: int = 2, begin: str = "Error: ") -> str:
    """The command ended with one sentence on standard error; returns it."""
    assert "Traceback" not in answer.err and "Traceback" not in answer.out, answer
    sentences = [line for line in answer.err.splitlines() if line and not line.startswith("Warning: ")]
    assert len(sentences) == 1, answer
    assert sentences[0].startswith(begin) and sentences[0].endswith((".", "?")), answer
    assert answer.status == status, answer
    return sentences[0]


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def write_encoder(
    folder: Path, seed: int = 0, width: int = ENCODER_WIDTH, layers: int = 3, positions: int = 100
) -> None:
    """A Whisper encoder with random weights, in a folder as transformers saves it; it sees `positions` / 50 s."""
    shapes: dict[str, tuple[int, ...]] = {
        "conv1.weight": (width, 80, 3),
        "conv2.weight": (width, width, 3),
        "embed_positions.weight": (positions, width),
        "layer_norm.weight": (width,),
    }
    for layer in (f"layers.{number}." for number in range(layers)):
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"):
            shapes[f"{layer}{name}.weight"] = (width, width)
        shapes[f"{layer}fc1.weight"], shapes[f"{layer}fc2.weight"] = (4 * width, width), (width, 4 * width)
        for name in ("self_attn_layer_norm", "final_layer_norm"):
            shapes[f"{layer}{name}.weight"] = (width,)
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in shapes.items():
        tensors[f"encoder.{name}"] = (generator.normal(0, 0.1, shape) + ("norm" in name)).astype(np.float32)
        if "k_proj" not in name and "embed" not in name:
            tensors[f"encoder.{name.removesuffix('weight')}bias"] = np.zeros(shape[0], np.float32)
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "whisper", "encoder_attention_heads": 2}))


def write_rubbish(folder: Path) -> None:
    """What is not what it should be, beside the data set `words`; and a run `start` with a head that knows nothing."""
    (folder / "text.txt").write_text("Not a sound.\n")
    for name in ("empty", "texts/yes", "mute/yes", "alone/yes", "alone/no", "unlisted"):
        (folder / name).mkdir(parents=True)
    (folder / "texts/yes/a.txt").write_text("yes\n")
    (folder / "mute/yes/a.wav").write_text("yes\n")
    clips = sorted((folder / "words/yes").iterdir())
    (folder / "clip.flac").hardlink_to(clips[0])
    for number, file in enumerate(clips[:8]):
        (folder / f"alone/{('yes', 'no')[number % 2]}/somebody_nohash_{number}.flac").hardlink_to(file)
    archive = Path(shutil.make_archive(str(folder / "whole"), "gztar", folder / "alone"))
    (folder / "cut.tar.gz").write_bytes(archive.read_bytes()[:-900])

    spec = replace(spec_of(TrainSettings(encoder=str(folder / "encoder"), window=0.4)), encoder="encoder")
    head = build_head("attentive", spec.frames, ENCODER_WIDTH, len(LABELS))
    about = {"mode": "train", "seed": 0, "epoch": 1, "validation_accuracy": 0.3}
    (folder / "runs/start").mkdir(parents=True)
    start = folder / "runs/start/last.safetensors"
    save_checkpoint(start, Checkpoint(LABELS, "attentive", ENCODER_WIDTH, spec, get_weights(head), about))
    (folder / "cut.safetensors").write_bytes(start.read_bytes()[:-10])
    (folder / "another.safetensors").write_bytes(start.read_bytes())
    strange = start.read_bytes().replace(spec.fingerprint.encode(), b"0" * 64)
    (folder / "strange.safetensors").write_bytes(strange)
    elsewhere = replace(load_checkpoint(start), spec=replace(spec, encoder="somebody/whisper"))
    save_checkpoint(folder / "hub.safetensors", elsewhere)
    os.mkfifo(folder / "pipe.safetensors")

    rows = np.ones((40, spec.frames, ENCODER_WIDTH), np.float16)
    FeatureStore(folder / "unindexed", spec).add([str(row) for row in range(len(rows))], rows)
    next((folder / "unindexed").glob("features/*/index.sqlite")).write_bytes(NO_DATABASE)
    (folder / "unlisted/files.sqlite").write_bytes(NO_DATABASE)


@dataclass(frozen=True)
class Disk:
    """A file system of its own, as small as one likes."""

    path: Path

    def remount(self, options: str) -> None:
        """Give it another size, or other rights."""
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Disk]:
    """Mount a disk in memory at a folder that is made for it; unmounts it whatever happens. Skips without the right."""
    if shutil.which("mount") is None:
        pytest.skip("no command here mounts a small disk")
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk needs to be root: {mounted.stderr.decode().strip()}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)
