from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from wordflock.audio.reading import SAMPLE_RATE, fit, read_clip
from wordflock.data.task import SILENCE, UNKNOWN
from wordflock.encoder.spec import feature_spec
from wordflock.encoder.torch_encoder import encode, load_encoder
from wordflock.head.calibration import Calibration
from wordflock.head.checkpoint import Checkpoint, get_weights, save_checkpoint
from wordflock.head.kinds import KINDS
from wordflock.head.torch_head import build_head
from wordflock.spotting.predict import predict_files

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
    for file, expected, answer in zip(
        recordings, shares, predict_files(str(tmp_path / "best.safetensors"), recordings), strict=True
    ):
        assert answer[:2] == (file, LABELS[int(expected.argmax())])
        assert answer[2] == pytest.approx(float(expected.max()), abs=2e-3)


def test_a_keyword_below_the_threshold_is_unknown_and_silence_stays(recordings: list[str], tmp_path: Path) -> None:
    path = tmp_path / "best.safetensors"
    saved(path)
    sure = list(predict_files(str(path), recordings))
    saved(path, threshold=1.0)
    unsure = list(predict_files(str(path), recordings))
    assert [label for _, label, _ in unsure] == [SILENCE if label == SILENCE else UNKNOWN for _, label, _ in sure]
    assert [share for *_, share in unsure] == [share for *_, share in sure]


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
