"""Read what runs left behind: find one by its name, and list all of them. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from wordflock.errors import WordflockError, did_you_mean
from wordflock.files import parse_json, parse_toml, read_named

if TYPE_CHECKING:  # `predict` finds runs by name and needs no settings of federations
    from wordflock.federation_settings import FederationSettings

BEST, LAST, METRICS, CONFIG, HISTORY, REVISIONS = (
    "best.safetensors",
    "last.safetensors",
    "metrics.json",
    "config.toml",
    "history.jsonl",
    "revisions.jsonl",
)
RUNS = Path("runs")
Resumable = TypeVar("Resumable", bound="FederationSettings")


def find_checkpoint(name: str | Path, which: str = BEST) -> Path:
    """The checkpoint that a file, a run's folder or the name of a run below runs/ stands for.

    Raises WordflockError where there is none.
    """
    path = Path(name)
    if path.is_file() or path.suffix == ".safetensors":
        return path  # whose reader says what is wrong with it
    found = find_run(name) / which
    if not found.is_file():
        raise WordflockError(f"The run {found.parent} has no {which} yet; wait for its first epoch or round.")
    return found


def find_run(name: str | Path) -> Path:
    """The folder of a run, by that folder or the run's name below runs/. Raises WordflockError where there is none."""
    for folder in (Path(name), RUNS / name):
        if (folder / CONFIG).is_file() or (folder / BEST).is_file():
            return folder
    known = [folder.name for folder in RUNS.iterdir() if (folder / CONFIG).is_file()] if RUNS.is_dir() else []
    raise WordflockError(f"There is no run or checkpoint {str(name)!r}{did_you_mean(str(name), known)}")


def read_config(folder: Path) -> dict[str, Any]:
    """The options of a run, with its mode. Raises WordflockError where they cannot be read."""
    try:
        return parse_toml(read_named(folder / CONFIG))
    except (OSError, ValueError) as error:
        problem = f"{CONFIG}: {error.strerror if isinstance(error, OSError) else error}"
        raise WordflockError(f"{folder} is not a run ({problem}); give a folder such as runs/NAME.") from error


def read_history(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's history, one an epoch or round. Raises WordflockError where it is damaged."""

    def is_entry(line: dict[str, Any]) -> bool:
        return isinstance(line["validation_accuracy"], int | float)

    return _read_lines(folder / HISTORY, is_entry, "delete that line and run again")


def read_revisions(folder: Path) -> list[dict[str, Any]]:
    """What was learned and forgotten since a run, in its order. Raises WordflockError where the record is damaged."""

    def is_entry(line: dict[str, Any]) -> bool:
        return isinstance(line.get("learn", line.get("forget")), dict)

    return _read_lines(folder / REVISIONS, is_entry, "restore it, for it says what is in the head")


def _read_lines(path: Path, is_entry: Callable[[dict[str, Any]], bool], remedy: str) -> list[dict[str, Any]]:
    lines = read_named(path).splitlines() if path.exists() else []
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_json(line)
            if not isinstance(entry, dict) or not is_entry(entry):
                raise ValueError(entry)
            entries.append(entry)
        except (ValueError, KeyError) as error:
            raise WordflockError(f"{path} is damaged in line {number}; {remedy}.") from error
    return entries


def resumed(settings: Resumable) -> Resumable:
    """The own options of the run that `settings.resume` names, a folder or a name below --runs.

    Raises WordflockError where there is no such run, it is done, or another command than `settings.mode` made it.
    """
    folders = Path(settings.resume), Path(settings.runs) / settings.resume
    folder = next((folder.resolve() for folder in folders if (folder / CONFIG).is_file()), None)
    if folder is None:
        raise WordflockError(f"--resume {settings.resume} is not a run; name a folder with a {CONFIG}.")
    config = read_config(folder)
    if config.get("mode") != settings.mode:
        raise WordflockError(
            f"--resume {settings.resume} is a run of `wordflock {config.get('mode')}`, not of {settings.mode}."
        )
    if (folder / METRICS).exists():
        raise WordflockError(f"The run {folder} is done; its head is {folder / BEST}.")
    own = type(settings).from_config(config)
    return replace(own, resume=str(folder), name=folder.name, runs=str(folder.parent))


def read_metrics(folder: Path) -> dict[str, Any]:
    """The metrics of a run; empty where it is not finished. Raises WordflockError where they are damaged."""
    path = folder / METRICS
    try:
        metrics = parse_json(read_named(path)) if path.exists() else {}
        if not isinstance(metrics, dict) or not isinstance(test := metrics.get("test", {}), dict):
            raise ValueError("it holds something else")
        if not isinstance(test.get("accuracy", 0.0), int | float):
            raise ValueError("its accuracy is not a number")
    except (OSError, ValueError) as error:
        raise WordflockError(f"{path} is damaged ({error}); restore it, or train the run again.") from error
    return metrics


def solved_accuracy(metrics: dict[str, Any]) -> float | None:
    """Validation accuracy of the last head with its last layer solved after the rounds or epochs, by the metrics of a
    run; None where none was solved, or there were no clips to score it on."""
    score = metrics.get("last_layer", {}).get("validation_accuracy")
    return float(score) if isinstance(score, int | float) else None


@dataclass(frozen=True)
class RunSummary:
    """A run in one line."""

    name: str
    mode: str
    data: str
    accuracy: float | None  # on the test split; None where the run is not finished, or its server has no clips
    date: datetime  # when it began


def list_runs(runs: Path) -> list[RunSummary]:
    """The runs below a folder, the oldest first. Raises WordflockError where there is no such folder."""
    if not runs.is_dir():
        raise WordflockError(f"There is no folder {runs}; `wordflock train` and `wordflock simulate` make it.")
    return sorted(_summaries(runs), key=lambda summary: (summary.date, summary.name))


def _summaries(runs: Path) -> Iterator[RunSummary]:
    for folder in runs.iterdir():
        if (folder / CONFIG).is_file():
            config, test = read_config(folder), read_metrics(folder).get("test", {})
            date = datetime.fromtimestamp((folder / CONFIG).stat().st_mtime)
            mode, data = (str(config.get(key, "")) for key in ("mode", "data"))
            yield RunSummary(folder.name, mode, data, test.get("accuracy"), date)


def delete_run(folder: Path) -> None:
    """Delete a run's folder. Raises WordflockError for a folder that is not a run's, and where it cannot be deleted."""
    import shutil

    if not (folder / CONFIG).is_file() or folder.is_symlink():
        raise WordflockError(f"{folder} is not a run's folder, so it is not deleted.")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise WordflockError(f"The run {folder} cannot be deleted ({error.strerror}); close what uses it.") from error
