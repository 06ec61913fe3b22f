"""`wordflock learn`: more clips, and new words, in a head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wordflock.data.clips import Clip, ClipTable
from wordflock.data.names import printable
from wordflock.data.task import Task
from wordflock.errors import WordflockError, counted
from wordflock.head.closed_form import add_labels
from wordflock.prepare import load_table
from wordflock.progress import report
from wordflock.revise.contents import contents, statistics_of_clips, statistics_of_parts, was_unknown
from wordflock.revise.solved_run import opened, write
from wordflock.settings import DataSettings

_NAMED = 5  # words


def learn(folder: Path, settings: DataSettings, words: Sequence[str] = ()) -> int:
    """Add the training clips of a data set to the run's head, `words` as new labels; returns how many clips.

    Clips of words that are neither a label nor new, and those that the head has already, are left out and reported. All
    changes are one step, which may be repeated after a kill: clips are never counted twice.
    """
    source = {key: getattr(settings, key) for key in ("data", "speaker_pattern", "table", "layout")}
    with opened(folder) as run:
        last: dict[str, Any] = run.revisions[-1] if run.revisions else {}
        learned = last.get("learn", {})
        if repeated := bool(learned) and (learned["words"], learned["from"]) == (list(words), source):
            words = ()  # which a process learned that was killed before it could say so
        labels, scale, total = run.checkpoint.labels, run.scale, run.total
        for word in words:
            if word in labels:
                raise WordflockError(
                    f"The head knows {word!r} already; leave it out of --words to add more clips of it."
                )
        parts = contents(run) if run.has_data else []
        # Clips of a new word that were unknown until now change their label.
        moving = [part for part in parts if was_unknown(part, words)]
        if moving:
            total -= statistics_of_parts(run, moving)
        known = {part.clip.key for part in parts if not was_unknown(part, words)}
        if not run.has_data:
            known |= {key for line in run.revisions for key in line.get("learn", {}).get("keys", [])}
        placed = Task.of_labels([*labels, *words]).labels
        table = load_table(settings)
        clips = clips_to_learn(table, placed, known)
        if not clips and repeated:
            return int(last["clips"])
        if not clips:
            raise WordflockError(f"{table.source} has no new training clips of {', '.join(placed)}.")
        indices = [placed.index(clip.word) for clip in clips]
        arriving = np.bincount(indices, minlength=len(placed)).astype(np.float64)
        scale, total = add_labels(scale, total, labels, placed, arriving)
        total += statistics_of_clips(run, settings, clips, indices, scale)
        entry = {"words": list(words), "from": source, "keys": [clip.key for clip in clips]}
        write(run, total, scale, placed, [*run.revisions, {"learn": entry, "clips": len(clips)}])
    return len(clips)


def clips_to_learn(table: ClipTable, labels: Collection[str], known: Collection[str]) -> list[Clip]:
    """The training clips with one of the labels whose keys are not known, each once; reports the others."""
    train = table.of_split("train")
    labelled = [clip for clip in train if clip.word in labels]
    new = {clip.key: clip for clip in labelled if clip.key not in known}
    kept = len(table.clips) + len(table.negatives) - len(train)
    again = sum(clip.key in known for clip in labelled)
    left_out = [
        _other_words(clip.word for clip in train if clip.word not in labels),
        f"{counted(again, 'clip', 'are')} in the head already" if again else "",
        f"{counted(kept, 'clip', 'are')} for validation and test" if kept else "",
    ]
    if any(left_out):
        report(f"{table.source}: not learned: {'; '.join(filter(None, left_out))}")
    return list(new.values())


def _other_words(words: Iterable[str]) -> str:
    counts = Counter(words)
    if not counts:
        return ""
    named = ", ".join(printable(word) for word, _ in counts.most_common(_NAMED))
    more = f" and {len(counts) - _NAMED} more" if len(counts) > _NAMED else ""
    return f"{counted(counts.total(), 'clip')} of words that are not labels ({named}{more})"
