"""Words never heard in training, and what could be done about them: a table of RESULTS.md.

python -m benchmarks.unheard --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Central training, cross-validated over the speakers of training and validation: the test split plays no part. In every
fold a third of the unknown words is kept out of training, each third in turn; the clips of these words by the speakers
who are scored are words never heard. Thresholds lose a share of the recognised keywords; those for one half of the
speakers who are scored come from the other half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.folds import FOLDS, Fold, against, command_line, folds
from benchmarks.heads import Changed, Maker, Temporal, masked, mixed
from wordflock.encoder.store import Features
from wordflock.head.calibration import calibrate, certainty
from wordflock.head.torch_head import AttentiveHead
from wordflock.head.training import Recipe, make_optimizer, predict, train_epoch
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

More = Callable[[Tensor, Tensor, np.random.Generator], Tensor]  # of two keywords a clip, an unknown word
SHARES = (0.0025, 0.005, 0.01)  # of the recognised keywords, lost to a threshold


def spliced(first: Tensor, second: Tensor, generator: np.random.Generator) -> Tensor:
    """The first frames of one keyword, two to five tenths, and the rest of another."""
    frames = first.shape[1]
    cut = torch.from_numpy(generator.integers(round(0.2 * frames), round(0.5 * frames) + 1, (len(first), 1, 1)))
    return torch.where(torch.arange(frames)[:, None] < cut, first, second)


def blended(first: Tensor, second: Tensor, generator: np.random.Generator) -> Tensor:
    """About the mean of two keywords."""
    share = torch.from_numpy(generator.uniform(0.4, 0.6, (len(first), 1, 1)).astype(np.float32))
    return share * first + (1 - share) * second


@dataclass(frozen=True)
class Extended(Features):
    """Clips whose training batches are longer by unknown words that are made from the keywords in them."""

    more: More = spliced
    share: float = 0.1
    unknown: int = 0  # the label; the keywords are all before the one before it

    def batch(self, chosen: NDArray[np.int64], generator: np.random.Generator | None = None) -> tuple[Tensor, Tensor]:
        x, y = super().batch(chosen, generator)
        if generator is None:
            return x, y
        one = np.flatnonzero(y.numpy() < self.unknown - 1)
        other = generator.permutation(one)
        unlike = np.flatnonzero(y[one] != y[other])[: round(self.share * len(y))]
        made = self.more(x[one[unlike]], x[other[unlike]], generator)
        return torch.cat([x, made]), torch.cat([y, torch.full((len(made),), self.unknown)])


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    options: dict[str, Any] = field(default_factory=dict)  # of the run
    recipe: dict[str, Any] = field(default_factory=dict)  # what no option says
    head: Maker = AttentiveHead
    more: More | None = None
    share: float = 0.1  # of a batch, that `more` makes on top


VARIANTS = {
    "the defaults": Variant(),
    "cosine learning rate": Variant({"schedule": "cosine"}),
    "cosine, frames averaged by 2, float32": Variant(
        {"schedule": "cosine", "frame_pooling": 2, "precision": "float32"}
    ),
    "labels not balanced": Variant(recipe={"balanced": False}),
    "a tenth of blended keywords": Variant(more=blended),
    "a tenth of spliced keywords": Variant(more=spliced),
    "a fifth of spliced keywords": Variant(more=spliced, share=0.2),
    "masks on frames and channels": Variant(head=partial(Changed, change=masked)),
    "mixup": Variant(head=partial(Changed, change=mixed)),
    "two temporal convolutions": Variant(head=Temporal),
}


def main() -> None:
    """Print the table, a row at a time."""
    given = command_line(__doc__).parse_args()
    columns = [f"{100 * share:g}% lost: accuracy | never heard" for share in SHARES]
    print("| configuration | accuracy (%) | against | never heard (%) | against | " + " | ".join(columns) + " |")
    print("|---" * (5 + 2 * len(SHARES)) + "|", flush=True)
    reference: list[list[float]] = []
    for name, variant in VARIANTS.items():
        if reference and given.only and not any(part in name for part in given.only):
            continue
        settings = TrainSettings(data=given.data, keywords=given.keywords, cache=given.cache, **variant.options)
        runs = [
            _run(variant, replace(settings, seed=seed), fold, third)
            for seed, fold in enumerate(folds(settings))
            for third in range(FOLDS)
        ]
        figures = [list(column) for column in zip(*runs, strict=True)]
        reference = reference or figures[:2]
        row = [against(now, before) for now, before in zip(figures, reference, strict=False)]
        print(
            f"| {name} | " + " | ".join([*row, *(f"{mean(column):.2f}" for column in figures[2:])]) + " |", flush=True
        )


def _run(variant: Variant, settings: TrainSettings, fold: Fold, third: int) -> list[float]:
    """Accuracy on all words but those kept out, and recall of those: of the head, then with each threshold (%)."""
    unknown = len(fold.labels) - 1
    words, scored_words = np.array(fold.words), np.array(fold.scored_words)
    kept_out = np.unique(words[fold.training.labels == unknown])[third::FOLDS]
    training = fold.training.select(np.flatnonzero(~np.isin(words, kept_out)))
    if variant.more:
        training = Extended(training.array, training.rows, training.labels, None, variant.more, variant.share, unknown)
    _, frames, width = training.array.shape
    torch.manual_seed(settings.seed)
    head = variant.head(frames, width, len(fold.labels))
    recipe = replace(Recipe.of(settings, settings.epochs), **variant.recipe)
    optimizer = make_optimizer(head, recipe)
    for epoch in range(recipe.epochs):
        train_epoch(head, optimizer, training, recipe, numpy_generator(settings.seed, "epoch", epoch), epoch=epoch)

    logits, truth, strange = predict(head, fold.scored), fold.scored.labels, np.isin(scored_words, kept_out)
    side = np.array([sum(speaker.encode()) % 2 for speaker in fold.scored_speakers])
    best, figures = logits.argmax(axis=1), []
    for share in (0.0, *SHARES):
        answer = best.copy()
        for here in (0, 1):
            there = (side != here) & ~strange
            found = calibrate(logits[there], truth[there], fold.labels, share)
            sure = certainty(logits, fold.labels, found.temperature)
            answer[(side == here) & (best < unknown - 1) & (sure < found.threshold) & (share > 0)] = unknown
        figures += [100 * float((answer == truth)[clips].mean()) for clips in (~strange, strange)]
    return figures


if __name__ == "__main__":
    main()
