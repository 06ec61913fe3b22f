"""The sections of a run's page: each a figure and its numbers as a table, for those who cannot see the figure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from wordflock.errors import counted
from wordflock.predictions import ClipPrediction
from wordflock.report import charts, facts
from wordflock.report.facts import Group, RunFacts
from wordflock.report.summary import percent

Row = Sequence[object]
MAX_CLIENT_ROWS = 200  # of a table
SOLVED = "last layer solved"  # after the rounds or epochs
# What is set from the right: a number, with or without a unit; of how many; from where to where; or nothing.
_NUMBER = re.compile(r"|–|[-+]?[\d.,]+( ?(%|s|KB|MB|of [\d.,]+))?|[\d.,]+%? to ([\d.,]+%?|–)")


@dataclass(frozen=True)
class Section:
    """A heading, a figure where there is one, and its numbers as a table, for those who cannot see the figure."""

    title: str
    text: str = ""
    figure: str = ""  # SVG
    columns: Sequence[str] = ()
    rows: Sequence[Row] = ()
    open: bool = False  # whether the table is shown without a click

    @property
    def words(self) -> set[int]:
        """The columns that do not hold numbers: these are set from the left."""
        return {0} | {
            n for n in range(len(self.columns)) if not all(_NUMBER.fullmatch(str(row[n])) for row in self.rows)
        }

    @property
    def anchor(self) -> str:
        """The section's address in the page."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def sections_of(run: RunFacts, players: dict[str, str]) -> list[Section]:
    """All sections of the page, in their order."""
    sections = [curve(run)]
    if test := run.test:
        sections += [_recall(test), _confusion(test)]
    speakers, clients = facts.by_speaker(run.predictions), facts.by_client(run)
    devices = run.mode == "server"
    sections += _groups("speaker", speakers, "test clips")
    sections += _groups("client", clients, "their holdout clips, by the best head")
    sections += [
        _clips_per_device(run) if devices else _clips_per_client(run),
        _labels_per_client(run),
        _mistakes(run, players),
        _streams(run),
        _stages(run),
        _rounds(run),
        _costs(run),
        refused(run),
    ]
    return [*sections, _options(run)]


def curve(run: RunFacts) -> Section:
    """Accuracy by epoch or round."""
    columns = {"validation_accuracy": "validation", "client_accuracy": "clients' holdout clips"}
    series = {name: points_of(run, key) for key, name in columns.items()}
    series = {name: points for name, points in series.items() if points}
    title = f"Accuracy by {run.counter}"
    rows = [[line[run.counter], *(share_of(line.get(key)) for key in columns)] for line in run.history]
    marks = [charts.Mark(name, SOLVED, run.solved) for name in list(series)[:1] if run.solved]
    if run.solved:
        kept = " (the final head)" if run.metrics["last_layer"].get("kept") else " (scored lower: not kept)"
        rows.append([f"{SOLVED}{kept}", share_of(run.solved[1]), "–"])
    figure = charts.line_chart(title, series, run.counter, "accuracy", marks=marks) if len(run.history) > 1 else ""
    return Section(title, figure=figure, columns=[run.counter, *columns.values()], rows=rows, open=not figure)


def points_of(run: RunFacts, key: str) -> list[tuple[float, float]]:
    return [(line[run.counter], line[key]) for line in run.history if is_number(line.get(key))]


def share_of(value: float | None) -> str:
    return percent(value) if is_number(value) else "–"


def is_number(value: object) -> TypeGuard[float]:
    """Whether there is a value, and it is finite."""
    return isinstance(value, int | float) and math.isfinite(value)


def _recall(test: dict[str, Any]) -> Section:
    recall = {label: value for label, value in test["recall"].items() if value is not None}
    rejected = test.get("recall_with_rejection") or {}
    rows = [[label, percent(value), share_of(rejected.get(label))] for label, value in recall.items()]
    figure = charts.bar_chart("Recall by label", recall)
    return Section("Recall by label", figure=figure, columns=["label", "recall", "with rejection"], rows=rows)


def _confusion(test: dict[str, Any]) -> Section:
    labels, confusion = test["labels"], test["confusion"]
    rows = [[label, *counts] for label, counts in zip(labels, confusion, strict=True)]
    figure = charts.confusion_matrix("Confusion matrix", labels, confusion)
    return Section("Confusion matrix", "Rows: true label. Columns: prediction.", figure, ["", *labels], rows)


def _groups(kind: str, groups: Sequence[Group], on: str) -> list[Section]:
    if not groups:
        return []
    share = [(100 * (place + 1) / len(groups), group.accuracy) for place, group in enumerate(groups)]
    rows: list[Row] = [[name, percent(value)] for name, value in facts.quantiles(groups).items()]
    labels = list(dict.fromkeys(label for group in groups for label in group.recall))
    worst: list[Row] = [
        [
            group.name,
            f"{group.correct} of {group.clips}",
            *("{} of {}".format(*group.recall[label]) if label in group.recall else "–" for label in labels),
        ]
        for group in groups[: facts.WORST]
    ]
    about = f"Accuracy of {kind}s, from the worst to the best"
    figure = charts.line_chart(about, {"accuracy": share}, f"% of {kind}s", "accuracy") if len(groups) > 1 else ""
    title, text = f"By {kind}", f"{counted(len(groups), kind)} on {on}."
    return [
        Section(title, text, figure, [f"{kind}s", "accuracy"], rows, open=True),
        Section(f"The worst {kind}s", columns=[kind, "correct", *labels], rows=worst, open=True),
    ]


def _clips_per_client(run: RunFacts) -> Section:
    clients = [client for client in run.clients if "labels" in client]
    counts = run.test["labels"] if run.test else sorted({label for client in clients for label in client["labels"]})
    names = [label for label in counts if any(label in client["labels"] for client in clients)]
    rows = [[c["client"], c["clips"], *(c["labels"].get(name, 0) for name in names)] for c in clients[:MAX_CLIENT_ROWS]]
    figure = charts.stacked_bars(
        "Training clips of each client", [client["labels"] for client in clients], names, "client", "clips"
    )
    return Section("Clips per client", figure=figure, columns=["client", "clips", *names], rows=rows)


def _clips_per_device(run: RunFacts) -> Section:
    """Devices do not say which labels their training clips have; two may go by one name."""
    clips = dict[str, int]()
    for client in run.clients[:MAX_CLIENT_ROWS]:
        name = str(client["name"] or client["client"])
        clips[f"{name} ({client['client']})" if name in clips else name] = client["clips"]
    figure = charts.bar_chart("Training clips of each client", clips, percent=False)
    return Section("Clips per client", figure=figure, columns=["client", "clips"], rows=list(clips.items()))


def _labels_per_client(run: RunFacts) -> Section:
    held = [len(client["labels"]) for client in run.clients if "labels" in client]
    if not held:
        return Section("Labels per client")
    counts = {str(number): float(held.count(number)) for number in range(min(held), max(held) + 1)}
    figure = charts.bar_chart("Number of clients by the labels they have clips of", counts, percent=False)
    return Section(
        "Labels per client", figure=figure, columns=["labels", "clients"], rows=[[k, int(v)] for k, v in counts.items()]
    )


def _mistakes(run: RunFacts, players: dict[str, str]) -> Section:
    near = {(one.clip, one.start): one for one in run.neighbours}
    rows: list[Row] = []
    for row in facts.confident_mistakes(run.predictions):
        one = near.get((row.clip, row.start))
        beside = [one.nearest, f"{one.similarity:.3f}", one.label, one.speaker] if one else ["–"] * 4
        said = [row.clip, row.speaker, row.label, row.prediction, percent(row.confidence)]
        rows.append([*said, *_player(row, players), *(beside if near else [])])
    columns = ["clip", "speaker", "label", "prediction", "confidence", *["sound"] * bool(players)]
    columns += ["nearest training clip", "similarity", "its label", "its speaker"] * bool(near)
    text = "Similarity is the cosine of the clips' mean features: 1 where the same recording is in training."
    return Section("Most confident mistakes", text if near else "", columns=columns, rows=rows, open=True)


def _player(row: ClipPrediction, players: dict[str, str]) -> list[object]:
    if not players:
        return []
    import markupsafe

    if row.clip not in players:
        return ["–"]
    return [markupsafe.Markup('<audio controls preload="none" src="{}"></audio>').format(players[row.clip])]


def _streams(run: RunFacts) -> Section:
    """What `wordflock evaluate-stream` measured."""
    title, streams = "In streams of sound", run.metrics.get("streams")
    if not streams:
        return Section(title)
    misses, alarms = streams["misses"], streams["false_alarms"]
    target = streams["target"]
    chosen = (
        "" if target is None else f" Thresholds were chosen for {target:g} false alarms per hour, on other streams."
    )
    text = (
        f"{misses['count']} of {counted(int(misses['of']), 'word')} missed; {counted(alarms['count'], 'false alarm')} "
        f"in {alarms['of']:.2f} hours without keywords.{chosen}"
    )
    rows: list[Row] = [["all", *_stream_row(misses, alarms), "–"]]
    rows += [
        [word, *_stream_row(streams["misses_of"][word], streams["false_alarms_of"][word]), f"{threshold:.3f}"]
        for word, threshold in streams["thresholds"].items()
    ]
    points = [(alarm, miss) for _, miss, alarm in streams["det"] if alarm is not None and miss is not None]
    figure = charts.line_chart(
        "Misses against false alarms, one threshold after another",
        {"misses": points},
        "false alarms per hour",
        "misses",
    )
    columns = ["keyword", "misses", "95% interval", "false alarms per hour", "95% interval", "threshold"]
    return Section(title, text, figure, columns, rows, open=True)


def _stream_row(misses: dict[str, Any], alarms: dict[str, Any]) -> list[str]:
    between = f"{_number(alarms['low'])} to {_number(alarms['high'])}"
    interval = f"{percent(misses['low'])} to {percent(misses['high'])}"
    return [share_of(misses["value"]), interval, _number(alarms["value"]), between]


def _stages(run: RunFacts) -> Section:
    """Seconds and memory of the run's own process, and the traffic of one client, by stage."""
    seconds, memory = run.metrics.get("seconds", {}), run.metrics.get("memory", {})
    traffic = {"last layer": run.metrics.get("last_layer", {})}
    if sent := [line for line in run.history if "bytes_up" in line]:
        traffic["rounds"] = {key: sum(line[key] for line in sent) / len(sent) for key in ("bytes_up", "bytes_down")}
    rows = [
        [
            stage,
            f"{value:.1f}",
            _number(memory.get(stage), 1e6),
            *(_number(traffic.get(stage, {}).get(key), 1e3) for key in ("bytes_up", "bytes_down")),
        ]
        for stage, value in seconds.items()
    ]
    if total := run.metrics.get("peak_memory"):
        rows.append(["scores", "–", _number(total, 1e6), "–", "–"])
    columns = ["stage", "seconds", "memory (MB)"]
    text = "Memory is the most that the run's own process had until the end of the stage."
    if run.mode == "train":
        rows = [row[:3] for row in rows]
    else:
        columns += ["a client sent (KB)", "and received (KB)"]
        text += " Of the rounds, bytes are those of one round."
    return Section("Cost by stage", text, columns=columns, rows=rows, open=True)


def _rounds(run: RunFacts) -> Section:
    rows = [
        [
            line["round"],
            f"{line['seconds']:.1f}",
            len(line.get("clients", ())),
            *(_number(line.get(key), 1e3) for key in ("bytes_up", "bytes_down")),
            _number(line.get("peak_memory"), 1e6),
        ]
        for line in run.history
        if run.mode != "train" and "seconds" in line
    ]
    columns = ["round", "seconds", "clients", "a client sent (KB)", "and received (KB)", "memory so far (MB)"]
    return Section("Cost by round", columns=columns, rows=rows)


def _costs(run: RunFacts) -> Section:
    clients = [client for client in run.clients if "bytes_up" in client]
    columns = ["client", "rounds", "training a round (s)", "sent (KB)", "received (KB)"]
    rows = [
        [
            client.get("name") or client["client"],
            client["rounds"],
            _number(client["train_seconds_per_round"]),
            _number(client["bytes_up"], 1e3),
            _number(client["bytes_down"], 1e3),
        ]
        for client in clients[:MAX_CLIENT_ROWS]
    ]
    text = "All rounds together."
    if run.mode == "server":
        columns += ["encoding (s)", "memory (MB)"]
        for row, client in zip(rows, clients, strict=False):
            row += [_number(client["encode_seconds"]), _number(client["peak_memory"] or None, 1e6)]
    else:
        text += " The clients of a simulation share one process, so memory is known by stage and round only."
    return Section("Cost by client", text if rows else "", "", columns, rows)


def refused(run: RunFacts) -> Section:
    """Clients that a round went on without, and why."""
    rows = [[line[run.counter], problem] for line in run.history for problem in line.get("refused", [])]
    return Section("Refused and late clients", columns=[run.counter, "problem"], rows=rows, open=True)


def _options(run: RunFacts) -> Section:
    rows = [[key, value] for key, value in run.options.items() if value not in ("", facts.UNUSED)]
    return Section("Options", columns=["option", "value"], rows=rows)


def _number(value: float | None, unit: float = 1.0) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value / unit:,.1f}"
