"""Export a head with its encoder: model.onnx in a chosen precision, labels.txt, and what a detector must know.

A detector reads the file back and enters at the spectrogram, which it computes once for all windows that share it.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.data.loading import read_samples
from wordflock.data.task import Task, examples
from wordflock.errors import OptionError, WordflockError, counted
from wordflock.files import parse_json, write_atomically
from wordflock.head.checkpoint import Checkpoint
from wordflock.spotting.decisions import Rule
from wordflock.spotting.listener import HOP, Listener, keyword_places, rule_of
from wordflock.spotting.onnx_model import LOG_MEL, PROBABILITIES, SAMPLES, build_model

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime import InferenceSession

    from wordflock.settings import Settings

MODEL = "model.onnx"
METADATA = "wordflock"  # the key of what a detector must know, JSON
PRECISIONS = ("float32", "float16", "int8")
MOST_LOST = 0.003  # of the accuracy, by int8
MOST_CLIPS = 500  # that precisions are compared on


@dataclass(frozen=True)
class Measured:
    """A precision on real clips."""

    precision: str
    accuracy: float  # share of the clips whose label is the most probable one
    milliseconds: float  # of one clip, one thread: the median
    megabytes: float  # of the file
    clips: int
    split: str = "test"  # that they are of


def export(checkpoint: Checkpoint, name: str, out: Path, precision: str = "float32") -> Path:
    """Write model.onnx and labels.txt into the folder `out`; returns the model's path. `name` is what errors call it.

    `precision` is that of the file: weights in float16 are read into float32 and computed with as such; int8 quantizes
    the products of matrices. Raises OptionError for an unknown precision, WordflockError for another encoder than the
    head's.
    """
    content = serialized(checkpoint, name, precision)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / MODEL, content)
    write_atomically(out / "labels.txt", "".join(f"{label}\n" for label in checkpoint.labels).encode())
    return out / MODEL


def serialized(checkpoint: Checkpoint, name: str, precision: str) -> bytes:
    """The bytes of model.onnx; raises as `export`."""
    if precision not in PRECISIONS:
        raise OptionError("precision", precision, f"is none of {', '.join(PRECISIONS)}")
    model = build_model(checkpoint, name, precision == "float16")
    about = {
        "labels": checkpoint.labels,
        "window": checkpoint.spec.window,
        "hop": HOP,
        "sample_rate": SAMPLE_RATE,
        "rule": asdict(rule_of(checkpoint)),
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = METADATA, json.dumps(about)
    content: bytes = (_quantized(model) if precision == "int8" else model).SerializeToString()
    return content


def compare_precisions(checkpoint: Checkpoint, name: str, precision: str, settings: Settings) -> list[Measured]:
    """float32 and `precision`, measured on test clips of the data set that the settings name; on training clips where a
    head for streams was trained on all.

    Raises WordflockError for int8 that is slower than float32 or loses over 0.3 points of its accuracy.
    """
    clips, labels, split = _clips(checkpoint, settings)
    wanted = dict.fromkeys(["float32", precision])
    measured = [replace(measure(serialized(checkpoint, name, one), one, clips, labels), split=split) for one in wanted]
    whole, small = measured[0], measured[-1]
    slower, lost = small.milliseconds > whole.milliseconds, whole.accuracy - small.accuracy
    if precision == "int8" and (slower or lost > MOST_LOST):
        raise WordflockError(
            f"--precision int8 is worse here: {small.milliseconds:.1f} ms against {whole.milliseconds:.1f} ms a clip, "
            f"and {100 * lost:.1f} points of accuracy lost on {counted(small.clips, 'clip')}; take float16."
        )
    return measured


def described(checkpoint: Checkpoint, precision: str, measured: Sequence[Measured]) -> list[str]:
    """The section about the file in a model card, in Markdown."""
    samples = round(checkpoint.spec.window * SAMPLE_RATE)
    lines = ["## Model file", "", f"`{MODEL}`: weights in {precision}. Input `{SAMPLES}`: clips of {samples} samples "]
    lines[-1] += f"at {SAMPLE_RATE} Hz, in [-1, 1]. Output `{PROBABILITIES}`: one for each of labels.txt, in its order."
    if measured:
        lines += ["", "| precision | accuracy | ms a clip, one thread | MB |", "|---|---|---|---|"]
    lines += [
        f"| {one.precision} | {100 * one.accuracy:.2f}% of {one.clips} {one.split} clips | {one.milliseconds:.1f} "
        f"| {one.megabytes:.1f} |"
        for one in measured
    ]
    return lines


def measure(content: bytes, precision: str, clips: NDArray[np.float32], labels: Sequence[int]) -> Measured:
    """Ask a model about one clip after another: shape (clips, samples)."""
    session, correct, seconds = _session(content), 0, []
    for clip, label in zip(clips, labels, strict=True):
        started = time.perf_counter()
        (answer,) = session.run(None, {SAMPLES: clip[np.newaxis]})
        seconds.append(time.perf_counter() - started)
        correct += int(answer[0].argmax()) == label
    milliseconds = 1e3 * float(np.median(seconds))
    return Measured(precision, correct / len(clips), milliseconds, len(content) / 1e6, len(clips))


def open_export(path: Path) -> Listener:
    """An exported model as a detector asks it, from the spectrogram on.

    Raises WordflockError for a file that is not a model exported by Wordflock.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path))
        about = parse_json({entry.key: entry.value for entry in model.metadata_props}[METADATA])
        places, keywords = keyword_places(about["labels"])
        kept = onnx.utils.Extractor(model).extract_model([LOG_MEL], [PROBABILITIES])
        session = _session(kept.SerializeToString())
        rule, window, hop = _rule(about["rule"], len(keywords)), float(about["window"]), float(about["hop"])
    except (OSError, DecodeError, KeyError, TypeError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise WordflockError(f"{path} is not a model exported by Wordflock; export it once more.") from error

    def ask(log_mel: NDArray[np.float32]) -> NDArray[np.float64]:
        (shares,) = session.run(None, {LOG_MEL: log_mel})
        answer: NDArray[np.float64] = shares[0, places].astype(np.float64)
        return answer

    return Listener(keywords, window, hop, rule, ask)


def _rule(about: dict[str, Any], keywords: int) -> Rule:
    """Raises KeyError, TypeError or ValueError for what we could not have written."""
    thresholds = tuple(float(share) for share in about["thresholds"])
    if len(thresholds) != keywords or not all(0 < share <= 1 for share in thresholds):
        raise ValueError(f"no detector has the thresholds {thresholds}")
    return Rule(thresholds, int(about["smoothing"]), int(about["refractory"]), float(about["release"]))


def _clips(checkpoint: Checkpoint, settings: Settings) -> tuple[NDArray[np.float32], list[int], str]:
    """At most MOST_CLIPS, spread over the whole test or else training split, their labels, and which split it is."""
    from wordflock.prepare import load_table

    table, task = load_table(settings), Task.of_labels(checkpoint.labels)
    split = "test" if examples(table, task, "test", settings.seed).clips else "train"
    chosen = examples(table, task, split, settings.seed)
    step = max(1, len(chosen.clips) // MOST_CLIPS)
    pairs = list(zip(chosen.clips, chosen.labels, strict=True))[::step]
    pairs.sort(key=lambda pair: (pair[0].path, pair[0].offset))
    samples = round(checkpoint.spec.window * SAMPLE_RATE)
    sounds = [fit(sound, samples) for sound in read_samples(clip for clip, _ in pairs)]
    return np.array(sounds, dtype=np.float32).reshape(-1, samples), [label for _, label in pairs], split


def _session(content: bytes) -> InferenceSession:
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _quantized(model: ModelProto) -> ModelProto:
    """Products of matrices in int8, the rest in float32."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(
            model,
            f"{folder}/int8.onnx",
            op_types_to_quantize=["MatMul"],
            weight_type=QuantType.QInt8,
            per_channel=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # behind operators that onnx does not know
        )
        return onnx.load(f"{folder}/int8.onnx")
