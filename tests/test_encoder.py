import numpy as np
import pytest
import torch

from wordflock.encoder import build_encoder
from wordflock.errors import WordflockError
from wordflock.weights import Dimensions

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


@pytest.mark.parametrize("seconds", [0.2, 1.4, 30.0])
def test_a_window_of_any_length(tensors, seconds):
    frames = round(seconds * 50)
    with torch.inference_mode():
        features = build_encoder(SMALL, tensors)(torch.zeros(1, 80, 2 * frames))
    assert features.shape == (1, frames, 32)
    assert torch.isfinite(features).all()


def test_a_short_window_equals_transformers_with_its_positions_cut(reference, tensors):
    """Transformers refuses short inputs; with its own modules called one by one it does the same as ours."""
    log_mels = torch.from_numpy(np.random.default_rng(2).normal(0, 1, (2, 80, 140)).astype(np.float32))
    with torch.inference_mode():
        x = torch.nn.functional.gelu(reference.conv1(log_mels))
        x = torch.nn.functional.gelu(reference.conv2(x)).permute(0, 2, 1)
        x = x + reference.embed_positions.weight[: x.shape[1]]
        for layer in reference.layers:
            x = layer(x, None)
            x = x[0] if isinstance(x, tuple) else x
        theirs = reference.layer_norm(x)
        assert (build_encoder(SMALL, tensors)(log_mels) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("layer", ["0", "4"])
def test_a_layer_that_is_not_there(tensors, layer):
    with pytest.raises(WordflockError, match="layers 1 to 3"):
        build_encoder(SMALL, tensors, layer)


def test_it_is_frozen(tensors):
    encoder = build_encoder(SMALL, tensors)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
