"""The Speech Commands data sets and their protocol: P. Warden, arXiv 1804.03209, versions 0.01 and 0.02.

A recording is `<word>/<speaker>_nohash_<n>.wav`, recordings without speech stand in `_background_noise_/`, and
`validation_list.txt` and `testing_list.txt` name the recordings that are not for training. The archive of the official
test has folders `_silence_` and `_unknown_` instead of lists, and all of it is test.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from hashlib import sha1

from wordflock.data.manifests import Row, Rows
from wordflock.data.names import nfc

BACKGROUND, SILENCE, UNKNOWN = "_background_noise_", "_silence_", "_unknown_"
LISTS = {"validation_list.txt": "validation", "testing_list.txt": "test"}
# In a recording's name; the test archive puts the word and "_" before the speaker of an unknown word.
SPEAKER_PATTERN = r"(?:^|/)(?:_unknown_/[^_/]+_)?([^/]+?)_nohash_"

_PUBLISHED = re.compile(r"(?:^|[/_])[0-9a-f]{8}_nohash_")  # other speakers have names: somebody's own words
_LAST_BUCKET = 2**27 - 1  # the published MAX_NUM_WAVS_PER_CLASS
_VALIDATION, _TEST = 10.0, 10.0  # per cent of the speakers


def recognises(recordings: Iterable[str], texts: Iterable[str]) -> bool:
    """Whether a data set follows the protocol: it has its lists, or most recordings name speakers of eight digits."""
    if any(posixpath.basename(name) in LISTS for name in texts):
        return True
    spoken = [name for name in recordings if _word(name) not in (BACKGROUND, SILENCE)]
    return 2 * sum(_PUBLISHED.search(name) is not None for name in spoken) > len(spoken)


def read(names: Iterable[str], texts: Mapping[str, str]) -> Rows:
    """The words, speakers and splits of a Speech Commands folder or archive, whole or of the official test.

    The lists decide the split, and what they do not name is for training; where a list is missing, no split is said of
    what the other does not name, and `which_split` decides.
    """
    names = list(names)
    listed = {name: split for list_name, split in LISTS.items() for name in _listed(texts, list_name)}
    lists = {posixpath.basename(name) for name in texts} & set(LISTS)
    otherwise = "train" if len(lists) == len(LISTS) else ""
    is_test = _is_test(names) and not lists
    rows: Rows = {}
    for name in names:
        found = re.search(SPEAKER_PATTERN, name)
        split = "test" if is_test else listed.get(_list_key(name), otherwise) if listed else otherwise
        rows[name] = (Row(_word(name), found[1] if found else "", split),)
    return rows


def which_split(speaker: str) -> str:
    """The split that the published rule (`which_set`) gives to a speaker, or to any other text."""
    digest = int(sha1(speaker.encode("utf-8", "surrogateescape")).hexdigest(), 16)
    percentage = digest % (_LAST_BUCKET + 1) * (100.0 / _LAST_BUCKET)
    if percentage < _VALIDATION:
        return "validation"
    return "test" if percentage < _VALIDATION + _TEST else "train"


def _listed(texts: Mapping[str, str], list_name: str) -> Iterable[str]:
    for name, text in texts.items():
        if posixpath.basename(name) == list_name:
            yield from (_list_key(line.strip()) for line in text.splitlines())


def _list_key(name: str) -> str:
    """`<word>/<file>` without the extension: a list may say .wav where the files are .flac."""
    return posixpath.splitext("/".join(nfc(name).replace("\\", "/").split("/")[-2:]))[0]


def _word(name: str) -> str:
    """The folder that a file stands in, "" at the top."""
    return name.rpartition("/")[0].rpartition("/")[2]


def _is_test(names: Iterable[str]) -> bool:
    """Whether these are the words of the official test, and not a training set that was given such folders."""
    words = {_word(name) for name in names}
    return bool(words & {SILENCE, UNKNOWN}) and BACKGROUND not in words
