"""Whether an audio file is whole, by what its own container says, and headers that say it right.

libsndfile takes the length of the file for that of the sound where bytes are missing, and the length in the header
where a recorder was stopped before it wrote one. Here the chunks of a file are compared with its size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO, cast

from wordflock.audio import flac, mpeg, ogg
from wordflock.audio.faults import AudioFault, cut_short, unreadable

MAX_MPEG_BYTES = 160 << 20  # read as one; 1 h of sound has at most 144 MB, without a cover

_SLACK = 64  # bytes: some recorders count their own header as sound
_UNKNOWN = 0x7FFF_0000  # a sound chunk as long as this was written to a pipe, its length unknown
_MAX_CHUNKS = 4096  # before the sound
_MAX_PLACE = 1 << 50  # in a file
_SDS = b"\xf0\x7e"  # MIDI Sample Dump Standard
_W64_RIFF, _W64_DATA = b"riff\x2e\x91\xcf\x11", b"data\xf3\xac\xd3\x11"  # the first half of GUIDs


def whole(file: BinaryIO) -> BinaryIO:
    """The file, or a view of it with a right header. Raises AudioFault where the container says that bytes are missing.

    The container is left to libsndfile where it is none of RIFF, RF64, Wave64, AIFF, AU, NIST, CAF, FLAC, OGG and MPEG.
    """
    end = file.seek(0, 2)
    start = mpeg.after_tags(file)
    file.seek(start)
    magic = file.read(16)
    if magic.startswith(_SDS):
        raise unreadable(magic)  # before libsndfile, which would print what it thinks of it
    if magic.startswith(b"OggS"):
        return cast(BinaryIO, _Patched(file, ogg.patches(file, start, end)))
    elif magic.startswith(b"fLaC"):
        return cast(BinaryIO, _Patched(file, flac.patches(file, start, end)))
    elif mpeg.is_frame(magic):
        if end > MAX_MPEG_BYTES:
            raise AudioFault(f"is larger than {MAX_MPEG_BYTES >> 20} MiB", "cut it into shorter files")
        file.seek(0)
        return BytesIO(mpeg.whole(file.read()))
    elif (sound := _sound(file, start, magic)) is not None:
        return _checked(file, end, sound)
    file.seek(0)
    return file


@dataclass(frozen=True)
class _Sound:
    """Where the samples of a file begin and how many bytes its header promises."""

    start: int
    size: int  # 0: the recorder did not finish the header; _UNKNOWN or more: it could not know
    field: int  # where the size is written
    format: str  # as struct has it
    added: int = 0  # to the size, where the field counts more than samples


def _checked(file: BinaryIO, end: int, sound: _Sound) -> BinaryIO:
    file.seek(0)
    there = end - sound.start
    if there < 0:
        raise cut_short()
    if (sound.size >= _UNKNOWN and sound.size != there) or (
        sound.size <= 0 < there and not _are_chunks(file, sound, end)
    ):
        size = min(there + sound.added, (1 << 8 * struct.calcsize(sound.format) - 1) - 1)
        patches = {sound.field: struct.pack(sound.format, size)} if sound.field else {}
        return cast(BinaryIO, _Patched(file, patches))
    if sound.size - there > _SLACK:
        raise cut_short()
    file.seek(0)
    return file


def _are_chunks(file: BinaryIO, sound: _Sound, end: int) -> bool:
    """Whether chunks without sound follow an empty one up to the end of a RIFF file: a recording of nothing."""
    if sound.format not in ("<I", ">I"):
        return False
    *_, last = [sound.start, *(place + size + size % 2 for _, place, size in _chunks(file, sound.start, sound.format))]
    return abs(last - end) <= 1


def _sound(file: BinaryIO, start: int, magic: bytes) -> _Sound | None:
    match magic[:4]:
        case b"RIFF":
            return _of_chunk(file, start + 12, "<I", (b"data",))
        case b"RIFX":
            return _of_chunk(file, start + 12, ">I", (b"data",))
        case b"FORM":
            return _of_chunk(file, start + 12, ">I", (b"SSND", b"BODY"))
        case b"RF64" | b"BW64":
            return _of_rf64(file, start + 12)
        case b"riff" if magic.startswith(_W64_RIFF):
            return _of_w64(file, start + 40)
        case b"caff":
            return _of_caf(file, start + 8)
        case b".snd" | b"dns." if len(magic) >= 12:
            order = ">" if magic[:4] == b".snd" else "<"
            offset, size = struct.unpack(f"{order}II", magic[4:12])
            return _Sound(start + offset, size, start + 8, f"{order}I")
        case b"NIST":
            return _of_nist(file, start)
    return None


def _chunks(file: BinaryIO, start: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """The kind, the place and the size of each chunk from `start` on."""
    for _ in range(_MAX_CHUNKS):
        if len(head := _read_at(file, start, 8)) < 8:
            return
        kind, size = head[:4], struct.unpack(order, head[4:])[0]
        yield kind, start + 8, size
        start += 8 + size + size % 2


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    """Bytes at a place that the file says, which may be anywhere."""
    if place > _MAX_PLACE:
        return b""
    file.seek(place)
    return file.read(size)


def _of_chunk(file: BinaryIO, start: int, order: str, kinds: tuple[bytes, ...]) -> _Sound | None:
    for kind, place, size in _chunks(file, start, order):
        if kind in kinds:
            return _Sound(place, size, place - 4, order)
    return None


def _of_rf64(file: BinaryIO, start: int) -> _Sound | None:
    """The size is in the chunk ds64, where that of the sound's chunk is all ones (EBU Tech 3306)."""
    long = field = 0
    for kind, place, size in _chunks(file, start, "<I"):
        if kind == b"ds64":
            field = place + 8
            long = int.from_bytes(_read_at(file, field, 8), "little")
        elif kind == b"data":
            return _Sound(place, long, field, "<Q") if size == 0xFFFF_FFFF else _Sound(place, size, place - 4, "<I")
    return None


def _of_w64(file: BinaryIO, start: int) -> _Sound | None:
    """Chunks are named by 16 bytes, and their 64-bit sizes count their heads of 24 bytes; each starts at eighths."""
    for _ in range(_MAX_CHUNKS):
        if len(head := _read_at(file, start, 24)) < 24:
            return None
        size = int.from_bytes(head[16:], "little")
        if head.startswith(_W64_DATA):
            return _Sound(start + 24, max(0, size - 24), start + 16, "<Q", added=24)
        start += max(24, -(-size // 8) * 8)
    return None


def _of_caf(file: BinaryIO, start: int) -> _Sound | None:
    """Sizes of 64 bits, −1 for a sound chunk that goes on to the end, with an edit count of 4 bytes before samples."""
    for _ in range(_MAX_CHUNKS):
        if len(head := _read_at(file, start, 12)) < 12:
            return None
        size = struct.unpack(">q", head[4:])[0]
        if head.startswith(b"data"):
            return _Sound(start + 16, _UNKNOWN if size < 0 else size - 4, start + 4, ">q", added=4)
        if size < 0:
            return None
        start += 12 + size
    return None


def _of_nist(file: BinaryIO, start: int) -> _Sound | None:
    """The header is text, and says how many samples of how many bytes there are."""
    file.seek(start)
    text = file.read(16 << 10).decode("latin-1")
    size = re.match(r"NIST_1A\n +(\d{1,6})\n", text)
    values = [re.search(rf"^{name} -i (-?\d{{1,12}})$", text, re.M) for name in _NIST_FIELDS]
    if not size or not all(values) or not re.search(r"^sample_coding -s\d+ (pcm|ulaw|mu-law|alaw)$", text, re.M):
        return None
    count, channels, width = (int(value[1]) for value in values if value)
    return _Sound(start + int(size[1]), max(0, count) * channels * width, 0, "<Q")  # libsndfile asks the file's size


_NIST_FIELDS = ("sample_count", "channel_count", "sample_n_bytes")


class _Patched:
    """What libsndfile needs of a file, with other bytes at some places."""

    def __init__(self, file: BinaryIO, patches: dict[int, bytes]) -> None:
        self._file, self._patches = file, patches
        self.seek, self.tell = file.seek, file.tell
        file.seek(0)

    def read(self, size: int = -1) -> bytes:
        start = self._file.tell()
        data = bytearray(self._file.read(size))
        for place, patch in self._patches.items():
            first, last = max(place, start), min(place + len(patch), start + len(data))
            if first < last:
                data[first - start : last - start] = patch[first - place : last - place]
        return bytes(data)
