"""An encoder saved alone: the same tensors and the same fingerprint, or a refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from wordflock.encoder.saved import original_fingerprint, write_encoder
from wordflock.encoder.weights import Dimensions, find, load, save_encoder, shapes
from wordflock.errors import WordflockError

SIZES = Dimensions(mels=80, width=16, layers=2, attention_heads=4, positions=20)
FINGERPRINT = "0123" * 16


def tensors(exact: bool) -> dict[str, NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    drawn = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes(SIZES)}
    return {name: array.astype(np.float16).astype(np.float32) if exact else array for name, array in drawn.items()}


@pytest.mark.parametrize("exact", [True, False])
def test_a_saved_encoder_is_the_original_where_float16_holds_it(exact: bool, tmp_path: Path) -> None:
    path, original = tmp_path / "encoder.safetensors", tensors(exact)
    assert write_encoder(path, original, SIZES.attention_heads, FINGERPRINT) == exact
    dimensions, read = load(find(str(path)))
    assert dimensions == SIZES
    assert read.keys() == original.keys()
    for name, array in original.items():
        np.testing.assert_array_equal(read[name], array.astype(np.float16).astype(np.float32))
    assert (find(str(path)).fingerprint == FINGERPRINT) == exact


def test_saving_a_saved_encoder_changes_nothing(tmp_path: Path) -> None:
    one, two = tmp_path / "one.safetensors", tmp_path / "two.safetensors"
    write_encoder(one, tensors(True), SIZES.attention_heads, FINGERPRINT)
    assert save_encoder(str(one), two)
    assert one.read_bytes() == two.read_bytes()


def test_a_file_with_other_tensors_than_were_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    write_encoder(path, tensors(True), SIZES.attention_heads, FINGERPRINT)
    content = bytearray(path.read_bytes())
    for place in (-1, -1000):
        content[place] ^= 1
        path.write_bytes(content)
        with pytest.raises(WordflockError, match="not those that were written"):
            find(str(path))
        content[place] ^= 1
    path.write_bytes(content)
    assert original_fingerprint(path) == find(str(path)).fingerprint == FINGERPRINT


def test_the_name_of_a_saved_encoder_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(WordflockError, match=r"not a \.safetensors file"):
        save_encoder("tiny.en", tmp_path / "encoder.bin")


def test_bfloat16_is_read_without_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    halves = {f"encoder.{name}": torch.from_numpy(array).bfloat16() for name, array in tensors(False).items()}
    save_file(halves, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"encoder_attention_heads": 4}')
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np\n"
        "from wordflock.encoder.weights import find, load\n"
        f"np.savez({str(tmp_path / 'read.npz')!r}, **load(find({str(tmp_path)!r}))[1])"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    read = np.load(tmp_path / "read.npz")
    for name, tensor in halves.items():
        np.testing.assert_array_equal(read[name.removeprefix("encoder.")], tensor.float().numpy())
