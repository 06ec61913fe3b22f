"""`wordflock report`: one HTML page about a run, self-contained, for any browser and for paper."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wordflock.files import write_atomically
from wordflock.predictions import ClipPrediction
from wordflock.report import charts, compare, facts
from wordflock.report.facts import Group, RunFacts

Row = Sequence[object]
MAX_CLIENT_ROWS = 200  # of a table; the file of the figures has all


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
    def anchor(self) -> str:
        """The section's address in the page."""
        return "".join(c if c.isalnum() else "-" for c in self.title.lower())


def write_report(folder: Path, *, audio: bool = False, target: Path | None = None) -> Path:
    """Write the report of a finished run as `report.html` in its folder, or to `target`; returns the file.

    `audio` embeds the sound of the most confident mistakes. Raises WordflockError where the run cannot be read, or
    where its recordings are needed and no longer found.
    """
    run = facts.read_run(folder)
    page = render(run, _players(run) if audio else {})
    path = target or folder / "report.html"
    write_atomically(path, page.encode())
    return path


def render(run: RunFacts, players: dict[str, str]) -> str:
    """The page of one run; `players` has data URLs of clips by their name."""
    return _page(run.name, guarantees(run), _sections(run, players), _headline(run), unmeasured(run))


def render_comparison(runs: Sequence[RunFacts]) -> str:
    """A page with the runs side by side; the first is the one that the others are compared with."""
    first, *others = runs
    found = [compare.difference(run, first) for run in others]
    verdicts = [compare.in_words(difference) for difference in found if difference]
    series = {run.name: _points(run, "validation_accuracy") for run in runs}
    series = {name: points for name, points in series.items() if len(points) > 1}
    curves = charts.line_chart("Validation accuracy", series, "epoch or round", "accuracy")
    recall = [run.test["recall"] if run.test else {} for run in runs]
    labels = list(dict.fromkeys(label for values in recall for label in values))
    by_label = [[label, *(_share(values.get(label)) for values in recall)] for label in labels]
    names = [run.name for run in runs]
    return _page(
        " · ".join(names),
        verdicts or ["The runs have no test clips in common, so their accuracy cannot be compared."],
        [
            Section("Figures and options", columns=["", *names], rows=compare.comparison_rows(runs), open=True),
            Section("Validation accuracy", figure=curves),
            Section("Recall by label", columns=["label", *names], rows=by_label, open=True),
        ],
    )


def write_comparison(runs: Sequence[RunFacts], path: Path) -> Path:
    """Write the page that compares runs; returns the file."""
    write_atomically(path, render_comparison(runs).encode())
    return path


def _page(
    title: str,
    lines: Sequence[str],
    sections: Sequence[Section],
    headline: Sequence[tuple[str, str]] = (),
    missing: Sequence[str] = (),
) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("wordflock.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    shown = [section for section in sections if section.figure or section.rows or section.text]
    return environment.get_template("page.html.j2").render(
        title=title, lines=lines, sections=shown, headline=headline, missing=missing
    )


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}%"


def data_name(run: RunFacts) -> str:
    """The data set's name, without the folders of the machine that it is on: pages and cards are shared."""
    return Path(str(run.config.get("data") or "the recordings of its clients")).name


def _headline(run: RunFacts) -> list[tuple[str, str]]:
    """The figures on top of the page."""
    lines = []
    if test := run.test:
        low, high = accuracy_interval(run)
        lines.append(("Test accuracy", f"{percent(test['accuracy'])} [{percent(low)}, {percent(high)}]"))
        if test.get("threshold"):
            lines.append(("with rejection", percent(test["accuracy_with_rejection"])))
        lines.append(("test clips", f"{test['clips']:,}"))
        lines.append(("parameters", f"{test['parameters']:,}"))
    if speakers := facts.by_speaker(run.predictions):
        lines.append(("worst tenth of speakers", percent(facts.quantiles(speakers)["worst tenth"])))
    return lines


def accuracy_interval(run: RunFacts) -> tuple[float, float]:
    """The 95% interval of the test accuracy: by a bootstrap over speakers where they are known, else Wilson's."""
    groups = [[float(row.correct) for row in run.predictions if row.speaker == name] for name in _speakers(run)]
    if len(groups) > 1:
        return facts.bootstrap(groups)
    low, high = run.metrics["test"]["interval"]
    return float(low), float(high)


def _speakers(run: RunFacts) -> list[str]:
    return sorted({row.speaker for row in run.predictions if row.speaker})


def guarantees(run: RunFacts) -> list[str]:
    """What was trained on what, and with which guarantees."""
    config, where = run.config, {"train": "on one machine", "simulate": "in simulation", "server": "on devices"}
    lines = [f"Trained {where.get(run.mode, run.mode)} on {data_name(run)}."]
    lines.append(
        f"Encoder {config.get('encoder')}, window {config.get('window')} s, layer {config.get('layer')}, "
        f"head {config.get('head')}, strategy {config.get('strategy')}, seed {config.get('seed')}."
    )
    if run.mode != "train":
        rounds = len(run.history)
        lines.append(f"{len(run.clients) or config.get('clients')} clients, {rounds} round{'s' * (rounds != 1)}.")
        secure = config.get("secure-aggregation")
        lines.append(
            "Secure aggregation: the server learned totals only."
            if secure
            else "Without secure aggregation: the server saw what each client sent."
        )
    if privacy := run.metrics.get("privacy"):
        epsilon = privacy.get("epsilon")
        bound = f"ε = {epsilon:.3g}, δ = {privacy['delta']:.1g}" if epsilon is not None else "clipping without noise"
        lines.append(f"Differential privacy by {privacy['unit']}: {bound} ({privacy['accountant']}).")
    else:
        lines.append("Without differential privacy.")
    before = compare.run_before(run)
    if before and (found := compare.difference(run, before)):
        lines.append(f"Accuracy of {compare.in_words(found)}")
    return lines


def unmeasured(run: RunFacts) -> list[str]:
    """What a reader might expect and the run does not have."""
    missing = []
    if run.test is None:
        missing.append("accuracy on test clips (the run has none)")
    elif not run.predictions:
        missing.append("figures by speaker and single mistakes (the run kept no predictions)")
    if run.mode != "train" and not facts.by_client(run.clients):
        missing.append("accuracy by client (no client kept clips for evaluation where the report could see them)")
    if "streams" not in run.metrics:
        missing.append("false alarms per hour (see wordflock evaluate-stream)")
    return missing


def _sections(run: RunFacts, players: dict[str, str]) -> list[Section]:
    """All sections of the page, in their order."""
    sections = [_curve(run)]
    if test := run.test:
        sections += [_recall(test), _confusion(test)]
    speakers, clients = facts.by_speaker(run.predictions), facts.by_client(run.clients)
    sections += _groups("speaker", speakers) + _groups("client", clients)
    sections += [_clips_per_client(run), _labels_per_client(run), _mistakes(run, players), _costs(run), _refused(run)]
    return [*sections, _options(run)]


def _curve(run: RunFacts) -> Section:
    columns = {"validation_accuracy": "validation", "client_accuracy": "clients' holdout clips"}
    series = {name: _points(run, key) for key, name in columns.items()}
    series = {name: points for name, points in series.items() if points}
    title = f"Accuracy by {run.counter}"
    figure = charts.line_chart(title, series, run.counter, "accuracy") if len(run.history) > 1 else ""
    rows = [[line[run.counter], *(_share(line.get(key)) for key in columns)] for line in run.history]
    return Section(title, figure=figure, columns=[run.counter, *columns.values()], rows=rows)


def _points(run: RunFacts, key: str) -> list[tuple[float, float]]:
    return [(line[run.counter], line[key]) for line in run.history if line.get(key) is not None]


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _recall(test: dict[str, Any]) -> Section:
    recall = {label: value for label, value in test["recall"].items() if value is not None}
    rejected = test.get("recall_with_rejection") or {}
    rows = [[label, percent(value), _share(rejected.get(label))] for label, value in recall.items()]
    figure = charts.bar_chart("Recall by label", recall, "recall")
    return Section("Recall by label", figure=figure, columns=["label", "recall", "with rejection"], rows=rows)


def _confusion(test: dict[str, Any]) -> Section:
    labels, confusion = test["labels"], test["confusion"]
    rows = [[label, *counts] for label, counts in zip(labels, confusion, strict=True)]
    figure = charts.confusion_matrix("Confusion matrix", labels, confusion)
    return Section("Confusion matrix", "Rows: true label. Columns: prediction.", figure, ["", *labels], rows)


def _groups(kind: str, groups: Sequence[Group]) -> list[Section]:
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
    figure = charts.line_chart(
        f"Accuracy of {kind}s, from the worst to the best", {"accuracy": share}, f"% of {kind}s", "accuracy"
    )
    title = f"By {kind}"
    text = f"{len(groups)} {kind}s, each with clips of its own. A mean hides who is failed; this shows them."
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


def _labels_per_client(run: RunFacts) -> Section:
    held = [len(client["labels"]) for client in run.clients if "labels" in client]
    if not held:
        return Section("Labels per client")
    counts = {str(number): float(held.count(number)) for number in range(min(held), max(held) + 1)}
    figure = charts.bar_chart("Number of clients by the labels they have clips of", counts, "clients", percent=False)
    return Section(
        "Labels per client", figure=figure, columns=["labels", "clients"], rows=[[k, int(v)] for k, v in counts.items()]
    )


def _mistakes(run: RunFacts, players: dict[str, str]) -> Section:
    mistakes = facts.confident_mistakes(run.predictions)
    rows: list[Row] = [
        [row.clip, row.speaker, row.label, row.prediction, percent(row.confidence), *_player(row, players)]
        for row in mistakes
    ]
    columns = ["clip", "speaker", "label", "prediction", "confidence", *["sound"] * bool(players)]
    return Section("Most confident mistakes", columns=columns, rows=rows, open=True)


def _player(row: ClipPrediction, players: dict[str, str]) -> list[object]:
    if not players:
        return []
    import markupsafe

    if row.clip not in players:
        return ["–"]
    return [markupsafe.Markup('<audio controls preload="none" src="{}"></audio>').format(players[row.clip])]


def _costs(run: RunFacts) -> Section:
    stages = [[name, f"{value:.1f} s"] for name, value in run.metrics.get("seconds", {}).items()]
    devices = [client for client in run.clients if "bytes_up" in client]
    if devices:
        columns = [
            "client",
            "rounds",
            "encoding (s)",
            "training a round (s)",
            "sent (KB)",
            "received (KB)",
            "memory (MB)",
        ]
        rows = [
            [
                client["name"] or client["client"],
                client["rounds"],
                _number(client["encode_seconds"]),
                _number(client["train_seconds_per_round"]),
                _number(client["bytes_up"] / 1e3),
                _number(client["bytes_down"] / 1e3),
                _number((client["peak_memory"] or math.nan) / 1e6),
            ]
            for client in devices[:MAX_CLIENT_ROWS]
        ]
        return Section("Cost by client", "; ".join(" ".join(stage) for stage in stages), "", columns, rows, open=True)
    traffic = run.metrics.get("bytes_per_client_per_round")
    if traffic:
        stages.append(["bytes a client and round", f"{traffic:,}"])
    return Section("Cost", columns=["stage", "cost"], rows=stages, open=True)


def _refused(run: RunFacts) -> Section:
    rows = [[line[run.counter], problem] for line in run.history for problem in line.get("refused", [])]
    return Section("Refused and late clients", columns=[run.counter, "problem"], rows=rows)


def _options(run: RunFacts) -> Section:
    rows = [[key, value] for key, value in run.config.items() if value != ""]
    return Section("Options", columns=["option", "value"], rows=rows)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.1f}"


def _players(run: RunFacts) -> dict[str, str]:
    """The most confident mistakes as FLAC, in data URLs, by the clips' names."""
    import soundfile

    from wordflock.audio.reading import SAMPLE_RATE
    from wordflock.data import read_samples
    from wordflock.prepare import load_table
    from wordflock.settings import Settings

    wanted = {row.clip for row in facts.confident_mistakes(run.predictions) if not row.start}
    table = load_table(Settings.from_config(run.config))
    clips = [clip for clip in table.of_split("test") if clip.name in wanted]
    players = {}
    for clip, samples in zip(clips, read_samples(clips), strict=True):
        content = io.BytesIO()
        soundfile.write(content, np.clip(samples, -1, 1), SAMPLE_RATE, format="FLAC")
        players[clip.name] = f"data:audio/flac;base64,{base64.b64encode(content.getvalue()).decode()}"
    return players
