"""Which clips of a data set a head learns, and which are left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from wordflock.data.clips import Clip, ClipTable
from wordflock.data.names import printable
from wordflock.errors import counted
from wordflock.progress import report

_NAMED = 5  # words


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
    return f"{counted(counts.total(), 'clip')} of words that are no labels ({named}{more})"
