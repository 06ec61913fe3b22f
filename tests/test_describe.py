"""The plot of small data sets, whose words and speakers are few."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from wordflock.describe import describe
from wordflock.errors import WordflockError
from wordflock.federation_settings import DescribeSettings


@pytest.mark.parametrize(
    ("names", "options", "clients"),
    [
        pytest.param("{word}/{speaker}_nohash_{take}.wav", {}, 5, id="own words in the names of Speech Commands"),
        pytest.param("{word}/{speaker}_nohash_{take}.wav", {"partition": "iid"}, 15, id="dealt by clip"),
        pytest.param("{word}/{speaker}{take}.wav", {}, 15, id="nobody says who speaks"),
        pytest.param("{word}/{speaker}{take}.wav", {"clients": 3, "partition": "iid"}, 3, id="as many as asked for"),
    ],
)
def test_a_small_folder_is_plotted_as_it_is(
    names: str, options: dict[str, object], clients: int, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    for word in ("licht", "musik"):
        for speaker in "abcde":
            for take in range(3):
                write_audio(tmp_path / "own" / "train" / names.format(word=word, speaker=speaker, take=take))
    settings = DescribeSettings(data=str(tmp_path / "own"), cache=str(tmp_path / "cache"), **options)  # type: ignore[arg-type]
    with warnings.catch_warnings(action="ignore"):
        text = describe(settings, tmp_path / "plot.png")
    assert f"clips of {clients} clients" in text and (tmp_path / "plot.png").stat().st_size > 1000


def test_a_keyword_that_is_not_there_is_still_an_error(tmp_path: Path, write_audio: Callable[..., Path]) -> None:
    write_audio(tmp_path / "own" / "licht" / "a_nohash_0.wav")
    settings = DescribeSettings(data=str(tmp_path / "own"), cache=str(tmp_path / "cache"), keywords="musik")
    with pytest.raises(WordflockError, match="musik"):
        describe(settings, tmp_path / "plot.png")


def test_a_number_of_clients_that_was_asked_for_is_not_changed(
    tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    write_audio(tmp_path / "own" / "licht" / "a_nohash_0.wav")
    settings = DescribeSettings(data=str(tmp_path / "own"), cache=str(tmp_path / "cache"), clients=100)
    with pytest.raises(WordflockError, match="--clients 100"), warnings.catch_warnings(action="ignore"):
        describe(settings, tmp_path / "plot.png")
