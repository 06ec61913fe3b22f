"""How people lay out recordings: one table of layouts, each of which recognises its own and reads it.

Reading gives, for the name of each recording, its word, speaker and split, as far as the layout says. A new layout is a
row here and two functions in `folder.py` or `tables.py`.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import dataclass

from wordflock.data import folder, tables
from wordflock.data.files import TABLES, Files
from wordflock.data.manifests import Rows, split_named
from wordflock.data.names import fold, printable
from wordflock.data.speech_commands import LISTS
from wordflock.errors import WordflockError

AUTO, FOLDERS, SPEECH_COMMANDS, SPEAKER_FOLDERS = "auto", "folders", "speech-commands", "speaker-folders"


@dataclass(frozen=True)
class Layout:
    """One way to lay out recordings."""

    name: str  # as --layout says it
    title: str
    recognises: Callable[[Files], bool]
    read: Callable[[Files], Rows]
    explicit: bool = False  # a table says what is what; else the names of folders and files do


# In the order in which they are tried; the last one takes everything.
LAYOUTS = (
    Layout("kaldi", "Kaldi", tables.is_kaldi, tables.read_kaldi, True),
    Layout("parquet", "Parquet with embedded audio", lambda files: bool(files.parquets), tables.read_parquets, True),
    Layout("mswc", "Multilingual Spoken Words", tables.tables_with("link", "word"), tables.read_mswc, True),
    Layout("common-voice", "Common Voice", tables.tables_with("path", "sentence"), tables.read_common_voice, True),
    Layout("nemo", "NeMo manifest", tables.is_nemo, tables.read_nemo, True),
    Layout("audio-folder", "AudioFolder of Hugging Face", tables.is_audio_folder, tables.read_audio_folder, True),
    Layout("kaggle", "Kaggle's Speech Commands", folder.is_kaggle, folder.read_kaggle),
    Layout(SPEECH_COMMANDS, "Speech Commands", folder.is_speech_commands, folder.read_speech_commands),
    Layout("edge-impulse", "Edge Impulse", folder.is_edge_impulse, folder.read_edge_impulse),
    Layout(
        "label-speaker-number",
        "files named label_speaker_number",
        folder.is_label_speaker_number,
        folder.read_label_speaker_number,
    ),
    Layout("split-folders", "folders of splits", folder.has_split_folders, folder.read_split_folders),
    Layout(
        "test-beside", "labels with a test folder beside", folder.has_test_beside_labels, folder.read_test_beside_labels
    ),
    # By its name only: speakers above labels look as labels above speakers do.
    Layout(
        SPEAKER_FOLDERS,
        "a folder for each speaker, and in it one for each label",
        lambda files: False,
        folder.read_speaker_folders,
    ),
    Layout(FOLDERS, "a folder for each label", lambda files: True, folder.read_folders),
)


def is_text(name: str) -> bool:
    """Whether a file may be a list or table that says what is in recordings."""
    base = posixpath.basename(name)
    return base in LISTS or base in tables.KALDI or base.lower().endswith(TABLES)


def check_rows(files: Files, rows: Rows, layout: Layout) -> None:
    """Raises WordflockError where names of splits would be labels, and where a part of the recordings, more than one
    and a quarter of all, is laid out otherwise than the layout found. Warns where speakers may be read as labels.

    A table may leave recordings out, but not those in folders that are called as its labels are.
    """
    if layout.name == FOLDERS:
        folder.check_labels(files, f"--layout {FOLDERS}")
        folder.warn_of_speakers(files, f"--layout {SPEAKER_FOLDERS}")
    labelled = {name for name, those in rows.items() if any(row.word for row in those)}
    words = {row.word for name in labelled for row in rows[name]}
    if words and all(map(split_named, words)):
        raise WordflockError(
            f"{files.source} has only names of splits as labels ({', '.join(sorted(words))}) when it is read as "
            f"{layout.title}; name the labels with --table, or have these read as labels with --layout {layout.name}."
        )
    others = [name for name in rows if name not in labelled]
    if layout.explicit:
        known, folders = set(map(fold, words)), {posixpath.dirname(name) for name in labelled}
        others = [
            name
            for name in files.names
            if (place := posixpath.dirname(name)) not in folders and fold(posixpath.basename(place)) in known
        ]
    if labelled and len(others) > 1 and 4 * len(others) > len(files.names):
        raise WordflockError(
            f"{len(others)} of {len(files.names)} recordings in {files.source}, such as {printable(others[0])}, have "
            f"no label when it is read as {layout.title}; give them as a data set of their own (a second --data), name "
            f"the labels with --table, or leave them out with --layout {layout.name}."
        )


def layout_of(files: Files, name: str = AUTO) -> Layout:
    """The layout with this name, or the one that recognises the files.

    Raises WordflockError where several tables say what is in recordings.
    """
    if name != AUTO:
        return next(layout for layout in LAYOUTS if layout.name == name)
    explicit = [layout for layout in LAYOUTS if layout.explicit and layout.recognises(files)]
    by_name = [layout for layout in LAYOUTS if not layout.explicit and layout.recognises(files)]
    if len(explicit) > 1:
        titles = " and ".join(layout.title for layout in explicit)
        choices = " or ".join(f"--layout {layout.name}" for layout in explicit)
        raise WordflockError(f"{files.source} can be read as {titles}; say which with {choices}.")
    return (explicit or by_name)[0]
