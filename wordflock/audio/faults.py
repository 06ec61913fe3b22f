"""What is wrong with a file that cannot be read as audio, as the rest of a sentence that starts with its name."""

from __future__ import annotations

from wordflock.errors import WordflockError

RECORD_AGAIN = "record it again or convert it to WAV or FLAC"

# What a file begins with, at which place, and what it is: formats that people record in and libsndfile does not read.
_OTHERS = (
    (4, b"ftyp", "is MPEG-4 audio or video (M4A, MP4, 3GP), which cannot be read here"),
    (0, b"\x1aE\xdf\xa3", "is Matroska or WebM, which cannot be read here"),
    (0, b"#!AMR", "is AMR, which cannot be read here"),
    (0, b"0&\xb2u\x8ef\xcf\x11", "is Windows Media (WMA), which cannot be read here"),
    (0, b"MAC ", "is Monkey's Audio, which cannot be read here"),
    (0, b"wvpk", "is WavPack, which cannot be read here"),
    (28, b"Speex   ", "is Speex, which cannot be read here"),
)


class AudioFault(WordflockError):
    """Why a file is not usable audio, and what helps."""

    def __init__(self, fault: str, remedy: str = RECORD_AGAIN) -> None:
        self.remedy = remedy
        super().__init__(fault)


def unreadable(head: bytes) -> AudioFault:
    """The fault of a file that begins with these bytes and cannot be opened as audio."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return AudioFault("is a Git LFS pointer, not the recording", "fetch the recordings with 'git lfs pull'")
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        return AudioFault("is a web page (HTML or XML), not a recording", "download it again")
    if head and not head.strip(b"\0"):
        return AudioFault("begins with zeros only, as after a failed copy or download", "copy it again")
    if head[:1] == b"\xff" and head[1:2] and head[1] & 0xF6 == 0xF0:
        return AudioFault("is AAC, which cannot be read here", "convert it to WAV or FLAC")
    for place, mark, fault in _OTHERS:
        if head[place : place + len(mark)] == mark:
            return AudioFault(fault, "convert it to WAV or FLAC")
    return AudioFault("is not audio that can be read (WAV, FLAC, OGG, MP3, AIFF, AU)")


def cut_short(seconds: float | None = None) -> AudioFault:
    """The fault of a file whose end is missing, after so many seconds of sound."""
    return AudioFault("is cut short" if seconds is None else f"is cut short after {seconds:.2f} s")
