"""The folder that clips are cut into: whole clips only, none of another cut, and a cut that was killed goes on.

`.cut.jsonl` has a line for each recording before its clips are written, and one after: what is between the two when a
process is killed is written again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.data.names import printable
from wordflock.errors import WordflockError
from wordflock.files import LOCK, locked, write_atomically

LIST = ".cut.jsonl"
_MAX_NAME = 200  # bytes of a file's name


@dataclass(frozen=True)
class Written:
    """How much of a label was written."""

    clips: int = 0
    seconds: float = 0.0
    longest: float = 0.0  # seconds


class CutFolder:
    """A folder of clips, open for one cut."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}  # the last line about each recording, by its name
        self._used = set[str]()  # recordings of this cut
        self._open = ExitStack()

    def __enter__(self) -> CutFolder:
        """Raises WordflockError for a folder that has other files in it or is in use."""
        self._made = not self._folder.exists()
        self._folder.mkdir(parents=True, exist_ok=True)
        others = [path.name for path in self._folder.iterdir() if path.name not in (LIST, LOCK)]
        path = self._folder / LIST
        if others and not path.exists():
            raise WordflockError(
                f"{self._folder} has other files in it ({printable(min(others))}); name a folder that is empty."
            )
        self._open.enter_context(locked(self._folder))
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # a killed process may leave half a line
        for line in map(json.loads, whole.splitlines()):
            self._known[line["recording"]] = line
        self._list = self._open.enter_context(path.open("r+b" if path.exists() else "wb"))
        self._list.truncate(len(whole))
        self._list.seek(len(whole))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        if error is not None and not self._known:  # before anything was written: nothing is to be gone on with
            for name in (LIST, LOCK):
                (self._folder / name).unlink(missing_ok=True)
            if self._made:
                self._folder.rmdir()

    def has(self, recording: str, key: str) -> bool:
        """Whether the clips of a recording are all there; `key` stands for its content and how it is cut.

        Raises WordflockError where it was cut otherwise.
        """
        self._used.add(recording)
        known = self._known.get(recording)
        if known and known["key"] != key:
            raise WordflockError(
                f"{self._folder} has clips of {printable(recording)} that were cut otherwise; name another folder."
            )
        return known is not None and "labels" in known

    def add(
        self, recording: str, key: str, names: Sequence[tuple[str, str]], clips: Iterable[NDArray[np.float32]]
    ) -> None:
        """Write the clips of a recording: of each the label, the name without extension, the samples of 16 kHz.

        Raises WordflockError, before anything is written, for names that no file can have, and for files that exist.
        """
        paths = [self._folder / file_name(label, "label") / f"{file_name(name, 'name')}.wav" for label, name in names]
        for path in paths if recording not in self._known else ():
            if path.exists():
                raise WordflockError(f"{path} exists already; name another folder.")
        self._note({"recording": recording, "key": key})
        found: dict[str, list[float]] = {}
        for path, samples in zip(paths, clips, strict=True):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, wav(samples))
            found.setdefault(path.parent.name, []).append(len(samples) / SAMPLE_RATE)
        labels = {label: [len(those), sum(those), max(those)] for label, those in found.items()}
        self._note({"recording": recording, "key": key, "labels": labels})

    def written(self) -> dict[str, Written]:
        """The clips of this cut's recordings by label, those of earlier processes included."""
        total: dict[str, Written] = {}
        for recording in self._used:
            for label, (clips, seconds, longest) in self._known.get(recording, {}).get("labels", {}).items():
                sum_ = total.get(label, Written())
                total[label] = Written(sum_.clips + clips, sum_.seconds + seconds, max(sum_.longest, longest))
        return dict(sorted(total.items()))

    def empty(self) -> list[str]:
        """The recordings of this cut that gave no clip."""
        return sorted(name for name in self._used if self._known.get(name, {}).get("labels") == {})

    def _note(self, line: dict[str, Any]) -> None:
        self._list.write(json.dumps(line).encode() + b"\n")
        self._list.flush()
        self._known[line["recording"]] = line


def wav(samples: NDArray[np.float32], rate: int = SAMPLE_RATE) -> bytes:
    """Samples in [-1, 1] as a WAV file of 16 bits."""
    import soundfile

    file = BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


def file_name(name: str, what: str) -> str:
    """A label or name that is to be a part of a path. Raises WordflockError where it cannot be one."""
    if not name or name.startswith(".") or set(name) & set("/\\\0") or len(name.encode()) > _MAX_NAME:
        raise WordflockError(f"The {what} {printable(name)[:80]!r} cannot be the name of a file; change it.")
    return name
