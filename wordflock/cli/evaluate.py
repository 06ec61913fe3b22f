"""wordflock evaluate"""

from typing import Annotated

import typer

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.settings import DataSettings


@command(app, "evaluate")
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint, such as runs/<name>/best.safetensors.")],
    settings: DataSettings,
    split: Annotated[str, typer.Option(help="Split to score: train, validation or test.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Score a checkpoint on a split of a data set."""
    import json

    from wordflock.spotting.predict import evaluate_checkpoint, format_score

    score = evaluate_checkpoint(checkpoint, settings, split)
    print(json.dumps(score.as_json()) if as_json else format_score(score))
