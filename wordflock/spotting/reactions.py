"""What is done with a word that was heard: run a command, keep the sound."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.spotting.detector import Detection
from wordflock.spotting.windows import mono

AROUND = 0.2  # seconds that are kept before and after a word
MAX_LABEL = 60  # characters of it in a file's name, which takes 255 bytes
FIELDS = ("label", "confidence", "start", "end")


class Command:
    """A command that is run for each word, without a shell: a label can be nothing but a part of an argument."""

    def __init__(self, template: str) -> None:
        """`template` is split into words first; {label}, {confidence}, {start} and {end} in them are then replaced.

        Raises WordflockError where it cannot be split, or its program is not there.
        """
        try:
            self._words = shlex.split(template)
        except ValueError as error:
            raise WordflockError(f"--exec {template!r} has a quote that does not end; add it.") from error
        if not self._words or not shutil.which(self._words[0]):
            raise WordflockError(f"--exec {template!r} starts no program that is installed; check its name.")
        self._running: list[subprocess.Popen[bytes]] = []

    def __call__(self, heard: Detection) -> None:
        """Start the command and do not wait for it."""
        self._running = [process for process in self._running if process.poll() is None]
        self._running.append(subprocess.Popen(self.words(heard), stdin=subprocess.DEVNULL))

    def wait(self) -> None:
        """Wait for those that still run."""
        for process in self._running:
            process.wait()

    def words(self, heard: Detection) -> list[str]:
        """The program and its arguments."""
        values = {"{label}": heard.label}
        values |= {f"{{{name}}}": f"{getattr(heard, name):.2f}" for name in FIELDS[1:]}
        return [_replaced(word, values) for word in self._words]


def _replaced(word: str, values: dict[str, str]) -> str:
    """Each name once: what a label holds is not replaced in turn."""
    return re.sub("|".join(map(re.escape, values)), lambda found: values[found[0]], word)


class Recorder:
    """Keeps the sound of each word that was heard as a WAV file in a folder that no other user can read."""

    def __init__(self, folder: Path, rate: int, seconds: float) -> None:
        """`seconds` is how long a word is at most. Raises WordflockError where the folder cannot be made."""
        self._folder, self._rate = folder, rate
        self._chunks: deque[NDArray[np.float32]] = deque()
        self._most, self._kept, self._passed = round((seconds + 1.0) * rate), 0, 0
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise WordflockError(f"--save {folder} cannot be made ({error.strerror}); name another folder.") from error

    def add(self, samples: NDArray[Any]) -> None:
        """The sound that comes next."""
        self._chunks.append(mono(samples))
        self._kept += len(samples)
        self._passed += len(samples)
        while self._kept - len(self._chunks[0]) >= self._most:
            self._kept -= len(self._chunks.popleft())

    def gap(self, lost: int) -> None:
        """Sound is missing here."""
        self._chunks.clear()
        self._kept, self._passed = 0, self._passed + lost

    def __call__(self, heard: Detection) -> Path:
        """Write the word's sound; returns the file."""
        import soundfile

        sound = np.concatenate([np.empty(0, np.float32), *self._chunks])
        first = self._passed - len(sound)
        begin, end = (max(0, round(time * self._rate) - first) for time in (heard.start - AROUND, heard.end + AROUND))
        label = "".join(c if c.isalnum() else "-" for c in heard.label[:MAX_LABEL])
        path = self._folder / f"{heard.end:010.2f}-{label}.wav"
        soundfile.write(path, sound[begin:end], self._rate, subtype="PCM_16")
        return path
