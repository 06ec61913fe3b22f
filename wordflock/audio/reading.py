"""Any audio file to 16 kHz mono, and a clip to the length of the window."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wordflock.audio import mpeg
from wordflock.audio.containers import whole
from wordflock.audio.faults import AudioFault, cut_short, unreadable
from wordflock.audio.silence import silent_libraries
from wordflock.audio.spans import loudest
from wordflock.errors import WordflockError, WordflockWarning

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from soundfile import SoundFile

SAMPLE_RATE = 16_000  # samples per second, of every clip
MIN_RATE, MAX_RATE = 1_000, 768_000  # Hz, of files
MAX_SECONDS = 3600.0  # of a file: 230 MB of samples
MAX_VALUES = 1 << 30  # of a file, all channels together: 1 h of stereo at 149 kHz

MAX_SAMPLE = 1e10  # floating point may hold more, of which the spectrogram's squares would be infinite

_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "CAF", "FLAC", "OGG", "MP3", "SVX")
_BLOCK = 1 << 18  # values decoded at a time: a header that promises too much costs no memory
_MAX_PIPE_BYTES = 256 << 20
_CANCELLED = 0.1  # of the power that channels without a relation would leave in their mean

Source = str | Path | bytes | bytearray | memoryview | BinaryIO


def read_clip(source: Source, name: str = "", warn: bool = True) -> NDArray[np.float32]:
    """Read WAV, RF64, Wave64, FLAC, OGG, MP3, AIFF, AU, NIST or CAF of any number of channels as 16 kHz mono.

    `source` is a path, the file's bytes, or an open binary file; `name` is what errors call it.
    Returns shape (samples,) in [-1, 1]; the channels are averaged. Where they cancel each other (a stereo cable with
    one wire crossed), the loudest is taken, with a warning if `warn`.
    Raises WordflockError for what cannot be opened, is not audio, is cut short or empty, holds NaN or infinity, has a
    rate outside MIN_RATE to MAX_RATE, or is longer than MAX_SECONDS.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the recording")
    try:
        with _open(source) as file:
            decoder = Decoder(file)
            samples = np.concatenate(list(decoder.blocks()))
            if (channel := decoder.loudest_of_cancelling()) is not None:
                samples = np.concatenate(list(decoder.blocks(channel)))
                if warn:
                    warnings.warn(
                        f"{name} has channels in opposite phase, whose mean is almost silent: channel {channel + 1} is "
                        "used alone.",
                        WordflockWarning,
                        stacklevel=2,
                    )
    except AudioFault as fault:
        raise WordflockError(f"{name} {fault}; {fault.remedy}.") from fault
    except OSError as error:
        raise WordflockError(f"{name} cannot be read ({error.strerror or error}); check its path.") from error
    return samples


class Decoder:
    """Decodes an open audio file in pieces, each checked; what it found is known after the last."""

    def __init__(self, file: BinaryIO, max_seconds: float | None = None) -> None:
        """Raises AudioFault for what is not readable audio, or is cut short by what its container says."""
        self._max_seconds = MAX_SECONDS if max_seconds is None else max_seconds
        if not file.seekable():
            file = BytesIO(file.read(_MAX_PIPE_BYTES))
        file.seek(0)
        self._head = file.read(64)
        is_mpeg = self._head.startswith(b"ID3") or mpeg.is_frame(self._head.lstrip(b"\0"))
        # libsndfile writes notes as well, such as on ALAC; most files are of the three that it has none on.
        is_usual = self._head.startswith((b"RIFF", b"fLaC", b"OggS")) and not is_mpeg
        self._silent = nullcontext[None] if is_usual else silent_libraries
        self._file = whole(file)
        self.seconds = 0.0  # decoded
        self.rate = 0  # Hz, of the file
        self._powers = np.zeros(1)  # of each channel, and of their mean
        self._mean_power = 0.0

    def blocks(self, channel: int | None = None) -> Iterator[NDArray[np.float32]]:
        """The samples at 16 kHz, shape (samples,), of one channel or of the mean of all, from the beginning.

        Raises AudioFault for a file that is cut short, damaged, empty, too long, or holds NaN or infinity.
        """
        import soundfile

        self._file.seek(0)
        try:
            with self._silent():
                sound = soundfile.SoundFile(_QuietFile(self._file))
        except (soundfile.SoundFileError, TypeError) as error:
            raise unreadable(self._head) from error
        with sound:
            if sound.format not in _FORMATS:
                raise unreadable(self._head)
            self._powers = np.zeros(sound.channels)
            self._mean_power, self.seconds, self.rate = 0.0, 0.0, int(sound.samplerate)
            if sound.samplerate == SAMPLE_RATE:
                yield from self._decoded(sound, channel)
            else:
                yield from self._resampled(sound, channel)

    def loudest_of_cancelling(self) -> int | None:
        """The loudest channel of a decoded file, where the mean of all is almost silent and it is not."""
        channels = len(self._powers)
        if channels == 1 or self._mean_power >= _CANCELLED * self._powers.sum() / channels**2:
            return None
        return int(self._powers.argmax())

    def _decoded(self, sound: SoundFile, channel: int | None) -> Iterator[NDArray[np.float32]]:
        """Blocks at the file's own rate."""
        import soundfile

        _check_rate(sound.samplerate)
        self._check_length(sound.frames, sound)
        decoded, size = 0, max(1, _BLOCK // sound.channels)
        more = True
        while more:
            try:
                with self._silent():
                    frames = sound.read(size, dtype="float32", always_2d=True)
            except (soundfile.SoundFileError, MemoryError) as error:
                raise AudioFault("is damaged or cut short") from error
            more = len(frames) == size
            decoded += len(frames)
            self.seconds = decoded / sound.samplerate
            self._check_length(decoded, sound)
            if fault := fault_of(frames):
                raise AudioFault(fault)
            if len(frames):
                yield self._one_channel(frames, channel)
        if decoded < sound.frames:
            raise cut_short(self.seconds)
        if not decoded:
            raise AudioFault("holds no samples")

    def _check_length(self, frames: int, sound: SoundFile) -> None:
        if frames / sound.samplerate > self._max_seconds:
            raise AudioFault(f"is longer than {self._max_seconds:.0f} s", "cut it into shorter files")
        if frames * sound.channels > MAX_VALUES * self._max_seconds / MAX_SECONDS:
            raise AudioFault(f"holds more than {MAX_VALUES:,} samples an hour", "cut it into shorter files")

    def _one_channel(self, frames: NDArray[np.float32], channel: int | None) -> NDArray[np.float32]:
        if frames.shape[1] == 1:
            return frames[:, 0]
        if channel is not None:
            return np.ascontiguousarray(frames[:, channel])
        mean: NDArray[np.float32] = frames.mean(axis=1, dtype=np.float32)
        self._powers += np.square(frames, dtype=np.float64).sum(axis=0)
        self._mean_power += float(np.square(mean, dtype=np.float64).sum())
        return mean

    def _resampled(self, sound: SoundFile, channel: int | None) -> Iterator[NDArray[np.float32]]:
        import soxr

        stream = soxr.ResampleStream(sound.samplerate, SAMPLE_RATE, 1, dtype="float32")
        for block in self._decoded(sound, channel):
            yield stream.resample_chunk(block)
        yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def fit(clip: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Make a clip, shape (n,), exactly `samples` long: zeros after a short one, the loudest stretch of a long one.

    The loudest stretch is the one with the most energy, so that a word in a recording of seconds is not cut.
    """
    if len(clip) <= samples:
        return np.pad(clip, (0, samples - len(clip)))
    start = loudest(clip, samples)
    return clip[start : start + samples]


def fault_of(samples: NDArray[Any]) -> str:
    """What makes floating-point samples, of any shape, no sound; "" for sound."""
    loudest = float(np.max(np.abs(samples), initial=0.0))
    if loudest <= MAX_SAMPLE:
        return ""
    if math.isfinite(loudest):
        return f"holds samples of up to {loudest:.0e}, where sound is from -1 to 1"
    return "holds samples that are not numbers (NaN or infinity)"


def _check_rate(rate: int) -> None:
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioFault(
            f"has a sample rate of {rate:,} Hz, outside {MIN_RATE:,} to {MAX_RATE:,} Hz",
            "correct the rate in its header",
        )


class _QuietFile:
    """A file that stays where it is when asked to go before its start.

    libsndfile does ask, of short MP3 files, and soundfile's callback would print a traceback that nobody can catch.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._seek = file.seek
        self.read, self.tell = file.read, file.tell

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return self._seek(offset, whence)
        except (ValueError, OSError):
            return self.tell()


def _open(source: Source) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, str | Path):
        return Path(source).open("rb")
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesIO(source)
    return nullcontext(source)  # the caller's own file stays open
