"""Score a checkpoint on a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wordflock.data.hub import is_fetched
from wordflock.data.task import UNKNOWN, Task
from wordflock.encoder.backend import device
from wordflock.errors import WordflockError, counted
from wordflock.head.checkpoint import load_checkpoint
from wordflock.head.metrics import Score
from wordflock.hub import parts_of_data_set
from wordflock.prepare import prepare
from wordflock.runs import read_config
from wordflock.settings import EvaluateSettings, Settings
from wordflock.spotting.hub import find_model
from wordflock.spotting.predict import same_encoder


@dataclass(frozen=True)
class Evaluation:
    """A score, and what was scored."""

    data: str
    split: str
    score: Score

    def as_json(self) -> dict[str, Any]:
        """One flat object."""
        return {"data": self.data, "split": self.split, **self.score.as_json()}

    def __str__(self) -> str:
        """The score as text."""
        score = self.score
        low, high = score.interval
        lines = [
            f"{self.split} split of {self.data}",
            f"accuracy {score.accuracy:.4f} [{low:.4f}, {high:.4f}] on {counted(score.clips, 'clip')}, "
            f"loss {score.loss:.4f}, calibration error {score.calibration_error:.4f}",
        ]
        lines += [f"  {label:<12} recall " + ("-" if r is None else f"{r:.4f}") for label, r in score.recall.items()]
        if score.threshold:
            unknown = score.recall_with_rejection.get(UNKNOWN)
            recall = "" if unknown is None else f", {UNKNOWN} recall {unknown:.4f}"
            lines.append(
                f"with rejection (keywords below {score.threshold:.2f} are {UNKNOWN}): "
                f"accuracy {score.accuracy_with_rejection:.4f}{recall}"
            )
        return "\n".join(lines)


def evaluate(model: str, settings: EvaluateSettings) -> Evaluation:
    """Score a checkpoint or a run on one split of a data set; the task and the features are the checkpoint's.

    Raises WordflockError where the checkpoint's encoder or its run's data are not here.
    """
    from wordflock.head.training import evaluate_head

    path = find_model(model)
    checkpoint = load_checkpoint(path)
    same_encoder(checkpoint, model)
    settings = settings if settings.data else _data_of_run(path, settings)
    split = settings.split
    task, spec = Task.of_labels(checkpoint.labels), checkpoint.spec.here()
    given = {key: value for key, value in vars(settings).items() if key != "split"}
    everything = Settings(**given, keywords=",".join(task.keywords))
    prepared = prepare(everything, [split], optional=(), task=task, spec=spec)
    where = device(settings)
    head, features = checkpoint.build().to(where), prepared.features[split]
    score = evaluate_head(head, features, checkpoint.labels, device=where, calibration=checkpoint.calibration)
    return Evaluation(settings.data, split, score)


def _data_of_run(path: Path, settings: EvaluateSettings) -> EvaluateSettings:
    """The settings with the data of the run that a checkpoint lies in: its table, its speakers and its seed too."""
    try:
        config = read_config(path.parent)
    except WordflockError as error:
        raise WordflockError(f"{path} is not in the folder of a run; name the clips to score with --data.") from error
    if not config.get("data"):
        raise WordflockError(f"The clips of the run {path.parent} are with its clients; name others with --data.")
    keys = ("data", "table", "speaker-pattern", "layout", "language", "seed")
    own = EvaluateSettings.values_of({key: config[key] for key in keys if key in config})
    found = replace(settings, **own, cache=settings.cache or config["cache"])
    for source in found.sources:
        if parts_of_data_set(source) and not is_fetched(source, found.cache_folder):
            raise WordflockError(
                f"The data set {source} of the run {path.parent} is not on this machine, and only one that you name is "
                f"fetched; if you trust it, name it with --data {source}."
            )
    return found
