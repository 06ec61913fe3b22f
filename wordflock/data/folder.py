"""Layouts where the names of folders and files say what is in recordings."""

from __future__ import annotations

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from wordflock.data import speech_commands
from wordflock.data.files import Files
from wordflock.data.manifests import Row, Rows, split_named
from wordflock.data.names import printable
from wordflock.data.speech_commands import BACKGROUND
from wordflock.errors import WordflockError, WordflockWarning

# Folders that people put recordings into, whatever is said in them.
CONTAINERS = {"audio", "audios", "clip", "clips", "data", "dataset", "files", "recording", "recordings", "samples"}
CONTAINERS |= {"sound", "sounds", "wav", "wave", "waves", "wavs"}

_LABEL_SPEAKER_NUMBER = re.compile(r"([^_]+)_(.+)_(\d+)")


def read_folders(files: Files) -> Rows:
    """The first folder is the label; where each label has folders named after splits, the second is the split."""
    parts = [name.split("/") for name in files.names]
    inner = {part[1] for part in parts if len(part) > 2 and part[0] != BACKGROUND}
    by_split = bool(inner) and all(map(split_named, inner)) and all(len(part) > 2 for part in parts if len(part) > 1)
    lone = split_named(posixpath.basename(files.root))
    return {
        name: (Row(part[0] if len(part) > 1 else "", split=split_named(part[1]) if by_split else lone),)
        for name, part in zip(files.names, parts, strict=True)
    }


def read_speaker_folders(files: Files) -> Rows:
    """The first folder is the speaker, the second the label."""
    rows: Rows = {}
    for name in files.names:
        speaker, *below = name.split("/")[:-1] or [""]
        below = [BACKGROUND] if speaker == BACKGROUND else below
        rows[name] = (Row(below[0] if below else "", speaker if below else ""),)
    return rows


def has_split_folders(files: Files) -> bool:
    """Whether all folders at the top are named after splits and have folders below."""
    return bool(files.tops) and all(map(split_named, files.tops)) and any(name.count("/") > 1 for name in files.names)


def read_split_folders(files: Files) -> Rows:
    """`train|validation|test/<label>/…`."""
    rows: Rows = {}
    for name in files.names:
        top, _, rest = name.partition("/")
        split = split_named(top) if rest else ""
        word, below, _ = (rest if split else name).partition("/")
        rows[name] = (Row(word if below else "", split=split),)
    return rows


def has_test_beside_labels(files: Files) -> bool:
    """Whether folders named after splits stand beside the labels and hold the same labels (Mycroft Precise)."""
    labels = {top for top in files.tops if not split_named(top)}
    beside = [name.split("/") for name in files.names if split_named(name.split("/", 1)[0])]
    return bool(labels and beside) and all(len(part) > 2 and part[1] in labels for part in beside)


def read_test_beside_labels(files: Files) -> Rows:
    """What is not in the folder of another split is for training."""
    rows = read_split_folders(files)
    return {name: tuple(replace(row, split=row.split or "train") for row in rows[name]) for name in rows}


def _is_flat(files: Files) -> bool:
    """Whether recordings stand at the top, or right in one folder that is not a label, or in folders of splits."""
    if not files.names or any(name.count("/") > 1 for name in files.names):
        return False
    containers = {top for top in files.tops if top.lower() in CONTAINERS}
    return all(map(split_named, files.tops)) or (len(files.tops) == 1 and set(files.tops) == containers)


def _flat_rows(files: Files, label_and_speaker: Callable[[str], tuple[str, str]]) -> Rows:
    rows: Rows = {}
    lone = split_named(posixpath.basename(files.root))
    for name in files.names:
        folder, _, base = name.rpartition("/")
        word, speaker = label_and_speaker(base)
        rows[name] = (Row(word, speaker, split_named(folder) or lone),)
    return rows


def _are_labels(rows: Rows) -> bool:
    """Whether words from names look like labels: each has one, there are several, and they come again."""
    words = Counter(row.word for those in rows.values() for row in those)
    return "" not in words and len(words) > 1 and 2 * len(words) <= len(rows)


def is_edge_impulse(files: Files) -> bool:
    """Whether flat names look like `label.rest.wav`."""
    return (
        _is_flat(files) and all(name.count(".") > 1 for name in files.names) and _are_labels(read_edge_impulse(files))
    )


def read_edge_impulse(files: Files) -> Rows:
    """The label is what stands before the first dot."""
    return _flat_rows(files, lambda base: (base.split(".", 1)[0] if base.count(".") > 1 else "", ""))


def is_label_speaker_number(files: Files) -> bool:
    """Whether flat names look like `label_speaker_number.wav`."""
    return _is_flat(files) and _are_labels(read_label_speaker_number(files))


def read_label_speaker_number(files: Files) -> Rows:
    """`label_speaker_number.wav`, as in the Free Spoken Digit Dataset."""

    def label_and_speaker(base: str) -> tuple[str, str]:
        found = _LABEL_SPEAKER_NUMBER.fullmatch(base.rsplit(".", 1)[0])
        return (found[1], found[2]) if found else ("", "")

    return _flat_rows(files, label_and_speaker)


def is_kaggle(files: Files) -> bool:
    """Whether the words of Speech Commands stand in `train/audio`, and unlabelled ones may stand in `test/audio`."""
    labelled = _below(files, "train/audio/")
    return any("_nohash_" in name for name in labelled) and bool(_below(files, "test/audio/"))


def read_kaggle(files: Files) -> Rows:
    """The labelled part."""
    return speech_commands.read(_below(files, "train/audio/"), files.texts)


def _below(files: Files, folder: str) -> list[str]:
    return [name for name in files.names if name.startswith(folder)]


def is_speech_commands(files: Files) -> bool:
    """Whether names or lists are those of Speech Commands, and no folder says otherwise."""
    return speech_commands.recognises(files.names, files.texts) and not has_split_folders(files)


def read_speech_commands(files: Files) -> Rows:
    """The lists, or the published rule, say the split."""
    return speech_commands.read(files.names, files.texts)


def check_labels(files: Files, remedy: str) -> None:
    """Raises WordflockError where folders that are not labels would become labels."""
    _check_splits_inside(files, remedy)
    splits = sorted(top for top in files.tops if split_named(top))
    lone = [top for top in files.tops if top.lower() in CONTAINERS] if len(files.tops) == 1 else []
    if not splits and not lone:
        return
    example = printable(next(name for name in files.names if name.split("/", 1)[0] in (splits or lone)))
    kind = "a split" if splits else "a folder of recordings"
    raise WordflockError(
        f"{files.source} has recordings right in {' and '.join(map(printable, splits or lone))} (such as {example}), "
        f"which names {kind}, not a label; put each label's recordings into a folder of its own, name the labels with "
        f"--table, or have these folders read as labels with {remedy}."
    )


def _check_splits_inside(files: Files, remedy: str) -> None:
    """Raises WordflockError where some recordings stand in folders of splits below their label, and others do not."""
    parts = [part for part in (name.split("/") for name in files.names) if len(part) > 1 and part[0] != BACKGROUND]
    inside = [len(part) > 2 and bool(split_named(part[1])) for part in parts]
    if any(inside) and not all(inside):
        one, other = ("/".join(parts[inside.index(is_in)]) for is_in in (True, False))
        raise WordflockError(
            f"{files.source} has {printable(one)} in a folder named after a split, and {printable(other)} in none; put "
            f"all recordings into such folders, name the splits with --table, or read labels alone with {remedy}."
        )


def warn_of_speakers(files: Files, remedy: str) -> None:
    """Say that the labels may be the folders below those that are read as labels: where all of these have the same."""
    below: dict[str, set[str]] = {top: set() for top in files.tops}
    for name in files.names:
        top, _, rest = name.partition("/")
        if top in below:
            below[top].add(rest.partition("/")[0] if "/" in rest else "")
    same = next(iter(below.values()), set())
    if len(below) > 1 and len(same) > 1 and "" not in same and all(those == same for those in below.values()):
        named = ", ".join(map(printable, sorted(below)[:3])), ", ".join(map(printable, sorted(same)[:3]))
        warnings.warn(
            f"{files.source} has the same folders ({named[1]}) in each of its folders ({named[0]}), which are read as "
            f"labels; if they are speakers, add {remedy}, else --layout folders.",
            WordflockWarning,
            stacklevel=4,
        )
