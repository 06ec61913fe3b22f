"""Everything that a report says about a run, read from its folder; a report shows nothing that is not here."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wordflock.errors import WordflockError
from wordflock.federation_settings import GRADIENT_OPTIONS
from wordflock.head.checkpoint import load_checkpoint
from wordflock.neighbours import Neighbour, read_neighbours
from wordflock.predictions import ClipPrediction, read_predictions
from wordflock.runs import BEST, read_config, read_history, read_metrics, solved_accuracy
from wordflock.settings import CLOSED_FORM

WORST = 10  # speakers or clients that are listed one by one
MISTAKES = 20
DRAWS = 2000  # of the bootstrap
UNUSED = "–"  # in the place of an option's value


@dataclass(frozen=True)
class Group:
    """The clips of one speaker or of one client's holdout."""

    name: str
    correct: int
    clips: int
    recall: dict[str, tuple[int, int]]  # by label: correct and all

    @property
    def accuracy(self) -> float:
        """Share of the clips that are recognised."""
        return self.correct / self.clips


@dataclass(frozen=True)
class RunFacts:
    """A finished run."""

    folder: Path
    config: dict[str, Any]
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    predictions: list[ClipPrediction]  # of the test split; empty where the run has none
    neighbours: list[Neighbour] = field(default_factory=list)  # of the most confident mistakes, in training

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.resolve().name

    @property
    def mode(self) -> str:
        """train, simulate or server."""
        return str(self.config.get("mode", "train"))

    @property
    def counter(self) -> str:
        """What the history counts: epoch or round."""
        return "epoch" if self.history and "epoch" in self.history[0] else "round"

    @property
    def test(self) -> dict[str, Any] | None:
        """The scores on the test split; None where the run has no test clips."""
        score = self.metrics.get("test")
        return score if isinstance(score, dict) else None

    @property
    def options(self) -> dict[str, Any]:
        """The options; those of rounds and epochs had no effect on a head that was solved in closed form."""
        if self.config.get("strategy") != CLOSED_FORM:
            return self.config
        unused = {**dict.fromkeys(GRADIENT_OPTIONS, UNUSED), "epochs": 1}
        return {key: unused.get(key, value) for key, value in self.config.items()}

    @property
    def solved(self) -> tuple[float, float] | None:
        """The last round or epoch, and the `solved_accuracy` of its head; None where there is none."""
        accuracy = solved_accuracy(self.metrics)
        return (self.history[-1][self.counter], accuracy) if self.history and accuracy is not None else None

    @property
    def labels(self) -> list[str]:
        """The labels that the head knows, in the order of its outputs."""
        for split in ("test", "validation"):
            if isinstance(score := self.metrics.get(split), dict):
                return list(score["labels"])
        return list(load_checkpoint(self.folder / BEST).labels)

    @property
    def clients(self) -> list[dict[str, Any]]:
        """The clients of a federation, as metrics.json has them."""
        return list(self.metrics.get("clients", []))


def read_run(folder: Path) -> RunFacts:
    """Read a run's folder. Raises WordflockError where it is missing, damaged or of a run that is not finished."""
    config, metrics = read_config(folder), read_metrics(folder)
    if not metrics:
        raise WordflockError(f"The run {folder} is not finished, and has nothing to report; resume it first.")
    return RunFacts(folder, config, read_history(folder), metrics, read_predictions(folder), read_neighbours(folder))


@contextmanager
def undamaged(*runs: str) -> Iterator[None]:
    """Raises WordflockError where the block meets something else in the files of runs than what is written there."""
    try:
        yield
    except WordflockError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise WordflockError(
            f"The files of {' or '.join(runs)} are damaged, or this is a fault of Wordflock ({what}); see --verbose."
        ) from error


def by_speaker(predictions: Sequence[ClipPrediction]) -> list[Group]:
    """The speakers of the predicted clips, the worst first; clips without a speaker belong to nobody."""
    speakers = defaultdict[str, list[ClipPrediction]](list)
    for row in predictions:
        if row.speaker:
            speakers[row.speaker].append(row)
    return _worst_first(
        Group(name, sum(row.correct for row in rows), len(rows), _recall(rows)) for name, rows in speakers.items()
    )


def by_client(run: RunFacts) -> list[Group]:
    """The clients by their holdout clips, scored by the best head, the worst first.

    Devices score it themselves; the recall of a client that does not report it by label is empty.
    """
    groups = []
    for client in run.clients:
        recall = {label: (hits, clips) for label, (hits, clips) in client.get("holdout", {}).items()}
        correct, clips = client.get("score") or [sum(counts[place] for counts in recall.values()) for place in (0, 1)]
        if clips:
            groups.append(Group(str(client.get("name") or client["client"]), correct, clips, recall))
    return _worst_first(groups)


def quantiles(groups: Sequence[Group]) -> dict[str, float]:
    """Accuracy of the groups: mean of the worst tenth, quartiles and mean over groups."""
    values = np.array([group.accuracy for group in groups])
    worst = values[: max(1, len(values) // 10)]
    quarter, half, three = np.quantile(values, [0.25, 0.5, 0.75])
    return {
        "worst": float(values.min()),
        "worst tenth": float(worst.mean()),
        "lower quartile": float(quarter),
        "median": float(half),
        "upper quartile": float(three),
        "mean": float(values.mean()),
    }


def confident_mistakes(predictions: Sequence[ClipPrediction], count: int = MISTAKES) -> list[ClipPrediction]:
    """The mistakes that the head is surest of."""
    wrong = [row for row in predictions if not row.correct]
    return sorted(wrong, key=lambda row: -row.confidence)[:count]


def bootstrap(groups: Sequence[Sequence[float]], seed: int = 0) -> tuple[float, float]:
    """The 95% interval of a mean over clips, drawing whole groups (speakers) with replacement.

    Clips of one speaker are not independent, so clips drawn one by one would give too narrow an interval.
    """
    sums = np.array([np.sum(group) for group in groups], dtype=np.float64)
    sizes = np.array([len(group) for group in groups], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(groups), size=(DRAWS, len(groups)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _worst_first(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (group.accuracy, -group.clips, group.name))


def _recall(rows: Sequence[ClipPrediction]) -> dict[str, tuple[int, int]]:
    counts = defaultdict[str, list[int]](lambda: [0, 0])
    for row in rows:
        counts[row.label][0] += row.correct
        counts[row.label][1] += 1
    return {label: (hits, clips) for label, (hits, clips) in counts.items()}
