"""MPEG audio (MP3, MP2): its frames are counted, since without a header of its own a decoder guesses its length.

What is given to the decoder has no tags and a first frame that says how many frames follow (Xing's, which LAME made
common): a file of variable bit rate is read to its end, and one with a cover or lyrics is not taken for a cut one.
ISO/IEC 11172-3 and 13818-3; http://gabriel.mp3-tech.org/mp3infotag.html
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from wordflock.audio.faults import AudioFault, cut_short

_V1 = {
    1: (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}  # kbit/s, by layer
_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_V2_LAYER_1 = (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256)
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8000)}  # Hz, by version
_INFO_BYTES = 64  # that the frame with the number of frames needs at least
_MAX_TAGS = 16
_PADDING = 512  # bytes after the last frame that are passed over; more are a download that stopped
_JUNK = 4096  # bytes before the first frame that are passed over


@dataclass(frozen=True)
class _Header:
    """What the four bytes at the start of a frame say."""

    size: int  # bytes of the frame; 0 for a free bit rate
    kind: tuple[int, int, int]  # version, layer, index of the sample rate: the same in all frames
    side: int  # bytes of side information behind the header


def is_frame(data: bytes) -> bool:
    """Whether the data begins as a frame does."""
    return _header(data, 0) is not None


def after_tags(file: BinaryIO) -> int:
    """Where a file begins behind its ID3v2 tags."""
    place = 0
    for _ in range(_MAX_TAGS):
        file.seek(place)
        size = _id3_size(file.read(10))
        if not size:
            break
        place += size
    file.seek(place)
    return place + len(head) - len(stripped) if (stripped := (head := file.read(_JUNK)).lstrip(b"\0")) else 0


def whole(data: bytes) -> bytes:
    """The frames without tags, after one that says their number. Raises AudioFault where frames are cut or damaged."""
    start, end = _first_frame(data), _before_tags(data)
    first = _header(data, start)
    if first is None or not first.size:
        return data  # a free bit rate: left to the decoder
    frames = _frames(data, start, end, first)
    info = data[frames[0][0] : frames[0][1]]
    promised, exact = _promised(info, first)
    if promised is not None:
        del frames[0]
        if len(frames) < promised - (not exact):
            raise cut_short()
    if not frames:
        return data
    sound = b"".join(data[a:b] for a, b in frames)
    if first.kind[1] != 3:
        return sound
    place = 4 + first.side
    if not _is_info(info, first) or not info[place + 7] & 1:
        silence = _silent_frame(data[frames[0][0] : frames[0][0] + 4], first)
        info = silence[:place] + b"Info\0\0\0\1" + silence[place + 8 :]
        # The decoder takes its own delay off the beginning, so that the last samples come with one more frame.
        frames.append((0, 0))
        sound += silence
    return info[: place + 8] + len(frames).to_bytes(4, "big") + info[place + 12 :] + sound


def _header(data: bytes, place: int) -> _Header | None:
    if len(data) - place < 4 or data[place] != 0xFF or data[place + 1] & 0xE0 != 0xE0:
        return None
    version, layer = data[place + 1] >> 3 & 3, 4 - (data[place + 1] >> 1 & 3)
    bit_rate, rate, padding = data[place + 2] >> 4, data[place + 2] >> 2 & 3, data[place + 2] >> 1 & 1
    if version == 1 or layer == 4 or bit_rate == 15 or rate == 3:
        return None
    kbits = (_V1[layer] if version == 3 else _V2_LAYER_1 if layer == 1 else _V2)[bit_rate]
    hertz = _RATES[version][rate]
    if layer == 1:
        size = (12_000 * kbits // hertz + padding) * 4
    else:
        size = (72_000 if layer == 3 and version != 3 else 144_000) * kbits // hertz + padding
    mono = data[place + 3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return _Header(size if kbits else 0, (version, layer, rate), side)


def _first_frame(data: bytes) -> int:
    """Where the first frame is that another follows, or the end of the data."""
    place = 0
    while size := _id3_size(data[place : place + 10]):
        place += size
    last = min(len(data), place + _JUNK)
    while (place := data.find(b"\xff", place, last)) >= 0:
        header = _header(data, place)
        if header and (not header.size or place + header.size >= len(data) or _header(data, place + header.size)):
            return place
        place += 1
    return 0


def _frames(data: bytes, start: int, end: int, first: _Header) -> list[tuple[int, int]]:
    """Begin and end of each frame."""
    frames, place = list[tuple[int, int]](), start
    while place < end:
        header = _header(data, place)
        if header and header.kind == first.kind and header.size:
            if place + header.size > end:
                raise cut_short()
            frames.append((place, place + header.size))
            place += header.size
        elif size := _id3_size(data[place : place + 10]) or _ape_size(data[place : place + 32]):
            place += size  # of two files that were joined
        elif end - place <= _PADDING and (not data[place:end].strip(b"\0") or data[place] != 0xFF):
            break
        elif end - place < 4:
            raise cut_short()
        else:
            raise AudioFault("is damaged")
    if not frames:
        raise cut_short()
    return frames


def _promised(info: bytes, first: _Header) -> tuple[int | None, bool]:
    """How many frames follow the first one, where it says so, and whether that is certain to a frame."""
    place = 4 + first.side
    if _is_info(info, first):
        if not info[place + 7] & 1:
            return 0, True
        return int.from_bytes(info[place + 8 : place + 12], "big"), info[place + 120 : place + 123] in (b"LAM", b"Lav")
    if info[36:40] == b"VBRI":
        return int.from_bytes(info[50:54], "big"), False
    return None, True


def _is_info(frame: bytes, first: _Header) -> bool:
    place = 4 + first.side
    return first.kind[1] == 3 and frame[place : place + 4] in (b"Xing", b"Info") and len(frame) >= place + 12


def _silent_frame(head: bytes, first: _Header) -> bytes:
    """A frame without sound that has room for a number of frames: the header given, at a bit rate that is enough."""
    for bit_rate in range(1, 15):
        frame = bytes((0xFF, head[1] | 1, bit_rate << 4 | head[2] & 0x0C, head[3]))
        header = _header(frame, 0)
        if header and header.size >= _INFO_BYTES:
            return frame.ljust(header.size, b"\0")
    raise AssertionError("14 bit rates, and none is enough")


def _id3_size(head: bytes) -> int:
    """Bytes of an ID3v2 tag that begins so; 0 for none."""
    if len(head) < 10 or head[:3] != b"ID3" or max(head[6:10]) > 127:
        return 0
    size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
    return 10 + size + (10 if head[5] & 16 else 0)


def _ape_size(head: bytes) -> int:
    """Bytes of an APE tag that begins so; 0 for none."""
    return 32 + int.from_bytes(head[12:16], "little") if head.startswith(b"APETAGEX") and len(head) == 32 else 0


def _before_tags(data: bytes) -> int:
    """Where the tags at the end begin: ID3v1, APE, Lyrics3, in any order."""
    end = len(data)
    for _ in range(_MAX_TAGS):
        footer = data[max(0, end - 32) : end]
        if end >= 128 and data[end - 128 : end - 125] == b"TAG":
            end -= 128
        elif end >= 227 and data[end - 227 : end - 223] == b"TAG+":
            end -= 227
        elif footer.startswith(b"APETAGEX"):
            end -= int.from_bytes(footer[12:16], "little") + (32 if footer[23] & 0x80 else 0)
        elif footer.endswith(b"LYRICS200") and footer[-15:-9].isdigit():
            end -= int(footer[-15:-9]) + 15
        elif footer.endswith(b"LYRICSEND"):
            end = data.rfind(b"LYRICSBEGIN", 0, end)
        else:
            break
    return max(0, end)
