"""What an option is: a field of a settings class with all that its users need to know, and checks of its values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_type_hints

from wordflock.errors import OptionError, did_you_mean

# The groups of the command line's help, in their order.
DATA, FEATURES, TRAINING, FEDERATION, PRIVACY, OUTPUT = (
    "Data",
    "Features",
    "Training",
    "Federation",
    "Privacy",
    "Output",
)


def option(
    default: Any,
    help: str,
    group: str,
    *,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    rare: bool = False,
    infinite: bool = False,
    short: str = "",
    several: bool = False,
) -> Any:
    """A field of a settings class. `help` is one sentence, `rare` options are shown by --help-all only, a number may be
    infinite only where `infinite` says so, and `short` is a second name on the command line. Where `several` values may
    be given, the string has one a line; in Python a list will do."""
    about = {"help": help, "group": group, "choices": choices, "minimum": minimum, "maximum": maximum}
    return field(
        default=default, metadata={**about, "rare": rare, "infinite": infinite, "short": short, "several": several}
    )


@dataclass(frozen=True)
class Options:
    """A settings class. `--some-option` on the command line, `some-option` in files, `some_option` in Python."""

    def __post_init__(self) -> None:
        """Raises OptionError for a value that is not a choice, outside its bounds or not finite."""
        for f in fields(self):
            value, choices = getattr(self, f.name), f.metadata["choices"]
            if f.metadata["several"] and isinstance(value, list | tuple):
                object.__setattr__(self, f.name, join_lines(value))
                continue
            if choices and value not in choices:
                raise OptionError(f.name, value, f"is none of {', '.join(choices)}{did_you_mean(str(value), choices)}")
            if value is None or isinstance(value, str):
                continue
            minimum, maximum = f.metadata["minimum"], f.metadata["maximum"]
            if minimum is not None and not value >= minimum:
                raise OptionError(f.name, value, f"is too small; the minimum is {minimum}")
            if maximum is not None and not value <= maximum:
                raise OptionError(f.name, value, f"is too large; the maximum is {maximum}")
            infinite = value == math.inf and f.metadata["infinite"]
            if isinstance(value, float) and not math.isfinite(value) and not infinite:
                raise OptionError(f.name, value, "is not a finite number")

    def as_config(self) -> dict[str, str | int | float | bool]:
        """Flat, with dashes, "" for what is not set: the form of config.toml and of Flower's run configuration."""
        values = {dashed(f.name): getattr(self, f.name) for f in fields(self)}
        return {key: "" if value is None else value for key, value in values.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The settings in a flat configuration; other keys are ignored.

        Raises OptionError for a value of the wrong type.
        """
        return cls(**cls.values_of(config))

    @classmethod
    def values_of(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options that a flat configuration gives, by the names of the fields; raises OptionError likewise."""
        types = get_type_hints(cls)
        values = {}
        for f in fields(cls):
            if (key := dashed(f.name)) in config:
                value = None if config[key] == "" and f.default is None else config[key]
                if f.metadata["several"] and isinstance(value, list) and all(isinstance(one, str) for one in value):
                    value = join_lines(value)
                values[f.name] = checked_type(f.name, value, types[f.name])
        return values


def checked_type(name: str, value: Any, kind: Any) -> Any:
    """The value of an option, an integer as a float where that is meant. Raises OptionError for another type."""
    if kind in (float, float | None) and type(value) is int:
        value = float(value)
    if not isinstance(value, kind) or (kind in (int, int | None) and isinstance(value, bool)):
        raise OptionError(name, value, "is of the wrong type")
    return value


def dashed(name: str) -> str:
    """An option's name as the command line and files spell it."""
    return name.replace("_", "-")


def split_commas(text: str) -> list[str]:
    """The words of a comma-separated list, without blanks around them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def split_lines(text: str) -> list[str]:
    """The values of an option that may have several, without blanks around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def join_lines(values: Iterable[object]) -> str:
    """The string for several values: a line each, for paths have any other character in them."""
    return "\n".join(str(value) for value in values)
