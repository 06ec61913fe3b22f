"""FLAC files whose encoder wrote to a pipe, and so could not say in the header how long they are (RFC 9639)."""

from __future__ import annotations

from typing import BinaryIO

_TAIL = 1 << 20  # bytes; a frame of 8 channels and 65,535 samples of 16 bits has no more
_SIZES = {1: 192, **{2 + i: 576 << i for i in range(4)}, **{8 + i: 256 << i for i in range(8)}}  # samples of a block


def patches(file: BinaryIO, start: int, end: int) -> dict[int, bytes]:
    """The number of samples for a header that has none, by its place: as the last frame's own header has it."""
    file.seek(start)
    head = file.read(42)
    if len(head) < 42 or head[4] & 127 or int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF:
        return {}
    block = int.from_bytes(head[10:12], "big")
    file.seek(max(start + 42, end - _TAIL))
    samples = _end_of_last_frame(file.read(), block)
    return {start + 21: (int.from_bytes(head[21:26], "big") | samples).to_bytes(5, "big")} if samples else {}


def _end_of_last_frame(tail: bytes, block: int) -> int:
    """The number of the sample after the last frame; 0 where there is none."""
    place = len(tail)
    while (place := tail.rfind(b"\xff", 0, place)) >= 0:
        frame = tail[place : place + 16]
        if len(frame) < 7 or frame[1] & 0xFE != 0xF8:
            continue
        number, after = _number(frame, 4)
        code, size = frame[2] >> 4, 0
        if code in _SIZES:
            size = _SIZES[code]
        elif code in (6, 7):
            size, after = int.from_bytes(frame[after : after + code - 5], "big") + 1, after + code - 5
        after += {12: 1, 13: 2, 14: 2}.get(frame[2] & 15, 0)
        if size and number >= 0 and after < len(frame) and _crc8(frame[:after]) == frame[after]:
            return number + size if frame[1] & 1 else number * block + size
    return 0


def _number(frame: bytes, place: int) -> tuple[int, int]:
    """A number in the manner of UTF-8, of up to 36 bits, and the place after it; −1 for none."""
    first = frame[place]
    more = 8 - (first ^ 0xFF).bit_length()  # ones at the front
    if more in (1, 8):
        return -1, place
    rest = frame[place + 1 : place + max(1, more)]
    number = first & (0x7F >> more)
    for byte in rest:
        number = number << 6 | byte & 0x3F
    return number, place + max(1, more)


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 ^ 0x107 if crc & 0x80 else crc << 1
    return crc
