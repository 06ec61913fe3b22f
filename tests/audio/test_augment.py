from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.audio.augment import (
    DISTANCE,
    add_noise,
    add_reverb,
    augment,
    change_speed,
    coloured_noise,
    level,
    room,
    shift,
)
from wordflock.audio.reading import SAMPLE_RATE

quickly = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32)


def a_word(seed: int = 0, samples: int = SAMPLE_RATE) -> NDArray[np.float32]:
    """A tone in the middle of a clip, with silence around it."""
    generator, time = np.random.default_rng(seed), np.arange(samples) / SAMPLE_RATE
    envelope = np.exp(-(((time - time.mean()) / 0.1) ** 2))
    return (0.3 * np.sin(2 * np.pi * generator.uniform(200, 800) * time) * envelope).astype(np.float32)


@quickly
@given(seed=seeds, samples=st.sampled_from([1, 2, 160, 5000, 16000, 22400]), number=st.integers(1, 99))
def test_a_variant_is_as_long_as_its_clip_and_can_be_played(seed: int, samples: int, number: int) -> None:
    for clip in (a_word(seed, samples), np.zeros(samples, np.float32), np.ones(samples, np.float32)):
        augmented = augment(clip, f"key {seed}", number)
        assert augmented.shape == clip.shape and augmented.dtype == np.float32
        assert np.isfinite(augmented).all() and np.abs(augmented).max() <= 1


def test_the_clip_and_the_number_decide_a_variant_and_nothing_else() -> None:
    clip = a_word()
    before = clip.copy()
    one = augment(clip, "key", 1)
    np.random.default_rng(5).random()
    np.testing.assert_array_equal(one, augment(clip, "key", 1))
    np.testing.assert_array_equal(clip, before)
    others = [augment(clip, "key", 2), augment(clip, "another", 1)]
    assert all(np.abs(one - other).max() > 1e-3 for other in [clip, *others])


@quickly
@given(seed=seeds, ratio=st.floats(-5, 30), slope=st.floats(0, 2))
def test_noise_is_as_loud_as_the_ratio_says(seed: int, ratio: float, slope: float) -> None:
    clip = a_word(seed)
    noise = coloured_noise(len(clip), slope, np.random.default_rng(seed)).astype(np.float32)
    added = add_noise(clip, noise, ratio) - clip
    assert 20 * np.log10(level(clip) / level(added)) == pytest.approx(ratio, abs=0.05)


@quickly
@given(seed=seeds, number=st.integers(1, 99), gain=st.floats(-90, -20))
def test_the_variant_of_a_fainter_clip_is_fainter_and_else_the_same(seed: int, number: int, gain: float) -> None:
    faint = np.float32(10 ** (gain / 20))
    one, other = (augment(a_word(seed) * scale, f"key {seed}", number) for scale in (np.float32(0.1), faint))
    np.testing.assert_allclose(other / faint, one / np.float32(0.1), atol=1e-3)


def test_silence_gets_some_noise_as_well() -> None:
    noise = coloured_noise(SAMPLE_RATE, 1.0, np.random.default_rng(0)).astype(np.float32)
    assert level(add_noise(np.zeros(SAMPLE_RATE, np.float32), noise, 0.0)) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_the_colour_of_noise_is_its_slope_over_frequency(slope: float) -> None:
    noise = coloured_noise(64 * SAMPLE_RATE, slope, np.random.default_rng(1))
    frequencies, power = scipy.signal.welch(noise, SAMPLE_RATE, nperseg=4096)
    between = (frequencies > 100) & (frequencies < 6000)
    fitted = np.polyfit(np.log(frequencies[between]), np.log(power[between]), 1)[0]
    assert fitted == pytest.approx(-slope, abs=0.1)


@quickly
@given(seed=seeds, seconds=st.floats(0.05, 0.6))
def test_a_room_adds_nothing_before_the_sound(seed: int, seconds: float) -> None:
    clip = np.concatenate([np.zeros(4000, np.float32), a_word(seed, 12000)])
    clip[4000] = 0.5
    wet = add_reverb(clip, room(seconds, DISTANCE, np.random.default_rng(seed)))
    assert wet.shape == clip.shape and wet.dtype == clip.dtype
    assert np.abs(wet[:4000]).max() < 1e-4 and np.abs(wet - clip).max() > 1e-3


def test_a_room_is_what_scipy_convolves() -> None:
    clip, response = a_word(), room(0.2, DISTANCE, np.random.default_rng(3))
    expected = scipy.signal.fftconvolve(clip, response)[: len(clip)]
    np.testing.assert_allclose(add_reverb(clip, response), expected, atol=1e-5)


@quickly
@given(seed=seeds, seconds=st.floats(0.05, 0.5), distance=st.floats(0, 20))
def test_the_echo_of_a_room_is_as_far_below_the_direct_sound_as_asked(
    seed: int, seconds: float, distance: float
) -> None:
    echo = room(seconds, (distance, distance), np.random.default_rng(seed))
    echo[0] -= 1
    assert 10 * np.log10(np.square(echo).sum()) == pytest.approx(-distance, abs=1e-6)


@quickly
@given(start=st.integers(-1600, 1600))
def test_a_shift_moves_the_clip_and_leaves_silence_behind(start: int) -> None:
    clip = np.arange(1, 8001, dtype=np.float32)
    moved = shift(clip, start / SAMPLE_RATE, len(clip))
    expected = np.zeros_like(clip)
    if start >= 0:
        expected[start:] = clip[: len(clip) - start]
    else:
        expected[:start] = clip[-start:]
    np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("speed", [0.9, 1.0, 1.1])
def test_a_faster_clip_is_shorter_and_higher(speed: float) -> None:
    time = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    faster = change_speed(np.sin(2 * np.pi * 500 * time).astype(np.float32), speed)
    assert len(faster) == pytest.approx(SAMPLE_RATE / speed, abs=2)
    peak = np.abs(np.fft.rfft(faster)).argmax() * SAMPLE_RATE / len(faster)
    assert peak == pytest.approx(500 * speed, abs=2)
