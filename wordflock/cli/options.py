"""Turn settings classes into options, and what a user gives, in whatever way, into settings."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from cyclopts import Group, Parameter

from wordflock.errors import OptionError, WordflockError, did_you_mean
from wordflock.files import parse_toml, read_named
from wordflock.options import DATA, FEATURES, FEDERATION, OUTPUT, PRIVACY, TRAINING, Options, dashed
from wordflock.progress import print_line, reporting
from wordflock.settings import PRESETS, Settings, TrainSettings

GROUPS = {
    name: Group(name, sort_key=place)
    for place, name in enumerate((DATA, FEATURES, TRAINING, FEDERATION, PRIVACY, OUTPUT))
}
OUTPUT_GROUP = GROUPS[OUTPUT]
HELP_ALL = "--help-all"
MODE = "mode"  # the key that the config.toml of a run has and a file written by hand has not

Command = Callable[..., None]


def command(function: Command) -> Command:
    """Make a command of a function: a parameter whose type is a settings class becomes one option for each of its
    fields, and the function gets the finished settings.

    An option's value is that of the command line, else of the environment, the file of --config, the preset, the class.
    """
    hints = get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    settings: dict[str, type[Options]] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        if isinstance(hint, type) and is_dataclass(hint) and issubclass(hint, Options):
            settings[parameter.name] = hint
            parameters += _options(hint)
        else:
            about = Parameter(show_default=_worth_showing(parameter.default), negative_iterable=())
            parameters.append(parameter.replace(annotation=Annotated[hint, about]))
    parameters += _common(any(issubclass(kind, Settings) for kind in settings.values()), bool(settings))

    def run(*arguments: Any, **given: Any) -> None:
        file, preset = given.pop("config", ""), given.pop("preset", "wordflock")
        quiet = given.pop("quiet", False) or given.get("as_json", False) or given.get("json", False)
        with _told(quiet=quiet, verbose=given.pop("verbose", False)):
            made = {name: _make(kind, given, file, PRESETS[preset]) for name, kind in settings.items()}
            function(*arguments, **given, **made)

    # Keyword-only parameters come last in a signature.
    parameters.sort(key=lambda parameter: parameter.kind)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__doc__, run.__name__ = function.__doc__, function.__name__
    return run


@contextmanager
def _told(*, quiet: bool, verbose: bool) -> Iterator[None]:
    """What the work reports is printed unless asked not to; log messages and tracebacks are shown if asked to."""
    if verbose:
        logging.basicConfig(level=logging.INFO)
    try:
        with nullcontext() if quiet else reporting(print_line):
            yield
    except WordflockError as error:
        if verbose:
            sys.excepthook(type(error), error, error.__traceback__)
        raise


def _make(kind: type[Options], given: dict[str, Any], file: str, preset: Mapping[str, Any]) -> Options:
    """The settings; takes the options of its class out of `given`."""
    own = {f.name: given.pop(f.name) for f in fields(kind) if f.name in given}
    return kind(**{**_of_class(kind, preset), **(_from_file(kind, Path(file)) if file else {}), **own})


def _of_class(kind: type[Options], values: Mapping[str, Any]) -> dict[str, Any]:
    return {f.name: values[f.name] for f in fields(kind) if f.name in values}


def _from_file(kind: type[Options], path: Path) -> dict[str, Any]:
    """The options in a TOML file, such as the config.toml of a run. Raises WordflockError for what is not an option."""
    from wordflock.federation_settings import ClientSettings, ServerSettings

    try:
        config = parse_toml(read_named(path))
    except (OSError, ValueError) as error:
        problem = error.strerror if isinstance(error, OSError) else error
        raise WordflockError(f"--config {path} cannot be read ({problem}); give a TOML file of options.") from error
    if "space" in config:
        raise WordflockError(f"--config {path} is the file of a sweep; run it with `wordflock sweep {path}`.")
    known = {dashed(f.name) for other in (TrainSettings, ServerSettings, ClientSettings) for f in fields(other)}
    for key in config:
        if key not in known | {MODE}:
            raise WordflockError(f"--config {path} has {key}, which is not an option{did_you_mean(key, known)}")
    if MODE in config:  # the file is a run's own, whose name is taken
        config.pop("name", None)
    try:
        return kind.values_of(config)
    except OptionError as error:
        raise WordflockError(f"--config {path}: {error}") from error


def _options(kind: type[Options]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind)
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=about)
        for f in fields(kind)
        for several in [f.metadata["several"]]
        for hint in [list[str] if several else hints[f.name]]
        # Of its own type: where some library has loaded pydantic, cyclopts checks defaults as well.
        for default in [[f.default] * bool(f.default) if several else f.default]
        for about in [Annotated[hint, _parameter(f.name, hint, f.default, f.metadata)]]
    ]


def _parameter(name: str, hint: Any, default: Any, about: Mapping[str, Any]) -> Parameter:
    names = [f"--{dashed(name)}", *([f"--{about['short']}"] if about["short"] else [])]
    return Parameter(
        name=names,
        help=about["help"],
        group=GROUPS[about["group"]],
        choices=about["choices"] or None,
        converter=whole_number if hint in (int, int | None) else None,
        # "(default: …)" in a help text stands for what an empty default means.
        # Of several values the default is a list, which is shown as it would be given.
        show_default=(" ".join if about["several"] else True)
        if "(default" not in about["help"] and _worth_showing(default)
        else False,
        allow_repeating=True,  # the last one counts, so that scripts can add to a command, unless several do
        consume_multiple=False,
        negative_iterable=(),
        env_var_split=lambda _, value, **__: [value],
        show=None if HELP_ALL in sys.argv else not about["rare"],  # a process runs one command
    )


def _worth_showing(default: Any) -> bool:
    return default is not None and default is not False and default != ""


def whole_number(kind: Any, tokens: Any) -> int:
    """The converter of whole numbers: cyclopts' own one rounds."""
    try:
        return int(tokens[0].value)
    except ValueError:
        raise ValueError(f"{tokens[0].value!r} is not a whole number.") from None


def refuse_options(words: Sequence[str]) -> None:
    """Raises WordflockError for a misspelt option among arguments of which `-` may be one."""
    for word in words:
        if word.startswith("-") and word != "-":
            raise WordflockError(f"Unknown option: {word}; `--help-all` shows those there are.")


def _common(presets: bool, files: bool) -> list[inspect.Parameter]:
    """The options that commands have in common."""
    rows: list[tuple[bool, str, Any, Any]] = [
        (
            presets,
            "preset",
            "wordflock",
            Annotated[
                str,
                Parameter(
                    help="Values for the options that are not given; 'flower-example' is Flower's whisper example.",
                    group=GROUPS[TRAINING],
                    choices=tuple(PRESETS),
                ),
            ],
        ),
        (
            files,
            "config",
            "",
            Annotated[
                str,
                Parameter(
                    help="TOML file of options, such as the config.toml of a run; other options count more.",
                    group=OUTPUT_GROUP,
                    show_default=False,
                ),
            ],
        ),
        (True, "quiet", False, _flag("-q", "--quiet", "Print results and errors only.")),
        (True, "verbose", False, _flag("-v", "--verbose", "Print log messages, and tracebacks of errors.")),
    ]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(name, keyword, default=default, annotation=annotation)
        for wanted, name, default, annotation in rows
        if wanted
    ]


def _flag(short: str, name: str, help: str) -> Any:
    return Annotated[
        bool, Parameter(name=[name, short], help=help, negative=(), group=OUTPUT_GROUP, show_default=False)
    ]
