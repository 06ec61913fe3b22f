"""The exported model gives what torch gives, and a detector hears with it what it hears with the checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from test_predict import saved

from wordflock.cli.commands import run
from wordflock.encoder import weights
from wordflock.encoder.spec import feature_spec
from wordflock.encoder.torch_encoder import encode, load_encoder
from wordflock.errors import WordflockError
from wordflock.head.calibration import Calibration, probabilities
from wordflock.head.checkpoint import Checkpoint, get_weights, load_checkpoint, save_checkpoint
from wordflock.head.kinds import KINDS
from wordflock.head.numpy_head import Projection
from wordflock.head.torch_head import build_head
from wordflock.settings import TrainSettings
from wordflock.spotting import export as exporting
from wordflock.spotting.detector import Detection, Detector
from wordflock.spotting.export import METADATA, Measured, export
from wordflock.spotting.listener import open_listener

LABELS = ["yes", "no", "_silence_", "_unknown_"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Whisper encoder of two narrow layers that nobody trained: all that the graph has, in milliseconds."""
    generator = np.random.default_rng(0)
    sizes = weights.Dimensions(mels=80, width=64, layers=2, attention_heads=1, positions=75)
    tensors = {
        f"model.encoder.{name}": (generator.normal(size=shape) * 0.15).astype(np.float32)
        for name, shape in weights.shapes(sizes)
    }
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_file(tensors, path)
    return str(path)


def checkpoint(encoder: str, kind: str, random_features: int = 0) -> Checkpoint:
    """A head of random weights, all of them away from their first values."""
    pooled = KINDS[kind].pooled
    spec = feature_spec(encoder, 1.4, "1+last" if pooled else "last", pooled, 6)
    width = 64 * (2 if pooled else 1)
    projection = Projection(random_features, 7) if random_features else None
    built = build_head(kind, spec.frames, width, len(LABELS), seed=1, allow_large=True, projection=projection)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    calibration = Calibration(1.7, 0.3, {"yes": 0.2})
    return Checkpoint(LABELS, kind, width, spec, get_weights(built), {"seed": 7}, calibration, random_features)


def sounds(count: int) -> NDArray[np.float32]:
    generator = np.random.default_rng(0)
    loudness = np.array([0.0, 1e-3, 0.1, 0.5])[:count, np.newaxis]
    return (generator.standard_normal((count, 22_400)) * loudness).astype(np.float32)


@pytest.mark.parametrize(("kind", "random_features"), [*((kind, 0) for kind in KINDS), ("normalized", 32)])
def test_it_gives_what_torch_gives(encoder: str, kind: str, random_features: int, tmp_path: Path) -> None:
    trained = checkpoint(encoder, kind, random_features)
    session = onnxruntime.InferenceSession(str(export(trained, "x", tmp_path)))
    (given,) = session.run(None, {"samples": sounds(4)})
    features = encode(load_encoder(trained.spec), sounds(4)).astype(np.float32)
    with torch.inference_mode():
        scores = trained.build().eval()(torch.from_numpy(features)).numpy()
    assert np.abs(given - probabilities(scores / np.float32(1.7))).max() < 1e-3
    assert (tmp_path / "labels.txt").read_text().split() == LABELS


def test_the_real_encoder_too_and_other_precisions_are_smaller_and_near(tmp_path: Path) -> None:
    trained = saved(tmp_path / "best.safetensors")
    clips = sounds(4)[:, :16_000]
    features = encode(load_encoder(trained.spec), clips).astype(np.float32)
    with torch.inference_mode():
        expected = probabilities(trained.build().eval()(torch.from_numpy(features)).numpy() / np.float32(2.0))
    megabytes = {}
    for precision, near in (("float32", 1e-3), ("float16", 1e-2), ("int8", 0.2)):
        content = exporting.serialized(trained, "x", precision)
        megabytes[precision] = len(content) / 1e6
        (given,) = onnxruntime.InferenceSession(content).run(None, {"samples": clips})
        assert np.abs(given - expected).max() < near
    assert megabytes["float16"] < 0.6 * megabytes["float32"] and megabytes["int8"] < 0.5 * megabytes["float32"]


def test_a_detector_hears_the_same_with_it_as_with_the_checkpoint(encoder: str, tmp_path: Path) -> None:
    trained = checkpoint(encoder, "attentive")
    save_checkpoint(tmp_path / "best.safetensors", trained)
    export(trained, "x", tmp_path / "out")
    exported, own = open_listener(tmp_path / "out"), open_listener(tmp_path / "best.safetensors")
    assert exported.rule == own.rule and exported.keywords == own.keywords == ("yes", "no")
    sound = np.random.default_rng(1).standard_normal(64_000).astype(np.float32) * np.float32(0.1)
    for model in (tmp_path / "out" / "model.onnx", tmp_path / "out"):
        ours, theirs = (Detector(one, threshold=0.1).feed(sound) for one in (own, model))
        assert ours and [(x.label, x.end) for x in ours] == [(x.label, x.end) for x in theirs]
        assert np.allclose([x.confidence for x in ours], [x.confidence for x in theirs], atol=1e-3)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_the_default_head_hears_the_same_in_chunks_of_any_size(encoder: str, rate: int, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.safetensors", checkpoint(encoder, TrainSettings().head))
    listener = open_listener(tmp_path / "best.safetensors")
    generator = np.random.default_rng(2)
    loudness = np.repeat(generator.uniform(0, 0.3, 16), rate // 4)
    sound = (generator.standard_normal(4 * rate) * loudness).astype(np.float32)

    def heard(size: int) -> list[Detection]:
        chunks = (sound[first : first + size] for first in range(0, len(sound), size))
        return list(Detector(listener, threshold=0.1, rate=rate).stream(chunks))

    whole = heard(len(sound))
    assert whole and all(heard(rate * milliseconds // 1_000) == whole for milliseconds in (1, 10, 80, 1_000))


def test_what_a_detector_must_know_is_in_the_file(encoder: str, tmp_path: Path) -> None:
    model = onnx.load(str(export(checkpoint(encoder, "linear"), "x", tmp_path)))
    about = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA])
    assert about["labels"] == LABELS and about["window"] == 1.4 and about["rule"]["thresholds"] == [0.2, 0.5]
    assert max(opset.version for opset in model.opset_import) <= 20


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07", None])
def test_what_is_not_an_export_is_said(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(WordflockError, match="not a model exported"):
        open_listener(tmp_path / "model.onnx")


@pytest.mark.parametrize("thresholds", [[], [0.5], [0.5, 2.0], [0.5, float("nan")], ["a", "b"], 3])
def test_an_export_with_thresholds_that_no_detector_has_is_refused(
    encoder: str, thresholds: object, tmp_path: Path
) -> None:
    path = export(checkpoint(encoder, "linear"), "x", tmp_path)
    model = onnx.load(str(path))
    about = json.loads(model.metadata_props[0].value)
    about["rule"]["thresholds"] = thresholds
    model.metadata_props[0].value = json.dumps(about)
    onnx.save(model, str(path))
    with pytest.raises(WordflockError, match="not a model exported"):
        open_listener(path)


def test_int8_is_refused_where_it_is_worse(encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    trained, answers = checkpoint(encoder, "linear"), list[Measured]()
    monkeypatch.setattr(exporting, "_clips", lambda *_: (sounds(2), [0, 1], "test"))
    monkeypatch.setattr(exporting, "measure", lambda *_: answers.pop(0))
    for accuracy, milliseconds in ((0.95, 1.0), (0.9971, 6.0)):
        answers[:] = [Measured("float32", 1.0, 5.0, 30.0, 100), Measured("int8", accuracy, milliseconds, 10.0, 100)]
        with pytest.raises(WordflockError, match="int8 is worse here"):
            exporting.compare_precisions(trained, "x", "int8", TrainSettings())
    answers[:] = [Measured("float32", 1.0, 5.0, 30.0, 100), Measured("int8", 0.998, 4.0, 10.0, 100)]
    assert len(exporting.compare_precisions(trained, "x", "int8", TrainSettings())) == 2


def test_the_command_measures_and_writes_a_card(
    encoder: str, small_speech_commands: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ["--runs", str(tmp_path / "runs"), "--name", "r", "--cache", str(tmp_path / "cache")]
    settings = ["--encoder", encoder, "--head", "attentive", "--epochs", "1"]
    run(["train", "--data", str(small_speech_commands), *settings, *runs, "-q"])
    for precision in ("float16", "float32"):
        run(["export", str(tmp_path / "runs" / "r"), "--out", str(tmp_path / "out"), "--precision", precision])
        card = (tmp_path / "out" / "README.md").read_text()
        assert "## Model file" in card and f"| {precision} |" in card and "% of " in card
    assert str(tmp_path / "out" / "model.onnx") in capsys.readouterr().out
    labels = load_checkpoint(tmp_path / "runs" / "r" / "best.safetensors").labels
    assert (tmp_path / "out" / "labels.txt").read_text().split() == labels


def test_a_head_that_was_trained_on_all_clips_is_measured_on_those(
    encoder: str, tmp_path: Path, write_audio: Callable[..., Path]
) -> None:
    for word in ("yes", "no"):
        for number in range(12):
            write_audio(tmp_path / "words" / word / f"{word}{number}.wav")
    settings = TrainSettings(data=str(tmp_path / "words"), cache=str(tmp_path / "cache"), task="stream")
    trained = checkpoint(encoder, "linear")
    clips, labels, split = exporting._clips(trained, settings)
    assert split == "train" and clips.shape == (24, round(trained.spec.window * 16_000)) and len(labels) == 24
