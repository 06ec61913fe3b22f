"""Commands that hear: find words in a microphone's sound, and in long recordings."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from wordflock.cli.options import command, refuse_options, whole_number
from wordflock.cli.use import FAILED, AsJson, ModelName

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from wordflock.spotting.detector import Detection, Detector

Format = Literal["table", "audacity", "csv", "json"]
Threshold = Annotated[
    float | None, Parameter(help="Confidence from which a keyword counts as heard. (default: the model's own)")
]


@command
def listen(
    model: Annotated[str, Parameter(name="MODEL", help="Checkpoint, run, or exported model.")] = "",
    source: Annotated[
        str,
        Parameter(
            name="SOURCE",
            help="Raw 16-bit mono samples on standard input (-), or a file, as if it were played. (default: the "
            "microphone)",
            allow_leading_hyphen=True,
        ),
    ] = "",
    /,
    *,
    device: Annotated[str, Parameter(help="Microphone: its number, or a part of its name.")] = "",
    list_devices: Annotated[bool, Parameter(help="List the microphones.", negative=())] = False,
    rate: Annotated[int, Parameter(help="Rate of raw samples, Hz.", converter=whole_number)] = 16_000,
    threshold: Threshold = None,
    exec: Annotated[
        str, Parameter(help="Command for each word, without a shell; {label} and {confidence} are replaced.")
    ] = "",
    mqtt: Annotated[str, Parameter(help="HOST[:PORT]/TOPIC of a broker that gets each word as JSON.")] = "",
    save: Annotated[str, Parameter(help="Folder to keep the sound of each word in; nothing is kept without.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say which words are heard, as they are spoken: until Ctrl-C, or the end of the sound."""
    from wordflock.errors import WordflockError, WordflockWarning
    from wordflock.spotting.detector import Detection, Detector
    from wordflock.spotting.hearing import listen
    from wordflock.spotting.listener import open_listener
    from wordflock.spotting.live import Lost, file_blocks, microphone, microphones, played, raw_sound
    from wordflock.spotting.mqtt import Broker
    from wordflock.spotting.reactions import Command, Recorder

    if list_devices:
        print("\n".join(microphones()) or "No microphone.")
        return
    if not model:
        raise WordflockError("`wordflock listen` needs a MODEL, such as the name of a run.")
    refuse_options([source])
    informed: list[Command | Broker] = [*([Command(exec)] if exec else []), *([Broker(mqtt)] if mqtt else [])]
    listener = open_listener(model)
    if source:
        sound = raw_sound(sys.stdin.fileno(), rate) if source == "-" else played(file_blocks(source))
    else:
        sound = microphone(device)
    detector = Detector(listener, threshold=threshold, rate=sound.rate)
    recorder = Recorder(Path(save), sound.rate, listener.window) if save else None
    reactions: list[Callable[[Detection], object]] = [*informed, *([recorder] if recorder else [])]
    meter = _Meter(detector) if sys.stderr.isatty() and not as_json else None
    try:
        print(f"Listening to {sound.name} for {', '.join(detector.keywords)}.", file=sys.stderr, flush=True)
        for item in listen(detector, sound):
            if isinstance(item, Lost):
                seconds = item.samples / sound.rate
                warnings.warn(f"{seconds:.2f} s of sound were lost: this machine was busy.", WordflockWarning, 2)
                if recorder:
                    recorder.gap(item.samples)
            elif isinstance(item, Detection):
                if meter:
                    meter.clear()
                print(json.dumps(asdict(item)) if as_json else f"{item.end:8.2f} s  {_heard(item)}", flush=True)
                for react in reactions:
                    react(item)
            else:
                if recorder:
                    recorder.add(item)
                if meter:
                    meter.show(item)
    except KeyboardInterrupt:
        pass  # how a user ends it
    finally:
        if meter:
            meter.clear()
        for one in informed:
            one.wait()


@command
def spot(
    model: ModelName,
    files: Annotated[list[str], Parameter(name="FILES", help="Recordings of any length.")],
    /,
    *,
    threshold: Threshold = None,
    format: Annotated[Format, Parameter(help="What to print; audacity prints a label track.")] = "table",
) -> None:
    """Find words in long recordings: one line for each, with its place and confidence."""
    import csv

    from wordflock.errors import WordflockError
    from wordflock.spotting.hearing import spot

    if format == "audacity" and len(files) > 1:
        raise WordflockError("--format audacity prints the label track of one file; name one file.")
    failed, table = False, csv.writer(sys.stdout, lineterminator="\n")
    if format == "csv":
        table.writerow(["file", "label", "start", "end", "confidence"])
    for file, heard in spot(model, files, threshold):
        if isinstance(heard, WordflockError):
            failed = True
            print(f"Error: {heard}", file=sys.stderr)
        elif format == "json":
            print(json.dumps({"file": file, **asdict(heard)}))
        elif format == "csv":
            table.writerow([file, heard.label, f"{heard.start:.3f}", f"{heard.end:.3f}", f"{heard.confidence:.4f}"])
        elif format == "audacity":
            print(f"{heard.start:.3f}\t{heard.end:.3f}\t{heard.label}")
        else:
            print(f"{file}\t{heard.start:8.2f} s  {_heard(heard)}")
    if failed:
        raise SystemExit(FAILED)


@command
def evaluate_stream(
    model: ModelName,
    /,
    *,
    positives: Annotated[str, Parameter(help="Data set of clips of the keywords; they are placed in noise.")],
    negatives: Annotated[
        str,
        Parameter(help="Folder or archive of recordings without keywords, of any length; optional with --labels."),
    ] = "",
    labels: Annotated[
        str,
        Parameter(
            help="Intervals in which the keywords are (TextGrid, Audacity's labels, a table; a file, or a folder with "
            "one for each recording): --positives are then long recordings, and all else in them is without keywords."
        ),
    ] = "",
    split: Annotated[
        Literal["validation", "test", "all"],
        Parameter(help="Which clips of --positives are used; those that the run was trained on are left out."),
    ] = "all",
    target: Annotated[
        float | None,
        Parameter(
            help="False alarms per hour that thresholds are chosen for, on one half of the streams; they are reported "
            "on the other and stored in the model. (default: report the model's own thresholds)"
        ),
    ] = None,
    out: Annotated[str, Parameter(help="Folder for the DET curve, as PNG and SVG. (default: none)")] = "",
    cache: Annotated[str, Parameter(help="Folder for what is known of files. (default: ~/.cache/wordflock)")] = "",
    as_json: AsJson = False,
) -> None:
    """Measure misses, false alarms per hour and latency of a head in streams; choose its thresholds."""
    from wordflock.errors import OptionError, WordflockError
    from wordflock.settings import default_cache
    from wordflock.spotting.stream_evaluation import evaluate_streams, format_streams

    if target is not None and not 0 <= target < float("inf"):
        raise OptionError("target", target, "is not a number of false alarms per hour")
    if not (negatives or labels):
        raise WordflockError("evaluate-stream needs --negatives, recordings to count false alarms in.")
    folder = Path(cache).expanduser() if cache else default_cache()
    measured = evaluate_streams(model, positives, negatives, labels=labels, split=split, target=target, cache=folder)
    if out:
        from wordflock.figures import plot_det

        plot_det([(alarms.value, misses.value) for _, misses, alarms in measured.curve], Path(out))
    print(json.dumps(measured.as_json()) if as_json else format_streams(measured))


@command
def export(
    run: Annotated[str, Parameter(name="RUN", help="Run: its folder, or its name below runs/.")],
    /,
    *,
    out: Annotated[str, Parameter(help="Folder to write model.onnx, labels.txt and README.md to.")],
    precision: Annotated[
        Literal["float32", "float16", "int8"],
        Parameter(help="Of the weights; compared with float32 on the run's test clips."),
    ] = "float32",
) -> None:
    """Write a head and its encoder as one ONNX file, from samples to probabilities, with a model card."""
    from wordflock.head.checkpoint import load_checkpoint
    from wordflock.report.facts import read_run
    from wordflock.report.model_card import write_card
    from wordflock.runs import find_checkpoint, find_run
    from wordflock.settings import Settings
    from wordflock.spotting.export import compare_precisions, described, export

    facts, checkpoint = read_run(find_run(run)), load_checkpoint(find_checkpoint(run))
    measured = compare_precisions(checkpoint, run, precision, Settings.from_config(facts.config))
    path = export(checkpoint, run, Path(out), precision)
    write_card(facts, Path(out), more=described(checkpoint, precision, measured))
    for one in measured:
        print(f"{one.precision:<8} accuracy {one.accuracy:.4f}  {one.milliseconds:.1f} ms  {one.megabytes:.1f} MB")
    print(path)


def _heard(heard: Detection) -> str:
    return f"{heard.label:<12} {heard.confidence:.2f}"


class _Meter:
    """One line on the terminal: how loud it is, and how probable each keyword."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector

    def show(self, samples: NDArray[Any]) -> None:
        import shutil

        from wordflock.spotting.live import level_bar

        words = "  ".join(
            f"{word} {share:.2f}"
            for word, share in zip(self._detector.keywords, self._detector.probabilities, strict=True)
        )
        line = f"{level_bar(samples)}  {words}"
        print(f"\r{line[: shutil.get_terminal_size().columns - 1]}\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
