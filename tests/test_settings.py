from __future__ import annotations

import math
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.errors import WordflockError
from wordflock.federation_settings import ClientSettings, FederationSettings, PartitionSettings, ServerSettings
from wordflock.options import dashed
from wordflock.settings import DataSettings, HeadSettings, Settings, TrainSettings

CLASSES = (
    DataSettings,
    Settings,
    PartitionSettings,
    HeadSettings,
    TrainSettings,
    FederationSettings,
    ServerSettings,
    ClientSettings,
)
every_class = pytest.mark.parametrize("kind", CLASSES)
every_option = pytest.mark.parametrize(
    ("kind", "name"),
    [
        pytest.param(kind, f.name, id=f"{kind.__name__}-{f.name}")
        for kind in CLASSES
        for f in fields(kind)
        if f.name in kind.__annotations__  # and not in those of a class below it
    ],
)


def about(kind: type[DataSettings], name: str) -> tuple[Any, bool, Any, Any, Any]:
    """An option's type, whether it may be unset (None), its choices, least and largest value."""
    metadata = next(f.metadata for f in fields(kind) if f.name == name)
    hint = get_type_hints(kind)[name]
    bare, *none = get_args(hint) or [hint]
    return bare, none == [type(None)], metadata["choices"], metadata["minimum"], metadata["maximum"]


def values(kind: type[DataSettings], name: str) -> st.SearchStrategy[Any]:
    """All values that an option may have."""
    hint, optional, choices, minimum, maximum = about(kind, name)
    by_type: dict[Any, st.SearchStrategy[Any]] = {
        str: st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        int: st.integers(-(2**63) if minimum is None else minimum, 2**63 - 1 if maximum is None else maximum),
        float: st.floats(minimum, maximum, allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
    }
    usual = st.sampled_from(choices) if choices else by_type[hint]
    if name == "name":  # of a run, whose folder it is, or of a client: options of one class are read by another
        usual = st.text(st.characters(categories=["L", "N"]), max_size=20)
    if name == "augmentations":  # a share of the clips, or how many of each
        usual = st.floats(0, 1) | st.integers(1, maximum).map(float)
    return st.none() | usual if optional else usual


some_settings = st.sampled_from(CLASSES).flatmap(
    lambda kind: st.fixed_dictionaries({}, optional={f.name: values(kind, f.name) for f in fields(kind)}).map(
        lambda chosen: kind(**chosen)
    )
)


# There and back


@settings(max_examples=20)
@given(some_settings)
def test_settings_survive_the_configuration(chosen: DataSettings) -> None:
    config = chosen.as_config()
    assert type(chosen).from_config(config) == chosen
    assert all(type(value) in (str, int, float, bool) for value in config.values())  # all that Flower passes on
    assert not any("_" in key for key in config)


@settings(max_examples=20)
@given(some_settings)
def test_settings_survive_a_toml_file(chosen: DataSettings) -> None:
    text = tomli_w.dumps({"mode": "train", **chosen.as_config()})
    assert type(chosen).from_config(tomllib.loads(text)) == chosen


@settings(max_examples=20)
@given(some_settings, st.sampled_from(CLASSES))
def test_a_configuration_s_other_keys_are_passed_over(chosen: DataSettings, other: type[DataSettings]) -> None:
    both = {f.name for f in fields(chosen)} & {f.name for f in fields(other)}
    shared = {name for name in both if about(type(chosen), name) == about(other, name)}
    config = chosen.as_config()
    for name in both - shared:
        config.pop(dashed(name))  # the same name for something else
    read = other.from_config({**config, "mode": "train", "something-else": [1]})
    assert read == other.from_config({dashed(name): config[dashed(name)] for name in shared})
    assert all(getattr(read, name) == getattr(chosen, name) for name in shared)


@every_class
def test_what_is_not_said_is_the_default(kind: type[DataSettings]) -> None:
    assert kind.from_config({}) == kind()
    assert kind.from_config(kind().as_config()) == kind()


def test_a_configuration_has_every_option_and_says_nothing_of_what_is_not_set() -> None:
    for kind in CLASSES:
        assert kind().as_config().keys() == {dashed(f.name) for f in fields(kind)}
    assert Settings().as_config().items() >= {"unknown": "", "silence": ""}.items()
    assert Settings(unknown=False, silence=True).as_config().items() >= {"unknown": False, "silence": True}.items()


def test_flwr_run_starts_from_the_same_defaults() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    config = project["tool"]["flwr"]["app"]["config"]
    assert config.keys() == FederationSettings().as_config().keys()
    assert FederationSettings.from_config(config) == FederationSettings()


# What users are told


@every_option
def test_every_option_says_what_it_is_for_and_has_a_default_that_it_allows(kind: type[DataSettings], name: str) -> None:
    option = next(f for f in fields(kind) if f.name == name)
    hint, optional, choices, minimum, maximum = about(kind, name)
    help = option.metadata["help"]
    assert help[0].isupper() and help.endswith((".", ")")) and "\n" not in help
    if option.default is None:
        assert optional
    else:
        assert isinstance(option.default, hint)
        assert not choices or option.default in choices
        assert minimum is None or option.default >= minimum
        assert maximum is None or option.default <= maximum
    assert name == name.lower() and dashed(name).replace("-", "_") == name


# What is refused


@every_option
def test_a_value_of_the_wrong_type_is_refused(kind: type[DataSettings], name: str) -> None:
    hint, optional, *_ = about(kind, name)
    wrong: list[Any] = [[1], {"a": 1}, 1 + 1j]
    wrong += [] if optional else [None]
    wrong += [] if hint is str else ["1"]
    wrong += [] if hint in (int, float) else [1]
    wrong += [] if hint is float else [1.5]
    wrong += [] if hint is bool else [True, False]
    for value in wrong:
        with pytest.raises(WordflockError) as error:
            kind.from_config({dashed(name): value})
        assert str(error.value) == f"{name} = {value!r} is of the wrong type."


@every_class
def test_a_whole_number_will_do_for_a_real_one(kind: type[DataSettings]) -> None:
    for f in fields(kind):
        if about(kind, f.name)[0] is float:
            whole = 0 if (f.metadata["maximum"] or 2) < 2 else 2
            value = getattr(kind.from_config({dashed(f.name): whole}), f.name)
            assert value == whole and type(value) is float


@every_option
def test_a_value_beyond_its_bounds_or_none_of_the_choices_is_refused(kind: type[DataSettings], name: str) -> None:
    hint, _, choices, minimum, maximum = about(kind, name)

    def refuse(value: Any, remedy: str) -> None:
        for make in (lambda: kind(**{name: value}), lambda: kind.from_config({dashed(name): value})):
            with pytest.raises(WordflockError) as error:
                make()
            assert str(error.value) == f"{name} = {value!r} is {remedy}."

    if choices:
        refuse("nonsense", f"none of {', '.join(choices)}")
    if minimum is not None:
        for value in [minimum - 1] if hint is int else [math.nextafter(minimum, -math.inf), -math.inf, math.nan]:
            refuse(value, f"too small; the minimum is {minimum}")
        stands_for_another = minimum == next(f.default for f in fields(kind) if f.name == name)  # as 0 rounds do
        kept = getattr(kind(), name) if stands_for_another else minimum
        assert getattr(kind(**{name: hint(minimum)}), name) == kept
    if maximum is not None:
        for value in [maximum + 1] if hint is int else [math.nextafter(maximum, math.inf), math.inf]:
            refuse(value, f"too large; the maximum is {maximum}")
        assert getattr(kind(**{name: hint(maximum)}), name) == maximum


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (DataSettings, {"seed": -1}),
        (DataSettings, {"seed": 2**64}),
        (HeadSettings, {"learning-rate": 0.0}),
        (HeadSettings, {"learning-rate": math.inf}),
        (HeadSettings, {"label-smoothing": 2.0}),
        (FederationSettings, {"holdout": 1.5}),
        (PartitionSettings, {"alpha": 0.0}),
    ],
    ids=str,
)
def test_what_would_fail_only_later_is_refused_at_once(kind: type[DataSettings], config: dict[str, Any]) -> None:
    with pytest.raises(WordflockError, match=r"is too (small|large); the (minimum|maximum) is"):
        kind.from_config(config)


# What is derived


@given(
    st.lists(st.text("abcäß ", min_size=1).map(str.strip).filter(bool), max_size=5), st.sampled_from([",", ", ", " ,"])
)
def test_keywords_are_taken_apart_at_commas(words: list[str], comma: str) -> None:
    assert Settings(keywords=comma.join(words)).keyword_list == words
    assert Settings(keywords=comma.join(words) + ",").keyword_list == words


def test_the_cache_is_in_the_home_folder_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert DataSettings().cache_folder == Path("/home/ada/.cache/wordflock")
    assert DataSettings(cache="~/features").cache_folder == Path("/home/ada/features")
    assert DataSettings(cache="/mnt/features").cache_folder == Path("/mnt/features")


def test_several_data_sets_are_a_list_in_python_and_in_files_and_lines_in_a_string() -> None:
    listed = Settings(data=["a b.tar", "c/"])  # type: ignore[arg-type]
    assert listed.data == "a b.tar\nc/" and listed.sources == ["a b.tar", "c/"]
    assert Settings.from_config({"data": ["a b.tar", "c/"]}) == listed == Settings.from_config(listed.as_config())
