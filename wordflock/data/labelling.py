"""From recordings and what a layout says of them to the table of clips: speakers, splits, labels."""

from __future__ import annotations

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from wordflock.data.bounds import search_all
from wordflock.data.clips import Clip, Fault
from wordflock.data.files import Files
from wordflock.data.manifests import CROPPED, FILE, SPEAKER, SPLIT, WORD, Row, Rows, Table, open_table, rows_of
from wordflock.data.names import clean_label, merged, printable
from wordflock.data.scan import MIN_SECONDS, Recording
from wordflock.data.speech_commands import BACKGROUND, SPEAKER_PATTERN, which_split
from wordflock.data.tables import add_row, warn_of_missing
from wordflock.errors import WordflockError, WordflockWarning, counted

NO_WORD = "stands in no folder named after its word"
NO_LABEL = "has no label"
_MAX_MERGES_NAMED = 5
_ROUNDED = 0.25  # seconds that a stretch may end after its recording


def label(
    files: Files, recordings: Sequence[Recording], rows: Mapping[str, Sequence[Row]], few: int = 0
) -> tuple[list[Clip], list[Clip], list[Fault]]:
    """The clips, the background recordings, and what has no label or is unusable.

    A clip whose split nobody names goes where its speaker's hash, or for an unknown speaker its content's, puts it;
    where that leaves nothing to train on, or a word has fewer than `few` such clips, all are for training. Warns of
    labels that are merged, and of clips of unknown speakers that had to be split. Raises WordflockError for labels that
    cannot be printed.
    """
    clips: list[Clip] = []
    background: list[Clip] = []
    faults: list[Fault] = []
    hashed: list[int] = []  # places of clips whose split nobody names
    words = _words(files.source, rows)
    for recording in recordings:
        name = recording.entry.name
        those = rows.get(name, ())
        if recording.fault or not those:
            faults.append(Fault(name, recording.fault or NO_LABEL))
        for row in those if not recording.fault else ():
            word = words[row.word]
            if word == BACKGROUND:
                background.append(recording.clip(word, "", "train"))
            elif not word:
                faults.append(Fault(name, NO_LABEL if "/" in name else NO_WORD))
            elif misfit := _misfit(row, recording.seconds):
                faults.append(Fault(name, misfit))
            else:
                if not row.split:
                    hashed.append(len(clips))
                split = row.split or which_split(row.speaker or recording.content)
                clips.append(_cropped(recording.clip(word, row.speaker, split), row))
    nothing_left = len(hashed) == len(clips) and not any(clip.split == "train" for clip in clips)
    if nothing_left or min(Counter(clips[place].word for place in hashed).values(), default=few) < few:
        for place in hashed:
            clips[place] = replace(clips[place], split="train")
    else:
        _warn_of_unknown_speakers(files.source, sum(not clips[place].speaker for place in hashed))
    return clips, background, faults


def with_speakers(files: Files, rows: Rows, pattern: str) -> Rows:
    """The rows with the speakers that a pattern finds in the names of files.

    Its group `speaker`, or first group, is the speaker: searched in the file's own name, or with its folders where the
    expression has a "/". Without one, a speaker is what stands before `_nohash_`, as in Speech Commands.
    Raises WordflockError for a pattern that cannot be used or fits no file.
    """
    usual = not pattern and any("_nohash_" in name for name in files.names)
    if not pattern and not usual:
        return rows
    speakers = _speakers(pattern or SPEAKER_PATTERN, files.names)
    return {
        name: those if usual and those[0].speaker else tuple(_spoken(row, speakers.get(name, "")) for row in those)
        for name, those in rows.items()
    }


def _spoken(row: Row, speaker: str) -> Row:
    return replace(row, speaker=speaker) if speaker else row


def user_table(path: str) -> Table:
    """A table of the user's: a column for the file, and any of speaker, split and word. Raises WordflockError for one
    that cannot be used."""
    table = open_table(path)
    if not table.has(FILE) or not any(map(table.has, (SPEAKER, SPLIT, WORD))):
        there = f"has the columns {', '.join(table.columns)}" if table.columns else "has no columns"
        raise WordflockError(f"The table {path} {there}; it needs file and any of speaker, split and word.")
    return replace(table, name=path)


def with_table(files: Files, rows: Rows, table: Table) -> Rows:
    """The rows with what a table of the user's says. Raises WordflockError for one that fits no file, and one that says
    two things of a file."""
    said: dict[str, list[Row]] = {}
    missing: list[str] = []
    for named, name, row in rows_of(table, files.places):
        if name:
            add_row(said.setdefault(name, []), row, name, table.name)
        else:
            missing.append(named)
    if files.names and not said:
        first = printable(files.names[0])
        raise WordflockError(
            f"{table.name} has no row for any file of the data set, whose first file is named {first}."
        )
    warn_of_missing(files.source, missing)
    told = {name: tuple(_over(row, rows.get(name, ())) for row in those) for name, those in said.items()}
    return {**rows, **told}


def _over(row: Row, others: Sequence[Row]) -> Row:
    """A row of the user's table, filled up with what the layout says."""
    other = others[0] if others else Row()
    return replace(
        row,
        word=row.word or other.word,
        speaker=row.speaker or other.speaker,
        split=row.split or other.split,
        start=other.start if row.start is None else row.start,
        seconds=other.seconds if row.seconds is None else row.seconds,
    )


def _words(source: str, rows: Mapping[str, Sequence[Row]]) -> dict[str, str]:
    """The label that counts for each word as it was found."""
    cleaned: dict[str, str] = {}
    found: list[str] = []
    for those in rows.values():
        for row in those:
            if row.word not in cleaned:
                cleaned[row.word] = clean_label(row.word, source)
            found.append(cleaned[row.word])
    counts = merged(found)
    both = [(word, counts[word]) for word in sorted(counts) if counts[word] != word]
    if both:
        named = ", ".join(f"{word} as {chosen}" for word, chosen in both[:_MAX_MERGES_NAMED])
        warnings.warn(
            f"Labels of {source} that differ only in case or form are read as one: {named}.",
            WordflockWarning,
            stacklevel=3,
        )
    return {raw: counts[word] for raw, word in cleaned.items()}


def _misfit(row: Row, seconds: float) -> str:
    """Why a recording that lasts so long cannot have the stretch that a table says, "" where it can."""
    start = row.start or 0.0
    if start > max(0.0, seconds - MIN_SECONDS):
        return f"lasts {seconds:.2f} s, and a table has it begin at {row.start} s"
    if row.seconds is not None and row.seconds < MIN_SECONDS:
        return f"lasts {row.seconds} s by a table, less than {MIN_SECONDS} s"
    if row.start is not None and row.seconds is not None and start + row.seconds > seconds + _ROUNDED:
        return f"lasts {seconds:.2f} s, and a table has it end at {start + row.seconds:.2f} s"
    return ""


def _cropped(clip: Clip, row: Row) -> Clip:
    """The stretch of a recording that a row is about; the whole recording keeps its own key in the feature store."""
    start = row.start or 0.0
    seconds = clip.seconds - start if row.seconds is None else min(row.seconds, clip.seconds - start)
    if start == 0 and clip.seconds - seconds <= CROPPED:
        return clip
    return replace(clip, start=start, seconds=max(seconds, 0.0))


def _speakers(pattern: str, names: Sequence[str]) -> dict[str, str]:
    """The speaker that a pattern finds in each file's name, "" for none."""
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise WordflockError(
            f"The speaker pattern '{pattern}' is not a regular expression ({error}); correct it."
        ) from error
    if not expression.groups:
        raise WordflockError(f"The speaker pattern '{pattern}' has no group; put the speaker in parentheses.")
    searched = [name if "/" in pattern else posixpath.basename(name) for name in names]
    if pattern == SPEAKER_PATTERN:
        found = [match[1] if (match := expression.search(name)) else "" for name in searched]
    else:
        found = search_all(pattern, searched)
    if names and not any(found):
        raise WordflockError(
            f"The speaker pattern '{pattern}' finds no speaker in any file; the first file is named "
            f"{printable(names[0])}."
        )
    return dict(zip(names, found, strict=True))


def _warn_of_unknown_speakers(source: str, count: int) -> None:
    """Say, once for a data set, that clips of unknown speakers had to be split by their content."""
    if count:
        warnings.warn(
            f"{source} does not say who speaks in {counted(count, 'clip')}, so the same voice may stand in several "
            "splits; name the speakers with a speaker pattern or a table.",
            WordflockWarning,
            stacklevel=3,
        )
