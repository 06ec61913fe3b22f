"""Flower's strategies, set up for heads, and what our round loop needs of them.

The strategies are Flower's own, unchanged: any other one of its Message API can be added to `make_strategy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Message, MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from numpy.typing import NDArray

from wordflock.federation.messages import Weights, content, to_record
from wordflock.federation_settings import FederationSettings

GROUP = 16  # heads that are added in float32
SLOTS = ("momentum_vector", "m_t", "v_t")  # where Flower's strategies keep their optimizer's state


def make_strategy(settings: FederationSettings) -> FedAvg:
    """The strategy that the settings name; its constants suit heads of about 100K parameters."""
    everyone: dict[str, Any] = {
        "fraction_train": 1.0,  # the round loop has chosen already whom the strategy gets to see
        "min_train_nodes": 1,
        "min_available_nodes": 1,
    }
    adaptive: dict[str, Any] = {"eta": 3e-3, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3}
    match settings.strategy:
        case "fedavgm":
            return FedAvgM(**everyone, server_learning_rate=1.0, server_momentum=0.5)
        case "fedadam":
            return FedAdam(**everyone, **adaptive)
        case "fedyogi":
            return FedYogi(**everyone, **adaptive)
        case "fedprox":
            return FedProx(**everyone, proximal_mu=0.01)
        case _:
            return FedAvg(**everyone)


class Cohort:
    """The clients of one round, in the place of a grid: a strategy that samples from it takes all of them."""

    def __init__(self, node_ids: Sequence[int]) -> None:
        self._node_ids = node_ids

    def get_node_ids(self) -> Sequence[int]:
        """The nodes of the round."""
        return self._node_ids


def train_messages(
    strategy: FedAvg, number: int, weights: Weights, node_ids: Sequence[int], config: ConfigRecord | None = None
) -> list[Message]:
    """The strategy's messages to the clients of round `number`, one a node, in the order of `node_ids`."""
    cohort = cast(Grid, Cohort(node_ids))
    messages = strategy.configure_train(number, to_record(weights), config or ConfigRecord(), cohort)
    # Flower's strategies shuffle the nodes, by a generator that nobody has seeded.
    places = {node: place for place, node in enumerate(node_ids)}
    return sorted(messages, key=lambda message: places[message.metadata.dst_node_id])


def aggregate(strategy: FedAvg, number: int, replies: Sequence[Message]) -> dict[str, NDArray[np.float32]]:
    """The new head; replies must be in a fixed order, for sums of floating-point numbers depend on it."""
    arrays, _ = strategy.aggregate_train(number, replies)
    assert arrays is not None
    # Adaptive strategies compute in float64 where numpy's scalars make them.
    return {name: array.numpy().astype(np.float32) for name, array in arrays.items()}


class Mean:
    """The mean of a round's heads, weighted by their clips, as a running sum: one head is held, however many come.

    The strategies get one reply with this mean in place of all replies, for they all begin by computing it.
    Heads must be added in a fixed order: sums of floating-point numbers depend on it. A few are added in float32, which
    takes half as long and rounds as the mean itself is rounded, and their sums in float64, whose error does not grow.
    """

    def __init__(self) -> None:
        self._sums: dict[str, NDArray[np.float64]] = {}
        self._group: dict[str, NDArray[np.float32]] = {}  # the sums of the last few heads, not yet in those above
        self._shares: dict[str, NDArray[np.float32]] = {}  # room to compute in, which is the same for all
        self._heads, self._clips, self._losses = 0, 0, 0.0

    def add(self, head: Weights, clips: int, loss: float) -> None:
        """Count one client in."""
        if not self._sums:
            room = np.empty(max(array.size for array in head.values()), np.float32)
            for name, array in head.items():
                self._sums[name], self._group[name] = np.zeros(array.shape), np.zeros(array.shape, np.float32)
                self._shares[name] = room[: array.size].reshape(array.shape)
        weight = np.float32(clips)
        for name, array in head.items():
            share, group = self._shares[name], self._group[name]
            np.multiply(array, weight, out=share)
            group += share
        self._heads += 1
        self._clips += clips
        self._losses += clips * loss
        if self._heads % GROUP == 0:
            self._add_group()

    def _add_group(self) -> None:
        for name, group in self._group.items():
            self._sums[name] += group
            group.fill(0)

    @property
    def loss(self) -> float:
        """The mean loss of a clip."""
        return self._losses / self._clips

    @property
    def head(self) -> Weights:
        """The mean."""
        self._add_group()
        return {name: (array / self._clips).astype(np.float32) for name, array in self._sums.items()}

    def message(self, head: Weights | None = None) -> Message:
        """The mean, or the head that was made of it, as a client's reply."""
        return Message(content(head or self.head, num_examples=self._clips, loss=self.loss), 0, MessageType.TRAIN)


def get_state(strategy: FedAvg) -> dict[str, NDArray[Any]]:
    """What the strategy's optimizer remembers from round to round: nothing for FedAvg, momenta for the others."""
    state: dict[str, NDArray[Any]] = {}
    for slot in SLOTS:
        arrays = getattr(strategy, slot, None) or {}
        items = arrays.items() if isinstance(arrays, dict) else enumerate(arrays)
        state |= {f"{slot}/{name}": np.asarray(array) for name, array in items}
    return state


def set_state(strategy: FedAvg, state: Mapping[str, NDArray[Any]]) -> None:
    """Put back what `get_state` returned."""
    for slot in SLOTS:
        arrays = {key.partition("/")[2]: array for key, array in state.items() if key.partition("/")[0] == slot}
        if arrays:
            in_order = [arrays[str(place)] for place in range(len(arrays))] if "0" in arrays else arrays
            setattr(strategy, slot, in_order)
