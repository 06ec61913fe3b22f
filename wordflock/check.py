"""What may be wrong with a data set: labels, speakers, sound, and clips that sound like another label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from wordflock.check_labels import Judged, Misplaced, Suggestion
from wordflock.data.clips import SPLITS, Clip, ClipTable
from wordflock.data.names import printable
from wordflock.data.quality import MIN_RATE, Quality, qualities
from wordflock.data.task import SILENCE
from wordflock.errors import counted
from wordflock.prepare import load_table
from wordflock.settings import Settings

MIN_CLIPS, MIN_SPEAKERS = 20, 5  # of a label, to train on
UNBALANCED = 20  # times as many clips of one label as of another
_NAMED = 5  # clips in a line


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong."""

    kind: str
    message: str
    clips: tuple[str, ...] = ()  # their names


@dataclass(frozen=True)
class Check:
    """What a check of a data set found."""

    source: str
    clips: int
    labels: dict[str, dict[str, int]]  # clips by label and split
    speakers: dict[str, int]  # by label
    problems: tuple[Problem, ...]
    suggestions: tuple[Suggestion, ...]

    def as_json(self) -> dict[str, Any]:
        """As `data check --json` prints it."""
        found = asdict(self)
        for suggestion in found["suggestions"]:
            del suggestion["clip"]
        return found


def check(settings: Settings, suggestions: int = 10) -> Check:
    """Look at every clip of a data set, encode those that are not yet, and tell what may be wrong.

    `suggestions` is how many clips are named that most likely have a wrong label.
    """
    table = load_table(settings)
    pooled = replace(settings, head="linear", layer="2+3+last")
    labels = sorted({clip.word for clip in table.clips})
    by_label = {label: Counter(clip.split for clip in table.clips if clip.word == label) for label in labels}
    speakers = {label: {clip.speaker for clip in table.clips if clip.word == label} - {""} for label in labels}
    problems = [
        *_of_labels(by_label, speakers),
        *_of_splits(table),
        *_of_duplicates(table.clips),
        *_of_sound(qualities(table.clips)),
        *_of_length(table.clips, settings.window),
    ]
    found: list[Suggestion] = []
    if suggestions and len(labels) > 1:
        judged = Judged(table.clips, pooled)
        found = judged.mislabelled()[:suggestions]
        problems += _of_places(judged.misplaced())
    return Check(
        table.source,
        len(table.clips),
        {label: {split: counts[split] for split in SPLITS} for label, counts in by_label.items()},
        {label: len(those) for label, those in speakers.items()},
        tuple(problems),
        tuple(found),
    )


def _of_labels(by_label: dict[str, Counter[str]], speakers: dict[str, set[str]]) -> Iterable[Problem]:
    counts = {label: sum(of_split.values()) for label, of_split in by_label.items()}
    for label, clips in counts.items():
        if clips < MIN_CLIPS:
            yield Problem("few clips", f"{label} has {counted(clips, 'clip')}; record {MIN_CLIPS} at least.")
        if 0 < len(speakers[label]) < MIN_SPEAKERS:
            those = counted(len(speakers[label]), "speaker")
            yield Problem("few speakers", f"{label} has {those}; record {MIN_SPEAKERS} people at least.")
        missing = [split for split in SPLITS if not by_label[label][split]]
        others = [split for split in missing if any(of_split[split] for of_split in by_label.values())]
        if others:
            yield Problem("missing split", f"{label} has no {' and no '.join(others)} clips, and other labels have.")
    most, least = max(counts, key=lambda k: counts[k]), min(counts, key=lambda k: counts[k])
    if counts[most] > UNBALANCED * counts[least]:
        yield Problem(
            "balance", f"{most} has {counted(counts[most], 'clip')} and {least} {counts[least]}; record more of it."
        )


def _of_splits(table: ClipTable) -> Iterable[Problem]:
    where: dict[str, set[str]] = defaultdict(set)
    for clip in table.clips:
        if clip.speaker:
            where[clip.speaker].add(clip.split)
    shared = sorted(speaker for speaker, splits in where.items() if len(splits) > 1)
    if shared:
        yield Problem(
            "shared speakers", f"{counted(len(shared), 'speaker', 'are')} in several splits: {_some(shared)}."
        )
    if not where:
        yield Problem("unknown speakers", "Nothing says who speaks, so one voice may be in several splits.")


def _of_duplicates(clips: Sequence[Clip]) -> Iterable[Problem]:
    same: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        same[clip.key].append(clip)
    groups = [group for group in same.values() if len(group) > 1]
    rows: tuple[tuple[str, Callable[[Clip], str], str, str], ...] = (
        ("duplicates across labels", lambda clip: clip.word, "have", "several labels"),
        ("duplicates across splits", lambda clip: clip.split, "are", "in several splits"),
    )
    for kind, of, verb, text in rows:
        those = [group for group in groups if len({of(clip) for clip in group}) > 1]
        if those:
            names = tuple(clip.name for group in those for clip in group)
            yield Problem(kind, f"{counted(len(those), 'recording', verb)} {text}: {_some(names)}.", names)
    rest = [group for group in groups if len({(clip.word, clip.split) for clip in group}) == 1]
    if rest:
        names = tuple(clip.name for group in rest for clip in group)
        yield Problem(
            "duplicates", f"{counted(len(rest), 'recording', 'are')} there more than once: {_some(names)}.", names
        )


def _of_sound(found: Sequence[Quality]) -> Iterable[Problem]:
    rows: tuple[tuple[str, Callable[[Quality], bool], str, str], ...] = (
        ("unreadable", lambda q: q.unreadable, "", "can no longer be read"),
        ("silent", lambda q: q.silent and q.clip.word != SILENCE, "are", "silent"),
        ("quiet", lambda q: q.quiet and q.clip.word != SILENCE, "are", "very quiet"),
        ("clipped", lambda q: q.clipped, "are", "clipped: the microphone was too loud"),
        ("cancelled", lambda q: q.cancelled, "have", "channels in opposite phase: one wire is crossed"),
        ("low rate", lambda q: 0 < q.rate < MIN_RATE, "have", f"a sample rate below {MIN_RATE} Hz"),
    )
    for kind, applies, verb, text in rows:
        names = tuple(quality.clip.name for quality in found if applies(quality))
        if names:
            yield Problem(kind, f"{counted(len(names), 'clip', verb)} {text}: {_some(names)}.", names)


def _of_length(clips: Sequence[Clip], window: float) -> Iterable[Problem]:
    names = tuple(clip.name for clip in clips if clip.seconds > 2 * window)
    if names:
        yield Problem(
            "long",
            f"{counted(len(names), 'clip', 'last')} more than twice the window of {window} s, of which only the "
            f"loudest stretch is used; cut them to the word: {_some(names)}.",
            names,
        )


def _of_places(found: Sequence[Misplaced]) -> Iterable[Problem]:
    if found:
        named = [f"{each.clip.name} at {each.start:.1f} s" for each in found]
        yield Problem(
            "misplaced",
            f"{counted(len(found), 'clip', 'are')} loudest where the word probably is not, and only the loudest "
            f"stretch is used; cut them to the word, such as {_some(named)}.",
            tuple(each.clip.name for each in found),
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(map(printable, names[:_NAMED])) + (f" and {more} more" if more > 0 else "")


def format_check(found: Check) -> str:
    """What was found, for a terminal."""
    lines = [f"{found.source}: {counted(found.clips, 'clip')}, {counted(len(found.labels), 'label')}"]
    lines.append(f"  {'label':<16}" + "".join(f"{split:>12}" for split in SPLITS) + f"{'speakers':>12}")
    for label, counts in found.labels.items():
        row = "".join(f"{counts[split]:>12}" for split in SPLITS)
        lines.append(f"  {label:<16}{row}{found.speakers[label] or '?':>12}")
    lines += [f"{problem.kind}: {problem.message}" for problem in found.problems]
    if found.suggestions:
        lines.append("most likely labelled wrong:")
    for suggestion in found.suggestions:
        lines.append(
            f"  {printable(suggestion.name)}: {suggestion.label}, sounds like {suggestion.suggested} "
            f"({suggestion.margin:.2f})"
        )
    return "\n".join(lines)
