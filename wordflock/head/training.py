"""Train and evaluate a head on features; knows nothing of federation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from wordflock.encoder.store import Features
from wordflock.head.adamw import AdamW
from wordflock.head.calibration import Calibration
from wordflock.head.closed_form import Scale, ScaleStatistics, Solution, Statistics
from wordflock.head.metrics import NO_SCORE, UNCALIBRATED, Score, score
from wordflock.head.torch_head import Head, count_parameters
from wordflock.settings import HeadSettings

EVALUATION_BATCH = 128
# Least squares scores lie between 0 and 1, too near for probabilities; times 10 their cross-entropy on validation clips
# is least, for one layer as for three (benchmarks/sharpness.py).
SHARPNESS = 10.0
Sums = TypeVar("Sums", ScaleStatistics, Statistics)


@dataclass(frozen=True)
class Recipe:
    """How a head is trained."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    balanced: bool = True  # draw every label equally often
    warm_up: float = 0.1  # share of all steps in which the learning rate rises; it falls as a cosine after
    constant: bool = False  # the learning rate stays at its peak instead
    proximal: float = 0.0  # FedProx's μ: how strongly the head is held to where it started

    @classmethod
    def of(cls, settings: HeadSettings, epochs: int, proximal: float = 0.0) -> Recipe:
        """How the settings want a head trained, in centralized epochs or in a client's of one round."""
        return cls(
            epochs,
            settings.batch_size,
            settings.learning_rate,
            settings.weight_decay,
            settings.label_smoothing,
            constant=settings.schedule == "constant",
            proximal=proximal,
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread of torch: the same bytes on any machine.

    Measured on two cores: a second thread makes an epoch 1.7 times as fast on a quiet machine and several times as slow
    on a busy one, for torch's threads spin while they wait for one another; and sums come out in another order.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def train_epoch(
    head: nn.Module,
    optimizer: AdamW | torch.optim.Optimizer,
    features: Features,
    recipe: Recipe,
    generator: np.random.Generator,
    *,
    epoch: int = 0,
    device: str = "cpu",
    anchor: Sequence[Tensor] = (),
    step: Callable[[int, float], None] = lambda clips, loss: None,
) -> float:
    """Train for one epoch (`epoch` counts from 0, for the schedule); returns the mean loss of a clip.

    `anchor`, one tensor a parameter, is what FedProx's term holds the head to. `step` is told after every batch: its
    clips and their mean loss.
    """
    head.train()
    order = balanced_order(features.labels, generator) if recipe.balanced else generator.permutation(len(features))
    batches = math.ceil(len(order) / recipe.batch_size)
    total = 0.0
    for index in range(batches):
        chosen = order[index * recipe.batch_size : (index + 1) * recipe.batch_size]
        x, y = features.batch(chosen, generator)
        for group in optimizer.param_groups:
            progress = (epoch * batches + index) / (recipe.epochs * batches)
            share = 1.0 if recipe.constant else schedule(progress, recipe.warm_up)
            group["lr"] = recipe.learning_rate * share
        loss = F.cross_entropy(head(x.to(device)), y.to(device), label_smoothing=recipe.label_smoothing)
        optimizer.zero_grad(set_to_none=True)
        objective = loss
        for then, now in zip(anchor, head.parameters(), strict=False):
            objective = objective + recipe.proximal / 2 * (now - then).square().sum()
        objective.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        mean = loss.item()
        total += mean * len(chosen)
        step(len(chosen), mean)
    return total / len(order)


def make_optimizer(head: nn.Module, recipe: Recipe) -> AdamW:
    """AdamW; the weight decay leaves biases and norms alone, as is usual."""
    parameters = list(head.parameters())
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    decays = ((matrices, recipe.weight_decay), (vectors, 0.0))
    return AdamW([{"params": group, "lr": recipe.learning_rate, "weight_decay": decay} for group, decay in decays])


def schedule(progress: float, warm_up: float) -> float:
    """The learning rate at `progress` (0 to 1) of the training, as a share of its peak: a rise, then half a cosine."""
    if progress < warm_up:
        return (progress + 0.01) / (warm_up + 0.01)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def balanced_order(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """As many places as there are clips, with every label that occurs equally often (to one), in random order.

    Rare clips come again before any common one does a second time: each label is dealt from shuffled decks.
    """
    present = np.unique(labels)
    share = math.ceil(len(labels) / len(present))
    dealt = []
    for label in present:
        mine = np.flatnonzero(labels == label)
        decks = [generator.permutation(mine) for _ in range(math.ceil(share / len(mine)))]
        dealt.append(np.concatenate(decks)[:share])
    # Interleaved before the cut, so that the surplus is taken evenly from all labels.
    interleaved = np.stack(dealt, axis=1).reshape(-1)[: len(labels)]
    return generator.permutation(interleaved)


def evaluate_head(
    head: nn.Module,
    features: Features,
    labels: list[str],
    *,
    device: str = "cpu",
    calibration: Calibration = UNCALIBRATED,
) -> Score:
    """Score a head on features; NO_SCORE where there are none."""
    if not len(features):
        return NO_SCORE
    logits = predict(head, features, device=device)
    return score(logits, features.labels, labels, count_parameters(head), calibration)


def predict(head: nn.Module, features: Features, *, device: str = "cpu") -> NDArray[np.float32]:
    """The logits of every clip, shape (clips, labels)."""
    head.eval()
    with torch.inference_mode():
        return np.concatenate([head(x.to(device)).cpu().numpy() for x in _batches(features)])


def pool(head: Head, features: Features) -> NDArray[np.float32]:
    """What the head's last layer sees of every clip, shape (clips, d)."""
    head.eval()
    with torch.inference_mode():
        return np.concatenate([head.pool(x).cpu().numpy() for x in _batches(features)])


def scale_statistics_of(head: Head, features: Features, labels: int) -> ScaleStatistics:
    """What standardising needs to know of clips in a task of so many labels; a clip with augmented versions counts
    once, as the mean of them all."""
    return _mean(ScaleStatistics.of(pool(head, one), one.labels, labels) for one in features.versions())


def statistics_of(head: Head, features: Features, scale: Scale) -> Statistics:
    """The sufficient statistics of clips; a clip with augmented versions counts once, as the mean of them all."""
    return _mean(Statistics.of(pool(head, one), one.labels, scale) for one in features.versions())


def _mean(parts: Iterator[Sums]) -> Sums:
    total, count = next(parts), 1
    for part in parts:
        total, count = total + part, count + 1
    return total * (1 / count) if count > 1 else total


def load_solution(head: Head, solution: Solution) -> None:
    """Make a closed-form solution the head's output layer."""
    head.load_state_dict(
        {name: torch.from_numpy(array) for name, array in output_weights(solution).items()}, strict=False
    )


def output_weights(solution: Solution) -> dict[str, NDArray[np.float32]]:
    """A closed-form solution as the weights of a head's output layer."""
    arrays = {"output.weight": solution.weight, "output.bias": solution.bias}
    return {name: (array * SHARPNESS).astype(np.float32) for name, array in arrays.items()}


def _batches(features: Features) -> Iterator[Tensor]:
    for start in range(0, len(features), EVALUATION_BATCH):
        yield features.batch(np.arange(start, min(start + EVALUATION_BATCH, len(features))))[0]
