"""The frozen Whisper encoder: any window from 0.2 to 30 s, the output of any layer.

The architecture is that of openai/whisper, `model.py`; only the positional embedding is cut to the window, which
transformers declines to do (see docs/performance.md for what it saves).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wordflock.audio.spectrogram import log_mel
from wordflock.encoder.spec import FeatureSpec, highest_layer, merged_frames, weights_for
from wordflock.encoder.weights import Dimensions, Source


class Encoder(nn.Module):
    """Log-mel spectrograms, shape (batch, 80, 2 × frames), to features, shape (batch, frames, width)."""

    def __init__(
        self,
        dimensions: Dimensions,
        layer: str = "last",
        pooled: bool = False,
        frame_pooling: int = 1,
        precision: str = "float32",
    ) -> None:
        """The output is that of `layer`: "last", after the final norm, or "1" and so on; nothing above it is built.
        Several layers, "2+3+last", stand side by side: the width is then as many times that of one.

        `pooled`: the mean and the standard deviation over the frames in their place, shape (batch, 2, width).
        `frame_pooling`: the mean of so many neighbouring frames in their place. Where it is even, two are made one
        after the first layer already, which halves the work of the others and costs no accuracy (docs/accuracy.md),
        and the rest at the end; `pooled` leaves nothing to do at the end.
        `precision` "bfloat16": products of matrices, by torch's autocast; norms and the sums over layers stay float32.
        Raises WordflockError where there is no such layer.
        """
        super().__init__()
        width = dimensions.width
        self.conv1 = nn.Conv1d(dimensions.mels, width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(width, width, kernel_size=3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.empty(dimensions.positions, width))
        self.wanted, self.pooled = layer.split("+"), pooled
        self.merged = merged_frames(frame_pooling)
        self.frame_pooling = frame_pooling // self.merged
        self.in_bfloat16 = precision == "bfloat16"
        depth = highest_layer(layer, dimensions)
        self.layers = nn.ModuleList(Layer(width, dimensions.attention_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if "last" in self.wanted else nn.Identity()

    def forward(self, log_mel: Tensor) -> Tensor:
        """The features."""
        with torch.autocast(log_mel.device.type, torch.bfloat16, enabled=self.in_bfloat16):
            return self._features(log_mel)

    def _features(self, log_mel: Tensor) -> Tensor:
        x = F.gelu(self.conv1(log_mel))
        x = F.gelu(self.conv2(x)).transpose(1, 2)
        x = x + self.positions[: x.shape[1]]
        outputs = []
        for number, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if number == 1:
                x = _averaged(x, self.merged)
            if str(number) in self.wanted:
                outputs.append(x)
        if "last" in self.wanted:
            outputs.append(self.norm(x))
        features = torch.cat(outputs, dim=2)
        if self.pooled:
            return torch.stack([features.mean(dim=1), features.std(dim=1, correction=0)], dim=1)
        return _averaged(features, self.frame_pooling)


def _averaged(x: Tensor, by: int) -> Tensor:
    """The means of neighbouring frames, shape (batch, ⌈frames / by⌉, width); the last may be of fewer."""
    return F.avg_pool1d(x.transpose(1, 2), by, ceil_mode=True).transpose(1, 2) if by > 1 else x


def encode(encoder: Encoder, clips: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float16]:
    """The features, as they are stored, of clips of shape (batch, samples).

    They are the same bytes whichever clips are encoded together: on devices they are other ones than in a simulation.
    """
    if len(clips) == 1:  # products of so few rows are summed in another order
        return encode(encoder, np.repeat(clips, 2, axis=0), device)[:1]
    with torch.inference_mode():
        # torch's transform, of many rows at once, is five times as fast as numpy's.
        log_mels = log_mel(clips, rfft=lambda frames: torch.fft.rfft(torch.from_numpy(frames)).numpy())
        return encoder(torch.from_numpy(log_mels).to(device)).to(torch.float16).cpu().numpy()  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, attention_heads: int) -> None:
        super().__init__()
        self.attention_heads = attention_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, width = x.shape
        qkv = self.query_key_value(self.attention_norm(x)).view(batch, frames, 3, self.attention_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, frames, width)
        x = x + self.attention_out(attended)
        mapped: Tensor = self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x))))
        return x + mapped


def load_encoder(spec: FeatureSpec, source: Source | None = None) -> Encoder:
    """The encoder that makes the features of a spec, from wherever its weights are: `source`, where they were found.

    Raises WordflockError as `weights_for` does.
    """
    dimensions, tensors = weights_for(spec, source)
    return build_encoder(dimensions, tensors, spec.layer, spec.pooled, spec.frame_pooling, spec.precision)


def build_encoder(
    dimensions: Dimensions,
    tensors: dict[str, NDArray[np.float32]],
    layer: str = "last",
    pooled: bool = False,
    frame_pooling: int = 1,
    precision: str = "float32",
) -> Encoder:
    """The encoder with the given weights (transformers' names), frozen, in evaluation mode."""
    encoder = Encoder(dimensions, layer, pooled, frame_pooling, precision)
    wanted = encoder.state_dict().keys()
    renamed = {
        name: torch.from_numpy(array) for name, array in _renamed(tensors, len(encoder.layers)) if name in wanted
    }
    encoder.load_state_dict(renamed)
    return encoder.requires_grad_(False).eval()


def _renamed(tensors: dict[str, NDArray[np.float32]], depth: int) -> list[tuple[str, NDArray[np.float32]]]:
    """Our names and the tensors: query, key (which has no bias) and value become one matrix."""
    pairs = [(name, tensors[name]) for name in ("conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias")]
    pairs += [("positions", tensors["embed_positions.weight"])]
    pairs += [(f"norm.{kind}", tensors[f"layer_norm.{kind}"]) for kind in ("weight", "bias")]
    for index in range(depth):
        theirs, ours = f"layers.{index}.", f"layers.{index}."
        query, key, value = (f"{theirs}self_attn.{part}_proj." for part in "qkv")
        weight = np.concatenate([tensors[f"{part}weight"] for part in (query, key, value)])
        no_bias = np.zeros_like(tensors[f"{query}bias"])
        bias = np.concatenate([tensors[f"{query}bias"], no_bias, tensors[f"{value}bias"]])
        pairs += [(f"{ours}query_key_value.weight", weight), (f"{ours}query_key_value.bias", bias)]
        for their_part, our_part in (
            ("self_attn_layer_norm", "attention_norm"),
            ("self_attn.out_proj", "attention_out"),
            ("final_layer_norm", "mlp_norm"),
            ("fc1", "mlp_in"),
            ("fc2", "mlp_out"),
        ):
            pairs += [
                (f"{ours}{our_part}.{kind}", tensors[f"{theirs}{their_part}.{kind}"]) for kind in ("weight", "bias")
            ]
    return pairs
