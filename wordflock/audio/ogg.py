"""Whether an Ogg file has all of its pages (RFC 3533), end-of-stream flag or not: many recorders never set it."""

from __future__ import annotations

from typing import BinaryIO
from zlib import crc32

from wordflock.audio.faults import AudioFault, cut_short

_HEAD = 27  # bytes, before the table of segments
_END_OF_STREAM = 4
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_TRAILER = 128  # bytes that players put behind the last page, and that are no sound


def patches(file: BinaryIO, start: int, end: int) -> dict[int, bytes]:
    """The end-of-stream flag for a last page without one, and its checksum, by their places.

    Raises AudioFault where a page is cut or damaged, or where the last packet goes on after the last page.
    """
    place, last, page, goes_on = start, start, b"", False
    while end - place >= _HEAD:
        file.seek(place)
        head = file.read(_HEAD)
        if not head.startswith(b"OggS"):
            break
        table = file.read(head[26])
        body = file.read(sum(table))
        if len(table) < head[26] or len(body) < sum(table):
            raise cut_short()
        page = head[:22] + bytes(4) + head[26:] + table + body
        if checksum(page) != int.from_bytes(head[22:26], "little"):
            raise AudioFault("is damaged")
        last, goes_on = place, table.endswith(b"\xff")
        place += _HEAD + len(table) + len(body)
    file.seek(place)
    rest, ended = file.read(1 << 16), bool(page) and page[5] & _END_OF_STREAM
    if goes_on or rest.startswith((b"O", b"Og", b"OggS")) or (len(rest) > _TRAILER and not ended):
        raise cut_short()
    if b"OggS" in rest:
        raise AudioFault("is damaged")
    if ended or not page:
        return {}
    flags = bytes((page[5] | _END_OF_STREAM,))
    return {last + 5: flags, last + 22: checksum(page[:5] + flags + page[6:]).to_bytes(4, "little")}


def checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's with the bits of each byte, and of the result, the other way round and none inverted."""
    mirrored = crc32(page.translate(_MIRRORED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{mirrored:032b}"[::-1], 2)
