"""A run that was solved in closed form, and the one step in which a revision changes it.

Statistics are subtracted or added and the output layer is solved again. The scale of the run (what everybody
standardises and weights by) stays as it was. Every revision is a line in the run's revisions.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wordflock.encoder.spec import FeatureSpec
from wordflock.errors import WordflockError
from wordflock.federation_settings import FederationSettings
from wordflock.files import finish_switch, locked, switching, write_atomically
from wordflock.head.checkpoint import Checkpoint, get_weights, load_checkpoint, save_checkpoint
from wordflock.head.closed_form import Scale, Statistics, ridges, solve
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.torch_head import Head
from wordflock.head.training import output_weights
from wordflock.runs import BEST, LAST, METRICS, REVISIONS, read_config, read_metrics, read_revisions
from wordflock.settings import HeadSettings, TrainSettings

# Everything in a run's folder but the settings, the head, the statistics and the record of revisions.
OF_THE_OLD_HEAD = (
    "history.jsonl",
    "predictions.csv",
    "neighbours.json",
    "events.*",
    "*.png",
    "*.html",
    "README.md",
    "labels.txt",
    "optimizer-*",
    "strategy-*",
    "server",
)


@dataclass(frozen=True)
class SolvedRun:
    """A run that was solved in closed form, as it stands."""

    folder: Path
    settings: FederationSettings | TrainSettings
    has_data: bool  # its clips are here: not on devices
    checkpoint: Checkpoint
    head: Head
    statistics: StatisticsFolder
    scale: Scale
    total: Statistics
    revisions: list[dict[str, Any]]

    @property
    def only_clients_forgotten(self) -> bool:
        """Whether what each client sent is still what the total has of it."""
        return all(line.get("forget", {}).keys() == {"client"} for line in self.revisions)


@contextmanager
def opened(folder: Path, *, to_read: bool = False) -> Iterator[SolvedRun]:
    """The run, kept from other processes; a revision that was killed half-way is finished or undone first.

    A server that keeps running after the run uses its `server/`, which a revision deletes and a reader leaves alone.
    """
    config = read_config(folder)
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        if (folder / "server").is_dir() and not to_read:
            stack.enter_context(locked(folder / "server"))
        finish_switch(folder)
        yield _read(folder, config)


def earlier(folder: Path, settings: HeadSettings, spec: FeatureSpec, head: Head) -> tuple[list[str], Scale, Statistics]:
    """The labels, the scale and the statistics of a run that other clients' are to be added to or taken from.

    Raises WordflockError where the settings, features and untrained head are not such that they go together.
    """
    with opened(folder, to_read=True) as run:
        pass
    seed = run.checkpoint.training.get("seed")
    body = {name: array for name, array in get_weights(head).items() if not name.startswith("output.")}
    if (
        (run.checkpoint.head_kind, run.checkpoint.random_features) != (settings.head, settings.random_features)
        or run.checkpoint.spec.kind != spec.kind
        or (settings.random_features and seed != settings.seed)
        or any(not np.array_equal(array, run.checkpoint.weights[name]) for name, array in body.items())
    ):
        raise WordflockError(
            f"The statistics of {folder} are of other features; give the options in its config.toml, --head, --layer, "
            "--window, --random-features and --seed among them."
        )
    return run.checkpoint.labels, run.scale, run.total


def write(
    run: SolvedRun,
    total: Statistics,
    scale: Scale,
    labels: list[str],
    revisions: list[dict[str, Any]],
    outdated: str = "",
) -> None:
    """Solve, and change head, statistics and record in one step; what was made of the old head goes.

    That are its scores, predictions and logs, and the files that match `outdated`.
    """
    solution = solve(total, scale, ridges(run.settings.for_streams), run.head.parts)
    weights = {**run.checkpoint.weights, **output_weights(solution)}  # all but the last layer is as it was
    training = {key: value for key, value in run.checkpoint.training.items() if key != "validation_accuracy"}
    revised = replace(run.checkpoint, labels=labels, weights=weights, training=training)
    metrics = read_metrics(run.folder)
    metrics = {key: value for key, value in metrics.items() if key not in ("validation", "test", "clients")}
    revisions[-1] = {**revisions[-1], "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    with switching(run.folder, [*OF_THE_OLD_HEAD, *[outdated] * bool(outdated)]) as new:
        StatisticsFolder(new / "statistics").write(scale, total)
        for name in (BEST, LAST):
            save_checkpoint(new / name, revised)
        write_atomically(new / REVISIONS, "".join(json.dumps(line) + "\n" for line in revisions).encode())
        write_atomically(new / METRICS, json.dumps(metrics, indent=2).encode())


def _read(folder: Path, config: dict[str, Any]) -> SolvedRun:
    kept = StatisticsFolder(folder / "statistics")
    kind = TrainSettings if config.get("mode") == "train" else FederationSettings
    settings = kind.from_config(config)
    if not settings.closed_form or not (kept.folder / "total.safetensors").exists():
        raise WordflockError(
            f"The run {folder} kept no statistics; only runs with --strategy closed-form can be revised."
        )
    checkpoint = load_checkpoint(folder / BEST)
    revisions = read_revisions(folder)
    scale, total = kept.read()
    has_data = config.get("mode") in ("train", "simulate")
    if isinstance(settings, FederationSettings) and (settings.add_to or settings.take_from):
        has_data = False  # not all of what is in the statistics
    return SolvedRun(folder, settings, has_data, checkpoint, checkpoint.build(), kept, scale, total, revisions)
