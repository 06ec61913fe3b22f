"""What commands do, as functions: `wordflock.train`, `wordflock.simulate` and `wordflock.evaluate`.

They print nothing unless asked to (`progress=True`), and raise WordflockError, which names arguments as Python does.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

from wordflock.errors import OptionError, WordflockError, did_you_mean
from wordflock.federation_settings import FederationSettings
from wordflock.head.metrics import Score
from wordflock.options import Options, checked_type, join_lines
from wordflock.progress import print_line, reporting
from wordflock.runs import find_run, read_history, read_metrics, solved_accuracy
from wordflock.settings import PRESETS, EvaluateSettings, TrainSettings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wordflock.spotting.predict import Model

AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True)
class Run:
    """A run: what one training left in its folder."""

    folder: Path
    score: Score | None  # of the best head on the test split; of `evaluate`, on what it scored; None without clips
    history: list[dict[str, Any]] = field(repr=False)  # a line an epoch or round

    @classmethod
    def read(cls, name: str | Path) -> Run:
        """The run in a folder, or of a name below runs/. Raises WordflockError where there is none."""
        folder = find_run(name)
        test = read_metrics(folder).get("test")
        return cls(folder, Score.from_json(test) if test else None, read_history(folder))

    @cached_property
    def model(self) -> Model:
        """The best head, ready to predict."""
        return load(self.folder)

    def plot(self) -> Figure:
        """The accuracy over epochs or rounds, as a figure of matplotlib."""
        from wordflock.figures import draw_accuracy

        if not self.history:
            raise WordflockError(f"The run {self.folder} has no history to plot; train for an epoch or a round.")
        return draw_accuracy(self.history, solved_accuracy(read_metrics(self.folder)))


def train(*, progress: bool = False, preset: str = "wordflock", **options: Any) -> Run:
    """Train a head with all clips on one machine; the options are those of `wordflock train`."""
    with _called_from_python(progress):
        settings = _settings(TrainSettings, options, preset)
        from wordflock import centralized

        return Run.read(centralized.train(settings))


def simulate(*, progress: bool = False, preset: str = "wordflock", **options: Any) -> Run:
    """Train a head over simulated clients in this process; the options are those of `wordflock simulate`."""
    with _called_from_python(progress):
        settings = _settings(FederationSettings, options, preset)
        from wordflock.federation import simulation

        return Run.read(simulation.simulate(settings))


def evaluate(model: str | Path | Run, *, progress: bool = False, **options: Any) -> Run:
    """Score a run or a checkpoint; the options are those of `wordflock evaluate`.

    Returns the run that the checkpoint belongs to, with this score.
    """
    with _called_from_python(progress):
        settings = _settings(EvaluateSettings, options)
        from wordflock.spotting import evaluate as evaluation
        from wordflock.spotting.hub import find_model

        path = find_model(model.folder if isinstance(model, Run) else model)
        score = evaluation.evaluate(str(path), settings).score
        return Run(path.parent, score, read_history(path.parent))


def load(model: str | Path, *, encoder: str | Path = "", threshold: float | None = None) -> Model:
    """The model in a checkpoint, a run (its folder, or its name below runs/), or a repository of the Hugging Face Hub.

    `encoder` is where to find the encoder that the head was trained with, such as a file of `wordflock encoder save`;
    `threshold` replaces the checkpoint's: the probability against `_unknown_` alone (among all labels where the head
    has none) below which a keyword is `_unknown_`. Imports no torch.
    """
    with _called_from_python(progress=False):
        from wordflock.spotting import predict

        for name, value in (("model", model), ("encoder", encoder)):
            if not isinstance(value, str | os.PathLike):
                raise OptionError(name, value, "is not a path or a name")
        return predict.load(model, encoder=encoder, threshold=threshold)


def _settings(kind: type[AnyOptions], options: dict[str, Any], preset: str = "wordflock") -> AnyOptions:
    """Settings from keywords: lists for what the command line separates by commas or gives
    several times, paths for what it calls files."""
    types = get_type_hints(kind)
    names, several = [f.name for f in fields(kind)], [f.name for f in fields(kind) if f.metadata["several"]]
    if preset not in PRESETS:
        raise OptionError("preset", preset, f"is none of {', '.join(PRESETS)}{did_you_mean(preset, PRESETS)}")
    values = {name: value for name, value in PRESETS[preset].items() if name in names}
    for name, value in options.items():
        if name not in names:
            raise WordflockError(f"There is no option {name}{did_you_mean(name, names)}")
        values[name] = checked_type(name, _plain(name, value, several), types[name])
    return kind(**values)


def _plain(name: str, value: Any, several: Sequence[str]) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, list | tuple):
        return value
    words = [os.fspath(word) if isinstance(word, os.PathLike) else word for word in value]
    if name in several and all(isinstance(word, str) for word in words):
        return join_lines(words)
    if not all(isinstance(word, str) and "," not in word for word in words):
        raise OptionError(name, value, "is not a list of words without commas")
    return ",".join(words)


@contextmanager
def _called_from_python(progress: bool) -> Iterator[None]:
    """Report only if asked to, and name options in errors as Python spells them."""
    try:
        with reporting(print_line) if progress else nullcontext():
            yield
    except WordflockError as error:
        error.args = (in_python(str(error)),)
        raise


def in_python(sentence: str) -> str:
    """A sentence with its options as arguments: `--batch-size 99` becomes `batch_size 99`."""
    return re.sub(r"(?<![\w-])--([a-z][a-z-]*[a-z])", lambda found: found[1].replace("-", "_"), sentence)


def _with_options(function: Callable[..., Run], kind: type[Options]) -> None:
    """Let `help` and editors show the options of a function that takes those of a settings class."""
    own = inspect.signature(function)
    named = [parameter for parameter in own.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=f.type)
        for f in fields(kind)
    ]
    function.__signature__ = own.replace(parameters=[*named, *options])  # type: ignore[attr-defined]
    lines = [f"    {f.name}: {f.metadata['help']}" for f in fields(kind)]
    function.__doc__ = "\n".join([inspect.getdoc(function) or "", "", "Options:", *lines])


for _function, _kind in ((train, TrainSettings), (simulate, FederationSettings), (evaluate, EvaluateSettings)):
    _with_options(_function, _kind)
