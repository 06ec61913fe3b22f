"""wordflock predict"""

from typing import Annotated

import typer

from wordflock.cli import app
from wordflock.cli.options import command


@command(app, "predict")
def predict(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint, such as runs/<name>/best.safetensors.")],
    files: Annotated[list[str], typer.Argument(help="Audio files of one word each.")],
) -> None:
    """Say which word each file holds: one line a file, with the label and its probability."""
    from wordflock.spotting.predict import predict_files

    for file, label, probability in predict_files(checkpoint, files):
        print(f"{file}\t{label}\t{probability:.4f}")
