from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from wordflock.errors import WordflockError
from wordflock.prepare import prepare
from wordflock.settings import Settings


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"window": -1.0}, r"^A window of -1\.0 s is outside"),
        ({"layer": "last+2"}, r"^Layer 'last\+2' is neither"),
        ({"encoder": "huge"}, r"^There is no encoder 'huge'"),
    ],
    ids=str,
)
def test_features_that_no_encoder_has_are_refused_before_any_clip_is_looked_at(
    option: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WordflockError, match=message):
        prepare(Settings(data=str(tmp_path / "missing"), cache=str(tmp_path / "cache"), **option))
    assert not (tmp_path / "cache").exists()
