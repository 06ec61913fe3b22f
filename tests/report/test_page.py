"""The report of a run, as text; tests/report/test_browser.py looks at it in a real browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import LABELS, write_run

from wordflock.errors import WordflockError
from wordflock.neighbours import Neighbour, write_neighbours
from wordflock.predictions import PREDICTIONS
from wordflock.report import charts
from wordflock.report.facts import by_client, by_speaker, confident_mistakes, quantiles, read_run
from wordflock.report.page import render_comparison, write_report

VOID = {"meta", "link", "br", "input", "circle", "rect", "line", "polyline", "img"}


class Checked(HTMLParser):
    """Collects tags, and fails where they are not nested."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def page_of(folder: Path) -> str:
    return write_report(folder).read_text()


def test_the_page_is_well_formed_and_asks_no_host(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    for tag, attributes in Checked(page).tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert tag not in ("script", "iframe", "object")
    assert "http" not in re.sub(r"data:\S+", "", page)


def test_one_round_is_a_line_of_a_table_that_is_open_and_no_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    history = folder / "history.jsonl"
    history.write_text(history.read_text().splitlines(keepends=True)[0])
    section = next(part for part in page_of(folder).split("<section")[1:] if "Accuracy by round" in part)
    assert "<svg" not in section and "<details open>" in section and "81.0%" in section


def test_every_figure_has_its_numbers_in_a_table(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    for section in page.split("<section")[1:]:
        if "<svg" in section:
            assert "<table>" in section


def test_what_clients_said_cannot_become_markup(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", data="<script>alert(1)</script>"))
    assert "<b>nonsense" not in page and "&lt;b&gt;nonsense" in page
    assert "<script" not in page


def test_folders_of_the_machine_are_only_among_the_options(tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run"))
    assert "Trained in simulation on words.tar." in page


def test_speakers_and_clients_add_up_to_the_score(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", clips=60, wrong=6))
    speakers = by_speaker(run.predictions)
    assert run.test is not None
    assert sum(group.correct for group in speakers) / 60 == pytest.approx(run.test["accuracy"])
    assert (
        speakers[0].accuracy == 0.0 == quantiles(speakers)["worst"]
    )  # the first speaker's six clips are the wrong ones
    assert [group.name for group in by_client(run)][:2] == ["0", "3"]
    for label in LABELS:
        hits, clips = (sum(group.recall.get(label, (0, 0))[k] for group in speakers) for k in (0, 1))
        assert hits / clips == pytest.approx(run.test["recall"][label])


def test_the_surest_mistakes_come_first(tmp_path: Path) -> None:
    mistakes = confident_mistakes(read_run(write_run(tmp_path / "run", wrong=5)).predictions)
    assert [row.clip for row in mistakes] == ["4.wav", "3.wav", "2.wav", "1.wav", "0.wav"]


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    metrics = json.loads((folder / "metrics.json").read_text())
    del metrics["test"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / PREDICTIONS).unlink()
    assert "Not measured: accuracy on test clips" in page_of(folder)


def test_a_comparison_shows_both(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, wrong=wrong)) for name, wrong in (("one", 6), ("two", 6))]
    page = render_comparison(runs)
    Checked(page)
    for section in page.split("<section")[1:]:
        assert "<table>" in section
    assert "no difference shown" in page


@pytest.mark.parametrize(("missing", "says"), [("config.toml", "is not a run"), ("metrics.json", "is not finished")])
def test_what_is_not_a_finished_run_is_refused(tmp_path: Path, missing: str, says: str) -> None:
    folder = write_run(tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(WordflockError, match=says):
        write_report(folder)


def test_a_damaged_run_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "metrics.json").write_bytes(b"\xff[")
    with pytest.raises(WordflockError, match="is damaged"):
        write_report(folder)


def test_what_streams_showed_is_a_section_with_its_curve(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    assert "In streams" not in page_of(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    misses = {"value": 0.1, "low": 0.02, "high": 0.4, "count": 1, "of": 10}
    alarms = {"value": 2.0, "low": 0.05, "high": None, "count": 1, "of": 0.5}
    metrics["streams"] = {
        "misses": misses,
        "false_alarms": alarms,
        "target": 1.0,
        "thresholds": {LABELS[0]: 0.75},
        "misses_of": {LABELS[0]: misses},
        "false_alarms_of": {LABELS[0]: {**alarms, "value": None}},
        "det": [[0.1, 0.0, 9.0], [0.9, 0.5, 0.0], [0.95, None, None]],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    page = page_of(folder)
    section = next(part for part in page.split("<section")[1:] if "In streams of sound" in part)
    assert "1 of 10 words missed; 1 false alarm in 0.50 hours" in section and "<svg" in section and "0.750" in section
    assert "see wordflock evaluate-stream" not in page


def test_devices_are_shown_by_what_they_say_of_the_best_head(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", mode="server", clients=0)
    cost = {"rounds": 1, "clips": 9, "encode_seconds": 1.0, "train_seconds_per_round": None, "bytes_up": 1}
    cost |= {"bytes_down": 1, "peak_memory": 0}
    clients = [
        {"client": 0, "name": "pi", **cost, "score": [4, 4]},
        {"client": 1, "name": "", **cost, "score": [3, 4], "holdout": {"yes": [1, 2], "no": [2, 2]}},
        {"client": 2, "name": "late", **cost},
        {"client": 3, "name": "new", "clips": 5, "score": [0, 1]},  # in no round
    ]
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "clients": clients}))
    groups = by_client(read_run(folder))
    assert [(group.name, group.correct, group.clips) for group in groups] == [("new", 0, 1), ("1", 3, 4), ("pi", 4, 4)]
    page = page_of(folder)
    sections = {re.sub("<.*", "", part.split("<h2")[1].split(">")[1]): part for part in page.split("<section")[1:]}
    assert "3 clients on their holdout clips, by the best head" in sections["By client"]
    assert "1 of 2" in sections["The worst clients"]
    assert "<svg" in sections["Clips per client"]
    assert "recall by label of 2 of 3 clients (with secure aggregation they do not report it)" in page
    assert "late" in sections["Cost by client"] and "new" not in sections["Cost by client"]


def test_a_simulation_shows_costs_by_stage_round_and_client(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", clients=2)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["memory"] = {"encode": 300_000_000, "rounds": 400_000_000}
    metrics["peak_memory"] = 500_000_000
    metrics["last_layer"] = {"bytes_up": 23_000_000, "bytes_down": 1000}
    metrics["seconds"]["last layer"] = 7.0
    cost = {"rounds": 2, "train_seconds_per_round": 0.25, "bytes_up": 2000, "bytes_down": 4000}
    metrics["clients"][1] |= cost
    (folder / "metrics.json").write_text(json.dumps(metrics))
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    extra = {"seconds": 1.5, "clients": [1], "bytes_up": 1000, "bytes_down": 3000, "peak_memory": 350_000_000}
    (folder / "history.jsonl").write_text("".join(json.dumps({**line, **extra}) + "\n" for line in lines))
    tables = {}
    for part in page_of(folder).split("<section")[1:]:
        cells = [re.sub("<[^>]*>", " ", row).split() for row in part.split("<tr>")[2:]]
        tables[part.split("<h2")[1].split(">")[1].partition("<")[0]] = cells
    assert tables["Cost by stage"][0][:4] == ["encode", "1.0", "300.0", "–"]
    assert ["rounds", "2.0", "400.0", "1.0", "3.0"] in tables["Cost by stage"]
    assert ["last", "layer", "7.0", "–", "23,000.0", "1.0"] in tables["Cost by stage"]
    assert tables["Cost by round"][0] == ["1", "1.5", "1", "1.0", "3.0", "350.0"]
    assert tables["Cost by client"][0] == ["1", "2", "0.2", "2.0", "4.0"]


@pytest.mark.parametrize(("kept", "says"), [(True, "the final head"), (False, "not kept")])
def test_the_score_of_the_solved_last_layer_is_a_point_and_a_row(tmp_path: Path, kept: bool, says: str) -> None:
    folder = write_run(tmp_path / "run")
    assert "last layer solved" not in page_of(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["last_layer"] = {"kept": kept, "validation_accuracy": 0.925}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    section = next(part for part in page_of(folder).split("<section")[1:] if "Accuracy by round" in part)
    assert section.count("<polygon") == 1 and "92.5%" in section and says in section
    (left,) = re.findall(r'<polygon class="mark s0 h0" points="([\d.]+),', section)
    assert left == re.findall(r'<circle class="dot s0 h0" cx="([\d.]+)"', section)[-1]  # above the last round
    assert "last layer solved" in render_comparison([read_run(folder)])


def test_mistakes_stand_beside_what_sounds_like_them_in_training(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", wrong=2)
    write_neighbours(folder, [Neighbour("1.wav", 0.0, "train/same.wav", "<s>", "no", 0.9991)])
    section = next(part for part in page_of(folder).split("<section")[1:] if "Most confident mistakes" in part)
    assert "train/same.wav" in section and "0.999" in section and "&lt;s&gt;" in section


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_values_that_are_not_numbers_leave_gaps(tmp_path: Path, value: float | None) -> None:
    folder = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    lines[1]["client_accuracy"] = value
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(folder)
    assert "nan" not in page.lower().replace("announce", "") and "inf," not in page


@given(st.lists(st.text(max_size=50), min_size=1, max_size=45, unique=True), st.integers(0, 3))
@settings(max_examples=20)
def test_any_labels_make_figures_that_are_well_formed(labels: list[str], seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 9, (len(labels), len(labels))).tolist()
    figures = [
        charts.confusion_matrix("t", labels, counts),
        charts.bar_chart("t", dict.fromkeys(labels, 0.5)),
        charts.bar_chart("t", dict.fromkeys(labels, 0.0), percent=False),
        charts.stacked_bars("t", [dict(zip(labels, counts[0], strict=True))], labels, "x", "y"),
        charts.line_chart("t", {label: [(1.0, 0.5)] for label in labels}, "x", "y"),
    ]
    for figure in figures:
        Checked(figure)
        for x, width in re.findall(r'<rect [^>]*x="([-\d.]+)"[^>]*width="([-\d.]+)"', figure):
            assert float(x) >= 0 and float(width) >= 0
