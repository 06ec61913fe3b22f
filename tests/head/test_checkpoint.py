from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wordflock.encoder.spec import FeatureSpec
from wordflock.errors import WordflockError
from wordflock.files import MAX_TENSORS, save_tensors
from wordflock.head.calibration import TEMPERATURES, Calibration, probabilities
from wordflock.head.checkpoint import (
    FORMAT,
    Checkpoint,
    get_weights,
    largest_weight,
    load_checkpoint,
    save_checkpoint,
    set_weights,
)
from wordflock.head.kinds import KINDS
from wordflock.head.numpy_head import Projection
from wordflock.head.numpy_head import logits as numpy_logits
from wordflock.head.torch_head import build_head

SPEC = FeatureSpec("tiny.en", "ab" * 32, 0.2, "2")
FRAMES, WIDTH, LABELS = SPEC.frames, 6, ["ja", "ñandú", "_silence_", "_unknown_"]
TRAINING = {"mode": "train", "seed": 3, "epoch": 7, "validation_accuracy": 0.9375}
quietly = settings(max_examples=60)


def a_checkpoint(kind: str = "mean", seed: int = 0) -> Checkpoint:
    head = build_head(kind, FRAMES, WIDTH, len(LABELS), seed=seed)
    return Checkpoint(LABELS, kind, WIDTH, SPEC, get_weights(head), TRAINING)


def about(checkpoint: Checkpoint) -> dict[str, Any]:
    return {key: value for key, value in asdict(checkpoint).items() if key != "weights"}


def assert_same(one: Checkpoint, other: Checkpoint) -> None:
    assert about(one) == about(other)
    assert one.weights.keys() == other.weights.keys()
    for name, array in one.weights.items():
        assert array.dtype == other.weights[name].dtype
        np.testing.assert_array_equal(array, other.weights[name], err_msg=name)


def assert_refused(path: Path, *words: str) -> None:
    """It is refused in one sentence that names the file."""
    with pytest.raises(WordflockError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert str(path) in message and message.endswith(".") and "\n" not in message
    assert not message.strip(".").replace(str(path), "").count(". "), message
    for word in words:
        assert word in message


# There and back


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_is_what_was_saved(kind: str, tmp_path: Path) -> None:
    saved = a_checkpoint(kind)
    save_checkpoint(tmp_path / "best.safetensors", saved)
    for path in (tmp_path / "best.safetensors", str(tmp_path / "best.safetensors")):
        assert_same(load_checkpoint(path), saved)
    features = torch.randn(3, FRAMES, WIDTH, generator=torch.Generator().manual_seed(0))
    head = build_head(kind, FRAMES, WIDTH, len(LABELS))
    assert torch.equal(load_checkpoint(tmp_path / "best.safetensors").build()(features), head(features))


def test_a_checkpoint_is_plain_safetensors_without_pickle(tmp_path: Path) -> None:
    from safetensors import safe_open

    saved = a_checkpoint()
    save_checkpoint(tmp_path / "best.safetensors", saved)
    with safe_open(tmp_path / "best.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["wordflock"]) == {"format": FORMAT, **about(saved)}
        for name in file.keys():  # noqa: SIM118  a safe_open is no mapping
            assert np.array_equal(file.get_tensor(name).numpy(), saved.weights[name])


def test_a_large_head_that_was_allowed_once_loads(tmp_path: Path) -> None:
    head = build_head("convolution", 1500, 384, 14, allow_large=True)
    spec, labels = replace(SPEC, window=30.0), [f"word {number}" for number in range(14)]
    large = Checkpoint(labels, "convolution", 384, spec, get_weights(head))
    save_checkpoint(tmp_path / "large.safetensors", large)
    assert_same(load_checkpoint(tmp_path / "large.safetensors"), large)


@pytest.mark.parametrize("layer", ["last", "1", "2+12", "1+2+3+last"])
def test_a_head_over_pooled_features_of_several_layers_loads(layer: str, tmp_path: Path) -> None:
    spec = replace(SPEC, layer=layer, pooled=True)
    saved = Checkpoint(LABELS, "linear", WIDTH, spec, get_weights(build_head("linear", 2, WIDTH, len(LABELS))))
    save_checkpoint(tmp_path / "best.safetensors", saved)
    loaded = load_checkpoint(tmp_path / "best.safetensors")
    assert_same(loaded, saved)
    assert loaded.build()(torch.zeros(5, 2, WIDTH)).shape == (5, len(LABELS))


def test_random_features_are_drawn_again_and_not_stored(tmp_path: Path) -> None:
    head = build_head("normalized", FRAMES, WIDTH, len(LABELS), projection=Projection(9, TRAINING["seed"]))
    saved = Checkpoint(LABELS, "normalized", WIDTH, SPEC, get_weights(head), TRAINING, random_features=9)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, saved)
    assert {name: array.shape for name, array in load_checkpoint(path).weights.items()} == {
        "output.weight": (len(LABELS), 9),
        "output.bias": (len(LABELS),),
    }
    features = torch.randn(3, FRAMES, WIDTH, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load_checkpoint(path).build()(features), head(features))
    for wrong in ({"random_features": 10**12}, {"random_features": -9}, {"training": {}}, {"training": {"seed": -1}}):
        save_checkpoint(path, replace(saved, **wrong))
        assert_refused(path)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_copies_both_ways(kind: str) -> None:
    head, other = (build_head(kind, FRAMES, WIDTH, 4, seed=seed) for seed in (0, 1))
    weights = get_weights(head)
    set_weights(other, weights)
    kept = {name: array.copy() for name, array in weights.items()}
    for array in weights.values():
        array.fill(7)
    for built in (head, other):
        for name, array in get_weights(built).items():
            np.testing.assert_array_equal(array, kept[name])


def test_weights_that_may_not_be_written_to_are_taken_without_a_word() -> None:
    """Arrays that came over the network are views of the message."""
    weights = get_weights(build_head("mean", FRAMES, WIDTH, 4))
    for array in weights.values():
        array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_weights(build_head("mean", FRAMES, WIDTH, 4, seed=1), weights)


def test_weights_of_another_head_are_refused() -> None:
    head = build_head("mean", FRAMES, WIDTH, 4)
    weights = get_weights(head)
    fewer = {name: array for name, array in weights.items() if name != "output.bias"}
    for other in (
        fewer,
        {**weights, "more": np.zeros(1, np.float32)},
        get_weights(build_head("mean", FRAMES, WIDTH, 5)),
    ):
        with pytest.raises(RuntimeError, match="another head"):
            set_weights(head, other)
    np.testing.assert_equal(get_weights(head), weights)


# What is no checkpoint


def save_with(path: Path, saved: Checkpoint, **changes: Any) -> None:
    """A checkpoint's file with other things said in it."""
    save_tensors(path, saved.weights, {"wordflock": json.dumps({"format": FORMAT, **about(saved), **changes})})


@quietly
@given(fraction=st.floats(0, 1, exclude_max=True))
def test_a_cut_checkpoint_is_refused(fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    if not path.exists():
        save_checkpoint(path, a_checkpoint())
    content = path.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(content[: int(fraction * len(content))])
    assert_refused(tmp_path / "cut.safetensors", "cannot be read")


@quietly
@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_a_checkpoint_with_other_bytes_in_its_header_loads_or_is_refused(
    changes: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = tmp_path / "whole.safetensors"
    if not path.exists():
        save_checkpoint(path, a_checkpoint())
    content = bytearray(path.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for position, byte in changes:
        content[position % header] = byte
    (tmp_path / "other.safetensors").write_bytes(content)
    try:
        loaded = load_checkpoint(tmp_path / "other.safetensors")
    except WordflockError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert loaded.build()(torch.zeros(1, FRAMES, WIDTH)).shape == (1, len(loaded.labels))


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"garbage " * 50, b"\xff" * 100, b"\x80\x02}q\x00."])
def test_a_file_of_something_else_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(content)
    assert_refused(tmp_path / "best.safetensors", "cannot be read")


def test_what_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, "cannot be read")
    assert_refused(tmp_path / "missing.safetensors", "There is no checkpoint")


@pytest.mark.parametrize(
    "metadata",
    [{}, {"format": "pt"}, {"wordflock": json.dumps({"format": FORMAT})}]
    + [{"wordflock": text} for text in ("", "{", "[]", "{}", "3", "null", '"x"', "NaN", "true", "[" * 100_000)],
    ids=lambda metadata: str(metadata)[:40],
)
def test_another_safetensors_file_is_refused(metadata: dict[str, str], tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", {"linear.weight": np.zeros((2, 2), np.float32)}, metadata)
    assert_refused(tmp_path / "model.safetensors", "is not a checkpoint of Wordflock; give a best.safetensors of a run")


@pytest.mark.parametrize("label", ["", "\x1b[31mlow", "low\nError: x", "\u202ewol", "\ud800", "\0", " low", "x" * 1025])
def test_labels_that_no_data_set_has_are_refused(label: str, tmp_path: Path) -> None:
    saved = a_checkpoint()
    save_with(tmp_path / "best.safetensors", saved, labels=[label, *saved.labels[1:]])
    with pytest.raises(WordflockError) as refused:
        load_checkpoint(tmp_path / "best.safetensors")
    assert str(refused.value).isprintable()


def test_a_file_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.safetensors").open("wb") as file:
        file.truncate(MAX_TENSORS + 1)  # takes no room on the disk
    assert_refused(tmp_path / "large.safetensors", "has more than 1,024 MiB")


@pytest.mark.parametrize("number", [0, FORMAT + 1, "1", None])
def test_another_version_s_checkpoint_is_refused(number: object, tmp_path: Path) -> None:
    save_with(tmp_path / "best.safetensors", a_checkpoint(), format=number)
    assert_refused(tmp_path / "best.safetensors", "another version of Wordflock")


def the_spec(**changes: Any) -> dict[str, Any]:
    return {"spec": {**asdict(SPEC), **changes}}


CHANGES: dict[str, dict[str, Any]] = {
    "another width": {"width": WIDTH + 1},
    "one label less": {"labels": LABELS[1:]},
    "another head": {"head": "convolution"},
    "a head of the future": {"head": "transformer"},
    "a head that is a list": {"head": ["mean"]},
    "a width that no memory holds": {"width": 10**12},
    "a width that no register holds": {"width": 10**30},
    "a negative width": {"width": -WIDTH},
    "a width of true": {"width": True},
    "half a width": {"width": WIDTH + 0.5},
    "frames beside the spec's": {"frames": FRAMES},
    "labels in one string": {"labels": "abcd"},
    "labels that are numbers": {"labels": [1, 2, 3, 4]},
    "a label twice": {"labels": ["ja", "nein", "ja", "_unknown_"]},
    "no training": {"training": None},
    "no spec": {"spec": None},
    "half a spec": {"spec": {"encoder": "tiny.en"}},
    "a spec of nonsense": {"spec": {"encoder": 1, "fingerprint": None, "window": "x", "layer": []}},
    "an encoder that is a number": the_spec(encoder=7),
    "no fingerprint": the_spec(fingerprint=None),
    "a precision of the future": the_spec(precision="float8"),
    "a precision that is a list": the_spec(precision=["float32"]),
    "a runtime of the future": the_spec(backend="jax"),
    "a window that is text": the_spec(window="0.2"),
    "a window that is shorter than any": the_spec(window=0.02),
    "a window below nothing": the_spec(window=-1.0),
    "a window that is longer than any": the_spec(window=1e9),
    "a window without an end": the_spec(window=math.inf),
    "a window that is no number": the_spec(window=math.nan),
    "a layer that is a number": the_spec(layer=2),
    "no layer": the_spec(layer=""),
    "a layer that is a folder": the_spec(layer="last/../../elsewhere"),
    "layers that fall": the_spec(layer="last+2"),
    "pooled of 1": the_spec(pooled=1),
    "something new": {"something": "new"},
    "something new in the spec": the_spec(something="new"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_contradicts_its_weights_is_refused(change: str, tmp_path: Path) -> None:
    save_with(tmp_path / "best.safetensors", a_checkpoint(), **CHANGES[change])
    assert_refused(tmp_path / "best.safetensors", "is not a checkpoint of Wordflock")


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("output.bias"),
        lambda weights: weights.update(more=np.zeros(3, np.float32)),
        lambda weights: weights.update({"output.bias": np.zeros(9, np.float32)}),
        lambda weights: weights.update({"output.weight": weights["output.weight"].T.copy()}),
        lambda weights: weights.update({"output.bias": weights["output.bias"].astype(np.float64)}),
        lambda weights: weights.update({"output.bias": weights["output.bias"].astype(np.int32)}),
    ],
    ids=["one too few", "one too many", "too long", "transposed", "too exact", "whole numbers"],
)
def test_weights_of_other_names_shapes_or_types_are_refused(change: Callable[[Any], Any], tmp_path: Path) -> None:
    saved = a_checkpoint()
    change(saved.weights)
    save_checkpoint(tmp_path / "best.safetensors", saved)
    assert_refused(tmp_path / "best.safetensors", "is not a checkpoint of Wordflock")


def test_weights_of_a_type_that_numpy_lacks_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"output.bias": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / "best.safetensors")
    assert_refused(tmp_path / "best.safetensors")  # in other words where another module has taught numpy that type


@quietly
@given(value=st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -2e9]), data=st.data())
def test_one_weight_that_is_no_finite_number_or_gigantic_is_refused(
    value: float, data: st.DataObject, tmp_path: Path
) -> None:
    saved = a_checkpoint()
    array = saved.weights[data.draw(st.sampled_from(sorted(saved.weights)))]
    array.reshape(-1)[data.draw(st.integers(0, array.size - 1))] = value
    save_checkpoint(tmp_path / "best.safetensors", saved)
    assert_refused(tmp_path / "best.safetensors", "not finite numbers of at most 1e")


@pytest.mark.parametrize("temperature", [1e-320, 1e-9, 1e9, 0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_no_calibration_gives_is_refused(temperature: float, tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, replace(a_checkpoint(), calibration=Calibration(temperature)))
    assert_refused(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_accepted_gives_finite_probabilities(kind: str, seed: int, tmp_path: Path) -> None:
    """Weights of the largest size, and features of the largest that float16 holds."""
    generator = np.random.default_rng(seed)
    saved = a_checkpoint(kind)
    for name, array in saved.weights.items():
        array[...] = generator.choice([-1, 1], array.shape) * largest_weight(name)
    save_checkpoint(tmp_path / "best.safetensors", replace(saved, calibration=Calibration(TEMPERATURES[0])))
    loaded = load_checkpoint(tmp_path / "best.safetensors")
    features = generator.choice(np.array([-65504, 65504, 1, 0], np.float32), (8, FRAMES, WIDTH))
    scores = numpy_logits(kind, loaded.weights, features)
    assert np.isfinite(probabilities(scores / np.float32(loaded.calibration.temperature))).all()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "best.safetensors")
    assert_refused(tmp_path / "best.safetensors", "it is not a file")


# What happens while one is written

WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from wordflock.head.checkpoint import Checkpoint, save_checkpoint
from wordflock.encoder.spec import FeatureSpec

spec = FeatureSpec("tiny.en", "ab" * 32, 0.2, "2")
shapes = {"norm.weight": 384, "norm.bias": 384, "hidden.weight": (256, 384), "hidden.bias": 256,
          "output.weight": (4, 256), "output.bias": 4}
for epoch in itertools.count(int(sys.argv[2])):
    weights = {name: np.full(shape, epoch, np.float32) for name, shape in shapes.items()}
    save_checkpoint(Path(sys.argv[1]), Checkpoint(list("abcd"), "mean", 384, spec, weights, {"epoch": epoch}))
    print(epoch, flush=True)
"""


def test_whoever_reads_while_another_writes_or_is_killed_reads_one_whole_checkpoint(tmp_path: Path) -> None:
    path, chance, written = tmp_path / "last.safetensors", random.Random(0), 0
    for _ in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(written + 1)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout
            for _ in range(chance.randint(1, 8)):
                written = int(process.stdout.readline())
                assert_whole(path, at_least=written)
            process.kill()
            written = ([written, *map(int, process.stdout.read().split())])[-1]
        assert process.returncode == -signal.SIGKILL
        found = assert_whole(path, at_least=written)
        assert found <= written + 1
        written = found


def assert_whole(path: Path, at_least: int) -> int:
    """All of a checkpoint is of one epoch; returns it."""
    checkpoint = load_checkpoint(path)
    epoch = int(checkpoint.training["epoch"])
    assert epoch >= at_least
    assert {float(value) for array in checkpoint.weights.values() for value in np.unique(array)} == {float(epoch)}
    return epoch


@pytest.mark.parametrize("by", [0, -1, 1.5, True, "2", None, 10**30])
def test_a_frame_pooling_that_no_encoder_has_is_refused(by: Any, tmp_path: Path) -> None:
    saved = a_checkpoint()
    metadata = {
        "wordflock": json.dumps({"format": FORMAT, **about(replace(saved, spec=replace(SPEC, frame_pooling=by)))})
    }
    save_tensors(tmp_path / "best.safetensors", saved.weights, metadata)
    assert_refused(tmp_path / "best.safetensors", "is not a checkpoint of Wordflock")


@pytest.mark.parametrize("values", [(0.0, 0.5), (-1.0, 0.5), (float("inf"), 0.5), (1.0, 1.5), (1.0, -0.1)])
def test_a_calibration_that_no_head_has_is_refused(values: tuple[float, float], tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", replace(a_checkpoint(), calibration=Calibration(*values)))
    assert_refused(tmp_path / "best.safetensors", "is not a checkpoint of Wordflock")


@pytest.mark.parametrize(
    "chosen",
    [{"no": 0.5}, {"ja": 0.0}, {"ja": 1.5}, {"ja": 1}, {"ja": "0.5"}, {"ja": None}, [0.5], "ja", {"ja": math.nan}],
)
def test_stream_thresholds_that_no_head_has_are_refused(chosen: Any, tmp_path: Path) -> None:
    calibration = Calibration(1.0, 0.5, chosen)
    save_checkpoint(tmp_path / "best.safetensors", replace(a_checkpoint(), calibration=calibration))
    assert_refused(tmp_path / "best.safetensors", "is not a checkpoint of Wordflock")


def test_stream_thresholds_are_kept(tmp_path: Path) -> None:
    calibration = Calibration(1.0, 0.5, {"ja": 0.75})
    save_checkpoint(tmp_path / "best.safetensors", replace(a_checkpoint(), calibration=calibration))
    assert load_checkpoint(tmp_path / "best.safetensors").calibration == calibration
