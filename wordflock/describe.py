"""What is in a data set, in words and as a figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wordflock.data.clips import SPLITS, ClipTable
from wordflock.data.task import SILENCE, UNKNOWN, Task, examples
from wordflock.errors import WordflockError, counted
from wordflock.federation_settings import DescribeSettings, PartitionSettings
from wordflock.prepare import load_table, task_of


def describe(settings: DescribeSettings, plot: Path | None) -> str:
    """Clips by split and word, and speakers by split; with `plot`, the bar plot of clips per client as PNG."""
    table = load_table(settings)
    lines = [
        f"{table.source}: {counted(len(table.clips), 'clip')}, {sum(c.seconds for c in table.clips) / 60:.1f} minutes"
    ]
    for split in SPLITS:
        clips = table.of_split(split)
        speakers = {clip.speaker for clip in clips if clip.speaker}
        lines.append(f"  {split:<10} {counted(len(clips), 'clip'):>13}  {counted(len(speakers), 'speaker'):>14}")
    counts = Counter((clip.word, clip.split) for clip in table.clips)
    lines.append(f"  {'word':<16}" + "".join(f"{split:>12}" for split in SPLITS))
    for word in sorted({clip.word for clip in table.clips}):
        lines.append(f"  {word:<16}" + "".join(f"{counts[word, split]:>12}" for split in SPLITS))
    if table.background:
        seconds = sum(clip.seconds for clip in table.background)
        lines.append(f"  background: {counted(len(table.background), 'recording')}, {seconds:.0f} s")
    if table.faults:
        lines.append(f"  left out: {counted(len(table.faults), 'file')}")
    if plot:
        lines.append(_plot(table, settings, plot))
    return "\n".join(lines)


def _plot(table: ClipTable, settings: DescribeSettings, plot: Path) -> str:
    """Write the bar plot; returns the line that tells of it."""
    from wordflock.figures import plot_clips_per_client
    from wordflock.partition import partition_clips

    if plot.suffix.lower() != ".png":
        raise WordflockError(f"--plot {plot} is no PNG; give a name that ends in .png.")
    task = _task(table, settings)
    training = examples(table, task, "train", settings.seed)
    speakers, labels = [clip.speaker for clip in training.clips], np.array(training.labels, dtype=np.int64)
    settings = settings if settings.clients else _usual_clients(settings, speakers)
    bars = [
        np.bincount(labels[part], minlength=len(task.labels)) for part in partition_clips(speakers, labels, settings)
    ]
    plot_clips_per_client([bar.tolist() for bar in bars], task.labels, plot)
    return f"  clips of {counted(settings.clients, 'client')}: {plot}"


def _task(table: ClipTable, settings: DescribeSettings) -> Task:
    """That of a training; where it would ask for keywords, or for silence, that of every word there is."""
    try:
        return task_of(table, settings)
    except WordflockError:
        words = tuple(sorted({clip.word for clip in table.clips} - {SILENCE, UNKNOWN}))
        if settings.keyword_list or not words:
            raise
        return Task(words, silence=bool(table.background), unknown=any(clip.word == UNKNOWN for clip in table.clips))


def _usual_clients(settings: DescribeSettings, speakers: Sequence[str]) -> DescribeSettings:
    """The settings with the usual number of clients, or as many as a small data set has speakers, or pairs of clips
    where nobody says who speaks."""
    known = len(set(speakers) - {""})
    if settings.partition == "speaker" and not known:
        settings = replace(settings, partition="iid")
    most = known if settings.partition == "speaker" else len(speakers)
    return replace(settings, clients=max(1, min(PartitionSettings().clients, most, len(speakers) // 2)))
