"""Turn settings classes into options, and errors into one sentence."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import click
import typer
from click.core import ParameterSource

from wordflock.errors import WordflockError
from wordflock.settings import PRESETS, Settings

USERS_MISTAKE, FAILED, INTERRUPTED = 2, 1, 130


def command(app: typer.Typer, name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command. A parameter whose type is a settings class becomes one option for each of its
    fields; the function gets the finished settings."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        parameters: list[inspect.Parameter] = []
        settings: dict[str, type] = {}
        for parameter in inspect.signature(function).parameters.values():
            hint = hints[parameter.name]
            if isinstance(hint, type) and is_dataclass(hint):
                settings[parameter.name] = hint
                parameters += _options(hint)
                if issubclass(hint, Settings):
                    parameters.append(_PRESET)
            else:
                parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))

        def run(**values: Any) -> None:
            with one_sentence():
                preset = PRESETS[values.pop("preset", "wordflock")]
                made = {
                    parameter: cls(**{f.name: _value(f.name, values.pop(f.name), preset) for f in fields(cls)})
                    for parameter, cls in settings.items()
                }
                function(**values, **made)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name)(run)
        return function

    return register


@contextmanager
def one_sentence() -> Iterator[None]:
    """What goes wrong is said in one sentence on standard error: status 2 for what the user can mend, no traceback."""
    try:
        yield
    except WordflockError as error:
        _end(f"Error: {error}", USERS_MISTAKE)
    except KeyboardInterrupt as interrupt:  # its text, where it has one, says how to go on
        _end(f"Interrupted; what was finished is kept{f': {interrupt}' if interrupt.args else ''}.", INTERRUPTED)
    except BrokenPipeError:
        raise typer.Exit(FAILED) from None
    except ModuleNotFoundError as error:
        if (error.name or "wordflock").startswith("wordflock"):
            raise  # a fault of ours
        _end(f"Error: This needs {error.name}, which is not installed; pip install 'wordflock[train]'.", USERS_MISTAKE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            _end("Error: The disk is full; make room and run again: what was finished is kept.", USERS_MISTAKE)
        where = f" ({error.filename})" if error.filename else ""
        _end(f"Error: {error.strerror or error}{where}.", USERS_MISTAKE)


def _end(sentence: str, status: int) -> None:
    print(sentence, file=sys.stderr)
    raise typer.Exit(status) from None


def _value(name: str, value: Any, preset: dict[str, Any]) -> Any:
    """The preset's value of an option that is not given."""
    given = click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT
    return value if given else preset.get(name, value)


_PRESET = inspect.Parameter(
    "preset",
    inspect.Parameter.KEYWORD_ONLY,
    default="wordflock",
    annotation=Annotated[
        str,
        typer.Option(
            help="Values for the options that are not given; 'flower-example' is Flower's whisper example.",
            click_type=click.Choice(list(PRESETS)),
        ),
    ],
)


def _options(cls: type) -> list[inspect.Parameter]:
    hints = get_type_hints(cls)
    parameters = []
    for f in fields(cls):
        choices = f.metadata["choices"]
        # "(default: …)" in a help text stands for what an empty default means.
        option = typer.Option(
            help=f.metadata["help"],
            show_default="(default" not in f.metadata["help"] and f.default != "",
            click_type=click.Choice(choices) if choices else None,
        )
        parameters.append(
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=Annotated[hints[f.name], option]
            )
        )
    return parameters
