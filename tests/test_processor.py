from pathlib import Path

import pytest
import torch

from wordflock import processor
from wordflock.features import FeatureSpec
from wordflock.settings import Settings, TrainSettings


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine another one, by what its /proc/cpuinfo says."""

    def become(cpuinfo: str | None) -> None:
        file = tmp_path / "cpuinfo"
        file.unlink(missing_ok=True)
        if cpuinfo is not None:
            file.write_text(cpuinfo)
        monkeypatch.setattr(processor, "Path", lambda path: file if path == "/proc/cpuinfo" else tmp_path / "none")
        processor.fastest_precision.cache_clear()
        processor.processor_name.cache_clear()

    yield become
    processor.fastest_precision.cache_clear()
    processor.processor_name.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "name", "precision"),
    [
        ("processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx512_bf16 amx_tile\n", "Some Xeon", "bfloat16"),
        ("processor\t: 0\nmodel name\t: Old Xeon\nflags\t\t: fpu avx512f\n", "Old Xeon", "float32"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\nModel\t\t: Some Pi\n", "Some Pi", "float32"),
    ],
)
def test_the_processor_s_own_words_decide(machine, cpuinfo, name, precision):
    machine(cpuinfo)
    assert processor.processor_name() == name
    assert processor.fastest_precision() == precision
    assert Settings().precision == Settings(precision="auto").precision == precision
    assert TrainSettings(precision="bfloat16").precision == "bfloat16"
    # A head that was trained elsewhere gets features that this processor makes fast.
    elsewhere = FeatureSpec("tiny.en", 64 * "a", 1.4, "2", precision="bfloat16")
    assert elsewhere.here().precision == precision
    assert elsewhere.here().kind == elsewhere.kind


def test_where_nothing_is_said_it_is_float32(machine):
    machine(None)
    assert processor.fastest_precision() == "float32"
    assert isinstance(processor.processor_name(), str)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="says nothing of its processor")
def test_torch_sees_the_same_of_this_machine():
    assert (processor.fastest_precision() == "bfloat16") == torch.cpu._is_avx512_bf16_supported()
