"""The detector: the same events however the sound is cut, one event a word, none across a gap."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listeners import HOP, TONES, WINDOW, cut, heard, tone_listener, tones
from numpy.typing import NDArray
from test_predict import saved

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.audio.spectrogram import log_mel
from wordflock.errors import WordflockError
from wordflock.spotting.attention import LIKELY, Attention
from wordflock.spotting.decisions import Decisions, Rule
from wordflock.spotting.detector import Detection, Detector
from wordflock.spotting.listener import Listener
from wordflock.spotting.windows import EDGE, Window, Windows


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
def test_the_events_are_the_same_for_chunks_of_any_size(rate: int) -> None:
    sound = tones(3, 6.0, rate)
    whole = heard(sound, len(sound), rate)
    assert len(whole) == 3
    for milliseconds in (10, 80, 1_000):
        assert heard(sound, rate * milliseconds // 1_000, rate) == whole
    assert heard(sound[: 2 * rate], rate // 1_000, rate) == heard(sound[: 2 * rate], 2 * rate, rate)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.lists(st.integers(0, 9_000), max_size=30))
def test_the_events_are_the_same_however_the_sound_is_cut(seed: int, sizes: list[int]) -> None:
    sound = tones(seed, 5.0)
    detector, places = Detector(tone_listener()), [0, *np.minimum(np.cumsum(sizes), len(sound)), len(sound)]
    events = [heard for a, b in itertools.pairwise(places) for heard in detector.feed(sound[a:b])]
    assert events + detector.gap() == heard(sound, len(sound))


def test_the_samples_may_be_of_any_type_and_of_several_channels() -> None:
    sound = np.round(tones(1) * 32_767) / np.float32(32_768)
    expected = heard(sound, 4_000)
    assert expected
    integers = (sound * 32_768).astype(np.int16)
    for given_ in (integers, (integers.astype(np.int32) << 16), sound.astype(np.float64), np.stack([sound] * 2, 1)):
        assert Detector(tone_listener()).feed(given_) == expected


def test_the_frames_are_those_of_the_spectrogram_of_the_samples() -> None:
    sound = np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE).astype(np.float32) * np.float32(0.1)
    for window in Windows(WINDOW, HOP).feed(sound):
        first = window.end - round(WINDOW * SAMPLE_RATE)
        if first < EDGE:
            continue
        whole = log_mel(sound[np.newaxis, first : window.end])[0]
        assert np.abs(window.log_mel[0, :, 2:-1] - whole[:, 2:-1]).max() < 1e-4


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=80),
    st.floats(0.1, 1.0),
    st.integers(1, 4),
    st.integers(1, 12),
)
def test_after_an_event_there_is_none_until_the_word_has_left(
    shares: list[tuple[float, float]], threshold: float, smoothing: int, refractory: int
) -> None:
    decisions = Decisions(Rule((threshold, threshold), smoothing, refractory))
    rows = np.array(shares)
    padded = np.concatenate([np.zeros((smoothing, 2)), rows])
    means = np.array([padded[i + 1 : i + 1 + smoothing].mean(axis=0) for i in range(len(rows))])
    last: dict[int, int] = {}
    newest = -refractory
    for hop, row in enumerate(rows):
        if (event := decisions.step(row)) is None:
            continue
        keyword, confidence = event
        assert confidence == pytest.approx(means[hop, keyword]) and confidence >= threshold
        assert hop - newest >= refractory
        if keyword in last:
            assert means[last[keyword] : hop, keyword].min() < threshold / 2
        last[keyword] = newest = hop


def test_a_long_tone_is_one_event_and_two_tones_are_two() -> None:
    time = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    long = (np.sin(2 * np.pi * TONES[0] * time) * 0.3).astype(np.float32)
    quiet = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32) * np.float32(1e-4)
    assert [event.label for event in heard(np.concatenate([quiet, long, quiet]), 1_600)] == ["low"]
    assert [event.label for event in heard(np.concatenate([quiet, long, quiet, long, quiet]), 1_600)] == ["low"] * 2


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("fed", [0, 1, 1_000, 20_011])
def test_no_window_reaches_across_a_gap_and_the_clock_goes_on(rate: int, fed: int) -> None:
    sound, lost = tones(5, 3.0, rate), 10 * rate + 7
    detector = Detector(tone_listener(), rate=rate)
    before = [*detector.feed(sound[:fed]), *detector.gap(lost)]
    assert before == heard(sound[:fed], rate, rate)
    after = [*detector.feed(sound), *detector.gap()]
    fresh = heard(sound, len(sound), rate)
    assert fresh and [(x.label, x.confidence) for x in after] == [(x.label, x.confidence) for x in fresh]
    for ours, theirs in zip(after, fresh, strict=True):
        assert ours.start - theirs.start == pytest.approx((fed + lost) / rate)
        assert ours.end - theirs.end == pytest.approx((fed + lost) / rate)


def test_a_word_cut_by_a_gap_is_not_heard_from_its_halves() -> None:
    time = np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    tone = (np.sin(2 * np.pi * TONES[0] * time) * 0.3).astype(np.float32)
    energies: list[float] = []

    def ask(mel: NDArray[np.float32]) -> NDArray[np.float64]:
        energies.append(float((mel[0] > 0.9 * mel.max()).any(axis=0).sum()))
        return np.zeros(2)

    detector = Detector(Listener(("low", "high"), WINDOW, HOP, Rule((0.5, 0.5)), ask), gate=False)
    detector.feed(tone[:2_400])
    detector.gap()
    detector.feed(tone[2_400:])
    detector.gap()
    assert max(energies) < 25  # frames of 10 ms with the tone in them: 15 and an edge, never 30


def test_a_word_in_the_first_second_is_heard_and_one_at_the_very_end() -> None:
    time = np.arange(round(0.3 * SAMPLE_RATE)) / SAMPLE_RATE
    tone = (np.sin(2 * np.pi * TONES[1] * time) * 0.3).astype(np.float32)
    (event,) = Detector(tone_listener()).stream([tone])
    assert event.label == "high"
    assert (event.start, event.end) == (pytest.approx(0.0, abs=0.02), pytest.approx(0.3, abs=0.02))


def test_the_gate_changes_no_event_and_asks_seldom_in_noise() -> None:
    asked = 0
    plain = tone_listener()

    def counted(mel: NDArray[np.float32]) -> NDArray[np.float64]:
        nonlocal asked
        asked += 1
        return plain.ask(mel)

    listener = Listener(plain.keywords, WINDOW, HOP, plain.rule, counted)
    noise = np.random.default_rng(0).standard_normal(60 * SAMPLE_RATE).astype(np.float32) * np.float32(1e-3)
    sound = np.concatenate([tones(7), noise, tones(8)])
    gated = list(Detector(listener).stream([sound]))
    with_gate, asked = asked, 0
    assert gated == list(Detector(listener, gate=False).stream([sound]))
    assert with_gate < asked / 2


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, LIKELY / 2, LIKELY, 0.9])), max_size=40))
def test_every_second_window_is_asked_until_a_word_is_likely_and_none_while_nothing_stands_out(
    heard: list[tuple[bool, float]],
) -> None:
    asked = list[int]()

    def ask(mel: NDArray[np.float32]) -> NDArray[np.float64]:
        asked.append(round(float(mel.item())))
        return np.array([0.0, heard[asked[-1]][1]])

    attention, before = Attention(replace(tone_listener(), ask=ask)), 0.0
    for number, (loud, probability) in enumerate(heard):
        window = Window(round((number + 1) * HOP * SAMPLE_RATE), np.array([number], np.float32), loud)
        expected = loud and (number % 2 == 0 or before >= LIKELY)
        before = 0.0 if not loud else probability if expected else before
        assert attention(window).tolist() == [0.0, before]
        assert (number in asked) == expected


def test_the_asynchronous_twin_hears_the_same() -> None:
    sound = tones(9)

    async def chunks() -> AsyncIterator[NDArray[np.float32]]:
        for chunk in cut(sound, 3_000):
            yield chunk

    async def collect() -> list[Detection]:
        return [event async for event in Detector(tone_listener()).astream(chunks())]

    assert asyncio.run(collect()) == heard(sound, 3_000)


def test_thresholds_are_by_word() -> None:
    sound = tones(3)
    labels = {event.label for event in heard(sound, 1_600)}
    assert labels == {"low", "high"}
    assert {e.label for e in Detector(tone_listener(), threshold={"low": 1.0}).stream([sound])} == {"high"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"threshold": {"medium": 0.5}}, "medium"),
        ({"threshold": 2.0}, "outside 0 to 1"),
        ({"threshold": "a"}, "outside 0 to 1"),
        ({"rate": 100}, "100 Hz"),
    ],
)
def test_wrong_arguments_are_said(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(WordflockError, match=said):
        Detector(tone_listener(), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "samples",
    [
        np.array([np.nan], np.float32),
        np.zeros((1, 2, 3), np.float32),
        np.array(["a"]),
        np.zeros(3, np.uint8),
        np.zeros(3, int),
    ],
)
def test_what_is_not_sound_is_refused(samples: NDArray[np.float32]) -> None:
    with pytest.raises(WordflockError):
        Detector(tone_listener()).feed(samples)


def test_samples_in_a_list_are_refused() -> None:
    with pytest.raises(WordflockError, match="A list is not sound; feed a NumPy array"):
        Detector(tone_listener()).feed([0] * 1_600)  # type: ignore[arg-type]


@pytest.mark.parametrize(("window", "hop"), [(1.0, 0.1), (1.38, 0.1), (0.2, 0.3), (3.0, 0.25)])
def test_any_window_goes_with_any_hop(window: float, hop: float) -> None:
    sound = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    windows = list(Windows(window, hop).feed(sound))
    assert {w.log_mel.shape for w in windows} == {(1, 80, round(window * 100))}
    assert np.allclose(np.diff([w.end for w in windows]), hop * SAMPLE_RATE)


def test_it_imports_neither_torch_nor_flwr(tmp_path: Path) -> None:
    """Not even when it has opened a model, and no more sound libraries than it needs."""
    saved(tmp_path / "best.safetensors")
    code = (
        "import sys, numpy, wordflock; d = wordflock.Detector(sys.argv[1], rate=48_000); "
        "d.feed(numpy.zeros(96_000, numpy.int16)); d.gap(); print(*sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "best.safetensors")]
    modules = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "flwr", "scipy", "sklearn", "pandas", "matplotlib", "sounddevice", "cyclopts"} & set(modules)
