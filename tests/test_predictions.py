from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.errors import WordflockError
from wordflock.predictions import PREDICTIONS, ClipPrediction, read_predictions, write_predictions

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
share = st.integers(0, 1000).map(lambda n: n / 1000)
rows = st.builds(ClipPrediction, st.sampled_from(["validation", "test"]), text, share, text, text, text, share, share)


@given(st.lists(rows, max_size=6))
def test_predictions_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, written: list[ClipPrediction]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    write_predictions(folder, written)
    for split in ("validation", "test"):
        assert read_predictions(folder, split) == [row for row in written if row.split == split]


def test_a_run_without_predictions_has_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path) == []


@pytest.mark.parametrize("content", [b"split,clip\ntest\n", b"a,b\n1,2\n", b"\xff\xfe\n1", b"split\ntest,x,y\n"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PREDICTIONS).write_bytes(content)
    with pytest.raises(WordflockError, match=r"predictions\.csv is damaged"):
        read_predictions(tmp_path)
