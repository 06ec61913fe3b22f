from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from wordflock.encoder.onnx_encoder import build_onnx_encoder
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.torch_encoder import build_encoder, encode
from wordflock.encoder.weights import Dimensions, shapes
from wordflock.errors import WordflockError

SMALL = Dimensions(mels=80, width=32, layers=3, attention_heads=2, positions=100)


def random_weights(dimensions: Dimensions = SMALL) -> dict[str, NDArray[np.float32]]:
    """Weights far from a start near zero, so that every part shows."""
    generator = np.random.default_rng(0)
    return {name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes(dimensions)}


def noise(seconds: float, clips: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, 0.1, (clips, round(seconds * 16_000))).astype(np.float32)


@pytest.mark.parametrize("window", [0.2, 0.62, 1.4, 2.0])
@pytest.mark.parametrize(
    ("layer", "pooled", "frame_pooling"),
    [
        ("last", False, 1),
        ("last", False, 6),
        ("2", False, 5),
        ("1+3+last", False, 4),
        ("2+last", True, 1),
        ("last", True, 2),
    ],
)
def test_it_is_torch_s_encoder_again(window: float, layer: str, pooled: bool, frame_pooling: int) -> None:
    spec, tensors = FeatureSpec("", "", window, layer, pooled, frame_pooling), random_weights()
    theirs = encode(build_encoder(SMALL, tensors, layer, pooled, frame_pooling), noise(window))
    ours = build_onnx_encoder(spec, SMALL, tensors).encode(noise(window))
    assert ours.shape == theirs.shape and ours.dtype == np.float16
    assert theirs.astype(np.float32).std() > 0.1
    np.testing.assert_allclose(ours.astype(np.float32), theirs.astype(np.float32), rtol=2e-3, atol=2e-3)


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(WordflockError, match=r"^The encoder has layers 1 to 3, and not all of 2\+4\.$"):
        build_onnx_encoder(FeatureSpec("", "", 1.0, "2+4"), SMALL, random_weights())


def test_threads_may_share_it() -> None:
    encoder, clips = build_onnx_encoder(FeatureSpec("", "", 1.0, "last"), SMALL, random_weights()), noise(1.0, 24)
    alone = encoder.encode(clips)
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda clip: encoder.encode(clip[np.newaxis]), clips))
    assert np.concatenate(shared).tobytes() == alone.tobytes()


def test_it_keeps_the_memory_that_onnxruntime_reads() -> None:
    tensors = random_weights()
    encoder = build_onnx_encoder(FeatureSpec("", "", 1.0, "last"), SMALL, tensors)
    kept = {array.tobytes() for array in (value.numpy() for value in encoder.weights)}
    norms = {array.tobytes() for name, array in tensors.items() if "norm.bias" in name}
    assert len(norms) == 7 and norms <= kept


def test_it_needs_no_torch() -> None:
    code = (
        "import sys\n"
        "from wordflock.encoder.spec import feature_spec\n"
        "from wordflock.encoder.backend import open_encoder\n"
        "import numpy as np\n"
        "encode = open_encoder(feature_spec('tiny.en', 1.0, 'last', backend='onnxruntime'))\n"
        "assert encode(np.zeros((2, 16_000), np.float32)).shape == (2, 50, 384)\n"
        "print(*sys.modules)"
    )
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "scipy"} & set(modules)
