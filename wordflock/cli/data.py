"""wordflock data synthesize | describe"""

from pathlib import Path
from typing import Annotated

import typer

from wordflock.cli import data_app
from wordflock.cli.options import command
from wordflock.federation_settings import PartitionSettings
from wordflock.options import split_commas


@command(data_app, "synthesize")
def synthesize(
    folder: Annotated[str, typer.Argument(help="Folder to write; it must not exist yet.")],
    words: Annotated[str, typer.Option(help="Words, separated by commas. (default: those of Speech Commands)")] = "",
    others: Annotated[str, typer.Option(help="Words for _unknown_. (default: the rest of Speech Commands)")] = "",
    voices: Annotated[int, typer.Option(help="Voices to train on; a third as many come on top for the rest.")] = 100,
    takes: Annotated[int, typer.Option(help="Times that a voice says each word.")] = 2,
    language: Annotated[str, typer.Option(help="Language of espeak-ng, such as de or en-us.")] = "en",
    seed: Annotated[int, typer.Option(help="Decides every random choice.")] = 0,
) -> None:
    """Make a data set of spoken words, in the layout of Speech Commands."""
    from wordflock.data.synthetic import WORDS, synthesize
    from wordflock.data.task import DEFAULT_KEYWORDS

    spoken = split_commas(words) or list(DEFAULT_KEYWORDS)
    rest = split_commas(others) or [w for w in WORDS if w not in spoken]
    synthesize(Path(folder), words=spoken, others=rest, voices=voices, takes=takes, language=language, seed=seed)
    print(f"{folder}: {len(spoken)} words and {len(rest)} others, {voices} training voices")


@command(data_app, "describe")
def describe(
    settings: PartitionSettings,
    plot: Annotated[str, typer.Option(help="Write the bar plot of clips per client to this PNG.")] = "",
) -> None:
    """Count a data set's clips by word, split and speaker, and show who would get which."""
    from wordflock.describe import describe

    print(describe(settings, Path(plot) if plot else None))
