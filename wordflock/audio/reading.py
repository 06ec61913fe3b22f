"""Any audio file to 16 kHz mono, and a clip to the length of the window."""

from __future__ import annotations

import struct
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wordflock.errors import WordflockError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from soundfile import SoundFile

SAMPLE_RATE = 16_000  # samples per second, of every clip

_BLOCK = 1 << 20  # frames decoded at a time: a header that promises too much costs no memory
_SLACK = 64  # bytes: some recorders count their own header as sound
_UNKNOWN_SIZE = 0x7FFF_0000  # a sound chunk as long as this was written to a pipe, its length unknown
_OGG_PAGE = 65_307  # bytes, the longest page there is


class AudioFault(WordflockError):
    """Why a file is no usable audio, as the rest of a sentence that starts with the file's name."""


def read_clip(source: str | Path | bytes | bytearray | memoryview | BinaryIO, name: str = "") -> NDArray[np.float32]:
    """Read WAV, FLAC, OGG or MP3 of any rate and any number of channels as 16 kHz mono.

    `source` is a path, the file's bytes, or an open binary file; `name` is what errors call it.
    Returns shape (samples,) in [-1, 1]; the channels are averaged.
    Raises WordflockError for what cannot be opened, is no audio, is cut short or empty, or holds NaN or infinity.
    """
    name = name or (str(source) if isinstance(source, str | Path) else "the recording")
    try:
        with _open(source) as file:
            samples, rate = decode(file)
    except AudioFault as fault:
        raise WordflockError(f"{name} {fault}; record it again or convert it to WAV or FLAC.") from fault
    except OSError as error:
        raise WordflockError(f"{name} cannot be read ({error.strerror or error}); check its path.") from error
    if rate == SAMPLE_RATE:
        return samples
    import soxr

    resampled: NDArray[np.float32] = soxr.resample(samples, rate, SAMPLE_RATE)
    return resampled


def decode(file: BinaryIO) -> tuple[NDArray[np.float32], int]:
    """Decode an open audio file to its end: mono samples, shape (samples,), at the file's own rate (Hz).

    Raises AudioFault for what is no audio, is cut short, damaged or empty, or holds NaN or infinity.
    """
    import soundfile

    if not file.seekable():
        file = BytesIO(file.read())
    try:
        sound = soundfile.SoundFile(_QuietFile(file))
    except soundfile.SoundFileError as error:
        raise AudioFault("is not audio that can be read (WAV, FLAC, OGG, MP3)") from error
    with sound:
        rate = int(sound.samplerate)
        # Without a header of its own an MP3's length is a guess from its size, tags included.
        promised = sound.frames * (0.9 if sound.format == "MP3" else 1.0)
        try:
            samples = _read_all(sound)
        except soundfile.SoundFileError as error:
            raise AudioFault("is damaged or cut short") from error
    if len(samples) < promised or _is_cut_short(file):
        raise AudioFault(f"is cut short after {len(samples) / rate:.2f} s")
    if not len(samples):
        raise AudioFault("holds no samples")
    if not np.isfinite(samples).all():
        raise AudioFault("holds samples that are not numbers (NaN or infinity)")
    return samples, rate


def fit(clip: NDArray[np.float32], samples: int) -> NDArray[np.float32]:
    """Make a clip, shape (n,), exactly `samples` long: zeros after a short one, the loudest stretch of a long one.

    The loudest stretch is the one with the most energy, so that a word in a recording of seconds is not cut.
    """
    if len(clip) <= samples:
        return np.pad(clip, (0, samples - len(clip)))
    energy = np.concatenate(([0.0], np.cumsum(np.square(clip, dtype=np.float64))))
    start = int(np.argmax(energy[samples:] - energy[:-samples]))
    return clip[start : start + samples]


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


def _open(source: str | Path | bytes | bytearray | memoryview | BinaryIO) -> AbstractContextManager[BinaryIO]:
    if isinstance(source, str | Path):
        return Path(source).open("rb")
    if isinstance(source, bytes | bytearray | memoryview):
        return BytesIO(source)
    return nullcontext(source)  # the caller's own file stays open


def _read_all(sound: SoundFile) -> NDArray[np.float32]:
    blocks: list[NDArray[np.float32]] = []
    while not blocks or len(blocks[-1]) == _BLOCK:
        frames = sound.read(_BLOCK, dtype="float32", always_2d=True)
        with np.errstate(invalid="ignore"):  # infinities of opposite sign; refused later
            blocks.append(frames[:, 0] if frames.shape[1] == 1 else frames.mean(axis=1, dtype=np.float32))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _is_cut_short(file: BinaryIO) -> bool:
    """Whether bytes are missing at the end, where libsndfile shortens the sound without a word."""
    end = file.seek(0, 2)
    file.seek(0)
    match file.read(12)[:4]:
        case b"RIFF":
            return _missing_bytes(file, end, "<4sI", b"data") > _SLACK
        case b"RIFX":
            return _missing_bytes(file, end, ">4sI", b"data") > _SLACK
        case b"FORM":
            return _missing_bytes(file, end, ">4sI", b"SSND") > _SLACK
        case b"OggS":
            file.seek(max(0, end - _OGG_PAGE))
            return not _ends_with_the_stream(file.read())
    return False


def _missing_bytes(file: BinaryIO, end: int, header: str, sound: bytes) -> int:
    """How many bytes of a WAV's or AIFF's chunk of samples lie beyond the end of the file."""
    while len(chunk := file.read(8)) == 8:
        kind, size = struct.unpack(header, chunk)
        if kind == sound:
            return 0 if size >= _UNKNOWN_SIZE else file.tell() + size - end
        file.seek(size + size % 2, 1)
    return 0


def _ends_with_the_stream(tail: bytes) -> bool:
    """Whether an OGG file's last page is whole and marked as the last (RFC 3533, section 6)."""
    page = tail[max(0, tail.rfind(b"OggS")) :]
    if len(page) < 27:
        return False
    is_last, segments = page[5] & 4, page[26]
    return bool(is_last) and len(page) >= 27 + segments + sum(page[27 : 27 + segments])
