"""Sound as it comes: a microphone, raw samples on standard input, a file at the speed at which it would be played.

A thread of its own reads the source, so that a slow consumer never stalls it: sound that cannot be kept is dropped,
counted, and handed on as a gap.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.errors import WordflockError
from wordflock.spotting.windows import mono

Chunks = Iterator[NDArray[Any]]

CHUNK_SECONDS = 0.05
KEPT_SECONDS = 10.0  # of sound that waits for a slow consumer; what comes then is dropped
BAR = 20  # characters of a level
QUIETEST = -60.0  # dB below full scale, at which a level shows nothing
PATIENCE = 5.0  # seconds without sound after which a microphone counts as unplugged


@dataclass(frozen=True)
class Source:
    """Where sound comes from."""

    name: str  # what errors call it
    rate: int  # Hz
    chunks: Chunks  # each as soon as it is there; of shape (n,) or (n, channels)
    patience: float | None = None  # seconds without a chunk that are an error; None: it may be quiet for ever


@dataclass(frozen=True)
class Lost:
    """Sound that was dropped, because it came faster than it was used."""

    samples: int  # at the source's rate


def microphone(device: str = "") -> Source:
    """A microphone at its own rate; `device` is its number or a part of its name, "" the default one.

    Raises WordflockError where sounddevice is not installed or the device cannot be opened.
    """
    sounddevice = _sounddevice()
    try:
        number: int | str | None = int(device) if device.isdecimal() else device or None
        about = sounddevice.query_devices(number, "input")
        rate = int(about["default_samplerate"])
        stream = sounddevice.InputStream(rate, round(rate * CHUNK_SECONDS), number, 1, "int16")
        stream.start()
    except (sounddevice.PortAudioError, ValueError) as error:
        raise WordflockError(
            f"The microphone {device or 'of this machine'} cannot be opened ({_sentence(error)}); "
            "`wordflock listen --list-devices` shows those there are."
        ) from error

    def read() -> Chunks:
        with stream:
            while True:
                try:
                    chunk, _ = stream.read(round(rate * CHUNK_SECONDS))
                except sounddevice.PortAudioError as error:
                    raise WordflockError(
                        f"The microphone {about['name']} cannot be read any more ({_sentence(error)}); plug it in."
                    ) from error
                yield chunk

    return Source(f"microphone {about['name']}", rate, read(), PATIENCE)


def microphones() -> list[str]:
    """One line for each input device: number, name, channels and rate.

    Raises WordflockError where sounddevice is not installed.
    """
    return [
        f"{device['index']:>3}  {device['name']}, {device['max_input_channels']} channels, "
        f"{device['default_samplerate']:.0f} Hz"
        for device in _sounddevice().query_devices()
        if device["max_input_channels"]
    ]


def play(samples: NDArray[np.float32]) -> None:
    """Start to play samples of 16 kHz. Raises WordflockError without a loudspeaker."""
    sounddevice = _sounddevice()
    try:
        sounddevice.play(samples, SAMPLE_RATE)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise WordflockError(f"The loudspeaker cannot be opened ({_sentence(error)}); plug one in.") from error


def level_bar(samples: NDArray[Any]) -> str:
    """How loud samples are, as a bar and in decibels of full scale."""
    power = float(np.mean(np.square(mono(samples)))) if len(samples) else 0.0
    decibels = 10 * np.log10(max(power, 1e-10))
    bar = "#" * round(BAR * min(1.0, max(0.0, 1 - decibels / QUIETEST)))
    return f"{bar:<{BAR}} {decibels:4.0f} dB"


def raw_sound(file: int, rate: int = SAMPLE_RATE) -> Source:
    """Raw 16-bit little-endian mono samples from an open file descriptor, such as 0 (standard input)."""

    def read() -> Chunks:
        half = b""
        try:
            while content := os.read(file, 2 * round(rate * CHUNK_SECONDS)):
                content = half + content
                whole = len(content) // 2 * 2
                half = content[whole:]
                yield np.frombuffer(content[:whole], "<i2")
        except OSError as error:
            raise WordflockError(f"Standard input cannot be read any more ({error.strerror}); start again.") from error

    return Source("standard input", rate, read())


def file_blocks(path: str | Path) -> Source:
    """An audio file in blocks, as fast as they are asked for: of hours, only a second is in memory.

    Raises WordflockError for what cannot be read as audio, when it is opened or while it is read.
    """
    import soundfile

    if not Path(path).exists():
        raise WordflockError(f"{path} cannot be read as audio (it does not exist); check the path.")
    problem = f"{path} cannot be read as audio ({{}}); convert it to WAV or FLAC."
    try:
        sound = soundfile.SoundFile(str(path))
    except (soundfile.SoundFileError, OSError) as error:
        raise WordflockError(problem.format(_sentence(error))) from error

    def read() -> Chunks:
        with sound:
            try:
                yield from sound.blocks(round(sound.samplerate * CHUNK_SECONDS), dtype="float32")
            except soundfile.SoundFileError as error:
                raise WordflockError(problem.format(_sentence(error))) from error

    return Source(str(path), sound.samplerate, read())


def played(source: Source) -> Source:
    """A source at the speed at which it would be played: each chunk comes when its last sample would be heard."""

    def read() -> Chunks:
        begin, samples = time.monotonic(), 0
        for chunk in source.chunks:
            samples += len(chunk)
            time.sleep(max(0.0, begin + samples / source.rate - time.monotonic()))
            yield chunk

    return Source(source.name, source.rate, read())


def live(source: Source) -> Iterator[NDArray[Any] | Lost]:
    """The chunks of a source, and what was dropped between them.

    A source that is ahead of the clock, such as a file in a pipe, is made to wait; one that is not cannot wait, and
    what comes while KEPT_SECONDS of sound are unused is dropped. Raises what the source raises, and WordflockError
    where its patience ends.
    """
    waiting: queue.Queue[NDArray[Any] | Lost | Exception | None] = queue.Queue(round(KEPT_SECONDS / CHUNK_SECONDS))
    threading.Thread(target=_fill, args=(source, waiting), name="sound", daemon=True).start()
    while True:
        try:
            item = waiting.get(timeout=source.patience)
        except queue.Empty:
            raise WordflockError(f"The {source.name} gives no sound any more; plug it in and start again.") from None
        if item is None:
            return
        if isinstance(item, Exception):
            raise item
        yield item


def _fill(source: Source, waiting: queue.Queue[NDArray[Any] | Lost | Exception | None]) -> None:
    """Read a source to its end, in a thread."""
    begin, samples, lost = time.monotonic(), 0, 0
    try:
        for chunk in source.chunks:
            samples += len(chunk)
            may_wait = samples / source.rate > time.monotonic() - begin + KEPT_SECONDS / 2
            if waiting.qsize() + 2 > waiting.maxsize and not may_wait:  # two places: for what was lost and the chunk
                lost += len(chunk)
                continue
            if lost:
                waiting.put(Lost(lost))
                lost = 0
            waiting.put(chunk)
        if lost:
            waiting.put(Lost(lost))
        waiting.put(None)
    except Exception as error:  # whatever it is, the consumer is to know
        waiting.put(error)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except (ImportError, OSError) as error:  # OSError: PortAudio itself is missing
        raise WordflockError(
            f"Microphones need sounddevice ({_sentence(error)}); pip install 'wordflock[listen]' and, on Linux, "
            "apt install libportaudio2."
        ) from error
    return sounddevice


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
