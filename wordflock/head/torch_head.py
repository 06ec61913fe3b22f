"""The heads: from the features of a clip to a score for each label. Only this is trained, and only this travels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wordflock.errors import WordflockError
from wordflock.head.kinds import ATTENTION, CHANNELS, HIDDEN, KINDS, TEMPORAL
from wordflock.head.numpy_head import MIN_VARIANCE, Projection

MAX_PARAMETERS = 800_000  # parameters


def build_head(
    kind: str,
    frames: int,
    width: int,
    labels: int,
    *,
    seed: int | None = 0,
    allow_large: bool = False,
    projection: Projection | None = None,
) -> Head:
    """A head that takes features of shape (batch, frames, width) to logits of shape (batch, labels).

    Its first weights depend on `seed` alone; without a seed they are arbitrary, for a head that gets its weights from
    elsewhere. Raises WordflockError for an unknown kind, for a kind that has no `projection` where one is given, and
    for a head of over 800,000 parameters unless `allow_large`.
    """
    if kind not in KINDS:
        raise WordflockError(f"There is no head {kind!r}; choose one of {', '.join(KINDS)}.")
    if projection and not KINDS[kind].random_features:
        able = ", ".join(name for name, other in KINDS.items() if other.random_features)
        raise WordflockError(f"--head {kind} has no random features; take --head {able}.")
    head_class = globals()[KINDS[kind].torch_class]
    with torch.random.fork_rng(devices=[]):  # torch initialises from its global generator: leave that as it was
        if seed is not None:
            torch.manual_seed(seed)
        sizes = frames, width, labels
        head: Head = head_class(*sizes, projection) if projection else head_class(*sizes)
    count = count_parameters(head)
    if count > MAX_PARAMETERS and not allow_large:
        raise WordflockError(
            f"The {kind} head over {frames} frames of width {width} has {count:,} parameters, over {MAX_PARAMETERS:,}; "
            "take a shorter window or another head, or allow it with --allow-large-head."
        )
    return head


def count_parameters(head: nn.Module) -> int:
    """The number of trained numbers."""
    return sum(parameter.numel() for parameter in head.parameters())


class Head(nn.Module):
    """A head: it pools a clip's features into one vector, and a linear layer scores the labels.

    What `pool` gives, shape (batch, output.in_features), is what closed_form.py can find the best `output` for.
    """

    output: nn.Linear

    def pool(self, features: Tensor) -> Tensor:
        """The vector of each clip."""
        raise NotImplementedError

    @property
    def parts(self) -> tuple[int, ...]:
        """The sizes of the parts of the vector for which the closed form finds an output layer each."""
        return (self.output.in_features,)

    def forward(self, features: Tensor) -> Tensor:
        """The logits, shape (batch, labels)."""
        logits: Tensor = self.output(self.pool(features))
        return logits


class AttentiveHead(Head):
    """Attentive statistics pooling (Okabe 2018, arXiv 1803.10963), an attention for each channel, then a linear layer.

    The attention starts at zero: an untrained head pools the plain mean and standard deviation over the frames.
    """

    def __init__(self, frames: int, width: int, labels: int, hidden: int = ATTENTION) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, hidden)
        self.attention_out = nn.Linear(hidden, width, bias=False)  # the softmax would not see a bias
        self.output = nn.Linear(2 * width, labels)
        nn.init.zeros_(self.attention_out.weight)

    def pool(self, features: Tensor) -> Tensor:
        x = self.norm(features)
        weight = torch.softmax(self.attention_out(torch.tanh(self.attention_in(x))), dim=1)
        weighted = weight * x
        mean = weighted.sum(dim=1)
        variance = (weighted * x).sum(dim=1) - mean.square()
        return torch.cat([mean, variance.clamp_min(MIN_VARIANCE).sqrt()], dim=1)


class CombinedHead(Head):
    """Two parts: the mean and the standard deviation over the frames; and two convolutions over time, of which the mean
    and the maximum over the frames are taken.

    Only the second part is trained: in training the first is zero, and so its output weights stay as they are, zero at
    the start. Afterwards the closed form finds the output layers of both, whose mean is the head's.
    """

    def __init__(self, frames: int, width: int, labels: int, channels: int = TEMPORAL) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Conv1d(width, channels, kernel_size=3, padding=1)
        self.second = nn.Conv1d(channels, channels, kernel_size=3, padding=1)
        self.output = nn.Linear(2 * width + 2 * channels, labels)
        nn.init.zeros_(self.output.weight[:, : 2 * width])

    @property
    def parts(self) -> tuple[int, ...]:
        """The sizes of the two parts."""
        learned = 2 * self.second.out_channels
        return self.output.in_features - learned, learned

    def pool(self, features: Tensor) -> Tensor:
        x = F.relu(self.first(self.norm(features).transpose(1, 2)))
        x = F.relu(self.second(x))
        learned = torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1)
        if self.training:
            return F.pad(learned, (self.parts[0], 0))
        return torch.cat([features.mean(dim=1), features.std(dim=1, correction=0), learned], dim=1)


class ConvolutionHead(Head):
    """The seed system's head: a convolution that takes the frames for channels, then a linear layer.

    Over the whole 30 s window and 12 labels it has 781,964 parameters.
    """

    def __init__(self, frames: int, width: int, labels: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.mix = nn.Conv1d(frames, channels, kernel_size=1)
        self.output = nn.Linear(channels * width, labels)

    def pool(self, features: Tensor) -> Tensor:
        return F.relu(self.mix(features)).flatten(1)


class MeanHead(Head):
    """The mean over the frames, then a perceptron with one hidden layer: the smallest thing that works."""

    def __init__(self, frames: int, width: int, labels: int, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Linear(width, hidden)
        self.output = nn.Linear(hidden, labels)

    def pool(self, features: Tensor) -> Tensor:
        return F.gelu(self.hidden(self.norm(features.mean(dim=1))))


class LinearHead(Head):
    """A linear layer and nothing else, for features whose frames are pooled before they are stored."""

    def __init__(self, frames: int, width: int, labels: int) -> None:
        super().__init__()
        self.output = nn.Linear(frames * width, labels)

    def pool(self, features: Tensor) -> Tensor:
        return features.flatten(1)


class LinearMeanHead(Head):
    """A linear layer over the first of two pooled frames, the mean, not the deviation: a quarter of the statistics."""

    def __init__(self, frames: int, width: int, labels: int) -> None:
        super().__init__()
        self.output = nn.Linear(width, labels)

    def pool(self, features: Tensor) -> Tensor:
        return features[:, 0]


class NormalizedHead(LinearHead):
    """A linear layer over clips that are brought to mean 0 and norm 1 each by itself.

    A clip is standardised by its own values alone, and no clip weighs more than another. Differential privacy needs
    both (privacy/mechanism.py), and a random projection needs coordinates of one scale.
    """

    def __init__(self, frames: int, width: int, labels: int, projection: Projection | None = None) -> None:
        super().__init__(frames, width, labels)
        self.projection = torch.from_numpy(projection.matrix(frames * width)) if projection else None
        if projection:
            self.output = nn.Linear(projection.size, labels)

    def pool(self, features: Tensor) -> Tensor:
        normal = F.layer_norm(features, features.shape[-1:])
        z = normal.flatten(1) / math.sqrt(features.shape[1] * features.shape[2])
        return z if self.projection is None else z @ self.projection.to(z.device)
