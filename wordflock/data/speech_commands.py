"""The Speech Commands data sets and their protocol: P. Warden, arXiv 1804.03209, versions 0.01 and 0.02.

A recording is `<word>/<speaker>_nohash_<n>.wav`, recordings without speech stand in `_background_noise_/`, and
`validation_list.txt` and `testing_list.txt` name the recordings that are not for training. The archive of the official
test has folders `_silence_` and `_unknown_` instead of lists, and all of it is test.
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Iterable
from hashlib import sha1

from wordflock.data.clips import Clip, ClipTable, Fault
from wordflock.data.scan import Recording, Scan
from wordflock.errors import WordflockWarning

BACKGROUND, SILENCE, UNKNOWN = "_background_noise_", "_silence_", "_unknown_"
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
NO_WORD = "stands in no folder named after its word"
# In a recording's name; the test archive puts the word and "_" before the speaker of an unknown word.
SPEAKER_PATTERN = r"(?:_unknown_/[^_/]+_)?([^/]+?)_nohash_"

_LAST_BUCKET = 2**27 - 1  # the published MAX_NUM_WAVS_PER_CLASS
_VALIDATION, _TEST = 10.0, 10.0  # per cent of the speakers


def recognises(names: Iterable[str]) -> bool:
    """Whether a data set with these files follows the protocol."""
    return any("_nohash_" in name or posixpath.basename(name) in LISTS for name in names)


def read_table(scan: Scan) -> ClipTable:
    """The clips of a Speech Commands folder or archive, of the whole data set or of the official test.

    The lists decide the split, and what they do not name is for training; where a list is missing, `which_split`
    decides what the other does not name.
    """
    listed = {name: split for list_name, split in LISTS.items() for name in _listed(scan, list_name)}
    lists = {posixpath.basename(name) for name in scan.texts}
    is_test = _is_test(scan.recordings) and not lists
    clips: list[Clip] = []
    background: list[Clip] = []
    faults: list[Fault] = []
    by_content = 0
    for recording in scan.recordings:
        name = recording.entry.name
        word = _word(name)
        found = re.search(SPEAKER_PATTERN, name)
        speaker = found[1] if found else ""
        if recording.fault:
            faults.append(Fault(name, recording.fault))
        elif word == BACKGROUND:
            background.append(recording.clip(word, "", "train"))
        elif not word:
            faults.append(Fault(name, NO_WORD))
        elif is_test:
            clips.append(recording.clip(word, speaker, "test"))
        elif split := listed.get(_list_key(name), "train" if len(lists) == len(LISTS) else ""):
            clips.append(recording.clip(word, speaker, split))
        else:
            by_content += not speaker
            clips.append(recording.clip(word, speaker, which_split(speaker or recording.content)))
    warn_of_unknown_speakers(scan.listing.source, by_content)
    return ClipTable(scan.listing.source, "speech_commands", tuple(clips), tuple(background), tuple(faults))


def which_split(speaker: str) -> str:
    """The split that the published rule (`which_set`) gives to a speaker, or to any other text."""
    digest = int(sha1(speaker.encode("utf-8", "surrogateescape")).hexdigest(), 16)
    percentage = digest % (_LAST_BUCKET + 1) * (100.0 / _LAST_BUCKET)
    if percentage < _VALIDATION:
        return "validation"
    return "test" if percentage < _VALIDATION + _TEST else "train"


def warn_of_unknown_speakers(source: str, count: int) -> None:
    """Say, once for a data set, that clips of unknown speakers had to be split by their content."""
    if count:
        warnings.warn(
            f"{source} does not say who speaks in {count} clips, so the same voice may stand in several splits; "
            "name the speakers with a speaker pattern or a table.",
            WordflockWarning,
            stacklevel=2,
        )


def _listed(scan: Scan, list_name: str) -> Iterable[str]:
    for name, text in scan.texts.items():
        if posixpath.basename(name) == list_name:
            yield from (_list_key(line.strip()) for line in text.splitlines())


def _list_key(name: str) -> str:
    """`<word>/<file>` without the extension: a list may say .wav where the files are .flac."""
    return posixpath.splitext("/".join(name.split("/")[-2:]))[0]


def _word(name: str) -> str:
    """The folder that a file stands in, "" at the top."""
    return posixpath.basename(posixpath.dirname(name))


def _is_test(recordings: Iterable[Recording]) -> bool:
    """Whether these are the words of the official test, and not a training set that was given such folders."""
    words = {_word(recording.entry.name) for recording in recordings}
    return bool(words & {SILENCE, UNKNOWN}) and BACKGROUND not in words
