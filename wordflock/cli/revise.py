"""wordflock forget, wordflock learn"""

from pathlib import Path
from typing import Annotated

import typer

from wordflock.cli import app
from wordflock.cli.options import command
from wordflock.options import split_commas
from wordflock.settings import DataSettings

RUN = typer.Argument(help="Folder of a run with --strategy closed-form, such as runs/<name>.")


@command(app, "forget")
def forget(
    run: Annotated[str, RUN],
    client: Annotated[int | None, typer.Option(help="Client to forget, by its number.")] = None,
    speaker: Annotated[str, typer.Option(help="Speaker to forget.")] = "",
    label: Annotated[str, typer.Option(help="Label to forget.")] = "",
) -> None:
    """Make a head what it would be without a client, a speaker or a label; no one else is asked for anything."""
    from wordflock.revise import forget

    clips = forget(Path(run), client=client, speaker=speaker, label=label)
    print(f"forgotten: {clips} clips; {run}/best.safetensors is the head without them")


@command(app, "learn")
def learn(
    run: Annotated[str, RUN],
    settings: DataSettings,
    words: Annotated[str, typer.Option(help="New words among the clips, separated by commas.")] = "",
) -> None:
    """Add the training clips of a data set to a head, and new words to its labels; nothing else is trained again."""
    from wordflock.revise import learn

    clips = learn(Path(run), settings, split_commas(words))
    print(f"learned: {clips} clips; {run}/best.safetensors is the head with them")
