"""What Wordflock raises and warns with."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from typing import Any

MAX_NAME, NAME_END = 300, 50  # characters of a name that is shown whole; of a longer one's end
MAX_BEGINNING, MAX_END = 1600, 400  # characters of a sentence that are shown
JOINERS = "\u200c\u200d"  # part of the spelling of Persian and Indian words, and of emoji


class WordflockError(ValueError):
    """A mistake the user can correct; the message is one sentence: the thing, its value, the remedy.

    The command line shows it without a traceback and exits with status 2.
    """


class OptionError(WordflockError):
    """An option with a value that it cannot have: `option` is the name of the field or argument."""

    def __init__(self, option: str, value: Any, problem: str) -> None:
        self.option, self.value = option, value
        self.problem = problem if problem.endswith((".", "?")) else f"{problem}."
        super().__init__(f"{option} = {value!r} {self.problem}")


class WordflockWarning(UserWarning):
    """Something was left out or assumed, and the work goes on; shown once, on standard error."""


def did_you_mean(word: str, choices: Iterable[str], otherwise: str = ".") -> str:
    """The end of a sentence about a misspelt word: the choice nearest to it; `otherwise` where none is near."""
    import difflib  # here, because only mistakes need it

    near = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {near[0]}?" if near else otherwise


def counted(count: int, noun: str, verb: str = "") -> str:
    """A number with its noun, and a verb: "1 clip is", "2 clips are", "1 recording has"."""
    if count == 1 and verb:
        verb = {"are": "is", "have": "has"}.get(verb, f"{verb}s")
    return f"{count} {noun}{'s' * (count != 1)} {verb}".rstrip()


def brief(sentence: str) -> str:
    """A sentence without the middle of very long names, and without its own middle where a list makes it very long.

    What a terminal could take for a command, or for another line, stands as an escape code.
    """
    sentence = "".join(c if c.isprintable() or c in JOINERS else ascii(c)[1:-1] for c in sentence)
    ends = MAX_NAME - NAME_END, NAME_END
    sentence = re.sub(rf"(\S{{{ends[0]}}})\S+(\S{{{ends[1]}}})", r"\1 […] \2", sentence)
    longest = MAX_BEGINNING + MAX_END
    return sentence if len(sentence) <= longest else f"{sentence[:MAX_BEGINNING]} […] {sentence[-MAX_END:]}"


def show_warnings() -> None:
    """Show this process's own warnings as one sentence on standard error, and no one else's."""
    warnings.simplefilter("ignore")
    warnings.simplefilter("always", WordflockWarning)
    warnings.showwarning = lambda message, *_, **__: print(brief(f"Warning: {message}"), file=sys.stderr)
