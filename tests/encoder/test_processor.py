from pathlib import Path

import pytest
import torch

from wordflock.encoder import processor
from wordflock.encoder.spec import FeatureSpec


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Makes this machine another one, by what its /proc/cpuinfo says."""

    def become(cpuinfo: str | None) -> None:
        file = tmp_path / "cpuinfo"
        file.unlink(missing_ok=True)
        if cpuinfo is not None:
            file.write_text(cpuinfo)
        monkeypatch.setattr(processor, "Path", lambda path: file if path == "/proc/cpuinfo" else tmp_path / "none")
        processor.computes_bfloat16.cache_clear()
        processor.processor_name.cache_clear()

    yield become
    processor.computes_bfloat16.cache_clear()
    processor.processor_name.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "name", "bfloat16"),
    [
        ("processor\t: 0\nmodel name\t: Some Xeon\nflags\t\t: fpu avx512_bf16 amx_tile\n", "Some Xeon", True),
        ("processor\t: 0\nmodel name\t: Old Xeon\nflags\t\t: fpu avx512f\n", "Old Xeon", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\nModel\t\t: Some Pi\n", "Some Pi", False),
    ],
)
def test_the_processor_s_own_words_decide(machine, cpuinfo, name, bfloat16):
    machine(cpuinfo)
    assert processor.processor_name() == name
    assert processor.computes_bfloat16() == bfloat16
    # A head that was trained elsewhere gets features that this processor need not imitate.
    elsewhere = FeatureSpec("tiny.en", 64 * "a", 1.4, "2", precision="bfloat16")
    assert elsewhere.here().precision == ("bfloat16" if bfloat16 else "float32")
    assert elsewhere.here().kind == elsewhere.kind


def test_where_nothing_is_said_it_is_float32(machine):
    machine(None)
    assert not processor.computes_bfloat16()
    assert isinstance(processor.processor_name(), str)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="says nothing of its processor")
def test_torch_sees_the_same_of_this_machine():
    assert processor.computes_bfloat16() == torch.cpu._is_avx512_bf16_supported()
