from __future__ import annotations

import math
import subprocess
import sys
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch

from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip
from wordflock.data.task import SILENCE, UNKNOWN
from wordflock.encoder.spec import feature_spec
from wordflock.encoder.torch_encoder import encode, load_encoder
from wordflock.encoder.weights import save_encoder
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.head.calibration import Calibration
from wordflock.head.checkpoint import Checkpoint, get_weights, save_checkpoint
from wordflock.head.kinds import KINDS
from wordflock.head.torch_head import build_head
from wordflock.spotting.predict import Model, load, predict_files

LABELS = ["yes", "no", SILENCE, UNKNOWN]


def saved(path: Path, kind: str = "attentive", threshold: float = 0.0) -> Checkpoint:
    """A head with random weights on the real encoder."""
    layer = "2+last" if KINDS[kind].pooled else "last"
    spec = feature_spec("tiny.en", 1.0, layer, KINDS[kind].pooled, 6)
    width = 384 * len(layer.split("+"))
    head, generator = build_head(kind, spec.frames, width, len(LABELS)), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0, 0.1, generator=generator)
    calibration = Calibration(temperature=2.0, threshold=threshold)
    checkpoint = Checkpoint(LABELS, kind, width, spec, get_weights(head), calibration=calibration)
    save_checkpoint(path, checkpoint)
    return checkpoint


@pytest.fixture
def recordings(tmp_path: Path, write_audio: Callable[..., Path]) -> list[str]:
    return [str(write_audio(tmp_path / f"{number}.wav", seconds=0.2 + number / 4)) for number in range(5)]


@pytest.mark.parametrize("kind", KINDS)
def test_predict_answers_as_torch_would(kind: str, recordings: list[str], tmp_path: Path) -> None:
    checkpoint = saved(tmp_path / "best.safetensors", kind)
    samples = round(checkpoint.spec.window * SAMPLE_RATE)
    clips = np.stack([fit(read_clip(file), samples) for file in recordings])
    with torch.inference_mode():
        features = torch.from_numpy(encode(load_encoder(checkpoint.spec), clips)).float()
        shares = torch.softmax(checkpoint.build().eval()(features) / 2.0, dim=1)
    model = load(tmp_path / "best.safetensors")
    for expected, answer in zip(shares, model.predict(recordings), strict=True):
        best = int(expected.argmax())
        assert answer.label == next(iter(answer.probabilities)) == LABELS[best]
        assert answer.probabilities == pytest.approx(dict(zip(LABELS, expected.tolist(), strict=True)), abs=2e-3)
        assert answer.confidence == answer.probabilities[answer.label]
        assert sorted(answer.probabilities.values(), reverse=True) == list(answer.probabilities.values())


def test_a_keyword_below_the_threshold_is_unknown_and_silence_stays(recordings: list[str], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    saved(path)
    sure = load(path).predict(recordings)
    saved(path, threshold=1.0)
    for unsure in (load(path).predict(recordings), load(path, threshold=1.0).predict(recordings)):
        assert [said.label for said in unsure] == [SILENCE if s.label == SILENCE else UNKNOWN for s in sure]
        assert [said.probabilities for said in unsure] == [said.probabilities for said in sure]
        assert all(said.confidence == said.probabilities[said.label] for said in unsure)
    assert load(path, threshold=0.0).predict(recordings) == sure


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("model") / "best.safetensors"
    saved(path)
    return load(path)


def test_a_file_its_bytes_and_its_samples_are_one_recording(model: Model, recordings: list[str]) -> None:
    for file in recordings:
        samples, rate = soundfile.read(file, dtype="int16")
        assert rate == SAMPLE_RATE
        said = model(file)
        assert model(Path(file)) == model(Path(file).read_bytes()) == said
        assert model(samples) == model(np.stack([samples, samples], axis=1) / np.float32(2**15)) == said
        raw = dict(predict_files(model, ["-"], BytesIO(samples.tobytes()), SAMPLE_RATE))
        assert raw == dict(predict_files(model, ["-"], BytesIO(Path(file).read_bytes()))) == {"-": said}


def test_samples_of_any_rate_are_resampled(model: Model, recordings: list[str]) -> None:
    samples = read_clip(recordings[-1])
    upsampled = soxr.resample(samples, SAMPLE_RATE, 44_100)
    said, expected = model(upsampled, sample_rate=44_100), model(samples)
    assert said.probabilities == pytest.approx(expected.probabilities, abs=0.02)


@pytest.mark.parametrize(
    ("recording", "rate", "words"),
    [
        (np.zeros(100, np.int64), 16_000, "int64 of shape"),
        (np.zeros((2, 2, 2)), 16_000, r"shape \(2, 2, 2\)"),
        ([], 16_000, r"shape \(0,\)"),
        (["a.wav", "b.wav"], 16_000, "give samples"),
        ([0.0, math.nan], 16_000, "not numbers"),
        ([0.0, 1e30], 16_000, r"up to 1e\+30, where sound is from -1 to 1"),
        ([0.0, 0.1], 44_100.5, "sample_rate = 44100.5"),
        ([0.0, 0.1], 0, "sample_rate = 0"),
        (b"nonsense", 16_000, "not audio"),
        ("nowhere.wav", 16_000, "nowhere.wav cannot be read"),
    ],
)
def test_what_is_not_a_recording_is_refused(recording: Any, rate: Any, words: str, model: Model) -> None:
    with pytest.raises(WordflockError, match=words):
        model(recording, sample_rate=rate)


def test_a_recording_much_longer_than_the_window_is_warned_about(model: Model) -> None:
    with pytest.warns(WordflockWarning, match=r"2\.5 s, and the head hears the loudest 1 s"):
        model(np.zeros(40_000))
    with warnings.catch_warnings(action="error"):
        model(np.zeros(20_000))


def test_a_folder_is_its_audio_files_and_faults_are_answers(model: Model, recordings: list[str]) -> None:
    folder = Path(recordings[0]).parent
    (folder / "notes.txt").write_text("Not a sound.")
    (folder / "broken.flac").write_text("Not a sound either.")
    answers = dict(predict_files(model, [str(folder), "none.wav"], BytesIO()))
    assert sorted(answers) == sorted([*recordings, str(folder / "broken.flac"), "none.wav"])
    assert isinstance(answers["none.wav"], WordflockError)
    assert isinstance(answers[str(folder / "broken.flac")], WordflockError)
    assert [answers[file] for file in recordings] == model.predict(recordings)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan, "high"])
def test_a_threshold_is_a_probability(threshold: Any, tmp_path: Path) -> None:
    saved(tmp_path / "best.safetensors")
    with pytest.raises(WordflockError, match="threshold = "):
        load(tmp_path / "best.safetensors", threshold=threshold)


def test_a_saved_encoder_stands_in_for_the_original(recordings: list[str], tmp_path: Path) -> None:
    saved(tmp_path / "best.safetensors")
    encoder = tmp_path / "encoder.safetensors"
    assert save_encoder("tiny.en", encoder)
    assert encoder.stat().st_size < 17_000_000
    with_file = load(tmp_path / "best.safetensors", encoder=encoder)
    assert with_file.predict(recordings) == load(tmp_path / "best.safetensors").predict(recordings)


@pytest.mark.parametrize("name", ["nowhere", "nobody/nothing", "runs/nowhere"])
def test_a_model_that_is_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    Path("runs").mkdir()
    with pytest.raises(WordflockError, match=f"no run or checkpoint '{name}'"):
        load(name)


def test_predict_loads_nothing_that_only_training_needs(recordings: list[str], tmp_path: Path) -> None:
    saved(tmp_path / "best.safetensors")
    command = f"predict {tmp_path / 'best.safetensors'} {recordings[0]}"
    code = (
        "import atexit, sys; from wordflock.cli import main; "
        f"atexit.register(lambda: print(*sys.modules)); sys.argv = 'wordflock {command}'.split(); main()"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    answer, modules = said.splitlines()
    assert answer.split("\t")[0] == recordings[0]
    training = {"torch", "flwr", "scipy", "sklearn", "torchmetrics", "transformers", "pandas", "matplotlib"}
    assert not training & set(modules.split())
