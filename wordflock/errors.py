"""What Wordflock raises and warns with."""

from __future__ import annotations

from typing import Any


class WordflockError(ValueError):
    """A mistake the user can correct; the message is one sentence: the thing, its value, the remedy.

    The command line shows it without a traceback and exits with status 2.
    """


class OptionError(WordflockError):
    """An option with a value that it cannot have: `option` is the name of the field or argument."""

    def __init__(self, option: str, value: Any, problem: str) -> None:
        self.option, self.value, self.problem = option, value, problem
        super().__init__(f"{option} = {value!r} {problem}.")


class WordflockWarning(UserWarning):
    """Something was left out or assumed, and the work goes on; shown once, on standard error."""
