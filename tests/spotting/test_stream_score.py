"""Misses, false alarms and thresholds from traces, against counts made by hand and against the detector itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from listeners import tone_listener, tones
from test_predict import saved

from wordflock.audio.augment import level
from wordflock.cli.commands import run
from wordflock.errors import WordflockError
from wordflock.head.checkpoint import load_checkpoint
from wordflock.spotting.decisions import Rule
from wordflock.spotting.detector import Detector
from wordflock.spotting.listener import open_listener
from wordflock.spotting.stream_evaluation import halves
from wordflock.spotting.stream_score import (
    Trace,
    _options,
    _shared_out,
    alarm_rate,
    choose_thresholds,
    det_curve,
    score,
    trace,
)
from wordflock.spotting.streams import Heard, Stream, cut_at_words, labelled_recordings, placed, positive_clips

LISTENER = tone_listener(Rule((0.5, 0.5), smoothing=1))


def curve(
    peaks: dict[int, tuple[float, float]], word: str = "", hours: float = 200 / 36_000, speaker: str = "a"
) -> Trace:
    """A trace that is zero but for peaks at some hops."""
    rows = np.zeros((260, 2))
    for hop, shares in peaks.items():
        rows[hop] = shares
    return Trace(rows, Stream(np.empty(0, np.float32), "made", word, speaker, 0.0, 5.0), 3600 * hours)


def test_misses_false_alarms_and_latency_are_counted() -> None:
    traces = [
        curve({59: (0.9, 0.0)}, "low"),
        curve({59: (0.0, 0.9)}, "low", speaker="b"),
        curve({}, "high"),
        curve({10: (0.6, 0.0), 100: (0.0, 0.7)}),
    ]
    scored = score(traces, LISTENER, LISTENER.rule)
    assert (scored.misses.count, scored.misses.of, scored.confused) == (2, 3, 1)
    assert scored.false_alarms.count == 2 and scored.false_alarms.value == pytest.approx(2 / (20 / 3600))
    assert scored.latency == pytest.approx((1.0, 1.0))
    assert scored.misses_of["low"].count == 1 and scored.misses_of["high"].count == 1
    assert {name: (rate.count, rate.of) for name, rate in scored.misses_by_speaker.items()} == {
        "a": (1, 2),
        "b": (1, 1),
    }


def test_a_trace_scored_is_what_the_detector_says() -> None:
    sound = tones(11)
    listener = tone_listener()
    said = list(Detector(listener).stream([sound]))
    scored = score([trace(listener, Stream(sound, "tones"))], listener, listener.rule)
    assert scored.false_alarms.count == len(said) > 0


@settings(max_examples=8)
@given(
    st.lists(st.floats(0.05, 0.99), max_size=6),
    st.lists(st.floats(0.05, 0.99), max_size=6),
    st.lists(st.tuples(st.booleans(), st.floats(0.05, 0.99)), max_size=10),
    st.integers(0, 4),
)
def test_thresholds_keep_to_the_target(
    low: list[float], high: list[float], words: list[tuple[bool, float]], allowed: int
) -> None:
    peaks = {20 * i + 5: (share, 0.0) for i, share in enumerate(low)}
    peaks |= {20 * i + 130: (0.0, share) for i, share in enumerate(high)}
    traces = [curve(peaks, hours=1.0)]
    traces += [curve({30: (s, 0.0) if is_low else (0.0, s)}, "low" if is_low else "high") for is_low, s in words]
    chosen = choose_thresholds(traces, LISTENER, LISTENER.rule, target=float(allowed))
    assert score(traces, LISTENER, Rule(chosen, smoothing=1)).false_alarms.count <= allowed


@given(
    st.lists(st.tuples(st.lists(st.floats(0.05, 0.99), max_size=5), st.lists(st.floats(0.05, 0.99))), max_size=3),
    st.integers(0, 4),
)
def test_no_other_shares_of_the_allowed_alarms_miss_less(
    heard: list[tuple[list[float], list[float]]], allowed: int
) -> None:
    options = [_options(sorted(peaks, reverse=True), words, allowed) for peaks, words in heard]

    def missed(shares: tuple[int, ...]) -> int:
        return sum(misses[alarms] for (misses, _), alarms in zip(options, shares, strict=True))

    shares = _shared_out(options, allowed)
    assert sum(shares) <= allowed
    every = (each for each in product(range(allowed + 1), repeat=len(options)) if sum(each) <= allowed)
    assert missed(shares) == min(map(missed, every))


def test_a_keyword_without_loud_negatives_has_a_threshold_between_its_own_and_that_of_all() -> None:
    traces = [curve({30: (0.6, 0.0), 90: (0.0, 0.05)}, hours=1.0)]
    traces += [curve({30: (0.9, 0.0)}, "low"), curve({30: (0.0, 0.9)}, "high")]
    low, high = choose_thresholds(traces, LISTENER, LISTENER.rule, target=0.0)
    assert 0.6 < low < 0.9
    own, common = (np.log(one / (1 - one)) + np.log(9) for one in (0.05, 0.6))  # twice the middles to words of 0.9
    assert np.log(high / (1 - high)) == pytest.approx((own + common) / 4)


def test_fewer_misses_are_more_false_alarms() -> None:
    generator = np.random.default_rng(0)
    traces = [curve({int(h): (s, 0.0) for h, s in zip(range(5, 195, 20), generator.random(10), strict=False)})]
    traces += [curve({50: (share, 0.0)}, "low") for share in generator.random(20)]
    points = det_curve(traces, LISTENER, LISTENER.rule)
    misses, alarms = [m.value for _, m, _ in points], [a.value for _, _, a in points]
    assert misses == sorted(misses) and alarms == sorted(alarms, reverse=True)
    hours = traces[0].seconds / 3600
    assert {round(rate * hours) for rate in alarms} >= set(range(10))  # none of the loudest ten comes with another


@pytest.mark.parametrize(("count", "low", "high"), [(0, 0.0, 3.689), (1, 0.0253, 5.572), (10, 4.795, 18.39)])
def test_intervals_of_counts_are_garwoods(count: int, low: float, high: float) -> None:
    rate = alarm_rate(count, 1.0)
    assert (rate.low, rate.high) == (pytest.approx(low, abs=1e-3), pytest.approx(high, abs=5e-3))
    assert math.isnan(alarm_rate(0, 0.0).value)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), st.lists(st.floats(0.5, 900.0), min_size=2, max_size=12))
def test_halves_share_no_speaker_and_no_recording(speakers: list[int], lengths: list[float]) -> None:
    words = [curve({}, "low", speaker=f"s{number}") for number in speakers]
    others = [replace(curve({}), seconds=seconds) for seconds in lengths]
    if len(set(speakers)) < 2:
        with pytest.raises(WordflockError, match="two speakers"):
            halves(words, others)
        return
    first, second = halves(words, others)
    assert sorted(map(id, [*first, *second])) == sorted(map(id, [*words, *others]))
    for one, other in ((first, second), (second, first)):
        assert any(t.stream.word for t in one) and any(not t.stream.word for t in one)
        mine = {t.stream.speaker for t in one if t.stream.word}
        assert not mine & {t.stream.speaker for t in other if t.stream.word}


# The whole command, on a small data set and the real encoder


def test_evaluate_stream_stores_thresholds_that_the_detector_uses(
    tmp_path: Path, write_audio: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        write_audio(tmp_path / "clips" / ("yes", "no")[number % 2] / f"{number}_nohash_{number}.wav", seconds=0.3)
    for name in "abc":
        write_audio(tmp_path / "talk" / f"{name}.wav", seconds=0.7)
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    head = saved(run_folder / "best.safetensors")
    (run_folder / "config.toml").write_text("mode = 'train'\n")
    positives, negatives = str(tmp_path / "clips"), str(tmp_path / "talk")
    arguments = ["--positives", positives, "--negatives", negatives, "--split", "all", "--target", "0"]
    more = ["--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "figures"), "--json"]
    run(["evaluate-stream", str(run_folder), *arguments, *more, "-q"])
    said = json.loads(capsys.readouterr().out)
    stored = load_checkpoint(run_folder / "best.safetensors")
    assert stored.calibration.stream_thresholds == said["thresholds"]
    assert replace(stored.calibration, stream_thresholds={}) == head.calibration
    assert open_listener(run_folder).rule.thresholds == tuple(said["thresholds"].values())
    assert json.loads((run_folder / "metrics.json").read_text())["streams"] == said
    assert said["target"] == 0 and said["misses"]["of"] == 2 and said["real_time_factor"] > 0
    assert (tmp_path / "figures" / "det.svg").exists() and (tmp_path / "figures" / "det.png").exists()
    run(["evaluate-stream", str(run_folder), *arguments[:-2], *more[:2], "-q"])
    text = capsys.readouterr().out
    assert "false alarms per hour" in text and "of 4 words" in text


def test_placed_clips_are_the_same_every_time_and_words_are_where_they_say(tmp_path: Path) -> None:
    tone = np.zeros(16_000)
    tone[4_000:8_000] = 0.5 * np.sin(np.arange(4_000) / 3)
    for number in range(2):
        (tmp_path / "clips" / "yes").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "clips" / "yes" / f"{number}_nohash_{number}.wav", tone * (1 - number / 2), 16_000)
    clips = positive_clips(str(tmp_path / "clips"), ("yes",), "all", tmp_path / "cache")
    trained = Heard(frozenset({clips[0].content}), frozenset())
    assert positive_clips(str(tmp_path / "clips"), ("yes",), "all", tmp_path / "cache", trained) == clips[1:]
    with pytest.raises(WordflockError, match="not trained on"):
        spoken = Heard(frozenset(), frozenset(clip.speaker for clip in clips))
        positive_clips(str(tmp_path / "clips"), ("yes",), "all", tmp_path / "cache", spoken)
    first, second = (list(placed(clips, (40.0, 20.0))) for _ in range(2))
    for one, other, ratio in zip(first, second, (40.0, 20.0), strict=True):
        assert np.array_equal(one.sound, other.sound)
        begin, end = round(one.begin * 16_000), round(one.end * 16_000)
        assert abs(end - begin - 4_000) < 400
        word, noise = level(one.sound[begin:end]), level(np.delete(one.sound, np.s_[begin - 2_000 : end + 2_000]))
        assert 20 * np.log10(word / 2 / noise) == pytest.approx(ratio, abs=1.5)  # a quarter of the clip is word


def test_a_labelled_recording_is_cut_into_words_and_what_lies_between_them(tmp_path: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 20 * 16_000).astype(np.float32)
    soundfile.write(tmp_path / "talk.wav", sound, 16_000, subtype="FLOAT")
    places = {"Yes": (4.0, 4.5), "no": (5.0, 5.4), "other": (9.0, 9.5), "yes": (18.5, 19.0)}
    rows = [f"{begin}\t{end}\t{label}\n" for label, (begin, end) in places.items()]
    (tmp_path / "talk.txt").write_text("".join(rows))
    arguments = (str(tmp_path / "talk.wav"), str(tmp_path / "talk.txt"))
    found = labelled_recordings(*arguments, ("yes", "no"), tmp_path / "cache")
    streams = list(cut_at_words(found))
    assert [stream.word for stream in streams] == ["", "yes", "no", "", "yes"]
    whole = np.concatenate([stream.sound for stream in streams])
    assert np.array_equal(whole, sound)  # nothing twice, nothing left out
    begin, expected = 0.0, [places["Yes"], places["no"], places["yes"]]
    for stream in streams:
        if stream.word:
            first, last = expected.pop(0)
            assert (begin + stream.begin, begin + stream.end) == (pytest.approx(first), pytest.approx(last))
        begin += len(stream.sound) / 16_000
    with pytest.raises(WordflockError, match="labels none of"):
        labelled_recordings(*arguments, ("up",), tmp_path / "cache")
