from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from wordflock.files import load_tensors, save_tensors, write_atomically

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
