"""What is in a data set, in words and as a figure."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from wordflock.data.clips import SPLITS
from wordflock.data.task import examples
from wordflock.errors import WordflockError
from wordflock.federation_settings import PartitionSettings
from wordflock.prepare import load_table, task_of


def describe(settings: PartitionSettings, plot: Path | None) -> str:
    """Clips by split and word, and speakers by split; with `plot`, the bar plot of clips per client as PNG."""
    table = load_table(settings)
    lines = [f"{table.source}: {len(table.clips)} clips, {sum(c.seconds for c in table.clips) / 60:.1f} minutes"]
    for split in SPLITS:
        clips = table.of_split(split)
        speakers = {clip.speaker for clip in clips if clip.speaker}
        lines.append(f"  {split:<10} {len(clips):>7} clips  {len(speakers):>5} speakers")
    counts = Counter((clip.word, clip.split) for clip in table.clips)
    lines.append(f"  {'word':<16}" + "".join(f"{split:>12}" for split in SPLITS))
    for word in sorted({clip.word for clip in table.clips}):
        lines.append(f"  {word:<16}" + "".join(f"{counts[word, split]:>12}" for split in SPLITS))
    if table.background:
        lines.append(
            f"  background: {len(table.background)} recordings, {sum(c.seconds for c in table.background):.0f} s"
        )
    if table.faults:
        lines.append(f"  left out: {len(table.faults)} files")
    if plot:
        from wordflock.figures import plot_clips_per_client
        from wordflock.partition import partition_clips

        if plot.suffix.lower() != ".png":
            raise WordflockError(f"--plot {plot} is no PNG; give a name that ends in .png.")
        task = task_of(table, settings)
        training = examples(table, task, "train", settings.seed)
        labels = np.array(training.labels, dtype=np.int64)
        parts = partition_clips([clip.speaker for clip in training.clips], labels, settings)
        bars = [np.bincount(labels[part], minlength=len(task.labels)).tolist() for part in parts]
        plot_clips_per_client(bars, task.labels, plot)
        lines.append(f"  clips per client: {plot}")
    return "\n".join(lines)
