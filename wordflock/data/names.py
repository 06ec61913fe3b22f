"""Names of files and labels: one Unicode form, safe to print, and labels that differ in case or form only as one."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

from wordflock.errors import JOINERS, WordflockError

_REFUSED = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Cs": "bytes that are not UTF-8",
    "Zl": "a line break",
    "Zp": "a line break",
}


def nfc(name: str) -> str:
    """The name in Unicode's form NFC: "ü" from a Mac (two code points) becomes "ü" as everybody else writes it."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def printable(name: str) -> str:
    """The name with what a terminal could take for a command, or cannot show, as escape codes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def clean_label(raw: str, source: str) -> str:
    """A label in NFC, without blanks around it. Raises WordflockError for one that cannot be printed."""
    label = nfc(raw).strip()
    for character in label:
        problem = _REFUSED["Cs"] if character == "\ufffd" else _REFUSED.get(unicodedata.category(character))
        if problem and character not in JOINERS:
            raise WordflockError(f"The label '{printable(raw)}' in {source} has {problem} in it; rename it.")
    return label


def fold(label: str) -> str:
    """What labels that count as one have in common: the same letters, whatever their case, width or form."""
    return label.lower() if label.isascii() else unicodedata.normalize("NFKC", label).casefold()


def merged(labels: Iterable[str]) -> dict[str, str]:
    """The spelling that counts for each of the labels, one a clip: of those with the same letters the most frequent, of
    equally frequent ones that in small letters."""
    spellings: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for label, count in Counter(labels).items():
        spellings[fold(label)].append((count, label))
    return {label: max(group, key=_rank)[1] for group in spellings.values() for _, label in group}


def _rank(counted: tuple[int, str]) -> tuple[int, bool, bool, str]:
    count, label = counted
    return count, label.isascii(), label.islower(), label
