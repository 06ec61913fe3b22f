"""wordflock data synthesize | describe"""

from pathlib import Path
from typing import Annotated

import typer

from wordflock.cli import data_app
from wordflock.cli.options import command
from wordflock.settings import PartitionSettings


@command(data_app, "describe")
def describe(
    settings: PartitionSettings,
    plot: Annotated[str, typer.Option(help="Write the bar plot of clips per client to this PNG.")] = "",
) -> None:
    """Count a data set's clips by word, split and speaker, and show who would get which."""
    from wordflock.describe import describe

    print(describe(settings, Path(plot) if plot else None))
