"""Flower's strategies, set up for heads, and what our round loop needs of them.

The strategies are Flower's own, unchanged: any other one of its Message API can be added to `make_strategy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedProx, FedYogi
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords, aggregate_metricrecords
from numpy.typing import NDArray

from wordflock.federation.messages import Weights, metric, to_record
from wordflock.settings import FederationSettings

SLOTS = ("momentum_vector", "m_t", "v_t")  # where Flower's strategies keep their optimizer's state
CLIPS = "num-examples"  # what they weigh heads by
HELD = 64  # heads that a server holds together


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


class Replies:
    """The replies of a round, of which no more than `HELD` are kept, however many clients there are.

    When so many are there they become one: their mean weighted by clips, with the clips of all of them, from which
    a strategy computes the same mean of the whole round. All strategies above begin with that mean; one that needs
    every client's head (a median, say) needs rounds of up to `HELD` clients.
    """

    def __init__(self) -> None:
        self._held: list[Message] = []

    def add(self, reply: Message) -> None:
        """Take a reply in; they must come in a fixed order, for sums of floating-point numbers depend on it."""
        if len(self._held) == HELD:
            self._fold()
        self._held.append(reply)

    def messages(self) -> list[Message]:
        """What is left of the replies."""
        return self._held

    def _fold(self) -> None:
        contents = [message.content for message in self._held]
        first = self._held[0]
        clips = sum(metric(message, CLIPS) for message in self._held)
        mean = aggregate_metricrecords(contents, CLIPS)
        first.content = RecordDict(
            {"arrays": aggregate_arrayrecords(contents, CLIPS), "metrics": MetricRecord({**mean, CLIPS: int(clips)})}
        )
        self._held = [first]


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
