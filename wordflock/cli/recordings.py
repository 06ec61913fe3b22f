"""Commands that make recordings into clips."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordflock.cli.options import command

LONGEST = 3.0  # seconds; what is longer is talk rather than a word


@command
def cut(
    sources: Annotated[list[str], Parameter(name="RECORDINGS", help="Audio files, or folders or archives of them.")],
    /,
    *,
    out: Annotated[str, Parameter(help="Folder to write clips to, one folder below it for each label.")],
    labels: Annotated[
        str,
        Parameter(
            help="Intervals to cut: a TextGrid, Audacity's labels, or a table with start, end and label (and file); "
            "or a folder with such a file for each recording. (default: wherever somebody speaks)"
        ),
    ] = "",
    label: Annotated[
        str, Parameter(help="Label of what has none. (default: the folder that the recording is in)")
    ] = "",
    tier: Annotated[str, Parameter(help="Tier of the TextGrid. (default: the only one, or the one called words)")] = "",
    margin: Annotated[float, Parameter(help="Seconds to keep before and after each clip.")] = 0.15,
    pause: Annotated[float, Parameter(help="Without --labels: seconds of silence that end a clip.")] = 0.3,
) -> None:
    """Cut long recordings into clips for --data, by labelled intervals or wherever somebody speaks."""
    from wordflock.data.cutting import cut

    written = cut(sources, Path(out), labels=labels, label=label, tier=tier, margin=margin, pause=pause)
    for name, those in written.items():
        clips = "1 clip" if those.clips == 1 else f"{those.clips} clips"
        print(f"{Path(out) / name}: {clips}, {those.seconds:.1f} s, the longest {those.longest:.2f} s")
        if those.longest > LONGEST and not labels and not name.startswith("_"):
            print(f"  more than {LONGEST:.0f} s is talk rather than a word; listen to it, or cut by --labels")
    if not written:
        print("nothing to cut")
