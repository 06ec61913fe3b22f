"""`wordflock sweep`: train with many settings, and score the test split for the best of them alone.

A file says what is tried:

    mode = "train"                      # or "simulate"
    search = "grid"                     # or "optuna", which needs the extra [sweep]
    trials = 20                         # of optuna; a grid has all combinations
    [options]                           # the same in all trials, as in a run's config.toml
    data = "recordings"
    [space]
    learning-rate = [1e-3, 3e-3]        # values to choose from
    weight-decay = { low = 1e-4, high = 1e-1, log = true }   # a range, for optuna

Every trial is a run of its own, in a process of its own with one thread, below the sweep's folder. A trial whose run
is finished is not repeated, so a sweep that was interrupted or killed is resumed by the same command.
"""

from __future__ import annotations

import itertools
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import tomli_w

from wordflock.errors import OptionError, WordflockError, counted
from wordflock.federation_settings import FederationSettings
from wordflock.files import parse_toml, read_named, write_atomically
from wordflock.options import Options, dashed
from wordflock.progress import report
from wordflock.runs import LAST, METRICS, read_history, read_metrics
from wordflock.settings import TrainSettings

MODES: dict[str, type[Options]] = {"train": TrainSettings, "simulate": FederationSettings}
POLL_INTERVAL = 0.2  # seconds
MAX_TRIALS = 10_000
# A trial ends with the sweep, also one that is killed: else it would write where its repetition does.
PROGRAM = "from wordflock.lifetime import end_with_parent; end_with_parent(); from wordflock.cli import main; main()"
SWEEP = "sweep.toml"  # the copy of the file in the sweep's folder: another file cannot be swept into it


@dataclass(frozen=True)
class Sweep:
    """What is tried."""

    mode: str
    search: Literal["grid", "optuna"]
    trials: int
    options: dict[str, Any]
    space: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Sweep:
        """The sweep in a file. Raises WordflockError where the file or an option in it is wrong."""
        try:
            content = parse_toml(read_named(path))
        except (OSError, ValueError) as error:
            problem = error.strerror if isinstance(error, OSError) else error
            raise WordflockError(f"The sweep {path} cannot be read ({problem}); give a TOML file.") from error
        if unknown := content.keys() - {"mode", "search", "trials", "options", "space"}:
            raise WordflockError(f"The sweep {path} has an unknown key {min(unknown)!r}; see wordflock sweep --help.")
        sweep = cls(
            content.get("mode", "train"),
            content.get("search", "grid"),
            content.get("trials", 20),
            content.get("options", {}),
            content.get("space", {}),
        )
        if sweep.search == "optuna" and find_spec("optuna") is None:
            raise WordflockError("search = 'optuna' needs optuna; pip install 'wordflock[sweep]'.")
        if sweep.mode not in MODES or sweep.search not in ("grid", "optuna") or type(sweep.trials) is not int:
            raise WordflockError(f"The sweep {path} needs mode train or simulate, search grid or optuna, whole trials.")
        if not 1 <= sweep.trials <= MAX_TRIALS:
            raise WordflockError(f"The sweep {path} asks for {sweep.trials:,} trials; give 1 to {MAX_TRIALS:,}.")
        sweep._check(path)
        return sweep

    def _check(self, path: Path) -> None:
        if not (self.space and isinstance(self.space, dict) and isinstance(self.options, dict)):
            raise WordflockError(f"The sweep {path} has nothing to search; name options and their values in [space].")
        known = MODES[self.mode]().as_config()
        for key, values in self.space.items():
            if key not in known or key in self.options:
                raise WordflockError(f"The sweep {path} cannot search {key!r}: it is unknown, or in [options] as well.")
            a_range = isinstance(values, dict) and {"low", "high"} <= values.keys()
            if not (isinstance(values, list) and values) and not (a_range and self.search == "optuna"):
                raise WordflockError(f"The sweep {path} needs a list of values for {key!r}, or with optuna a range.")
        count = math.prod(len(values) for values in self.space.values())
        if self.search == "grid" and count > MAX_TRIALS:
            raise WordflockError(f"The sweep {path} has {count:,} combinations; give at most {MAX_TRIALS:,}.")
        first = {key: values[0] if isinstance(values, list) else values["low"] for key, values in self.space.items()}
        ranges = {key: [values["high"]] for key, values in self.space.items() if isinstance(values, dict)}
        for key, values in {**self.space, **ranges}.items():
            for value in values:
                # Raises for a wrong type or value.
                MODES[self.mode].from_config({**self.options, **first, key: value})
        if ranges:
            _distributions(self)

    def grid(self) -> list[dict[str, Any]]:
        """All combinations of the values, in order."""
        return [dict(zip(self.space, values, strict=True)) for values in itertools.product(*self.space.values())]


@dataclass(frozen=True)
class Trial:
    """One trial: where its run is, what it tries, and how good it was on validation clips."""

    folder: Path
    tried: dict[str, Any]
    accuracy: float | None  # None where it was pruned or failed
    pruned: bool = False


def sweep(path: Path, folder: Path, parallel: int = 0) -> tuple[list[Trial], Path]:
    """Run the sweep of a file in a folder, `parallel` trials at a time (0: one a core).

    Returns all trials, the best first, and the folder of the run that repeats the best with its test split scored.
    Raises WordflockError where the folder is another sweep's, or no trial succeeds.
    """
    what = Sweep.read(path)
    if parallel < 0:
        raise OptionError("parallel", parallel, "is too small; the minimum is 0, one trial a processor core")
    folder.mkdir(parents=True, exist_ok=True)
    mine, content = folder / SWEEP, path.read_bytes()
    if mine.exists() and mine.read_bytes() != content:
        raise WordflockError(f"{folder} holds another sweep; give another --name, or delete that folder.")
    write_atomically(mine, content)
    workers = parallel or os.cpu_count() or 1
    done = _search(what, folder, workers) if what.search == "optuna" else _run_grid(what, folder, workers)
    ranked = sorted(done, key=lambda trial: -1.0 if trial.accuracy is None else -trial.accuracy - 1)
    if not ranked or ranked[0].accuracy is None:
        raise WordflockError(f"No trial of {path} succeeded; see {folder}/trial-*.log.")
    best = folder / "best"
    if not (best / METRICS).exists():
        _wait({_start(what, folder, "best", ranked[0].tried, skip_test=False): best})
        if not (best / METRICS).exists():
            raise WordflockError(f"The best trial could not be repeated; see {folder}/best.log.")
    return ranked, best


def _run_grid(what: Sweep, folder: Path, workers: int) -> list[Trial]:
    combinations = what.grid()
    names = {f"trial-{number}": tried for number, tried in enumerate(combinations)}
    waiting = [name for name in names if not (folder / name / METRICS).exists()]
    report(f"{counted(len(names), 'trial')}, {len(names) - len(waiting)} of them finished before")
    running: dict[subprocess.Popen[bytes], Path] = {}
    encoded = len(waiting) < len(names)  # the first trial runs alone: it encodes what all others find encoded
    try:
        while waiting or running:
            while waiting and len(running) < (workers if encoded else 1):
                name = waiting.pop(0)
                running[_start(what, folder, name, names[name])] = folder / name
            for process in [process for process in running if process.poll() is not None]:
                run = running.pop(process)
                _tell(run, names[run.name])
                encoded = True
            time.sleep(POLL_INTERVAL)
    finally:
        _end(running)
    return [Trial(folder / name, tried, _accuracy(folder / name)) for name, tried in names.items()]


def _search(what: Sweep, folder: Path, workers: int) -> list[Trial]:
    """Optuna's TPE (Bergstra 2011), one study in a journal on disk; a trial below the median so far is pruned."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        study_name="sweep",
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / "optuna.log"))),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        direction="maximize",
        load_if_exists=True,
    )
    # A sweep that is resumed draws on, not the same values once more.
    study.sampler = optuna.samplers.TPESampler(seed=int(what.options.get("seed", 0)) + len(study.trials))
    states = optuna.trial.TrialState
    for old in study.trials:
        if old.state == states.RUNNING:  # whoever ran it was killed, perhaps after its run was done
            accuracy = _accuracy(folder / f"trial-{old.number}")
            study.tell(old.number, accuracy, state=None if accuracy is not None else states.FAIL)
    running: dict[subprocess.Popen[bytes], tuple[Any, Path]] = {}
    reported: dict[Path, int] = {}  # lines of history
    try:
        while True:
            finished = sum(trial.state in (states.COMPLETE, states.PRUNED) for trial in study.trials)
            while finished + len(running) < what.trials and len(running) < (workers if finished else 1):
                trial = study.ask(_distributions(what))
                name = f"trial-{trial.number}"
                running[_start(what, folder, name, trial.params)] = (trial, folder / name)
            if not running:
                break
            for process, (trial, run) in list(running.items()):
                for step, line in enumerate(_history(run)):
                    if step >= reported.get(run, 0):
                        trial.report(line["validation_accuracy"], step)
                        reported[run] = step + 1
                if process.poll() is not None:
                    del running[process]
                    accuracy = _accuracy(run)
                    study.tell(trial, accuracy, state=None if accuracy is not None else states.FAIL)
                    _tell(run, trial.params)
                elif trial.should_prune():
                    del running[process]
                    _end([process])
                    study.tell(trial, state=states.PRUNED)
                    _tell(run, trial.params, pruned=True)
            time.sleep(POLL_INTERVAL)
    finally:
        _end(process for process in running)
    return [
        Trial(
            folder / f"trial-{t.number}",
            t.params,
            t.value if t.state == states.COMPLETE else None,
            t.state == states.PRUNED,
        )
        for t in study.trials
    ]


def importances(trials: list[Trial]) -> dict[str, float]:
    """How much each option mattered: the share of the variance of accuracy between its values, 0 to 1.

    For each option, trials are grouped by its value (numbers with many values by thirds); the share is that of the
    variance between groups (η², Fisher 1925). Shares of options that act together overlap.
    """
    import numpy as np

    done = [trial for trial in trials if trial.accuracy is not None]
    scores = np.array([trial.accuracy for trial in done], dtype=np.float64)
    if len(done) < 2 or not scores.var():
        return {}
    shares = {}
    for key in done[0].tried:
        values = [trial.tried[key] for trial in done]
        groups: Any = np.array([str(value) for value in values])
        if len(set(values)) > 4 and all(isinstance(value, int | float) for value in values):
            groups = np.searchsorted(np.quantile(np.array(values, dtype=np.float64), [1 / 3, 2 / 3]), values)
        between = sum(
            (groups == g).mean() * (scores[groups == g].mean() - scores.mean()) ** 2 for g in set(groups.tolist())
        )
        shares[key] = float(between / scores.var())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _distributions(what: Sweep) -> dict[str, Any]:
    """What Optuna draws from. Raises WordflockError for a range that it does not take."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    made: dict[str, Any] = {}
    for key, values in what.space.items():
        if isinstance(values, list):
            made[key] = CategoricalDistribution(values)
        else:
            whole = isinstance(values["low"], int) and isinstance(values["high"], int)
            try:
                made[key] = (IntDistribution if whole else FloatDistribution)(**values)
            except (TypeError, ValueError) as error:
                raise WordflockError(f"The range of {key!r} cannot be searched ({error}); correct it.") from error
    return made


def _start(
    what: Sweep, folder: Path, name: str, tried: Mapping[str, Any], skip_test: bool = True
) -> subprocess.Popen[bytes]:
    """Begin one trial in a process of its own."""
    shutil.rmtree(folder / name, ignore_errors=True)  # what a killed trial left
    config = folder / f"{name}.toml"
    options = {dashed(key): value for key, value in {**what.options, **tried}.items()}
    place = {"name": name, "runs": str(folder), "skip-test": skip_test}
    write_atomically(config, tomli_w.dumps({**options, **place}).encode())
    command = [sys.executable, "-c", PROGRAM, what.mode, "--config", str(config), "--quiet"]
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **one_thread})


def _wait(running: Mapping[subprocess.Popen[bytes], Path]) -> None:
    try:
        for process in running:
            process.wait()
    finally:
        _end(running)


def _end(processes: Any) -> None:
    for process in list(processes):
        if process.poll() is None:
            process.terminate()
            process.wait()


def _tell(run: Path, tried: Mapping[str, Any], *, pruned: bool = False) -> None:
    accuracy = _accuracy(run)
    result = f"validation accuracy {accuracy:.4f}" if accuracy is not None else f"failed, see {run}.log"
    values = ", ".join(f"{key} = {shown(value)}" for key, value in tried.items())
    report(f"{run.name}: {'pruned' if pruned else result}, {values}")


def shown(value: object) -> str:
    """An option's value, as a table has room for: a number that was drawn has many digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _accuracy(run: Path) -> float | None:
    """The best validation accuracy of a finished run."""
    if not (run / METRICS).exists():
        return None
    score = read_metrics(run).get("validation")
    return float(score["accuracy"]) if score else None


def _history(run: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run that may be writing them."""
    if (run / LAST).exists():
        try:
            yield from read_history(run)
        except WordflockError:
            return  # it is damaged, as the end of the trial will tell
