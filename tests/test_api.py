"""The public face: lazy, typed, silent, and with the options of the command line."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wordflock
from wordflock.api import _settings, in_python
from wordflock.errors import OptionError, WordflockError
from wordflock.federation_settings import FederationSettings
from wordflock.options import Options
from wordflock.settings import EvaluateSettings, TrainSettings

CALLS: dict[str, tuple[Any, type[Options]]] = {
    "train": (wordflock.train, TrainSettings),
    "simulate": (wordflock.simulate, FederationSettings),
    "evaluate": (wordflock.evaluate, EvaluateSettings),
}
every_call = pytest.mark.parametrize(("call", "kind"), CALLS.values(), ids=CALLS)


def test_importing_it_imports_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import wordflock; print(*set(sys.modules) - before)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ours = {name for name in said.split() if name.startswith("wordflock.")}
    assert ours <= {"wordflock.quiet"} and not {"numpy", "torch", "rich"} & set(said.split())


def test_every_name_is_there_lazily_and_for_type_checkers() -> None:
    for name in wordflock.__all__:
        assert getattr(wordflock, name) is not None
    assert set(wordflock.__all__) <= set(dir(wordflock))
    tree = ast.parse(inspect.getsource(wordflock))
    typed = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(wordflock.__all__) - {"__version__"} <= typed
    assert (Path(inspect.getfile(wordflock)).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="nothing"):
        wordflock.nothing  # noqa: B018


@every_call
def test_every_option_is_a_keyword_with_its_default_and_its_help(call: Any, kind: type[Options]) -> None:
    parameters = inspect.signature(call).parameters
    for f in fields(kind):
        assert parameters[f.name].default == f.default
        assert f.metadata["help"] in call.__doc__


@every_call
def test_keywords_make_the_settings_that_they_name(call: Any, kind: type[Options]) -> None:
    usual = kind()
    assert _settings(kind, {}) == usual
    assert _settings(kind, dict(vars(usual))) == usual
    assert _settings(kind, {"seed": 3, "data": Path("words")}) == kind(seed=3, data="words")  # type: ignore[call-arg]


def test_several_sources_are_a_list() -> None:
    settings = _settings(TrainSettings, {"data": [Path("a,b.tar"), "c"]})
    assert settings.sources == ["a,b.tar", "c"]


@given(st.lists(st.text("abcäß ", min_size=1).map(str.strip).filter(bool), max_size=5))
def test_a_list_of_words_is_what_commas_separate(words: list[str]) -> None:
    assert _settings(TrainSettings, {"keywords": words}).keyword_list == words
    assert _settings(TrainSettings, {"keywords": tuple(words)}).keyword_list == words


def test_a_preset_gives_what_is_not_given() -> None:
    made = _settings(TrainSettings, {"epochs": 5}, "flower-example")
    assert (made.window, made.epochs, made.head) == (30.0, 5, "convolution")


@every_call
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sed": 1}, "There is no option sed; did you mean seed?"),
        ({"seed": "1"}, "seed = '1' is of the wrong type."),
        ({"seed": -1}, "seed = -1 is too small; the minimum is 0."),
        ({"cache": ["a,b"]}, "cache = ['a,b'] is not a list of words without commas."),
        ({"data": [1]}, "data = [1] is not a list of words without commas."),
        ({"device": "gpu"}, "device = 'gpu' is none of auto, cpu, cuda; did you mean cpu?"),
    ],
)
def test_a_mistake_names_the_argument(call: Any, kind: type[Options], options: dict[str, Any], problem: str) -> None:
    arguments = ["a-model"] if call is wordflock.evaluate else []
    with pytest.raises(WordflockError) as error:
        call(*arguments, **options)
    assert str(error.value) == problem


def test_an_error_of_the_work_names_arguments_too() -> None:
    with pytest.raises(WordflockError, match="strategy closed-form and dp_unit clip only") as error:
        wordflock.train(dp_epsilon=1.0)
    assert "--" not in str(error.value)
    with pytest.raises(OptionError, match="preset = 'seed' is none of wordflock, flower-example"):
        wordflock.train(preset="seed")
    with pytest.raises(OptionError, match="model = 3 is not a path"):
        wordflock.load(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("--batch-size 99 is too large; see --epochs.", "batch_size 99 is too large; see epochs."),
        ("take --strategy closed-form -- or not", "take strategy closed-form -- or not"),
        ("the file a--b-c.wav", "the file a--b-c.wav"),
    ],
)
def test_options_are_spelled_as_arguments(sentence: str, expected: str) -> None:
    assert in_python(sentence) == expected


def test_loading_a_model_imports_no_torch() -> None:
    code = (
        "import sys, wordflock; wordflock.load; wordflock.Model; print('torch' in sys.modules, 'flwr' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "False False\n"


def test_a_prediction_is_a_value() -> None:
    one, two = (wordflock.Prediction("yes", 0.9, {"yes": 0.9, "no": 0.1}) for _ in range(2))
    assert one == two and np.isclose(sum(one.probabilities.values()), 1.0)
