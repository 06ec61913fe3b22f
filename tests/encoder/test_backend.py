from __future__ import annotations

from collections.abc import Callable

import pytest

from wordflock.encoder import backend
from wordflock.errors import WordflockError
from wordflock.settings import PRESETS, TrainSettings

PLAIN, ONNX, HALF = ("torch", "float32"), ("onnxruntime", "float32"), ("torch", "bfloat16")

Processor = Callable[[bool], None]


@pytest.fixture
def processor(monkeypatch: pytest.MonkeyPatch) -> Processor:
    """Makes this machine's processor one with bfloat16, or without."""

    def become(bfloat16: bool) -> None:
        monkeypatch.setattr(backend, "computes_bfloat16", lambda: bfloat16)

    return become


def chosen(**options: str) -> tuple[str, str]:
    return backend.choose_backend(TrainSettings(device="cpu", **options))


@pytest.mark.parametrize(
    ("bfloat16", "options", "way"),
    [
        (True, {}, HALF),
        (True, {"backend": "torch"}, HALF),
        (True, {"precision": "float32"}, ONNX),
        (True, {"backend": "onnxruntime"}, ONNX),
        (True, {"backend": "torch", "precision": "float32"}, PLAIN),
        (False, {}, ONNX),
        (False, {"backend": "torch"}, PLAIN),
        (False, {"precision": "float32"}, ONNX),
        (False, {"precision": "bfloat16"}, HALF),  # emulated, on request
    ],
)
def test_the_processor_decides(
    processor: Processor, bfloat16: bool, options: dict[str, str], way: tuple[str, str]
) -> None:
    processor(bfloat16)
    assert chosen(**options) == way


def test_a_recipe_can_name_both(processor: Processor) -> None:
    processor(True)
    assert (
        chosen(backend=PRESETS["flower-example"]["backend"], precision=PRESETS["flower-example"]["precision"]) == PLAIN
    )


def test_onnxruntime_computes_in_float32_only(processor: Processor) -> None:
    processor(True)
    with pytest.raises(WordflockError, match=r"^--backend onnxruntime does not compute in bfloat16 on the device cpu;"):
        chosen(backend="onnxruntime", precision="bfloat16")
