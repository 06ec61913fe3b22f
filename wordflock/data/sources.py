"""Several sources as one data set."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from wordflock.data.clips import Clip, ClipTable
from wordflock.data.names import merged, printable
from wordflock.errors import WordflockWarning, counted
from wordflock.progress import report


def joined(tables: Sequence[ClipTable]) -> ClipTable:
    """The tables as one: of clips with the same samples the first counts; labels that differ in case only are one.

    A speaker of several sources stays in the split where the first one has them. Warns of clips that have different
    labels in two sources.
    """
    spelling = merged(clip.word for table in tables for clip in table.clips)
    source = " + ".join(table.source for table in tables)
    home: dict[str, str] = {}  # the split of each speaker
    found: dict[str, tuple[Clip, str]] = {}
    clips: list[Clip] = []
    again = moved = 0
    conflicts: list[str] = []
    for table in tables:
        before = dict(found)  # duplicates inside a source are that source's own matter
        settled = dict(home)
        for clip in table.clips:
            split = settled.get(clip.speaker, clip.split)
            moved += split != clip.split
            if clip.speaker:
                home.setdefault(clip.speaker, split)
            clip = replace(clip, word=spelling[clip.word], split=split)
            if clip.key not in before:
                found[clip.key] = clip, table.source
                clips.append(clip)
                continue
            again += 1
            other, first = before[clip.key]
            if other.word != clip.word:
                conflicts.append(f"{printable(clip.name)} is {clip.word} in {table.source} and {other.word} in {first}")
    if again:
        report(f"{source}: {counted(again, 'clip', 'are')} in several sources, where the first counts")
    if moved:
        report(f"{source}: {counted(moved, 'clip', 'are')} moved to the split where the first source has their speaker")
    if conflicts:
        warnings.warn(
            f"{counted(len(conflicts), 'recording', 'have')} different labels in two sources, of which the first "
            f"counts: {conflicts[0]}.",
            WordflockWarning,
            stacklevel=3,
        )
    background = {clip.key: clip for table in reversed(tables) for clip in table.background}
    return ClipTable(
        source,
        "speech_commands" if all(table.protocol == "speech_commands" for table in tables) else "folder",
        tuple(clips),
        tuple(sorted(background.values(), key=lambda clip: (clip.path, clip.offset))),
        tuple(fault for table in tables for fault in table.faults),
    )
