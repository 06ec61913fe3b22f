"""Features and heads, most of which the product does not have: a table of RESULTS.md.

python -m benchmarks.heads --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Central training with the default recipe, cross-validated over the speakers of training and validation: the test split
plays no part. Each fold has a seed of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.folds import Fold, against, command_line, folds
from wordflock.audio import reading
from wordflock.encoder import store
from wordflock.encoder.store import Features
from wordflock.head.torch_head import AttentiveHead, ConvolutionHead, MeanHead, count_parameters
from wordflock.head.training import Recipe, make_optimizer, predict, train_epoch
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

Maker = Callable[[int, int, int], nn.Module]  # from frames, width and labels


class Plain(AttentiveHead):
    """Without LayerNorm."""

    def __init__(self, frames: int, width: int, labels: int) -> None:
        super().__init__(frames, width, labels)
        self.norm = nn.Identity()  # type: ignore[assignment]


class Dropped(AttentiveHead):
    """Dropout before the last layer."""

    def pool(self, features: Tensor) -> Tensor:
        return F.dropout(super().pool(features), 0.2, self.training)


class ManyHeads(nn.Module):
    """Multi-head attention pooling: each of 8 learned queries takes its own mean and deviation over the frames."""

    def __init__(self, frames: int, width: int, labels: int, heads: int = 8, values: int = 32) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, heads)
        self.value = nn.Linear(width, heads * values)
        self.output = nn.Linear(2 * heads * values, labels)

    def forward(self, features: Tensor) -> Tensor:
        x = self.norm(features)
        weight = torch.softmax(self.score(x), dim=1)[..., None]  # (batch, frames, heads, 1)
        value = self.value(x).unflatten(2, (weight.shape[2], -1))
        average = (weight * value).sum(dim=1)
        variance = (weight * value.square()).sum(dim=1) - average.square()
        return self.output(torch.cat([average, variance.clamp_min(1e-5).sqrt()], dim=1).flatten(1))


class Temporal(nn.Module):
    """Two convolutions over time, then the mean and the greatest value over the frames."""

    def __init__(self, frames: int, width: int, labels: int, channels: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Conv1d(width, channels, 3, padding=1)
        self.second = nn.Conv1d(channels, channels, 3, padding=1)
        self.output = nn.Linear(2 * channels, labels)

    def forward(self, features: Tensor) -> Tensor:
        x = F.relu(self.first(self.norm(features).transpose(1, 2)))
        x = F.relu(self.second(x))
        return self.output(torch.cat([x.mean(dim=2), x.amax(dim=2)], dim=1))


class LayerSum(nn.Module):
    """A learned weighting of layers that stand side by side, each normalised by itself, before the usual head."""

    def __init__(self, frames: int, width: int, labels: int, layers: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.zeros(layers))
        self.head = AttentiveHead(frames, width // layers, labels)

    def forward(self, features: Tensor) -> Tensor:
        each = features.unflatten(2, (len(self.share), -1))
        each = F.layer_norm(each, each.shape[-1:])
        return self.head(torch.einsum("l,bflw->bfw", torch.softmax(self.share, 0), each))


class Changed(AttentiveHead):
    """The usual head on features that were changed first."""

    def __init__(
        self, frames: int, width: int, labels: int, change: Callable[[Tensor], Tensor], training_only: bool = True
    ) -> None:
        super().__init__(frames, width, labels)
        self.change, self.training_only = change, training_only

    def pool(self, features: Tensor) -> Tensor:
        return super().pool(self.change(features) if self.training or not self.training_only else features)


def masked(x: Tensor) -> Tensor:
    """SpecAugment on features: a fifth of the frames, side by side, and a tenth of the channels are 0 in each clip."""
    batch, frames, width = x.shape
    length = max(1, frames // 5)
    start = torch.randint(frames - length + 1, (batch, 1))
    place = torch.arange(frames)
    hidden = (place >= start) & (place < start + length)
    return x.masked_fill(hidden[..., None], 0.0).masked_fill(torch.rand(batch, 1, width) < 0.1, 0.0)


def mixed(x: Tensor, alpha: float = 0.2) -> Tensor:
    """Mixup, in the form that leaves labels alone: the share of the clip itself is drawn from Beta(α + 1, α), which has
    the same mean loss (F. Huszár, "mixup: data-dependent data augmentation", 2017)."""
    share = torch.distributions.Beta(alpha + 1, alpha).sample((len(x), 1, 1))
    return share * x + (1 - share) * x[torch.randperm(len(x))]


def noisy(x: Tensor) -> Tensor:
    """Gaussian noise of a fifth of the features' deviation."""
    return x + 0.2 * x.std() * torch.randn_like(x)


def centred(x: Tensor) -> Tensor:
    """Each clip's mean over its frames taken off, and each channel's deviation over them divided by."""
    return (x - x.mean(dim=1, keepdim=True)) / (x.std(dim=1, keepdim=True) + 0.1)


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    head: Maker = AttentiveHead
    options: dict[str, Any] = field(default_factory=dict)  # of the run
    recipe: dict[str, Any] = field(default_factory=dict)  # what no option says
    by_speaker: bool = False  # each speaker's mean, over all their clips, is taken off
    few: bool = False  # a quarter of the training speakers only
    late: float = 0.0  # seconds of silence before a clip


VARIANTS = {
    "the defaults": Variant(),
    "layer 1": Variant(options={"layer": "1"}),
    "layer 2": Variant(options={"layer": "2"}),
    "layer 3": Variant(options={"layer": "3"}),
    "a quarter of the speakers": Variant(few=True),
    "a quarter of the speakers, layer 2": Variant(options={"layer": "2"}, few=True),
    "learned sum of layers 2, 3, last": Variant(partial(LayerSum, layers=3), {"layer": "2+3+last"}),
    "multi-head attention pooling, 8 heads": Variant(ManyHeads),
    "two temporal convolutions, mean and maximum": Variant(Temporal),
    "mixup": Variant(partial(Changed, change=mixed)),
    "masks on frames and channels": Variant(partial(Changed, change=masked)),
    "dropout 0.2": Variant(Dropped),
    "without LayerNorm": Variant(Plain),
    "each clip normalised": Variant(partial(Changed, change=centred, training_only=False)),
    "each speaker's mean taken off": Variant(by_speaker=True),
    "labels not balanced": Variant(recipe={"balanced": False}),
    "cosine learning rate": Variant(options={"schedule": "cosine"}),
    "frames averaged by 2": Variant(options={"frame_pooling": 2}),
    "frames averaged by 5, after the last layer": Variant(options={"frame_pooling": 5}),
    "attention of 64": Variant(partial(AttentiveHead, hidden=64)),
    "attention of 256": Variant(partial(AttentiveHead, hidden=256)),
    "noise on features": Variant(partial(Changed, change=noisy)),
    "window 1.0 s": Variant(options={"window": 1.0}),
    "window 1.2 s": Variant(options={"window": 1.2}),
    "window 1.6 s": Variant(options={"window": 1.6}),
    "window 2.0 s": Variant(options={"window": 2.0}),
    "window 1.0 s, layer 2": Variant(options={"window": 1.0, "layer": "2"}),
    "the word in the middle, 0.2 s later": Variant(late=0.2),
    "no label smoothing": Variant(options={"label_smoothing": 0.0}),
    "5 epochs": Variant(options={"epochs": 5}),
    "float32": Variant(options={"precision": "float32"}),
    "a perceptron on the mean of the frames": Variant(MeanHead),
    "the seed's convolution": Variant(ConvolutionHead),
    "every frame": Variant(options={"frame_pooling": 1}),
    "window 30 s": Variant(options={"window": 30.0}),  # of all clips an hour or more: take --every 8
}


def main() -> None:
    """Print the table, a row at a time."""
    parser = command_line(__doc__)
    parser.add_argument("--every", type=int, default=1, help="take only every so many-th speaker")
    given = parser.parse_args()
    print("| configuration | parameters | accuracy (%) | against the defaults | unknown recall (%) | seconds |")
    print("|---" * 6 + "|", flush=True)
    reference: list[float] = []
    for name, augmentation in VARIANTS.items():
        if reference and given.only and not any(part in name for part in given.only):
            continue
        settings = TrainSettings(data=given.data, keywords=given.keywords, cache=given.cache, **augmentation.options)
        with _later(augmentation.late, settings) as settings:
            those = enumerate(folds(settings, given.every))
            runs = [_run(augmentation, replace(settings, seed=seed), fold) for seed, fold in those]
        parameters, accuracies, unknown, seconds = zip(*runs, strict=True)
        reference = reference or list(accuracies)
        row = against(list(accuracies), reference)
        print(f"| {name} | {parameters[0]:,} | {row} | {mean(unknown):.1f} | {mean(seconds):.1f} |", flush=True)


def _run(augmentation: Variant, settings: TrainSettings, fold: Fold) -> tuple[int, float, float, float]:
    """The head's parameters, its accuracy (%), its recall of the last label (%), and the processor's seconds."""
    training, scored = fold.training, fold.scored
    if augmentation.few:
        few = sorted(set(fold.speakers))[::4]  # with "", the silence
        training = training.select(np.flatnonzero(np.isin(fold.speakers, few)))
    if augmentation.by_speaker:
        training, scored = _less_mean(training, fold.speakers), _less_mean(scored, fold.scored_speakers)
    _, frames, width = training.array.shape
    torch.manual_seed(settings.seed)  # for what is drawn in training as well
    head = augmentation.head(frames, width, len(fold.labels))
    recipe = replace(Recipe.of(settings, settings.epochs), **augmentation.recipe)
    optimizer, started = make_optimizer(head, recipe), time.process_time()
    for epoch in range(recipe.epochs):
        train_epoch(head, optimizer, training, recipe, numpy_generator(settings.seed, "epoch", epoch), epoch=epoch)
    seconds = time.process_time() - started
    right = predict(head, scored).argmax(axis=1) == scored.labels
    unknown = scored.labels == len(fold.labels) - 1
    return count_parameters(head), 100 * float(right.mean()), 100 * float(right[unknown].mean()), seconds


@contextmanager
def _later(seconds: float, settings: TrainSettings) -> Iterator[TrainSettings]:
    """Settings under which clips are encoded with so much silence before them, in a cache of their own."""
    if not seconds:
        yield settings
        return
    silence = np.zeros(round(seconds * reading.SAMPLE_RATE), np.float32)
    store.fit = lambda clip, samples: reading.fit(np.concatenate([silence, clip]), samples)
    try:
        yield replace(settings, cache=str(settings.cache_folder / f"late-{seconds}"))
    finally:
        store.fit = reading.fit


def _less_mean(features: Features, speakers: list[str]) -> Features:
    """The features less the mean of all clips of their speaker; silence, which nobody spoke, less its own."""
    array, owners = features.array[features.rows].astype(np.float32), np.array(speakers)
    for speaker in set(speakers):
        array[owners == speaker] -= array[owners == speaker].mean(axis=(0, 1))
    return Features(array.astype(np.float16), np.arange(len(array)), features.labels)


if __name__ == "__main__":
    main()
