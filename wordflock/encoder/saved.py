"""Encoders in safetensors files: what transformers saves, and the encoder alone, which Wordflock saves for devices.

Read with numpy alone, so that a device without torch can. A file of ours says in its metadata how many attention heads
the encoder has, and, where rounding to float16 changed nothing, the fingerprint of the weights that it was made from:
features and heads of the one are those of the other.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wordflock.encoder.ctranslate2 import WeightsFault
from wordflock.files import parse_json, write_atomically

OURS = "wordflock_encoder"  # the metadata's key


def write_encoder(
    path: Path, tensors: Mapping[str, NDArray[np.float32]], attention_heads: int, fingerprint: str
) -> bool:
    """Write an encoder's tensors in float16; returns whether that is exactly what they were."""
    from safetensors.numpy import save

    halves = {f"encoder.{name}": tensor.astype(np.float16) for name, tensor in tensors.items()}
    exact = all(np.array_equal(halves[f"encoder.{name}"], tensor) for name, tensor in tensors.items())
    about = {
        "attention_heads": attention_heads,
        "fingerprint": fingerprint if exact else "",
        "sha256": _digest(save(halves)),
    }
    write_atomically(path, save(halves, {OURS: json.dumps(about)}))
    return exact


def original_fingerprint(path: Path) -> str:
    """The fingerprint of the weights that a file of ours was made from; empty for any other file.

    Raises WeightsFault where its tensors are not those that were written.
    """
    about = read_about(path)
    if not about.get("fingerprint"):
        return ""
    if _digest(path.read_bytes()) != about.get("sha256"):
        raise WeightsFault("its tensors are not those that were written")
    return str(about["fingerprint"])


def read_about(path: Path) -> dict[str, Any]:
    """What a file of ours says of itself; empty for any other file. Raises WeightsFault for a damaged one."""
    try:
        about = parse_json(_header(path).get("__metadata__", {}).get(OURS, "{}"))
    except (ValueError, AttributeError, TypeError) as error:
        raise WeightsFault(f"{path.name} is damaged or no safetensors file ({error})") from error
    return about if isinstance(about, dict) else {}


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file's encoder, without the prefix `encoder.`; bfloat16 as float32."""
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, NDArray[Any]] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118 (a safe_open is not a mapping)
                if re.match(r"(model\.)?encoder\.", name):
                    is_bfloat16 = file.get_slice(name).get_dtype() == "BF16"
                    tensor = _read_bfloat16(path, name) if is_bfloat16 else file.get_tensor(name)
                    tensors[name.partition("encoder.")[2]] = tensor
    except (SafetensorError, TypeError, AttributeError) as error:  # the last two: a type numpy lacks
        raise WeightsFault(f"{path.name} is damaged or no safetensors file ({error})") from error
    return tensors


def _read_bfloat16(path: Path, name: str) -> NDArray[np.float32]:
    """A tensor of a file whose header `safe_open` has checked: numpy has no bfloat16, the upper half of a float32."""
    about = _header(path)[name]
    start, stop = about["data_offsets"]
    with path.open("rb") as file:
        file.seek(_data_start(path) + start)
        halves = np.frombuffer(file.read(stop - start), "<u2")
    return (halves.astype("<u4") << 16).view("<f4").reshape(about["shape"])


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return dict(parse_json(file.read(min(size, path.stat().st_size))))


def _data_start(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def _digest(content: bytes) -> str:
    """The SHA-256 of the tensors in a safetensors file: of what comes after the header."""
    return hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
