from __future__ import annotations

import os
import struct
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip
from wordflock.errors import WordflockError

NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLE_RATE).astype(np.float32)


def encode(samples: Any, kind: str = "WAV", rate: int = SAMPLE_RATE, subtype: str | None = None) -> bytes:
    file = BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


def test_wav_and_flac_give_the_same_samples() -> None:
    samples = (NOISE * 2**15).astype(np.int16)
    wav, flac = read_clip(encode(samples)), read_clip(encode(samples, "FLAC"))
    assert wav.dtype == flac.dtype == np.float32
    assert np.array_equal(wav, samples / np.float32(2**15))
    assert np.array_equal(flac, wav)


def test_path_bytes_file_and_pipe_give_the_same_samples(tmp_path: Path) -> None:
    data = encode(NOISE[:8000])
    path = tmp_path / "clip.wav"
    path.write_bytes(data)
    expected = read_clip(data)
    reader, writer = os.pipe()
    os.write(writer, data)  # fits into the pipe's buffer
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe, path.open("rb") as file:
        for source in (path, str(path), bytearray(data), memoryview(data), BytesIO(data), file, pipe):
            assert np.array_equal(read_clip(source), expected)
        assert not file.closed


@given(
    rate=st.sampled_from([4000, 8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 7999, 16_001]),
    channels=st.integers(1, 6),
    frames=st.integers(1, 30_000),
)
@settings(max_examples=40)
def test_any_rate_and_channels_keep_the_duration_to_a_sample(rate: int, channels: int, frames: int) -> None:
    clip = read_clip(encode(np.zeros((frames, channels)), rate=rate))
    assert clip.ndim == 1 and clip.dtype == np.float32
    assert abs(len(clip) - frames * SAMPLE_RATE / rate) <= 1


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
def test_resampling_keeps_the_pitch(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    spectrum = np.abs(np.fft.rfft(read_clip(encode(tone, rate=rate))))
    assert np.argmax(spectrum) == 440  # bins of 1 Hz


def test_channels_are_averaged() -> None:
    left, right = NOISE, np.roll(NOISE, 100)
    both = read_clip(encode(np.stack([left, right], 1), subtype="FLOAT"))
    np.testing.assert_allclose(both, (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("kind", ["OGG", "MP3"])
def test_lossy_formats_sound_the_same(kind: str) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(SAMPLE_RATE) / SAMPLE_RATE)
    clip = read_clip(encode(tone, kind))
    assert len(clip) == SAMPLE_RATE
    assert np.corrcoef(clip, tone)[0, 1] > 0.99


def test_mp3_whose_length_is_only_guessed_is_read_whole() -> None:
    file = BytesIO()
    soundfile.write(file, np.tile(NOISE, 8), 44_100, format="MP3", bitrate_mode="CONSTANT", compression_level=0.5)
    data = file.getvalue()
    start = data.index(data[:2], data.index(b"Info") + 100)  # past the frame that tells the length
    guessed = read_clip(data[start:] + b"TAG" + bytes(125))
    assert 0 <= len(guessed) - len(read_clip(data)) < 3000


@given(
    clip=st.lists(st.floats(-1, 1, width=32), max_size=60).map(lambda values: np.array(values, dtype=np.float32)),
    samples=st.integers(1, 40),
)
def test_fit_keeps_the_loudest_stretch(clip: Any, samples: int) -> None:
    fitted = fit(clip, samples)
    assert fitted.shape == (samples,) and fitted.dtype == np.float32
    if len(clip) <= samples:
        assert np.array_equal(fitted[: len(clip)], clip) and not fitted[len(clip) :].any()
        return
    stretches = np.lib.stride_tricks.sliding_window_view(clip, samples)
    assert any(np.array_equal(fitted, stretch) for stretch in stretches)
    energies = (stretches.astype(np.float64) ** 2).sum(axis=1)
    assert (fitted.astype(np.float64) ** 2).sum() >= energies.max() - 1e-9


def test_fit_does_not_cut_a_word_in_a_long_recording() -> None:
    recording = 0.001 * np.tile(NOISE, 3)
    recording[30_000:38_000] = NOISE[:8000]
    kept = fit(recording, SAMPLE_RATE)
    assert np.isclose((kept**2).sum(), (recording[30_000:38_000] ** 2).sum(), rtol=1e-3)


FAULTS = {
    "empty": b"",
    "text": b"This is no sound at all.\n" * 50,
    "NaN": encode(np.array([0.0, np.nan] * 4000), subtype="FLOAT"),
    "gigantic": encode(np.array([0.0, 3e38] * 4000), subtype="FLOAT"),
    "over float32": encode(np.array([0.0, 1e300] * 4000), subtype="DOUBLE"),
    "infinity": encode(np.array([[np.inf, -np.inf]] * 4000), subtype="FLOAT"),
    "no samples": encode(np.zeros(0)),
    "half a WAV": encode(NOISE)[:16_000],
    "half a stereo WAV of 24 bits": encode(np.stack([NOISE, NOISE], 1), subtype="PCM_24")[:48_000],
    "half a FLAC": encode(NOISE, "FLAC")[:10_000],
    "half an OGG": encode(NOISE, "OGG")[:-400],
    "half an MP3": encode(NOISE, "MP3")[:3000],
    "half an AIFF": encode(NOISE, "AIFF")[:16_000],
    "a damaged FLAC": encode(NOISE, "FLAC")[:10_000] + bytes(60) + encode(NOISE, "FLAC")[10_060:],
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_file_is_refused_in_one_sentence_that_names_it(fault: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_bytes(FAULTS[fault])
    with pytest.raises(WordflockError) as error:
        read_clip(path)
    assert str(error.value).startswith(f"{path} ") and str(error.value).endswith(".")
    assert "\n" not in str(error.value)
    with pytest.raises(WordflockError, match=r"^yes/alice\.wav "):
        read_clip(FAULTS[fault], "yes/alice.wav")


@pytest.mark.parametrize("kind", ["WAV", "FLAC"])
@given(data=st.data())
@settings(max_examples=40)
def test_no_cut_of_a_file_passes_for_a_shorter_clip(kind: str, data: st.DataObject) -> None:
    whole = encode(NOISE[:4000], kind)
    cut = data.draw(st.integers(0, len(whole) - 65))
    with pytest.raises(WordflockError):
        read_clip(whole[:cut])


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_F000, 2 * SAMPLE_RATE + 44])
def test_a_wav_header_of_a_stream_or_a_sloppy_recorder_is_taken_as_it_is(size: int) -> None:
    data = bytearray(encode(NOISE))
    assert data[36:40] == b"data"
    data[40:44] = struct.pack("<I", size)
    assert np.array_equal(read_clip(bytes(data)), read_clip(encode(NOISE)))


@pytest.mark.parametrize("kind", ["CAF", "SDS"])
def test_libsndfile_writes_no_notes_to_the_terminal(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    file = BytesIO()
    sound = np.random.default_rng(0).uniform(-0.3, 0.3, 8000)
    soundfile.write(file, sound, 16_000, format=kind, subtype="ALAC_16" if kind == "CAF" else "PCM_16")
    content = bytearray(file.getvalue())
    for place in (20, 125):
        with suppress(WordflockError):
            read_clip(bytes(content[:place] + b"\xff" * 4 + content[place + 4 :]))
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_opened_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.wav", tmp_path):
        with pytest.raises(WordflockError, match=f"^{path} cannot be read"):
            read_clip(path)
