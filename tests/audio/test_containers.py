"""Whole files are read whole, whoever wrote them; cut ones are refused. In every format that is read here."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.audio import mpeg, ogg, reading
from wordflock.audio.reading import SAMPLE_RATE, read_clip
from wordflock.errors import WordflockError, WordflockWarning

TIME = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
SPEECH = (0.4 * np.sin(2 * np.pi * 300 * TIME) * np.sin(2 * np.pi * 1.5 * TIME) ** 2).astype(np.float32)
LINEAR = ("WAV", "WAVEX", "RF64", "W64", "AU", "NIST", "AIFF", "CAF")


def encode(kind: str, subtype: str | None = None, samples: Any = SPEECH, rate: int = SAMPLE_RATE, **how: Any) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype, **how)
    return file.getvalue()


def put(data: bytes, place: int, new: bytes) -> bytes:
    return data[:place] + new + data[place + len(new) :]


def unfinished(kind: str, size: bytes | None) -> bytes:
    """A file whose recorder was stopped before it wrote the sizes, or could not know them."""
    data = encode(kind)
    match kind:
        case "AU":
            return put(data, 8, size or bytes(4))
        case "RF64":
            return put(data, data.index(b"ds64") + 8, bytes(24))
        case "W64":
            return put(put(data, 16, bytes(8)), data.index(b"data\xf3") + 16, bytes(8))
        case "NIST":
            return data.replace(b"sample_count -i 48000", b"sample_count -i 0    ")
        case "CAF":
            return put(data, data.index(b"data") + 4, size + size if size else bytes(8))
        case "AIFF":
            return put(put(data, data.index(b"SSND") + 4, bytes(4)), data.index(b"COMM") + 10, bytes(4))
    return put(put(data, 4, size or bytes(4)), data.index(b"data") + 4, size or bytes(4))


@pytest.mark.parametrize("size", [None, b"\xff\xff\xff\xff"])
@pytest.mark.parametrize("kind", LINEAR)
def test_an_unfinished_recording_is_read_to_its_end(kind: str, size: bytes | None) -> None:
    assert np.array_equal(read_clip(unfinished(kind, size)), read_clip(encode("WAV")))


@pytest.mark.parametrize("riff", [0, 8, 36, 0xFFFF_FFFF])
def test_a_wav_is_unfinished_whatever_the_size_around_it(riff: int) -> None:
    data = unfinished("WAV", None)
    assert len(read_clip(put(data, 4, struct.pack("<I", riff)))) == len(SPEECH)


def test_a_wav_without_sound_but_with_a_list_after_it_holds_no_samples() -> None:
    data = encode("WAV", samples=np.zeros(0)) + b"LIST" + struct.pack("<I", 10) + bytes(10)
    with pytest.raises(WordflockError, match="holds no samples"):
        read_clip(data)


@pytest.mark.parametrize("kind", [*LINEAR, "FLAC", "OGG", "OPUS", "MP3", "MP2"])
@given(share=st.floats(0.02, 0.98))
@settings(max_examples=25)
def test_no_cut_passes_for_a_shorter_recording(kind: str, share: float) -> None:
    data = WHOLE[kind]
    if kind == "NIST":
        share = max(share, 1024 / len(data))
    cut = data[: int(share * len(data))]
    if kind == "MP2":  # has no count of frames: a cut between two of them cannot be seen
        cut += data[len(cut) : len(cut) + 1] if len(cut) % 432 == 0 else b""
    with pytest.raises(WordflockError):
        read_clip(cut)


def layer_2(frames: int) -> bytes:
    """Silence in MPEG-1 layer II: 96 kbit/s, 32 kHz, mono, frames of 432 bytes without bits for any subband."""
    return (b"\xff\xfd\x68\xc0" + bytes(428)) * frames


WHOLE = {kind: encode(kind) for kind in (*LINEAR, "FLAC", "OGG", "MP3")}
WHOLE |= {"OPUS": encode("OGG", "OPUS"), "MP2": layer_2(40)}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_is_whole_is_read_whole(kind: str) -> None:
    expected = 40 * 1152 // 2 if kind == "MP2" else len(SPEECH)
    assert abs(len(read_clip(WHOLE[kind])) - expected) <= 16


@pytest.mark.parametrize("level", [0.0, 0.5])
@pytest.mark.parametrize("rate", [8000, 16_000, 44_100])
def test_flac_written_to_a_pipe_is_read_whole_and_not_when_cut(rate: int, level: float) -> None:
    samples = SPEECH[: rate + 77]
    data = encode("FLAC", samples=samples, rate=rate, compression_level=level)
    piped = put(data, 21, bytes((data[21] & 0xF0, 0, 0, 0, 0)))
    assert np.array_equal(read_clip(piped), read_clip(data))
    with pytest.raises(WordflockError):
        read_clip(piped[: len(piped) // 2])


# Ogg


def pages(data: bytes) -> list[bytes]:
    found, place = [], 0
    while place < len(data):
        count = data[place + 26]
        size = 27 + count + sum(data[place + 27 : place + 27 + count])
        found.append(data[place : place + size])
        place += size
    return found


def resealed(page: bytes, flags: int) -> bytes:
    page = put(put(page, 5, bytes((flags,))), 22, bytes(4))
    return put(page, 22, struct.pack("<I", ogg.checksum(page)))


@pytest.mark.parametrize("kind", ["OGG", "OPUS"])
def test_ogg_without_the_end_of_stream_flag_is_read_whole(kind: str) -> None:
    data = b"".join(resealed(page, page[5] & ~4) for page in pages(WHOLE[kind]))
    assert data != WHOLE[kind]
    assert abs(len(read_clip(data)) - len(SPEECH)) < 500
    for missing in (1, 5, 40, 400):
        with pytest.raises(WordflockError):
            read_clip(data[:-missing])


@pytest.mark.parametrize("kind", ["OGG", "OPUS"])
def test_ogg_with_a_damaged_or_missing_page_is_refused(kind: str) -> None:
    found = pages(WHOLE[kind])
    assert all(ogg.checksum(put(page, 22, bytes(4))) == struct.unpack("<I", page[22:26])[0] for page in found)
    last = put(found[-1], len(found[-1]) // 2, bytes(8))
    for damaged in (last, bytes(len(last)), found[-1][:-9]):
        with pytest.raises(WordflockError, match=r"damaged|cut short"):
            read_clip(b"".join(found[:-1]) + damaged)


# MPEG


def frames_of(mode: str, level: float, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
    """An MP3 without the first frame, which says how many follow."""
    samples = np.stack([SPEECH] * channels, axis=1)
    data = encode("MP3", samples=samples, rate=rate, bitrate_mode=mode, compression_level=level)
    header = mpeg._header(data, 0)
    assert header
    return data[header.size * mpeg._is_info(data[: header.size], header) :]  # small frames have no room for it


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes((size >> shift) & 127 for shift in (21, 14, 7, 0)) + bytes(size)


def ape(size: int) -> bytes:
    return bytes(size) + b"APETAGEX" + struct.pack("<IIII", 2000, size + 32, 1, 0) + bytes(8)


TAGS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda sound: sound,
    "ID3v2": lambda sound: id3(300) + sound,
    "a cover": lambda sound: id3(60_000) + sound,
    "two ID3v2": lambda sound: id3(300) + id3(20) + sound,
    "ID3v1": lambda sound: sound + b"TAG" + bytes(125),
    "APE": lambda sound: sound + ape(5000),
    "APE, lyrics and ID3v1": lambda sound: (
        sound + ape(90) + b"LYRICSBEGIN" + bytes(200) + b"000211LYRICS200" + b"TAG" + bytes(125)
    ),
    "zeros": lambda sound: sound + bytes(300),
}


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("level", [0.2, 0.9])
@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_mp3_without_a_count_of_frames_is_read_whole(mode: str, level: float, tag: str) -> None:
    clip = read_clip(TAGS[tag](frames_of(mode, level)))
    assert 576 <= len(clip) - len(SPEECH) < 3000
    assert np.corrcoef(clip[576 : 576 + len(SPEECH)], SPEECH)[0, 1] > 0.98  # LAME's delay, which its header takes off


@pytest.mark.parametrize("tag", TAGS)
def test_tags_do_not_change_what_an_mp3_gives(tag: str) -> None:
    assert np.array_equal(read_clip(TAGS[tag](WHOLE["MP3"])), read_clip(WHOLE["MP3"]))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 24_000, 44_100, 48_000])
def test_mp3_of_any_rate_is_read_whole(rate: int, channels: int) -> None:
    clip = read_clip(frames_of("VARIABLE", 0.9, rate, channels))
    assert 0 <= len(clip) / SAMPLE_RATE - len(SPEECH) / rate < 0.4


def test_an_mp3_cut_within_a_frame_is_refused() -> None:
    for mode in ("CONSTANT", "VARIABLE"):
        data = frames_of(mode, 0.5)
        for missing in (1, 3, 20):
            with pytest.raises(WordflockError, match="cut short"):
                read_clip(data[:-missing])
        with pytest.raises(WordflockError, match=r"damaged|cut short"):
            read_clip(data[: len(data) // 2] + bytes(len(data) // 2))  # a download that stopped
    with pytest.raises(WordflockError, match="cut short"):
        read_clip(WHOLE["MP3"][:3000] + b"TAG" + bytes(125))


# Bounds


@pytest.mark.parametrize("rate", [1, 16, 999, 768_001, 2_000_000_000])
def test_a_rate_that_no_recording_has_is_refused(rate: int) -> None:
    data = put(encode("WAV"), 24, struct.pack("<II", rate, min(2 * rate, 0xFFFF_FFFF)))
    with pytest.raises(WordflockError, match=r"has a sample rate of .* Hz, outside 1,000 to 768,000 Hz"):
        read_clip(data)


def test_a_recording_longer_than_the_bound_is_refused_before_and_while_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reading, "MAX_SECONDS", 2.0)
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        with pytest.raises(WordflockError, match="is longer than 2 s; cut it into shorter files"):
            read_clip(WHOLE[kind])
    monkeypatch.setattr(reading, "MAX_SECONDS", 3600.0)
    monkeypatch.setattr(reading, "MAX_VALUES", 1000)
    with pytest.raises(WordflockError, match="holds more than 1,000 samples"):
        read_clip(WHOLE["WAV"])


@given(rate=st.sampled_from([8000, 16_000, 44_100]), channels=st.integers(1, 3), block=st.integers(500, 5000))
@settings(max_examples=15)
def test_a_file_read_in_pieces_gives_the_samples_of_one_read_at_once(rate: int, channels: int, block: int) -> None:
    data = encode("WAV", samples=np.stack([SPEECH[:20_000] * (1 + i) / 4 for i in range(channels)], 1), rate=rate)
    whole = read_clip(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_BLOCK", block)
        assert np.array_equal(read_clip(data), whole)


# Channels, and what is no audio


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_in_opposite_phase_give_one_of_them_and_a_warning(channels: int) -> None:
    both = np.stack([SPEECH * (-1) ** i * (1 if i < 2 else 0.5) for i in range(channels)], axis=1)
    with pytest.warns(WordflockWarning, match=r"^a\.wav has channels in opposite phase"):
        clip = read_clip(encode("WAV", samples=both), "a.wav")
    assert np.array_equal(clip, read_clip(encode("WAV")))


@pytest.mark.filterwarnings("error")
def test_one_of_many_channels_alone_is_averaged_without_a_warning() -> None:
    alone = np.zeros((len(SPEECH), 8), np.float32)
    alone[:, 3] = SPEECH
    assert np.abs(read_clip(encode("WAV", samples=alone)) - SPEECH / 8).max() < 1e-4


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "is a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "is a web page .*; download it again"),
        (bytes(4000), "begins with zeros only"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "is MPEG-4"),
        (b"\x1aE\xdf\xa3" + bytes(90), "is Matroska or WebM"),
        (b"#!AMR\n" + bytes(90), "is AMR"),
        (b"\xff\xf1\x50\x80" + bytes(90), "is AAC"),
        (b"OggS" + bytes(22) + b"\x01\x50" + b"Speex   " + bytes(72), "is Speex|damaged"),
    ],
)
def test_what_is_saved_as_a_recording_and_is_none_is_named(data: bytes, fault: str) -> None:
    with pytest.raises(WordflockError, match=fault):
        read_clip(data)


def test_formats_that_text_may_be_taken_for_are_refused() -> None:
    for kind in ("XI", "PVF", "MAT4", "IRCAM"):
        subtype = "DPCM_16" if kind == "XI" else None
        with pytest.raises(WordflockError, match="is not audio that can be read"):
            read_clip(encode(kind, subtype))


def test_no_library_writes_to_the_terminal_and_python_still_does() -> None:
    program = """
import sys
from wordflock.audio.reading import read_clip
from wordflock.audio.silence import silent_libraries
from wordflock.errors import WordflockError
for number in range(0, 3000, 50):
    data = bytearray(sys.stdin.buffer.read() if number == 0 else data)
    data[500 + number] ^= 85
    try:
        read_clip(bytes(data))
    except WordflockError:
        pass
with silent_libraries():
    print("inside", file=sys.stderr)
print("after", file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], input=WHOLE["MP3"], capture_output=True, check=True)
    assert done.stderr == b"inside\nafter\n"
