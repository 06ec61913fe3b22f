from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock.data.manifests import open_table
from wordflock.errors import WordflockError
from wordflock.files import load_tensors, parse_json, parse_toml, read_named, save_tensors, write_atomically

LIMITED = """
import resource, sys
from pathlib import Path
from wordflock.files import load_tensors, save_tensors

path = Path(sys.argv[1])
weights, metadata = load_tensors(path)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size // 2, resource.RLIM_INFINITY))
try:
    save_tensors(path, {name: array + 1 for name, array in weights.items()}, metadata)
except OSError as error:
    print(error.strerror)
"""


def test_a_disk_that_fills_while_one_is_written_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    save_tensors(tmp_path / "best.safetensors", {"weight": np.arange(1000.0)}, {"epoch": "4"})
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "best.safetensors")], capture_output=True, text=True, check=True
    )
    assert done.stdout == "File too large\n"
    tensors, metadata = load_tensors(tmp_path / "best.safetensors")
    assert metadata == {"epoch": "4"}
    np.testing.assert_array_equal(tensors["weight"], np.arange(1000.0))
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


@given(old=st.binary(max_size=50), new=st.binary(max_size=50))
def test_writing_atomically_is_writing(old: bytes, new: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(old)
    write_atomically(tmp_path / "file", new)
    assert (tmp_path / "file").read_bytes() == new
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_tensors_in_any_memory_order_come_back(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {"transposed": array.T, "strided": array[::2, ::3], "scalar": np.array(3.5)}
    save_tensors(tmp_path / "t.safetensors", tensors, {"epoch": "4"})
    loaded, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"epoch": "4"}
    for name, expected in tensors.items():
        np.testing.assert_array_equal(loaded[name], expected)


@pytest.mark.parametrize("name", ["table.json", "table.jsonl"])
def test_what_is_nested_too_deeply_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("[" * 100_000)
    with pytest.raises(WordflockError, match="nested too deeply"):
        open_table(str(tmp_path / name))
    for parse, text in ((parse_json, "[" * 100_000), (parse_toml, b"a = " + b"[" * 100_000)):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse(text)


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "pipe.csv", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a file"):
            read_named(path)
