from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from wordflock.cli.options import command
from wordflock.federation_settings import FederationSettings
from wordflock.settings import PRESETS, DataSettings, HeadSettings, TrainSettings


def made(kind: type[DataSettings], *arguments: str) -> Any:
    """The settings that a command of this kind makes of its arguments."""
    app, seen = typer.Typer(), list[Any]()

    def run(settings: Any) -> None:
        seen.append(settings)

    run.__annotations__["settings"] = kind
    command(app, "run")(run)
    command(app, "other")(lambda: None)
    result = CliRunner().invoke(app, ["run", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return seen[0]


@pytest.mark.parametrize("kind", [TrainSettings, FederationSettings])
def test_the_seeds_recipe_is_what_its_notes_say(kind: type[HeadSettings]) -> None:
    settings = made(kind, "--preset", "flower-example")
    assert (settings.window, settings.layer, settings.head, settings.frame_pooling) == (30.0, "last", "convolution", 1)
    assert (settings.batch_size, settings.learning_rate, settings.schedule) == (8, 1e-3, "constant")
    assert getattr(settings, "epochs", 3) == 3 and getattr(settings, "local_epochs", 1) == 1


def test_an_option_that_is_given_counts_more_than_the_recipe_even_where_it_says_the_usual() -> None:
    settings = made(TrainSettings, "--preset", "flower-example", "--window", "1.4", "--epochs", "5")
    assert (settings.window, settings.epochs, settings.head) == (1.4, 5, "convolution")


@pytest.mark.parametrize("kind", [TrainSettings, FederationSettings])
def test_without_a_recipe_the_defaults_count(kind: type[HeadSettings]) -> None:
    assert made(kind) == made(kind, "--preset", "wordflock") == kind()


def test_every_recipe_is_of_options_that_there_are() -> None:
    names = set(TrainSettings.__dataclass_fields__) | set(FederationSettings.__dataclass_fields__)
    assert all(recipe.keys() <= names for recipe in PRESETS.values())
