"""Commands over runs that are there: list, show, delete, compare, report."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from report_runs import write_run

from wordflock.cli.commands import run as wordflock
from wordflock.errors import WordflockError


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three runs below runs/, as the working folder has them."""
    monkeypatch.chdir(tmp_path)
    for name, wrong in (("middling", 10), ("best", 2), ("worst", 30)):
        write_run(tmp_path / "runs" / name, wrong=wrong)
    return tmp_path / "runs"


def test_runs_are_sorted_as_asked(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wordflock(["runs", "--sort", "accuracy"])
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == ["name", "best", "middling", "worst"]
    wordflock(["runs", "--sort", "name", "--json"])
    assert [run["name"] for run in json.loads(capsys.readouterr().out)] == ["best", "middling", "worst"]


def test_a_run_is_shown(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wordflock(["runs", "show", "best"])
    said = capsys.readouterr().out
    assert "Test accuracy:" in said and "Without differential privacy." in said and "Not measured:" in said


def test_a_run_is_deleted_only_with_consent(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(WordflockError, match="add --yes"):
        wordflock(["runs", "delete", "worst"])
    assert (runs / "worst").is_dir()
    wordflock(["runs", "delete", "worst", "--yes"])
    assert not (runs / "worst").exists() and (runs / "best").is_dir()


def test_what_is_no_run_is_not_deleted(runs: Path) -> None:
    (runs / "mine").mkdir()
    (runs / "mine" / "best.safetensors").write_text("not a run of ours")
    with pytest.raises(WordflockError, match="is not a run's folder"):
        wordflock(["runs", "delete", str(runs / "mine"), "--yes"])
    assert (runs / "mine" / "best.safetensors").exists()


def test_runs_are_compared_as_a_table_or_as_a_page(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wordflock(["compare", "worst", "best"])
    assert "best against worst: +46.67 points" in capsys.readouterr().out
    wordflock(["compare", "worst", "best", "--out", "page.html"])
    assert "<svg" in Path("page.html").read_text()
    with pytest.raises(WordflockError, match="name two or more"):
        wordflock(["compare", "best"])


def test_a_report_is_written_where_asked(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wordflock(["report", "best"])
    assert Path(capsys.readouterr().out.strip()).read_text().startswith("<!doctype html>")
    wordflock(["report", "best", "--out", "elsewhere.html"])
    assert Path("elsewhere.html").is_file()


ODD = [None, True, -1, 1e308, "x", "\ud800", [], [[]], {}, {"a": 1}, "9" * 5000]


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_files_of_a_run_hold_it_is_shown_or_said(runs: Path, data: st.DataObject) -> None:
    folder = runs.parent / "runs" / "changed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(runs / "best", folder)
    path = data.draw(st.sampled_from([folder / "metrics.json", folder / "history.jsonl"]))
    lines = [
        json.loads(line) for line in ([path.read_text()] if path.suffix == ".json" else path.read_text().splitlines())
    ]
    place: Any = data.draw(st.sampled_from(lines))
    while True:  # down to a value that is replaced or removed
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(st.sampled_from(ODD))
    else:
        del place[key]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    for command in (["runs"], ["runs", "show", "changed"], ["report", "changed"], ["compare", "best", "changed"]):
        with suppress(WordflockError):
            wordflock(command)
