"""How a detector does on streams: misses against false alarms per hour, latency, and thresholds for a target.

Every stream is listened to once and its probabilities are kept (a trace); thresholds are then tried on traces, with
the very decisions that the detector makes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE
from wordflock.head.metrics import wilson_interval
from wordflock.spotting.attention import Attention
from wordflock.spotting.decisions import Decisions, Rule
from wordflock.spotting.listener import Listener
from wordflock.spotting.streams import Stream
from wordflock.spotting.windows import Windows

Array = NDArray[np.float64]

LEAST_PEAK = 0.02  # mean probability; no threshold is lower
POINTS, LOUDEST = 40, 10  # of a DET curve, and of its end where false alarms are few


@dataclass(frozen=True)
class Trace:
    """A stream as the detector hears it."""

    probabilities: Array  # (hops, keywords)
    stream: Stream  # without its sound
    seconds: float


@dataclass(frozen=True)
class Rate:
    """Something counted, with its 95% interval."""

    value: float
    low: float
    high: float
    count: int
    of: float  # hours, or words


@dataclass(frozen=True)
class StreamScore:
    """What a user feels."""

    misses: Rate  # of words, Wilson
    false_alarms: Rate  # per hour of negatives, all keywords together, Poisson
    confused: int  # events of another keyword in streams with a word
    latency: tuple[float, float]  # seconds from a word's end to its event, median and 95th percentile
    misses_of: dict[str, Rate]  # by keyword
    misses_by_speaker: dict[str, Rate]
    false_alarms_of: dict[str, Rate]  # by keyword
    missed: list[str]  # sources of the words that were missed


def trace(listener: Listener, stream: Stream, *, gate: bool = True) -> Trace:
    """Listen to a stream once."""
    windows, attention = Windows(listener.window, listener.hop), Attention(listener, gate=gate)
    rows = [attention(window) for part in (windows.feed(stream.sound), windows.finish()) for window in part]
    without = replace(stream, sound=np.empty(0, np.float32))
    return Trace(np.array(rows).reshape(-1, len(listener.keywords)), without, len(stream.sound) / SAMPLE_RATE)


def score(traces: Iterable[Trace], listener: Listener, rule: Rule) -> StreamScore:
    """Misses in traces that have a word, false alarms in those that have none."""
    keywords, seconds, confused = listener.keywords, 0.0, 0
    alarms, hits = dict.fromkeys(keywords, 0), list[tuple[Stream, bool]]()
    delays = list[float]()
    for heard in traces:
        stream, events = heard.stream, _events(heard, rule, listener.hop)
        if not stream.word:
            seconds += heard.seconds
            for _, keyword in events:
                alarms[keywords[keyword]] += 1
            continue
        right = [time for time, keyword in events if keywords[keyword] == stream.word]
        confused += len(events) - len(right)
        hits.append((stream, bool(right)))
        delays += [time - stream.end for time in right[:1]]
    hours, speakers = seconds / 3600, sorted({stream.speaker for stream, _ in hits})
    late = (float(np.median(delays)), float(np.quantile(delays, 0.95))) if delays else (math.nan, math.nan)

    def missed(those: Sequence[bool]) -> Rate:
        return miss_rate(len(those) - sum(those), len(those))

    return StreamScore(
        misses=missed([hit for _, hit in hits]),
        false_alarms=alarm_rate(sum(alarms.values()), hours),
        confused=confused,
        latency=late,
        misses_of={word: missed([hit for stream, hit in hits if stream.word == word]) for word in keywords},
        misses_by_speaker={name: missed([hit for stream, hit in hits if stream.speaker == name]) for name in speakers},
        false_alarms_of={word: alarm_rate(alarms[word], hours) for word in keywords},
        missed=[stream.source for stream, hit in hits if not hit],
    )


def choose_thresholds(traces: Sequence[Trace], listener: Listener, rule: Rule, target: float) -> tuple[float, ...]:
    """A threshold for each keyword, for at most `target` false alarms per hour of all together; in these streams there
    are never more.

    It is the mean (of logits) of the keyword's own and of one for all keywords: in few hours a keyword's loudest
    negative says little of the next hours' loudest, and thresholds by it alone give up to four times the alarms
    (benchmarks/RESULTS.md, "Streams again").
    """
    allowed = math.floor(target * sum(t.seconds for t in traces if not t.stream.word) / 3600)
    heard = [_peaks_and_words(traces, rule, place, word) for place, word in enumerate(listener.keywords)]
    options = [_options(peaks, words, allowed) for peaks, words in heard]
    all_peaks = sorted(itertools.chain.from_iterable(peaks for peaks, _ in heard), reverse=True)
    all_words = [peak for _, words in heard for peak in words]
    common = _logit(_options(all_peaks, all_words, allowed)[1][allowed])
    chosen = []
    for (peaks, _), (_, own), alarms in zip(heard, options, _shared_out(options, allowed), strict=True):
        mean = 1 / (1 + math.exp(-(_logit(own[alarms]) + common) / 2))
        chosen.append(max(mean, math.nextafter(_kept_out(peaks, alarms), 1.0)))
    return tuple(chosen)


def _shared_out(options: Sequence[tuple[list[int], list[float]]], allowed: int) -> tuple[int, ...]:
    """How many of the allowed alarms each keyword gets so that the sum of misses is least."""
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(math.inf, ())] * allowed]
    for misses, _ in options:  # best[n]: the least sum of misses with n alarms among the keywords so far
        best = [
            min(
                (best[n - j][0] + misses[j], (*best[n - j][1], j))
                for j in range(n + 1)
                if math.isfinite(best[n - j][0])
            )
            if any(math.isfinite(b[0]) for b in best[: n + 1])
            else (math.inf, ())
            for n in range(allowed + 1)
        ]
    return min(best)[1]


def det_curve(traces: Sequence[Trace], listener: Listener, rule: Rule) -> list[tuple[float, Rate, Rate]]:
    """Misses and false alarms per hour of one threshold after another, the same for all keywords: evenly spaced ones
    (logits), and those that keep out one more of the loudest negatives each."""
    curves = [(t.stream.word, means(t.probabilities, rule).max(axis=1, initial=0.0)) for t in traces]
    peaks = [float(mean.max(initial=0.0)) for _, mean in curves]
    loudest = sorted(peak for word, mean in curves if not word for peak in _peaks(mean, rule.refractory))[-LOUDEST:]
    logits = np.linspace(_logit(min(peaks)), _logit(max(peaks)), POINTS)
    curve = []
    for threshold in np.unique([*1 / (1 + np.exp(-logits)), *np.nextafter(loudest, 1.0)]):
        tried = replace(rule, thresholds=(float(max(threshold, LEAST_PEAK)),) * len(listener.keywords))
        scored = score(traces, listener, tried)
        curve.append((float(threshold), scored.misses, scored.false_alarms))
    return curve


def miss_rate(misses: int, words: int) -> Rate:
    """A share with Wilson's interval."""
    low, high = wilson_interval(misses, words) if words else (0.0, 1.0)
    return Rate(misses / words if words else math.nan, low, high, misses, words)


def alarm_rate(alarms: int, hours: float) -> Rate:
    """A rate per hour with the exact interval of a Poisson count (Garwood 1936)."""
    if not hours:
        return Rate(math.nan, 0.0, math.inf, alarms, 0.0)
    low = _poisson_mean(alarms - 1, 0.975) if alarms else 0.0
    return Rate(alarms / hours, low / hours, _poisson_mean(alarms, 0.025) / hours, alarms, hours)


def _poisson_mean(count: int, share: float) -> float:
    """The mean of the Poisson distribution of which `share` lies at `count` or below; by bisection."""
    low, high = 0.0, 10.0 * (count + 10)
    for _ in range(100):
        mean = (low + high) / 2
        below = sum(math.exp(k * math.log(mean) - mean - math.lgamma(k + 1)) for k in range(count + 1))
        low, high = (mean, high) if below > share else (low, mean)
    return low


def _events(heard: Trace, rule: Rule, hop: float) -> list[tuple[float, int]]:
    """Times (seconds) and keywords of what the detector would say."""
    if means(heard.probabilities, rule).max(initial=0.0) < min(rule.thresholds) * (1 - 1e-9):
        return []  # most negatives: the same, sooner
    decisions = Decisions(rule)
    steps = ((number, decisions.step(row)) for number, row in enumerate(heard.probabilities, start=1))
    return [(number * hop, event[0]) for number, event in steps if event]


def means(probabilities: Array, rule: Rule) -> Array:
    """What `Decisions` compares with thresholds, for all hops of a trace."""
    padded = np.concatenate([np.zeros((rule.smoothing, probabilities.shape[1])), probabilities])
    total = np.cumsum(padded, axis=0)
    means: Array = (total[rule.smoothing :] - total[: -rule.smoothing]) / rule.smoothing
    return means


def _peaks_and_words(traces: Sequence[Trace], rule: Rule, place: int, keyword: str) -> tuple[list[float], list[float]]:
    """The heights of a keyword's peaks in negatives, the loudest first, and in each stream with the keyword."""
    negatives, words = list[float](), list[float]()
    for heard in traces:
        mean = means(heard.probabilities, rule)[:, place]
        if heard.stream.word == keyword:
            words.append(float(mean.max(initial=0.0)))
        elif not heard.stream.word:
            negatives += _peaks(mean, rule.refractory)
    return sorted(negatives, reverse=True), words


def _options(negatives: Sequence[float], words: Sequence[float], allowed: int) -> tuple[list[int], list[float]]:
    """Of one keyword: misses and threshold when it may give 0, 1, … `allowed` false alarms. Within the gap between the
    loudest negative that is kept out and the faintest word that is let in, it is the middle (of logits)."""
    misses, thresholds = [], []
    for alarms in range(allowed + 1):
        kept_out = _kept_out(negatives, alarms)
        let_in = [word for word in words if word > kept_out]
        misses.append(len(words) - len(let_in))
        above = min(let_in, default=1.0)
        if alarms and alarms <= len(negatives):
            above = min(above, negatives[alarms - 1])
        middle = (_logit(kept_out) + _logit(above)) / 2
        thresholds.append(float(min(above, max(LEAST_PEAK, 1 / (1 + math.exp(-middle))))))
    return misses, thresholds


def _kept_out(negatives: Sequence[float], alarms: int) -> float:
    """The loudest negative below the threshold that lets the `alarms` loudest through."""
    return negatives[alarms] if alarms < len(negatives) else LEAST_PEAK


def _peaks(mean: Array, apart: int) -> list[float]:
    """The heights of the peaks of a curve that are `apart` hops from one another, the highest first."""
    left, found = mean.copy(), []
    while left.max(initial=0.0) > LEAST_PEAK:
        top = int(left.argmax())
        found.append(float(left[top]))
        left[max(0, top - apart) : top + apart + 1] = 0.0
    return found


def _logit(share: float) -> float:
    clipped = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(clipped / (1 - clipped))
