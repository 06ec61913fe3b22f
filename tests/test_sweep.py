"""Sweeps: real trials in real processes on a few synthetic clips' features are slow, so trials here are a stand-in for
`python -m wordflock`, but processes, folders, kills and resumption are real."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from wordflock import sweep as module
from wordflock.errors import WordflockError
from wordflock.sweep import Sweep, Trial, importances, sweep

GRID = """
mode = "train"
[options]
seed = 3
[space]
epochs = [1, 2, 3]
head = ["mean", "attentive"]
"""
# What a trial does: better with more epochs; it counts its starts, and leaves what a run leaves.
TRIAL = """
import json, signal, sys, tomllib
from pathlib import Path
config = tomllib.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
folder = Path(config["runs"]) / config["name"]
folder.mkdir()
with (folder.parent / "starts").open("a") as starts:
    starts.write(config["name"] + "\\n")
if config.get("head") == "broken":
    sys.exit(1)
accuracy = 0.9 if config.get("seed") == 7 else 0.5 + config["epochs"] / 10
lines = [json.dumps({"epoch": n, "validation_accuracy": accuracy}) for n in range(1, 4)]
if config.get("seed") == 7 and config["name"] in ("trial-5", "trial-6"):  # worse than those before, and never done
    (folder / "history.jsonl").write_text("\\n".join(lines).replace(str(accuracy), "0.1") + "\\n")
    (folder / "last.safetensors").touch()
    signal.pause()
metrics = {"validation": {"accuracy": accuracy}}
if not config["skip-test"]:
    metrics["test"] = {"accuracy": accuracy - 0.01}
(folder / "last.safetensors").touch()
(folder / "history.jsonl").write_text("\\n".join(lines) + "\\n")
(folder / "metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trials that take no time."""
    script = tmp_path / "trial.py"
    script.write_text(TRIAL)
    real = module.subprocess.Popen

    def start(command: list[str], **options: Any) -> Any:
        return real([sys.executable, "-S", str(script), *command[3:]], **options)

    monkeypatch.setattr(module.subprocess, "Popen", start)
    monkeypatch.setattr(module, "POLL_INTERVAL", 0.01)
    return tmp_path


def written(folder: Path, text: str = GRID) -> Path:
    path = folder / "my.toml"
    path.write_text(text)
    return path


def starts(folder: Path) -> list[str]:
    return (folder / "starts").read_text().split()


def test_the_grid_is_tried_and_only_the_best_sees_the_test_split(quick: Path) -> None:
    trials, best = sweep(written(quick), quick / "out", 2)
    assert len(trials) == 6 and [trial.tried["epochs"] for trial in trials] == [3, 3, 2, 2, 1, 1]
    tested = [
        path.parent.name for path in (quick / "out").glob("*/metrics.json") if "test" in json.loads(path.read_text())
    ]
    assert tested == ["best"] and best == quick / "out" / "best"


def test_a_sweep_that_was_killed_repeats_no_finished_trial(quick: Path) -> None:
    path = written(quick)
    sweep(path, quick / "out", 1)
    (quick / "out" / "trial-4" / "metrics.json").unlink()  # as a kill leaves it
    (quick / "out" / "starts").unlink()
    sweep(path, quick / "out", 1)
    assert starts(quick / "out") == ["trial-4"]


def test_another_sweep_does_not_go_into_the_same_folder(quick: Path) -> None:
    sweep(written(quick), quick / "out", 1)
    with pytest.raises(WordflockError, match="holds another sweep"):
        sweep(written(quick, GRID.replace("3]", "4]")), quick / "out", 1)


def test_a_trial_that_fails_does_not_end_the_sweep(quick: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sweep, "_check", lambda *_: None)
    trials, _ = sweep(written(quick, GRID.replace("attentive", "broken")), quick / "out", 2)
    assert [trial.accuracy for trial in trials[3:]] == [None] * 3


def test_optuna_searches_and_resumes(quick: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed, which the extra [sweep] brings")
    text = 'search = "optuna"\ntrials = 4\n[space]\nepochs = { low = 1, high = 5 }\n'
    trials, _ = sweep(written(quick, text), quick / "out", 1)
    assert len([trial for trial in trials if trial.accuracy or trial.pruned]) == 4
    before = starts(quick / "out")
    sweep(written(quick, text), quick / "out", 1)
    assert starts(quick / "out") == before


def test_a_trial_below_the_median_is_ended_and_not_repeated(quick: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed, which the extra [sweep] brings")
    text = 'search = "optuna"\ntrials = 8\n[options]\nseed = 7\n[space]\nepochs = { low = 1, high = 5 }\n'
    for _ in range(2):
        trials, _ = sweep(written(quick, text), quick / "out", 2)
        pruned = [trial for trial in trials if trial.pruned]
        assert sorted(trial.folder.name for trial in pruned) == ["trial-5", "trial-6"]
        assert len(trials) == 8 and trials[-2:] == pruned  # the last in the table
        assert not any((trial.folder / "metrics.json").exists() for trial in pruned)
    assert len(starts(quick / "out")) == 9  # eight trials and the best once more


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("space = [1]", "has nothing to search"),
        ("options = [1]\n[space]\nseed = [1]", "has nothing to search"),
        ("trials = -1\n[space]\nseed = [1]", r"asks for -1 trials; give 1 to 10,000"),
        (f"[space]\nseed = {list(range(200))}\nepochs = {list(range(1, 201))}", r"has 40,000 combinations"),
        ('search = "optuna"\n[space]\nepochs = { low = 5, high = 1 }', r"range of 'epochs' cannot be searched"),
        ('search = "optuna"\n[space]\nepochs = { low = 1, high = 5, odd = 1 }', r"range of 'epochs' cannot be"),
        ("x = [", "cannot be read"),
        ("[space]\n", "nothing to search"),
        ("mood = 1\n[space]\nepochs = [1]\n", "unknown key 'mood'"),
        ("[space]\nepoch = [1]\n", "cannot search 'epoch'"),
        ("[options]\nepochs = 1\n[space]\nepochs = [1]\n", "cannot search 'epochs'"),
        ("[space]\nepochs = {low = 1, high = 2}\n", "needs a list of values"),
        ('[space]\nhead = ["convex"]\n', "is none of"),
        ('[space]\nhead = ["mean", "atentive"]\n', "atentive' is none of .*; did you mean attentive"),
        ('search = "optuna"\n[space]\nholdout = {low = 0.1, high = 7}\n', "holdout"),
        ('mode = "server"\n[space]\nepochs = [1]\n', "needs mode train or simulate"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(WordflockError, match=says):
        Sweep.read(written(tmp_path, text))


def test_the_option_that_matters_has_the_largest_share() -> None:
    trials = [Trial(Path("x"), {"a": a, "b": b}, 0.5 + 0.1 * a + 0.001 * b) for a in (0, 1) for b in (0, 1)]
    shares = importances(trials)
    assert list(shares) == ["a", "b"] and shares["a"] > 0.99 and sum(shares.values()) == pytest.approx(1)
    assert importances([]) == {}
