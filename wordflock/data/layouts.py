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
from wordflock.data.manifests import Rows
from wordflock.data.speech_commands import LISTS
from wordflock.errors import WordflockError

AUTO, FOLDERS, SPEECH_COMMANDS = "auto", "folders", "speech-commands"


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
    Layout(FOLDERS, "a folder for each label", lambda files: True, folder.read_folders),
)


def is_text(name: str) -> bool:
    """Whether a file may be a list or table that says what is in recordings."""
    base = posixpath.basename(name)
    return base in LISTS or base in tables.KALDI or base.lower().endswith(TABLES)


def layout_of(files: Files, name: str = AUTO) -> Layout:
    """The layout with this name, or the one that recognises the files.

    Raises WordflockError where several do, or where folders are not labels.
    """
    if name != AUTO:
        return next(layout for layout in LAYOUTS if layout.name == name)
    explicit = [layout for layout in LAYOUTS if layout.explicit and layout.recognises(files)]
    by_name = [layout for layout in LAYOUTS if not layout.explicit and layout.recognises(files)]
    if len(explicit) > 1:
        titles = " and ".join(layout.title for layout in explicit)
        choices = " or ".join(f"--layout {layout.name}" for layout in explicit)
        raise WordflockError(f"{files.source} can be read as {titles}; say which with {choices}.")
    layout = (explicit or by_name)[0]
    if layout.name == FOLDERS:
        folder.check_labels(files, f"--layout {FOLDERS}")
    return layout
