"""Recorded noises and impulse responses of rooms, for augmentations (see audio/augment.py).

Each recording is decoded once, to 16-bit samples at 16 kHz in the cache, under the SHA-256 of its bytes: of noise that
lasts an hour, a clip reads the second that it needs.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.augment import Sound, Surroundings
from wordflock.audio.reading import Decoder
from wordflock.data.listing import Reader, changed
from wordflock.data.names import printable
from wordflock.data.scan import Recording, scan_files
from wordflock.errors import WordflockError, WordflockWarning, counted

FOLDER = "sounds"  # in the cache
MAX_ROOM_SECONDS = 10.0  # of a room's impulse response: longer ones are some other recording


def load_surroundings(noise: str, rooms: str, cache: Path) -> Surroundings:
    """The recordings in two folders or archives; either may be "".

    Warns of files that are left out. Raises WordflockError for a source without a usable recording, and a cache that
    cannot be written.
    """
    return Surroundings(
        _sounds("--noise", noise, float("inf"), cache) if noise else (),
        _sounds("--rooms", rooms, MAX_ROOM_SECONDS, cache) if rooms else (),
    )


def _sounds(option: str, source: str, most: float, cache: Path) -> tuple[Sound, ...]:
    sounds: dict[str, Sound] = {}
    faults: list[str] = []
    with Reader() as reader:
        found = scan_files(Path(source).expanduser(), cache).recordings
        for recording in sorted(found, key=lambda recording: (recording.entry.path, recording.entry.offset)):
            name = printable(recording.entry.name)
            if recording.fault or recording.seconds > most:
                faults.append(f"{name} {recording.fault or f'lasts more than {most:.0f} s'}")
            elif (sound := _decoded(recording, reader, cache / FOLDER)).samples:
                sounds[sound.content] = sound
            else:
                faults.append(f"{name} is silent")
    first = f"the first: {faults[0]}" if faults else "it holds no audio files"
    if not sounds:
        raise WordflockError(f"{option} {source} has no recording that can be used ({first}); name another folder.")
    if faults:
        message = (
            f"{counted(len(faults), 'recording', 'are')} left out, of {len(found)} of {option} {source} ({first})."
        )
        warnings.warn(message, WordflockWarning, stacklevel=4)
    return tuple(sorted(sounds.values(), key=lambda sound: sound.content))  # whatever the files are called


def _decoded(recording: Recording, reader: Reader, folder: Path) -> Sound:
    """The recording in the cache, decoded into it where it was not yet; an empty file stands for silence."""
    path = folder / f"{recording.content}.i2"
    if not path.exists():
        data = reader.read_bytes(recording.entry)
        if sha256(data).hexdigest() != recording.content:
            raise changed(recording.entry)
        try:
            _write(path, data)
        except OSError as error:
            raise WordflockError(
                f"{path} cannot be written ({error.strerror or error}); name another --cache."
            ) from error
    return Sound(path, path.stat().st_size // 2, recording.content)


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            decoder = Decoder(BytesIO(data))
            loud = _append(file, decoder.blocks())
            if (channel := decoder.loudest_of_cancelling()) is not None:
                file.seek(0)
                file.truncate()
                loud = _append(file, decoder.blocks(channel))
            if not loud:
                file.truncate(0)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)
        finally:
            with suppress(FileNotFoundError):
                Path(file.name).unlink()


def _append(file: tempfile._TemporaryFileWrapper[bytes], blocks: Iterator[NDArray[np.float32]]) -> bool:
    """Write the samples; returns whether any is not zero."""
    loud = False
    for block in blocks:
        samples = np.clip(np.rint(block * 2.0**15), -(2**15), 2**15 - 1).astype("<i2")
        loud = loud or bool(samples.any())
        file.write(samples.tobytes())
    return loud
