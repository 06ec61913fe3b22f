"""How good a head is in streams: `wordflock evaluate-stream`.

Thresholds are chosen on one half of the streams and reported on the other: no speaker of a word is in both, and the
negatives are cut in two in the order of their names, so that of readers whose recordings are named alike, at most one
is in both.
"""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wordflock.data.clips import Clip
from wordflock.errors import WordflockError
from wordflock.files import write_atomically
from wordflock.head.checkpoint import load_checkpoint, save_checkpoint
from wordflock.lifetime import peak_memory
from wordflock.progress import progress, report
from wordflock.runs import CONFIG, METRICS, find_checkpoint, read_metrics
from wordflock.spotting.hub import find_model
from wordflock.spotting.listener import listener_of
from wordflock.spotting.stream_score import Rate, StreamScore, Trace, choose_thresholds, det_curve, score, trace
from wordflock.spotting.streams import (
    AROUND,
    cut_at_words,
    heard_by,
    labelled_recordings,
    negative_recordings,
    placed,
    positive_clips,
    recorded,
)

RATIOS = (30.0, 10.0)  # dB, signal to noise, that take turns


@dataclass(frozen=True)
class StreamEvaluation:
    """What `evaluate-stream` measured."""

    score: StreamScore
    thresholds: dict[str, float]  # by keyword
    target: float | None  # false alarms per hour that they were chosen for; None: the model's own
    curve: list[tuple[float, Rate, Rate]]  # threshold, misses, false alarms; of all streams, one threshold for all
    real_time_factor: float  # seconds of the processor for a second of sound
    peak_memory: int  # bytes, of the whole process

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints and metrics.json holds as "streams"; unknown figures are None."""
        about = {
            **asdict(self.score),
            "thresholds": self.thresholds,
            "target": self.target,
            "det": [[threshold, misses.value, alarms.value] for threshold, misses, alarms in self.curve],
            "real_time_factor": self.real_time_factor,
            "peak_memory": self.peak_memory,
        }
        finite: dict[str, Any] = _finite(about)
        return finite


def evaluate_streams(
    model: str | Path,
    positives: str,
    negatives: str,
    *,
    labels: str = "",
    split: str,
    target: float | None,
    cache: Path,
) -> StreamEvaluation:
    """Score a checkpoint on clips placed in noise (misses, latency) and on recordings without keywords (false alarms),
    without those that its run was trained on, and without clips of the speakers that it was. With `labels` the
    positives are long recordings in which these intervals are the words, and all else is without keywords.

    With a target, in false alarms per hour of all keywords together, thresholds are chosen on one half, reported on the
    other, and stored in the checkpoint. The result goes into the run's metrics.json. Raises WordflockError where there
    is nothing to measure on.
    """
    path = find_checkpoint(model) if target is not None else find_model(model)  # one of the Hub is not changed
    checkpoint = load_checkpoint(path)
    listener = listener_of(checkpoint, str(model))
    heard = heard_by(path.parent)
    clips: Collection[Clip]
    if labels:
        clips = labelled = labelled_recordings(positives, labels, listener.keywords, cache, heard)
        streams = cut_at_words(labelled)
    else:
        clips = positive_clips(positives, listener.keywords, split, cache, heard)
        streams = placed(clips, RATIOS)
    others = negative_recordings(negatives, cache, heard) if negatives or not labels else []
    started, traces = time.process_time(), list[Trace]()
    total = sum(clip.seconds for clip in (*clips, *others)) + 2 * AROUND * len(clips) * (not labels)
    report(f"listening to {total / 60:.1f} minutes of sound")
    with progress("listening", math.ceil(total), "s of sound") as advance:
        for stream in itertools.chain(streams, recorded(others)):
            traces.append(trace(listener, stream))
            advance(round(traces[-1].seconds))
    busy = time.process_time() - started
    words, quiet = ([one for one in traces if bool(one.stream.word) is wanted] for wanted in (True, False))
    rule, reported = listener.rule, traces
    if target is not None:
        choosing, reported = halves(words, quiet)
        rule = replace(rule, thresholds=choose_thresholds(choosing, listener, rule, target))
    evaluation = StreamEvaluation(
        score(reported, listener, rule),
        dict(zip(listener.keywords, rule.thresholds, strict=True)),
        target,
        det_curve(traces, listener, rule),
        busy / sum(one.seconds for one in traces),
        peak_memory(),
    )
    if target is not None:
        calibration = replace(checkpoint.calibration, stream_thresholds=evaluation.thresholds)
        save_checkpoint(path, replace(checkpoint, calibration=calibration))
    if (path.parent / CONFIG).is_file():
        metrics = {**read_metrics(path.parent), "streams": evaluation.as_json()}
        write_atomically(path.parent / METRICS, json.dumps(metrics, indent=2).encode())
    return evaluation


def halves(words: Sequence[Trace], others: Sequence[Trace]) -> tuple[list[Trace], list[Trace]]:
    """Two halves of the streams: no speaker is in both, nor a recording without words.

    Raises WordflockError where there are not two speakers and two recordings.
    """
    speakers = sorted({one.stream.speaker or one.stream.source for one in words})
    if len(speakers) < 2 or len(others) < 2:
        raise WordflockError("--target needs words of two speakers and two recordings at least; give more streams.")
    first = set(speakers[::2])
    chosen: list[Trace] = [one for one in words if (one.stream.speaker or one.stream.source) in first]
    rest: list[Trace] = [one for one in words if (one.stream.speaker or one.stream.source) not in first]
    half, passed = sum(one.seconds for one in others) / 2, 0.0
    for place, one in enumerate(others):
        last = place == len(others) - 1
        (chosen if place == 0 or (passed + one.seconds <= half and not last) else rest).append(one)
        passed += one.seconds
    return chosen, rest


def format_streams(evaluation: StreamEvaluation) -> str:
    """The evaluation as text."""
    scored = evaluation.score
    chosen = "" if evaluation.target is None else f" (thresholds chosen on the other half for {evaluation.target:g})"
    lines = [
        f"misses {_share(scored.misses)} of {scored.misses.of:.0f} words",
        f"false alarms per hour {_rate(scored.false_alarms)}: {scored.false_alarms.count} in "
        f"{scored.false_alarms.of:.2f} h{chosen}",
        f"confusions with another keyword: {scored.confused}",
        f"latency {scored.latency[0]:.2f} s (median), {scored.latency[1]:.2f} s (95th percentile) after the word's end",
        f"real-time factor {evaluation.real_time_factor:.3f}, peak memory {evaluation.peak_memory / 1e6:.0f} MB",
    ]
    lines += [
        f"  {word:<12} misses {_share(scored.misses_of[word])}, false alarms per hour "
        f"{_rate(scored.false_alarms_of[word])}, threshold {threshold:.3f}"
        for word, threshold in evaluation.thresholds.items()
    ]
    worst = sorted(scored.misses_by_speaker.items(), key=lambda item: -item[1].value)[:5]
    lines += [f"  speaker {name or '?'}: {rate.count} of {rate.of:.0f} missed" for name, rate in worst if rate.count]
    return "\n".join(lines)


def _share(rate: Rate) -> str:
    return f"{100 * rate.value:.1f}% [{100 * rate.low:.1f}, {100 * rate.high:.1f}]" if rate.of else "not measured"


def _rate(rate: Rate) -> str:
    return f"{rate.value:.2f} [{rate.low:.2f}, {rate.high:.2f}]"


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
