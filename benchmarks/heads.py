"""Heads, and ways to treat features, that the product does not have: a table of docs/accuracy.md.

python -m benchmarks.heads --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Central training with the default recipe, scored on validation clips: the test split plays no part.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.accuracy import spread
from wordflock.features import Features
from wordflock.head import AttentiveHead, count_parameters
from wordflock.prepare import Prepared, prepare
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings
from wordflock.training import Recipe, make_optimizer, predict, train_epoch

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
    options: dict[str, Any] | None = None  # of the run
    recipe: dict[str, Any] | None = None  # what no option says
    by_speaker: bool = False  # each speaker's mean, over all their clips, is taken off


VARIANTS = {
    "the defaults": Variant(),
    "attention of 64": Variant(partial(AttentiveHead, hidden=64)),
    "attention of 32": Variant(partial(AttentiveHead, hidden=32)),
    "without LayerNorm": Variant(Plain),
    "dropout 0.2": Variant(Dropped),
    "multi-head attention pooling, 8 heads": Variant(ManyHeads),
    "two temporal convolutions, mean and maximum": Variant(Temporal),
    "learned sum of layers 2, last": Variant(partial(LayerSum, layers=2), {"layer": "2+last"}),
    "learned sum of layers 1, 2, 3, last": Variant(partial(LayerSum, layers=4), {"layer": "1+2+3+last"}),
    "masks on frames and channels": Variant(partial(Changed, change=masked)),
    "mixup": Variant(partial(Changed, change=mixed)),
    "noise on features": Variant(partial(Changed, change=noisy)),
    "each clip normalised": Variant(partial(Changed, change=centred, training_only=False)),
    "each speaker's mean taken off": Variant(by_speaker=True),
    "labels not balanced": Variant(recipe={"balanced": False}),
}


def main() -> None:
    """Print the table, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    given = parser.parse_args()
    print("| configuration | parameters | after 5 (%) | last (%) | unknown recall (%) | seconds |")
    print("|---" * 6 + "|", flush=True)
    for name, variant in VARIANTS.items():
        if given.only not in name:
            continue
        runs = []
        for seed in range(given.seeds):
            shared = {"data": given.data, "keywords": given.keywords, "cache": given.cache, "seed": seed}
            runs.append(_run(variant, TrainSettings(**shared, **(variant.options or {}))))
        fifth, last = (spread([run[key] for run in runs]) for key in ("fifth", "last"))
        unknown, seconds = (mean(run[key] for run in runs) for key in ("unknown", "seconds"))
        print(f"| {name} | {runs[0]['parameters']:,} | {fifth} | {last} | {unknown:.1f} | {seconds:.1f} |", flush=True)


def _run(variant: Variant, settings: TrainSettings) -> dict[str, float]:
    prepared = prepare(settings, ("train", "validation"))
    training, validation = (
        _by_speaker(prepared, split) if variant.by_speaker else features
        for split, features in prepared.features.items()
    )
    _, frames, width = training.array.shape
    torch.manual_seed(settings.seed)  # for what is drawn in training as well
    head = variant.head(frames, width, len(prepared.task.labels))
    recipe = replace(Recipe.of(settings, settings.epochs), **(variant.recipe or {}))
    optimizer, curve, started = make_optimizer(head, recipe), [], time.perf_counter()
    for epoch in range(recipe.epochs):
        train_epoch(head, optimizer, training, recipe, numpy_generator(settings.seed, "epoch", epoch), epoch=epoch)
        best = predict(head, validation).argmax(axis=1)
        curve.append(100 * float((best == validation.labels).mean()))
    unknown = validation.labels == len(prepared.task.labels) - 1
    return {
        "parameters": count_parameters(head),
        "fifth": curve[4],
        "last": curve[-1],
        "unknown": 100 * float((best[unknown] == validation.labels[unknown]).mean()),
        "seconds": time.perf_counter() - started,
    }


def _by_speaker(prepared: Prepared, split: str) -> Features:
    """The features of a split, less the mean of all clips of their speaker; silence, which nobody spoke, its own."""
    features = prepared.features[split]
    array = features.array[features.rows].astype(np.float32)
    speakers = np.array([clip.speaker for clip in prepared.examples[split].clips])
    for speaker in np.unique(speakers):
        array[speakers == speaker] -= array[speakers == speaker].mean(axis=(0, 1))
    return Features(array.astype(np.float16), np.arange(len(array)), features.labels)


if __name__ == "__main__":
    main()
