"""The heads: from the features of a clip to a score for each label. Only this is trained, and only this travels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordflock.errors import WordflockError

HEADS = ("attentive", "convolution", "mean")
LARGEST = 800_000  # parameters


def build_head(
    kind: str, frames: int, width: int, labels: int, *, seed: int | None = 0, allow_large: bool = False
) -> nn.Module:
    """A head that takes features of shape (batch, frames, width) to logits of shape (batch, labels).

    Its first weights depend on `seed` alone; without a seed they are anything, for a head that gets its weights from
    elsewhere. Raises WordflockError for an unknown kind, and for a head of over
    800,000 parameters unless `allow_large`.
    """
    builders = {"attentive": AttentiveHead, "convolution": ConvolutionHead, "mean": MeanHead}
    if kind not in builders:
        raise WordflockError(f"There is no head {kind!r}; choose one of {', '.join(HEADS)}.")
    if seed is None:
        with torch.device("meta"):
            head = builders[kind](frames, width, labels)
        head = head.to_empty(device="cpu")
    else:
        with torch.random.fork_rng(devices=[]):  # torch initialises from its global generator: leave that as it was
            torch.manual_seed(seed)
            head = builders[kind](frames, width, labels)
    count = count_parameters(head)
    if count > LARGEST and not allow_large:
        raise WordflockError(
            f"The {kind} head over {frames} frames of width {width} has {count:,} parameters, over {LARGEST:,}; "
            "take a shorter window or another head, or allow it with --allow-large-head."
        )
    return head


def count_parameters(head: nn.Module) -> int:
    """The number of trained numbers."""
    return sum(parameter.numel() for parameter in head.parameters())


class AttentiveHead(nn.Module):
    """Attentive statistics pooling (Okabe 2018, arXiv 1803.10963), an attention for each channel, then a linear layer.

    The attention starts at zero: an untrained head pools the plain mean and standard deviation over the frames.
    """

    def __init__(self, frames: int, width: int, labels: int, hidden: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, hidden)
        self.attention_out = nn.Linear(hidden, width)
        self.output = nn.Linear(2 * width, labels)
        nn.init.zeros_(self.attention_out.weight)
        nn.init.zeros_(self.attention_out.bias)

    def forward(self, features: Tensor) -> Tensor:
        x = self.norm(features)
        weight = torch.softmax(self.attention_out(torch.tanh(self.attention_in(x))), dim=1)
        weighted = weight * x
        mean = weighted.sum(dim=1)
        variance = (weighted * x).sum(dim=1) - mean.square()
        logits: Tensor = self.output(torch.cat([mean, variance.clamp_min(1e-5).sqrt()], dim=1))
        return logits


class ConvolutionHead(nn.Module):
    """The seed system's head: a convolution that takes the frames for channels, then a linear layer.

    Over the whole 30 s window and 12 labels it has 781,964 parameters.
    """

    def __init__(self, frames: int, width: int, labels: int, channels: int = 128) -> None:
        super().__init__()
        self.mix = nn.Conv1d(frames, channels, kernel_size=1)
        self.output = nn.Linear(channels * width, labels)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.output(F.relu(self.mix(features)).flatten(1))
        return logits


class MeanHead(nn.Module):
    """The mean over the frames, then a perceptron with one hidden layer: the smallest thing that works."""

    def __init__(self, frames: int, width: int, labels: int, hidden: int = 256) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, labels)

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.output(F.gelu(self.hidden(self.norm(features.mean(dim=1)))))
        return logits
