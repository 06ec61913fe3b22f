"""Recorded noises and rooms in augmented versions: deterministic, kept by content, read in pieces, words stay put."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.audio.augment import (
    MAX_RESPONSE,
    NOWHERE,
    VERSION,
    Sound,
    Surroundings,
    add_reverb,
    augment,
    response_of,
)
from wordflock.audio.reading import SAMPLE_RATE, read_clip
from wordflock.data.clips import Clip
from wordflock.data.loading import load_clips, read_samples
from wordflock.data.surroundings import load_surroundings
from wordflock.encoder.store import with_augmentations
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.prepare import surroundings_of
from wordflock.settings import TrainSettings


@pytest.fixture
def noise(tmp_path: Path, write_audio: Callable[..., Path]) -> Path:
    write_audio(tmp_path / "noise" / "bar.wav", seconds=3.0)
    write_audio(tmp_path / "noise" / "street" / "tram.flac", seconds=0.4, rate=44_100, channels=2)
    return tmp_path / "noise"


@pytest.fixture
def rooms(tmp_path: Path) -> Path:
    generator, folder = np.random.default_rng(0), tmp_path / "rooms"
    folder.mkdir()
    for name, delay in (("hall", 900), ("office", 40)):
        response = generator.standard_normal(8000) * 10 ** (-3 * np.arange(8000) / 6000) * 0.05
        soundfile.write(folder / f"{name}.wav", np.concatenate([np.zeros(delay), [0.8], response]), SAMPLE_RATE)
    return folder


def variants(clips: list[Clip], surroundings: Surroundings) -> list[bytes]:
    return [samples.tobytes() for samples in read_samples(with_augmentations(clips, 2, surroundings))]


def test_names_and_places_of_the_files_do_not_count_and_their_contents_do(
    noise: Path, rooms: Path, tmp_path: Path, small_speech_commands: Path, write_audio: Callable[..., Path]
) -> None:
    cache = tmp_path / "cache"
    clips = list(load_clips(small_speech_commands, cache=cache).clips[:3])
    one = load_surroundings(str(noise), str(rooms), cache)
    shutil.copytree(noise, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "bar.wav").rename(tmp_path / "elsewhere" / "zoo.wav")
    other = load_surroundings(str(tmp_path / "elsewhere"), str(rooms), tmp_path / "another cache")
    assert one.key == other.key and variants(clips, one) == variants(clips, other)
    keys = {clip.key for clip in with_augmentations(clips, 2, one)}
    assert keys == {clip.key for clip in with_augmentations(clips, 2, other)} and len(keys) == 9
    write_audio(tmp_path / "elsewhere" / "new.wav")
    more = load_surroundings(str(tmp_path / "elsewhere"), str(rooms), cache)
    alone = load_surroundings(str(noise), "", cache)
    assert len({surroundings.key for surroundings in (one, more, alone, NOWHERE)}) == 4
    for changed in (more, alone, NOWHERE):  # the original is everybody's
        assert {clip.key for clip in with_augmentations(clips, 2, changed)} & keys == {clip.key for clip in clips}


def test_without_recordings_the_key_of_a_variant_names_the_version_of_the_code_alone(tmp_path: Path) -> None:
    clip = Clip("yes", "", "train", 1.0, "a.wav", "a.wav", 0, 1, "ab")
    assert [one.key for one in with_augmentations([clip], 1)] == ["ab", f"ab-{VERSION}.1"]


def test_a_piece_is_the_recording_s_samples_and_goes_round_at_its_end(noise: Path, tmp_path: Path) -> None:
    (sound,) = (s for s in load_surroundings(str(noise), "", tmp_path / "cache").noises if s.samples == 48_000)
    whole = read_clip(noise / "bar.wav")
    np.testing.assert_allclose(sound.piece(100, 16_000), whole[100:16_100], atol=2**-15)
    np.testing.assert_allclose(sound.piece(40_000, 16_000), np.roll(whole, -40_000)[:16_000], atol=2**-15)
    np.testing.assert_allclose(sound.piece(0, 100_000)[96_000:], whole[:4000], atol=2**-15)
    assert (tmp_path / "cache" / "sounds").stat().st_mode & 0o077 == 0


def test_the_noise_of_a_variant_is_a_piece_of_the_recording(tmp_path: Path) -> None:
    """Variants of a silent clip are nothing else than the noise, at some loudness."""
    recorded = np.random.default_rng(1).integers(-3000, 3000, 50_000).astype("<i2")
    (tmp_path / "noise.i2").write_bytes(recorded.tobytes())
    surroundings = Surroundings((Sound(tmp_path / "noise.i2", len(recorded), "n"),))
    found = made_up = 0
    for number in range(1, 20):
        variant = augment(np.zeros(8000, np.float32), "key", number, surroundings)
        if variant.any():
            twice = np.concatenate([recorded, recorded[:8000]]).astype(np.float64)
            start = int(np.argmax(scipy.signal.correlate(twice, variant.astype(np.float64), "valid")))
            alike = np.corrcoef(twice[start : start + 8000], variant)[0, 1] > 0.9999
            found, made_up = found + alike, made_up + (not alike)
    assert found > 4 and made_up > 4


@settings(max_examples=25)
@given(delay=st.integers(0, 4000), seconds=st.floats(0.01, 3.0), seed=st.integers(0, 99))
def test_a_word_in_a_recorded_room_begins_when_it_did(
    delay: int, seconds: float, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tail = np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE)) * 0.01
    response = np.concatenate([np.zeros(delay), [0.9], tail])
    path = tmp_path_factory.mktemp("rooms") / "room.i2"
    path.write_bytes(np.rint(response * 2**15).astype("<i2").tobytes())
    clip = np.concatenate([np.zeros(4000, np.float32), np.full(1, 0.5, np.float32), np.zeros(12_000, np.float32)])
    heard = response_of(Sound(path, len(response), "r"))
    assert len(heard) <= MAX_RESPONSE
    wet = add_reverb(clip, heard)
    assert wet.shape == clip.shape and np.abs(wet[:4000]).max() < 1e-4 and np.argmax(np.abs(wet)) == 4000
    expected = scipy.signal.fftconvolve(clip, response[delay:])[: len(clip)]
    np.testing.assert_allclose(wet, expected, atol=1e-3)


def test_a_recording_that_changes_meanwhile_is_another_one(noise: Path, tmp_path: Path) -> None:
    before = load_surroundings(str(noise), "", tmp_path / "cache")
    soundfile.write(noise / "bar.wav", np.random.default_rng(9).uniform(-0.5, 0.5, 48_000), SAMPLE_RATE)
    after = load_surroundings(str(noise), "", tmp_path / "cache")
    assert before.key != after.key
    (kept,) = (sound for sound in before.noises if sound.samples == 48_000)
    assert not np.array_equal(kept.piece(0, 100), read_clip(noise / "bar.wav")[:100])


def test_bad_folders_are_one_sentence_and_bad_files_a_warning(noise: Path, rooms: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (tmp_path / "empty").mkdir()
    cases = [
        ("--noise", str(tmp_path / "empty"), r"holds no audio files\); name another folder\.$"),
        ("--noise", str(tmp_path / "missing"), "does not exist"),
        ("--rooms", str(tmp_path / "bad"), r"--rooms .*the first: .*"),
    ]
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.wav").write_text("no audio")
    soundfile.write(tmp_path / "bad" / "music.flac", np.ones(11 * SAMPLE_RATE) * 0.1, SAMPLE_RATE)
    soundfile.write(tmp_path / "bad" / "silent.wav", np.zeros(1 * SAMPLE_RATE), SAMPLE_RATE)
    for option, folder, message in cases:
        with pytest.raises(WordflockError, match=message):
            load_surroundings(*((folder, "") if option == "--noise" else ("", folder)), cache)
    shutil.copy(rooms / "hall.wav", tmp_path / "bad")
    with pytest.warns(
        WordflockWarning, match=r"3 recordings are left out, of 4 of --rooms .* \(the first: music.flac lasts"
    ):
        assert len(load_surroundings("", str(tmp_path / "bad"), cache).rooms) == 1


def test_recordings_without_augmented_versions_are_refused(noise: Path, tmp_path: Path) -> None:
    asked = TrainSettings(noise=str(noise), cache=str(tmp_path / "cache"), augmentations=0)
    with pytest.raises(WordflockError, match="--augmentations 1"):
        surroundings_of(asked)
    with pytest.raises(WordflockError, match="neither a whole number nor below 1"):
        surroundings_of(replace(asked, augmentations=1.5))
    for count in (0.3, 1):
        assert len(surroundings_of(replace(asked, augmentations=count)).noises) == 2
