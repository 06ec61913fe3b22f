"""Numbers of options that no one would choose: each is refused in a sentence, or a federation works with it."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.errors import WordflockError
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import ClientSettings, FederationSettings, ServerSettings
from wordflock.head.checkpoint import load_checkpoint
from wordflock.options import Options, dashed
from wordflock.settings import EvaluateSettings, TrainSettings

CLASSES = (TrainSettings, EvaluateSettings, FederationSettings, ServerSettings, ClientSettings)
NUMBERS = (int, float, int | None, float | None)
FOREVER = {"rounds", "local_epochs"}  # they work, and do not end
EXTREMES = (0, 1, -1, 2**31, 2**63 - 1, 10**30, 5e-324, 1e-9, 1e9, 1e308, -1e308, math.inf, -math.inf, math.nan)


def numbers(kind: type[Options]) -> list[str]:
    """The options of a settings class that are numbers."""
    types = get_type_hints(kind)
    return [field.name for field in fields(kind) if types[field.name] in NUMBERS]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@settings(max_examples=300)
@given(data=st.data())
def test_no_option_takes_a_number_that_is_not_finite_or_outside_its_bounds(kind: type[Options], data: Any) -> None:
    name = data.draw(st.sampled_from(numbers(kind)))
    value = data.draw(st.sampled_from(EXTREMES) | st.integers() | st.floats())
    field = next(field for field in fields(kind) if field.name == name)
    try:
        made = kind.from_config({dashed(name): value})
    except WordflockError as error:
        assert "\n" not in str(error)
        return
    taken, about = getattr(made, name), field.metadata
    if isinstance(taken, float) and not math.isfinite(taken):
        assert taken == math.inf and about["infinite"]
    for bound, beyond in (("minimum", -1), ("maximum", 1)):
        assert about[bound] is None or beyond * (taken - about[bound]) <= 0


@pytest.fixture
def little_memory() -> Iterator[None]:
    """2 GiB more than the process has, which a number that asks for more must not take from the machine."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.slow
@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("strategy", ["fedadam", "closed-form", "private"])
@pytest.mark.parametrize("name", [name for name in numbers(FederationSettings) if name not in FOREVER])
def test_what_is_taken_works_or_is_refused(tmp_path: Path, play: Any, name: str, strategy: str) -> None:
    play([20, 20, 24])
    usual: dict[str, Any] = {"clients": 3, "rounds": 1, "local_epochs": 1, "batch_size": 8, "clients_per_round": 3}
    if strategy == "private":
        usual |= {"strategy": "closed-form", "head": "normalized", "dp_epsilon": 5.0, "dp_dimensions": 6}
    else:
        usual |= {"strategy": strategy}
    for value in EXTREMES:
        config = {dashed(key): each for key, each in {**usual, name: value}.items()}
        try:
            asked = FederationSettings.from_config({**config, "runs": str(tmp_path), "name": f"{value}".lstrip("-.")})
            with np.errstate(all="ignore"):
                folder = simulate(asked)
        except WordflockError as error:
            assert "\n" not in str(error), (value, error)
            continue
        weights = load_checkpoint(folder / "best.safetensors").weights
        assert all(np.isfinite(array).all() for array in weights.values()), value
        assert not {"NaN", "Infinity"} & set((folder / "metrics.json").read_text().replace(",", " ").split()), value
