"""Voice activity: it is found in any noise and at any level, wherever the sound is cut into blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.audio.augment import coloured_noise, level
from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.voice import HOP, MIN_VOICED, levels, stretches, voiced

WORDS = ((1.0, 1.4), (2.5, 3.1), (4.6, 4.85))  # seconds, in 6 s


def spoken(words: tuple[tuple[float, float], ...] = WORDS, seconds: float = 6.0) -> NDArray[np.float32]:
    """Vowels: harmonics of a voice with two formants, with a soft begin and end."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * 120 * n * time) / (1 + abs(120 * n - 600) / 300) for n in range(1, 30))
    envelope = sum(np.clip(np.minimum(time - start, end - time) / 0.02, 0, 1) for start, end in words)
    return (0.1 * tone * envelope).astype(np.float32)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("ratio", [40.0, 20.0, 5.0])
@pytest.mark.parametrize("gain", [1.0, 0.03])
def test_words_in_noise_are_found_where_they_are(slope: float, ratio: float, gain: float) -> None:
    sound = spoken()
    noise = coloured_noise(len(sound), slope, np.random.default_rng(0), lowest=50.0)
    noisy = sound + noise * level(sound[SAMPLE_RATE : int(1.4 * SAMPLE_RATE)]) * 10 ** (-ratio / 20)
    found = voiced((gain * noisy).astype(np.float32))
    assert len(found) == len(WORDS)
    assert np.abs(np.array(found) - np.array(WORDS)).max() < 0.06


def test_noise_silence_hum_and_clicks_are_no_words() -> None:
    generator = np.random.default_rng(1)
    time = np.arange(6 * SAMPLE_RATE) / SAMPLE_RATE
    clicks = 1e-3 * generator.standard_normal(len(time))
    clicks[SAMPLE_RATE : SAMPLE_RATE + 300] += generator.standard_normal(300)
    for sound in (
        np.zeros(6 * SAMPLE_RATE),
        0.1 * generator.standard_normal(len(time)),
        0.3 * np.sin(2 * np.pi * 50 * time) + 1e-4 * generator.standard_normal(len(time)),
        clicks,
    ):
        assert voiced(sound.astype(np.float32)) == []
    assert voiced(np.zeros(0, np.float32)) == [] == voiced(np.zeros(HOP, np.float32))


def test_the_noise_floor_follows_and_digital_silence_is_none() -> None:
    sound = spoken(((1.0, 1.5), (11.0, 11.5)), 14.0)
    noise = 1e-3 * np.random.default_rng(2).standard_normal(len(sound)).astype(np.float32)
    noise[7 * SAMPLE_RATE :] *= 20  # a fan
    noise[: SAMPLE_RATE // 2] = 0  # a microphone that starts late
    found = np.array(voiced(sound + noise))
    inside = found[(found[:, 0] > 0.8) & ((found[:, 0] < 6) | (found[:, 0] > 8))]
    assert np.abs(inside - [[1.0, 1.5], [11.0, 11.5]]).max() < 0.06


def test_pauses_inside_a_phrase_are_part_of_it() -> None:
    sound = spoken(((1.0, 1.3), (1.5, 2.0), (2.6, 3.0)))
    sound += 1e-4 * np.random.default_rng(3).standard_normal(len(sound)).astype(np.float32)
    assert len(voiced(sound)) == 2 and len(voiced(sound, pause=0.1)) == 3 and len(voiced(sound, pause=1.0)) == 1


@given(st.lists(st.integers(0, 3 * SAMPLE_RATE), max_size=6))
def test_blocks_do_not_matter(places: list[int]) -> None:
    sound = spoken(((0.5, 1.0), (1.8, 2.3)), 3.0) + np.float32(1e-4)
    whole = levels([sound])
    parts = levels(np.split(sound, sorted(places)))
    assert len(parts) == len(whole) and np.allclose(parts, whole, atol=0.1)
    assert abs(len(whole) * HOP - len(sound)) <= 2 * HOP
    assert stretches(whole) == voiced(sound)


@given(st.integers(0, 2**32 - 1))
def test_stretches_are_in_order_and_apart(seed: int) -> None:
    level = np.random.default_rng(seed).normal(-60, 15, (300, 6)).astype(np.float32)
    found = stretches(level, 0.2)
    times = [time for stretch in found for time in stretch]
    assert times == sorted(times) and all(0 <= time <= 3.0 for time in times)
    assert all(end - start >= MIN_VOICED for start, end in found)
    assert all(after[0] - before[1] > 0.2 for before, after in pairwise(found))
