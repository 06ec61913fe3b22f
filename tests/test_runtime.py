from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordflock import runtime
from wordflock.errors import WordflockError
from wordflock.settings import RECIPES, TrainSettings

PLAIN, ONNX, HALF = "torch float32", "onnxruntime float32", "torch bfloat16"

Machine = Callable[..., Path]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Makes this machine one on which each way takes so long; returns the user's cache on it."""

    def become(half: bool = True, **costs: float) -> Path:
        def measured() -> dict[str, float]:
            with (tmp_path / "times").open("a") as times:
                times.write("x")
            return {way: costs[way] for way in (PLAIN, ONNX, HALF)[: 2 + half]}

        monkeypatch.setattr(runtime, "computes_bfloat16", lambda: half)
        monkeypatch.setattr(runtime, "_milliseconds", measured)
        return tmp_path

    return become


def chosen(cache: Path, **options: str) -> tuple[str, str]:
    return runtime.choose_way(TrainSettings(device="cpu", **options), cache)


@pytest.mark.parametrize(
    ("costs", "options", "way"),
    [
        ({PLAIN: 9, ONNX: 6, HALF: 4}, {}, HALF),
        ({PLAIN: 9, ONNX: 4, HALF: 6}, {}, ONNX),
        ({PLAIN: 4, ONNX: 6, HALF: 9}, {}, PLAIN),
        ({PLAIN: 9, ONNX: 8.5, HALF: 8.2}, {}, PLAIN),  # too little a gain to be sure of
        ({PLAIN: 9, ONNX: 6, HALF: 4}, {"precision": "float32"}, ONNX),
        ({PLAIN: 9, ONNX: 6, HALF: 4}, {"precision": "float32", "runtime": "torch"}, PLAIN),
        ({PLAIN: 9, ONNX: 6, HALF: 4}, {"runtime": "onnxruntime"}, ONNX),
        ({PLAIN: 9, ONNX: 6, HALF: 4}, {"runtime": "torch"}, HALF),
    ],
)
def test_the_fastest_way_that_is_allowed_is_taken(
    machine: Machine, costs: dict[str, float], options: dict[str, str], way: str
) -> None:
    assert chosen(machine(**costs), **options) == tuple(way.split())


def test_bfloat16_is_imitated_only_for_who_asks_for_it(machine: Machine) -> None:
    cache = machine(half=False, **{PLAIN: 9, ONNX: 6})
    assert chosen(cache) == ("onnxruntime", "float32")
    assert chosen(cache, precision="bfloat16") == ("torch", "bfloat16")


def test_it_is_measured_once(machine: Machine) -> None:
    cache = machine(**{PLAIN: 9, ONNX: 6, HALF: 4})
    assert chosen(cache) == chosen(cache)
    machine(**{PLAIN: 1, ONNX: 6, HALF: 4})  # busier now
    assert chosen(cache) == ("torch", "bfloat16")
    assert (cache / "times").read_text() == "x"


def test_nothing_is_measured_where_nothing_is_open(machine: Machine) -> None:
    cache = machine(**{PLAIN: 9, ONNX: 6, HALF: 4})
    seed = RECIPES["seed"]
    assert chosen(cache, runtime=seed["runtime"], precision=seed["precision"]) == ("torch", "float32")
    assert not (cache / "times").exists()


@given(st.binary(max_size=30) | st.sampled_from([b"[]", b'{"a": 1}', b'{"a": {"b": "c"}}', b"null"]))
def test_a_damaged_file_is_measured_anew(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "computes_bfloat16", lambda: False)
        patch.setattr(runtime, "_milliseconds", lambda: {PLAIN: 9.0, ONNX: 6.0})
        cache = tmp_path_factory.mktemp("cache")
        (cache / "runtimes.json").write_bytes(content)
        assert chosen(cache) == ("onnxruntime", "float32")
        (kept,) = [costs for costs in json.loads((cache / "runtimes.json").read_text()).values() if PLAIN in costs]
        assert kept == {PLAIN: 9.0, ONNX: 6.0}


def test_a_cache_that_cannot_be_written_is_no_hindrance(machine: Machine, tmp_path: Path) -> None:
    machine(**{PLAIN: 9, ONNX: 6, HALF: 4})
    (tmp_path / "file").touch()
    assert chosen(tmp_path / "file" / "below") == ("torch", "bfloat16")


def test_onnxruntime_computes_in_float32_only(machine: Machine) -> None:
    with pytest.raises(WordflockError, match=r"^--runtime onnxruntime does not compute in bfloat16 on the device cpu;"):
        chosen(machine(), runtime="onnxruntime", precision="bfloat16")


def test_the_real_measurement_knows_every_way() -> None:
    costs = runtime._milliseconds()
    assert costs.keys() == {" ".join(way) for way in runtime._ways("cpu")}
    assert min(costs.values()) > 0
