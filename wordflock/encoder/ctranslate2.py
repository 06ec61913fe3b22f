"""Read a Whisper encoder from a file of CTranslate2."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

# Blame


class WeightsFault(Exception):
    """What is wrong with a weights file, as a clause."""


# CTranslate2

# Its words, and transformers' for the same.
_WORDS = (
    ("position_encodings.encodings", "embed_positions.weight"),
    ("self_attention.layer_norm", "self_attn_layer_norm"),
    ("self_attention.linear_1", "self_attn.out_proj"),
    ("ffn.layer_norm", "final_layer_norm"),
    ("ffn.linear_0", "fc1"),
    ("ffn.linear_1", "fc2"),
    ("gamma", "weight"),
    ("beta", "bias"),
)


def from_ctranslate2(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with path.open("rb") as file:
        variables = _variables(_Cursor(file, path.stat().st_size))
    heads = variables.pop("encoder/num_heads", None)
    if heads is None or heads.size != 1:
        raise WeightsFault("it does not say how many attention heads the encoder has")
    tensors: dict[str, NDArray[Any]] = {}
    for name, array in variables.items():
        name = re.sub(r"\blayer_(\d+)", r"layers.\1", name.removeprefix("encoder/")).replace("/", ".")
        for theirs, ours in _WORDS:
            name = name.replace(theirs, ours)
        stacked = re.fullmatch(r"(.*)\.self_attention\.linear_0\.(weight|bias)", name)
        if stacked is None:
            tensors[name] = array
        elif array.ndim == 0 or len(array) % 3:
            raise WeightsFault(f"{name} of shape {array.shape} is not queries, keys and values in one")
        else:
            layer, what = stacked.groups()
            for projection, part in zip("qkv", np.split(array, 3), strict=True):
                tensors[f"{layer}.self_attn.{projection}_proj.{what}"] = part
    return {"encoder_attention_heads": int(heads.item())}, tensors


def _variables(cursor: _Cursor) -> dict[str, NDArray[Any]]:
    """The encoder's variables in a file of CTranslate2, format 6 (its `python/ctranslate2/specs/model_spec.py`).

    Little endian; a string is its length with the closing NUL in 16 bits, then its bytes. Version, name and revision
    of the specification; then the count of variables, and for each its name, rank (8 bits), dimensions, type (8 bits),
    size in bytes and data; then the count of aliases, and for each two names. Numbers have 32 bits unless said.
    """
    if (version := cursor.number()) != 6:
        raise WeightsFault(f"its format is {version}, not CTranslate2's format 6")
    if (specification := cursor.text(), cursor.number()) != ("WhisperSpec", 3):
        raise WeightsFault(f"it is a {specification}, not a WhisperSpec of revision 3")
    types: dict[int, np.dtype[Any]] = {0: np.dtype("<f4"), 2: np.dtype("<i2"), 4: np.dtype("<f2")}
    variables = {}
    for _ in range(cursor.number()):
        name = cursor.text()
        shape = [cursor.number() for _ in range(cursor.number(1))]
        dtype, size = types.get(cursor.number(1)), cursor.number()
        if not name.startswith("encoder/"):
            cursor.skip(size)
            continue
        if dtype is None or len(shape) > 3 or math.prod(shape) * dtype.itemsize != size:
            raise WeightsFault(f"its {name} cannot be of shape {shape} in {size} bytes")
        variables[name] = np.frombuffer(cursor.take(size), dtype).reshape(shape)
    for _ in range(2 * cursor.number()):
        cursor.text()
    if cursor.left:
        raise WeightsFault(f"{cursor.left} bytes follow what should be its end")
    return variables


class _Cursor:
    """Reads a binary file from its beginning, and never asks for more than it has left."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def take(self, size: int) -> bytes:
        self._pass(size)
        return self.file.read(size)

    def skip(self, size: int) -> None:
        self._pass(size)
        self.file.seek(size, 1)

    def number(self, size: int = 4) -> int:
        return int.from_bytes(self.take(size), "little")

    def text(self) -> str:
        return self.take(self.number(2)).rstrip(b"\0").decode("latin-1")  # which decodes any bytes

    def _pass(self, size: int) -> None:
        if size > self.left:
            raise WeightsFault(f"it ends where {size - self.left} bytes more should be")
        self.left -= size
