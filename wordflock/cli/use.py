"""Commands that use a head: score it, or have it say words."""

from __future__ import annotations

import json
from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command
from wordflock.settings import DataSettings

Model = Annotated[str, Parameter(help="Checkpoint, or a run: its folder, or its name below runs/.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON.", negative=())]


@command
def evaluate(
    model: Model,
    /,
    settings: DataSettings,
    *,
    split: Annotated[str, Parameter(help="Split to score: train, validation or test.")] = "test",
    as_json: AsJson = False,
) -> None:
    """Score a head on a split of a data set."""
    from wordflock.spotting.predict import evaluate_checkpoint, format_score

    score = evaluate_checkpoint(model, settings, split)
    print(json.dumps(score.as_json()) if as_json else format_score(score))


@command
def predict(
    model: Model,
    files: Annotated[list[str], Parameter(help="Audio files of one word each.")],
    /,
) -> None:
    """Say which word each file holds: one line a file, with the label and its probability."""
    from wordflock.spotting.predict import predict_files

    for file, label, probability in predict_files(model, files):
        print(f"{file}\t{label}\t{probability:.4f}")
