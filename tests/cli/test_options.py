"""Where an option's value comes from: the command line, the environment, a file, a preset, the class."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from cyclopts import App, CycloptsError
from cyclopts.config import Env
from hypothesis import given
from hypothesis import strategies as st

from wordflock.cli.options import command
from wordflock.errors import WordflockError
from wordflock.federation_settings import ClientSettings, FederationSettings, PartitionSettings, ServerSettings
from wordflock.settings import PRESETS, DataSettings, HeadSettings, Settings, TrainSettings

CLASSES = (DataSettings, Settings, PartitionSettings, TrainSettings, FederationSettings, ServerSettings, ClientSettings)


def made(kind: type[DataSettings], *arguments: str) -> Any:
    """The settings that a command of this kind makes of its arguments."""
    seen = list[Any]()

    def run(settings: Any) -> None:
        """Keep the settings."""
        seen.append(settings)

    run.__annotations__["settings"] = kind
    app = App(config=[Env("WORDFLOCK_", command=False)])
    app.command(command(run), name="run")
    app(["run", *arguments], exit_on_error=False, print_error=False, result_action="return_value")
    return seen[0]


def write_config(folder: Path, settings: DataSettings, **more: str) -> str:
    path = folder / "config.toml"
    path.write_text(tomli_w.dumps({**more, **settings.as_config()}))
    return str(path)


# Presets


@pytest.mark.parametrize("kind", [TrainSettings, FederationSettings])
def test_the_preset_of_flowers_example_is_what_it_trains_with(kind: type[HeadSettings]) -> None:
    settings = made(kind, "--preset", "flower-example")
    assert (settings.window, settings.layer, settings.head, settings.frame_pooling) == (30.0, "last", "convolution", 1)
    assert (settings.batch_size, settings.learning_rate, settings.schedule) == (8, 1e-3, "constant")
    assert getattr(settings, "epochs", 3) == 3 and getattr(settings, "local_epochs", 1) == 1


def test_an_option_that_is_given_counts_more_than_the_preset_even_where_it_says_the_default() -> None:
    settings = made(TrainSettings, "--preset", "flower-example", "--window", "1.4", "--epochs", "5")
    assert (settings.window, settings.epochs, settings.head) == (1.4, 5, "convolution")


@pytest.mark.parametrize("kind", CLASSES)
def test_without_a_preset_the_defaults_count(kind: type[DataSettings]) -> None:
    assert made(kind) == kind()
    if issubclass(kind, Settings):
        assert made(kind, "--preset", "wordflock") == kind()


def test_every_preset_is_of_options_that_there_are() -> None:
    names = set(TrainSettings.__dataclass_fields__) | set(FederationSettings.__dataclass_fields__)
    assert all(preset.keys() <= names for preset in PRESETS.values())


# Files and the environment


@given(sources=st.sets(st.sampled_from(["command line", "environment", "file", "preset"])))
def test_the_nearest_source_counts(sources: set[str], tmp_path: Path) -> None:
    """The batch size from whatever sources there are, each with another one."""
    expected = {"command line": 1, "environment": 2, "file": 3, "preset": 8}
    with pytest.MonkeyPatch.context() as monkeypatch:
        arguments = ["--batch-size", "1"] if "command line" in sources else []
        if "environment" in sources:
            monkeypatch.setenv("WORDFLOCK_BATCH_SIZE", "2")
        if "file" in sources:
            path = tmp_path / "run.toml"
            path.write_text("batch-size = 3\n")
            arguments += ["--config", str(path)]
        if "preset" in sources:
            arguments += ["--preset", "flower-example"]
        nearest = next((value for source, value in expected.items() if source in sources), TrainSettings().batch_size)
        assert made(TrainSettings, *arguments).batch_size == nearest


@pytest.mark.parametrize("kind", CLASSES)
def test_the_config_of_any_run_gives_its_settings_again_but_for_its_name(
    kind: type[DataSettings], tmp_path: Path
) -> None:
    settings = kind(data="words", seed=7)
    assert made(kind, "--config", write_config(tmp_path, settings, mode="train")) == settings
    named = made(TrainSettings, "--config", write_config(tmp_path, TrainSettings(name="first"), mode="train"))
    assert named.name == ""
    assert made(TrainSettings, "--config", write_config(tmp_path, TrainSettings(name="first"))).name == "first"


def test_a_run_of_one_command_configures_another(tmp_path: Path) -> None:
    path = write_config(tmp_path, FederationSettings(window=1.0, rounds=3), mode="simulate")
    assert made(Settings, "--config", path).window == 1.0
    assert made(FederationSettings, "--config", path, "--rounds", "4").rounds == 4


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("epoch = 3", "has epoch, which is not an option; did you mean epochs?"),
        ("epochs = 'many'", "epochs = 'many' is of the wrong type"),
        ("epochs = ", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(content: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(WordflockError) as error:
        made(TrainSettings, "--config", str(path))
    assert f"--config {path}" in str(error.value) and problem in str(error.value)


def test_a_value_of_the_environment_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDFLOCK_EPOCHS", "many")
    with pytest.raises(CycloptsError, match="WORDFLOCK_EPOCHS"):
        made(TrainSettings)


# What every option does


@pytest.mark.parametrize("kind", CLASSES)
def test_every_option_is_on_the_command_line(kind: type[DataSettings]) -> None:
    for f in fields(kind):
        default = f.default
        name, other = f"--{f.name.replace('_', '-')}", f.metadata["choices"][-1:] or ("1",)
        if isinstance(default, bool) or f.name in ("unknown", "silence"):
            assert getattr(made(kind, name), f.name) is True
            assert getattr(made(kind, name.replace("--", "--no-")), f.name) is False
        elif not isinstance(default, str) or f.metadata["choices"]:
            least = f.metadata["minimum"] or 0
            value = other[0] if f.metadata["choices"] else str(least + (least == default))
            assert str(getattr(made(kind, name, value), f.name)).rstrip(".0") == value.rstrip(".0")
        else:
            assert getattr(made(kind, name, "x"), f.name) == "x"


def test_the_server_s_address_has_a_short_form() -> None:
    assert made(ClientSettings, "--server", "host:1") == made(ClientSettings, "--server-address", "host:1")


def test_defaults_are_of_their_own_type_where_a_library_has_loaded_pydantic() -> None:
    """cyclopts checks types by pydantic in a process that has it, as Ray and others bring it."""
    pytest.importorskip("pydantic")
    from wordflock.cli.commands import app

    for words in (["simulate", "--rounds", "1"], ["train"], ["server", "--insecure"], ["data", "describe"]):
        app().parse_args(words, exit_on_error=False, print_error=False)
