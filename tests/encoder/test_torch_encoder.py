import re

import numpy as np
import pytest
import torch

from wordflock.encoder.backend import open_encoder
from wordflock.encoder.spec import feature_spec
from wordflock.encoder.torch_encoder import build_encoder
from wordflock.encoder.weights import Dimensions
from wordflock.errors import WordflockError

SMALL = Dimensions(mels=80, width=32, layers=3, attention_heads=2, positions=1500)


@pytest.fixture(scope="module")
def reference():
    """A small Whisper encoder of transformers with random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.WhisperConfig(
        d_model=32, encoder_layers=3, encoder_attention_heads=2, encoder_ffn_dim=128, num_mel_bins=80
    )
    torch.manual_seed(0)
    model = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # far from the near-zero start, so that every part shows
    return model


@pytest.fixture(scope="module")
def tensors(reference):
    return {name: tensor.detach().numpy() for name, tensor in reference.state_dict().items()}


@pytest.fixture(scope="module")
def log_mels():
    return torch.from_numpy(np.random.default_rng(1).normal(0, 1, (2, 80, 3000)).astype(np.float32))


@pytest.fixture(scope="module")
def short():
    """Log-mel spectrograms of 1.4 s."""
    return torch.from_numpy(np.random.default_rng(2).normal(0, 1, (2, 80, 140)).astype(np.float32))


def test_equals_transformers_on_30_seconds(reference, tensors, log_mels):
    ours = build_encoder(SMALL, tensors)
    with torch.inference_mode():
        assert (ours(log_mels) - reference(log_mels).last_hidden_state).abs().max() < 1e-4


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_layers_output_equals_transformers(reference, tensors, log_mels, layer):
    seen = {}
    hook = reference.layers[layer - 1].register_forward_hook(lambda *args: seen.update(out=args[2]))
    with torch.inference_mode():
        reference(log_mels)
        hook.remove()
        theirs = seen["out"][0] if isinstance(seen["out"], tuple) else seen["out"]
        assert (build_encoder(SMALL, tensors, str(layer))(log_mels) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("layer", ["1+2", "2+3", "1+last", "3+last", "1+2+3+last"])
def test_several_layers_stand_side_by_side(tensors, short, layer):
    with torch.inference_mode():
        alone = [build_encoder(SMALL, tensors, part)(short) for part in layer.split("+")]
        together = build_encoder(SMALL, tensors, layer)(short)
    assert together.shape == (2, 70, 32 * len(alone))
    assert torch.equal(together, torch.cat(alone, dim=2))
    assert len({features.sum().item() for features in alone}) == len(alone)  # "3" is before the final norm


def test_no_layer_is_built_above_the_highest_that_is_wanted(tensors):
    assert [len(build_encoder(SMALL, tensors, layer).layers) for layer in ("1", "1+2", "1+last")] == [1, 2, 3]


@pytest.mark.parametrize("layer", ["last", "2", "1+3+last"])
def test_pooled_features_are_the_mean_and_the_standard_deviation_over_the_frames(tensors, short, layer):
    with torch.inference_mode():
        frames = build_encoder(SMALL, tensors, layer)(short).double().numpy()
        pooled = build_encoder(SMALL, tensors, layer, pooled=True)(short).numpy()
    assert pooled.shape == (2, 2, frames.shape[2])
    np.testing.assert_allclose(pooled[:, 0], frames.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(pooled[:, 1], frames.std(axis=1), atol=1e-5)


@pytest.mark.parametrize(("by", "frames"), [(3, 24), (5, 14), (7, 10), (71, 1)])
def test_pooled_neighbours_are_their_means(tensors, short, by, frames):
    with torch.inference_mode():
        every = build_encoder(SMALL, tensors, "1+last")(short).double().numpy()
        pooled = build_encoder(SMALL, tensors, "1+last", frame_pooling=by)(short).numpy()
    assert pooled.shape == (2, frames, 64)
    np.testing.assert_allclose(pooled, means(every, by), atol=1e-5)


@pytest.mark.parametrize(("by", "frames"), [(2, 35), (4, 18), (6, 12), (70, 1)])
def test_an_even_pooling_makes_two_frames_one_for_all_layers_but_the_first(tensors, short, by, frames):
    whole = build_encoder(SMALL, tensors)
    with torch.inference_mode():
        first = build_encoder(SMALL, tensors, "1")(short).numpy()
        x = second = whole.layers[1](torch.from_numpy(means(first, 2)))
        last = whole.norm(whole.layers[2](x))
        features = build_encoder(SMALL, tensors, "1+2+last", frame_pooling=by)(short).numpy()
        pooled = build_encoder(SMALL, tensors, "2+last", pooled=True, frame_pooling=by)(short).numpy()
    every = np.concatenate([means(first, 2), second.numpy(), last.numpy()], axis=2)
    assert features.shape == (2, frames, 96)
    np.testing.assert_allclose(features, means(every, by // 2), atol=1e-5)
    np.testing.assert_allclose(pooled, np.stack([every.mean(axis=1), every.std(axis=1)], axis=1)[..., 32:], atol=1e-5)


def means(frames: np.ndarray, by: int) -> np.ndarray:
    """Of every `by` neighbouring frames, the last perhaps of fewer."""
    return np.stack([frames[:, at : at + by].mean(axis=1) for at in range(0, frames.shape[1], by)], axis=1)


def test_bfloat16_is_near_and_leaves_the_rest_of_torch_alone(tensors, short):
    with torch.inference_mode():
        exact = build_encoder(SMALL, tensors)(short)
        near = build_encoder(SMALL, tensors, precision="bfloat16")(short)
        assert torch.equal(build_encoder(SMALL, tensors)(short), exact)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).norm() / exact.norm() < 0.02  # bfloat16 has eight bits, errors of 0.4% at most each


@pytest.mark.parametrize("seconds", [0.2, 1.4, 30.0])
def test_a_window_of_any_length(tensors, seconds):
    frames = round(seconds * 50)
    with torch.inference_mode():
        features = build_encoder(SMALL, tensors)(torch.zeros(1, 80, 2 * frames))
    assert features.shape == (1, frames, 32)
    assert torch.isfinite(features).all()


def test_a_short_window_equals_transformers_with_its_positions_cut(reference, tensors, short):
    """Transformers refuses short inputs; with its own modules called one by one it does the same as ours."""
    with torch.inference_mode():
        x = torch.nn.functional.gelu(reference.conv1(short))
        x = torch.nn.functional.gelu(reference.conv2(x)).permute(0, 2, 1)
        x = x + reference.embed_positions.weight[: x.shape[1]]
        for layer in reference.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        theirs = reference.layer_norm(x)
        assert (build_encoder(SMALL, tensors)(short) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("layer", ["0", "4", "2+4", "0+last", "4+last", "2+12+last"])
def test_a_layer_that_is_not_there(tensors, layer):
    with pytest.raises(WordflockError, match=rf"^The encoder has layers 1 to 3, and not all of {re.escape(layer)}\.$"):
        build_encoder(SMALL, tensors, layer)


def test_it_is_frozen(tensors):
    encoder = build_encoder(SMALL, tensors)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize(
    ("backend", "precision"), [("torch", "float32"), ("torch", "bfloat16"), ("onnxruntime", "float32")]
)
def test_a_clip_has_the_same_bytes_whichever_clips_are_encoded_with_it(backend, precision):
    encode = open_encoder(feature_spec("tiny.en", 1.4, "2+last", frame_pooling=2, precision=precision, backend=backend))
    clips = np.random.default_rng(3).normal(0, 0.1, (7, 22_400)).astype(np.float32)
    together = encode(clips)
    for start, stop in ((0, 1), (1, 3), (3, 7), (6, 7)):
        assert encode(clips[start:stop]).tobytes() == together[start:stop].tobytes()
