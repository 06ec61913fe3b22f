"""Trackers get each epoch when it is done, and a run does not end for one that fails.

MLflow and Trackio are tested where they are installed: pip install '.[mlflow,trackio]'.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from wordflock import trackers
from wordflock.errors import OptionError, WordflockError, WordflockWarning
from wordflock.settings import TrainSettings
from wordflock.trackers import PROJECT, open_trackers


class Failing:
    """A tracker whose server is gone from the second epoch on."""

    kept: list[Any]

    def __init__(self, *_: object) -> None:
        Failing.kept = []

    def log(self, values: Any, step: int) -> None:
        if step > 1:
            raise ConnectionError("no route to host\nand much more")
        self.kept.append((dict(values), step))

    def close(self, finished: bool) -> None:
        self.kept.append(finished)


def opened(folder: Path, track: str, *, going_on: bool = False) -> list[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return open_trackers(folder, TrainSettings(data="words.tar", track=track), going_on=going_on)


def test_tensorboard_is_always_there(tmp_path: Path) -> None:
    (one,) = opened(tmp_path / "run", "tensorboard")
    one.log({"validation/accuracy": 0.5}, 1)
    one.close(True)
    (file,) = (tmp_path / "run").glob("events.*")
    assert file.stat().st_mode & 0o077 == 0


def test_a_tracker_that_fails_is_warned_about_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.KINDS, "mlflow", Failing)
    _, one = opened(tmp_path / "run", "mlflow")
    one.log({"a": 1.0}, 1)
    with pytest.warns(WordflockWarning, match=r"failed \(no route to host\); the run goes on") as warned:
        one.log({"a": 2.0}, 2)
    one.log({"a": 3.0}, 1)
    one.close(True)
    assert len(warned) == 1 and Failing.kept == [({"a": 1.0}, 1)]


def test_what_is_missing_or_cannot_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")

    def broken(*_: object) -> None:
        raise RuntimeError("the database is locked")

    monkeypatch.setattr(trackers, "KINDS", {"mlflow": missing, "trackio": broken})
    with pytest.raises(WordflockError, match=r"needs mlflow; pip install 'wordflock\[mlflow\]'"):
        opened(tmp_path / "run", "mlflow")
    with pytest.raises(WordflockError, match=r"cannot start \(the database is locked\); mend that or leave"):
        opened(tmp_path / "run", "trackio")
    with pytest.raises(OptionError):
        TrainSettings(track="wandb")


def test_mlflow_keeps_options_and_figures_live_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed (pip install '.[mlflow]')")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    _, one = opened(tmp_path / "runs" / "one", "mlflow")
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(PROJECT).experiment_id
    one.log({"validation/accuracy": 0.5}, 1)
    (run,) = client.search_runs([experiment])
    assert run.data.metrics == {"validation/accuracy": 0.5} and run.data.params["data"] == "words.tar"
    one.close(False)
    _, again = opened(tmp_path / "runs" / "one", "mlflow", going_on=True)
    again.log({"validation/accuracy": 0.75}, 2)
    again.close(True)
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED" and run.info.run_name == "one"
    assert [m.value for m in client.get_metric_history(run.info.run_id, "validation/accuracy")] == [0.5, 0.75]
    assert (tmp_path / "runs" / "mlflow.db").stat().st_mode & 0o077 == 0
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}


def test_trackio_keeps_figures_beside_the_runs_and_prints_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "runs" / "trackio"))  # read once a process, by the import
    pytest.importorskip("trackio", reason="trackio is not installed (pip install '.[trackio]')")
    _, one = opened(tmp_path / "runs" / "one", "trackio")
    one.log({"validation/accuracy": 0.5}, 1)
    one.close(True)
    assert capsys.readouterr().out == ""
    with sqlite3.connect(tmp_path / "runs" / "trackio" / f"{PROJECT}.db") as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    database.close()
    assert [step for step, _ in rows] == [1] and "0.5" in str(rows[0][1])
