"""Rounds that one hostile client of ten cannot spoil: bounded weights, bounded updates, and no mean that collapses.

In a round of honest clients norms of updates differ little: on Speech Commands by speaker the longest of ten is 1.5
times the median, and the client with most clips has 2.2 times the median's (`python -m benchmarks.hostile DATA`). So
the bounds below change no byte of such a round. Clipping to the median: Sun et al. 2019 (arXiv 1911.07963).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from wordflock.arrays import same_shapes
from wordflock.federation.messages import Weights, apply_delta, metric, weights_of, whole
from wordflock.federation.roster import Client
from wordflock.federation.strategy import Mean
from wordflock.federation.wire import MalformedMessage

MAX_STEP = 10.0  # times the norm of the head: no training goes further in a round, whatever the other clients do
MAX_UPDATE = 2.0  # times the median norm of the round's updates: longer ones are clipped
MAX_WEIGHT = 3.0  # times the median number of clips of the round's clients: more count for no more
FEW = 5  # replies, below which the medians of earlier rounds count as well
EARLIER = 10  # of those rounds
HELD = 64  # updates that are held until their median is known; later ones are compared with the median so far
COLLAPSE = 0.2  # of accuracy below the best round's, beyond chance: such a mean is refused


@dataclass(frozen=True)
class Update:
    """What one client trained."""

    client: Client
    head: Weights
    norm: float  # of the head minus the weights that were sent out
    loss: float


class BoundedMean:
    """The mean of a round's heads, weighted by clips; no client's weight or update is far above the median's.

    Updates must be added in a fixed order, as for `Mean`.
    """

    def __init__(self, weights: Weights, clients: Iterable[Client], earlier: Sequence[float] = ()) -> None:
        """`clients` are those that were asked; `earlier` are the median norms of earlier rounds."""
        self._weights, self._earlier = weights, list(earlier)[-EARLIER:]
        self.max_clips = MAX_WEIGHT * lower_median([client.clips for client in clients])
        self._norms: list[float] = []  # rising
        self._held: list[Update] = []
        self._mean: Mean | None = None
        self.clipped: list[tuple[Client, float, float]] = []  # with the norm, and what it became

    def add(self, update: Update) -> None:
        """Count one client in."""
        bisect.insort(self._norms, update.norm)
        if self._mean is not None:
            self._count(self._mean, self._clip(update))
        else:
            self._held.append(update)
            if len(self._held) == HELD:
                self._settle()

    @property
    def median(self) -> float:
        """The median norm of the round's updates."""
        return lower_median(self._norms)

    @property
    def mean(self) -> Mean:
        """The mean of all that were added."""
        return self._mean or self._settle()

    def suspects(self) -> Iterator[tuple[Client, Mean]]:
        """The clients, those first whose updates are most opposed to the others', each with the mean without it.

        None where there were more updates than are held.
        """
        if len(self._norms) != len(self._held) or len(self._held) < 2:
            return
        updates = np.stack([self._flat(update) * self._clips(update.client) for update in self._held])
        others = updates.sum(axis=0) - updates
        lengths = np.linalg.norm(updates, axis=1) * np.linalg.norm(others, axis=1)
        agreement = (updates * others).sum(axis=1) / np.maximum(lengths, 1e-30)
        for place in np.argsort(agreement, kind="stable"):
            mean = Mean()
            for update in self._held[:place] + self._held[place + 1 :]:
                self._count(mean, update)
            yield self._held[place].client, mean

    def _settle(self) -> Mean:
        self._held = [self._clip(update) for update in self._held]
        self._mean = Mean()
        for update in self._held:
            self._count(self._mean, update)
        return self._mean

    def _count(self, mean: Mean, update: Update) -> None:
        mean.add(update.head, self._clips(update.client), update.loss)

    def _clips(self, client: Client) -> int:
        return int(min(client.clips, self.max_clips))

    def _clip(self, update: Update) -> Update:
        norms = self._norms if len(self._norms) >= FEW else [*self._norms, *self._earlier]
        limit = MAX_UPDATE * lower_median(norms)
        if update.norm <= limit:
            return update
        self.clipped.append((update.client, update.norm, limit))
        share = np.float32(limit / update.norm)
        head = {name: array + share * (update.head[name] - array) for name, array in self._weights.items()}
        return Update(update.client, head, limit, update.loss)

    def _flat(self, update: Update) -> NDArray[np.float32]:
        return np.concatenate([(update.head[name] - array).ravel() for name, array in self._weights.items()])


def lower_median(numbers: Sequence[float]) -> float:
    """The median; of two in the middle the smaller, so that one of two cannot move it up."""
    return sorted(numbers)[(len(numbers) - 1) // 2]


def collapsed(accuracy: float, best: float, clips: int) -> bool:
    """Whether an accuracy on so many clips is far below the best so far, and not by chance (two deviations)."""
    return accuracy < best - COLLAPSE - math.sqrt(1 / max(1, clips))


def trimmed_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The weighted mean without the lowest and the highest value, where there are FEW at least."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    kept = order[1:-1] if len(order) >= FEW else order
    return sum(values[n] * weights[n] for n in kept) / sum(weights[n] for n in kept)


def update_reader(weights: Weights) -> Callable[[Client, Message], Update]:
    """Reads a client's update of the `weights`; MalformedMessage says what is wrong with it."""
    longest = longest_step(weights)

    def read(client: Client, reply: Message) -> Update:
        head = apply_delta(weights_of(reply), weights)
        claimed, loss = whole(reply, "num-examples"), metric(reply, "loss")
        if not same_shapes(head, weights):
            raise MalformedMessage("sent a head of another shape")
        if claimed != client.clips:
            raise MalformedMessage(f"claims {claimed} clips, and introduced itself with {client.clips}")
        if any(array.dtype != np.float32 for array in head.values()):
            raise MalformedMessage("sent numbers that are not float32")
        norm, problem = step_problem(head, weights, longest)
        if problem:
            raise MalformedMessage(problem)
        return Update(client, head, norm, loss)

    return read


def longest_step(weights: Weights) -> float:
    """The largest norm that training gives an update of a head's weights."""
    with np.errstate(over="ignore", invalid="ignore"):
        return MAX_STEP * (1 + math.sqrt(sum(float(np.vdot(array, array)) for array in weights.values())))


def step_problem(head: Weights, weights: Weights, longest: float) -> tuple[float, str]:
    """The norm of a head's update, and why it cannot be one; empty where it can. `longest` is `longest_step`."""
    with np.errstate(over="ignore", invalid="ignore"):
        # In float32, ten times as fast: what overflows is too long in any case.
        steps = (np.subtract(head[name], array).ravel() for name, array in weights.items())
        norm = math.sqrt(sum(float(np.vdot(step, step)) for step in steps))
    if not math.isfinite(norm) and not all(np.isfinite(array).all() for array in head.values()):
        return norm, "sent numbers that are not finite"
    return norm, "" if norm <= longest else f"sent an update of norm {norm:.3g}, which no training gives"
