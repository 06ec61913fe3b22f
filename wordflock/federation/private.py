"""Private federations: the round in closed form with clipped statistics, and rounds with clipped updates.

Central differential privacy: the server sees each client's statistics, or with --secure-aggregation their total only.
It is trusted to add the noise, to disclose nothing else and to store the solution only.

Rounds clip and add noise by Flower's functions, and give what its DifferentialPrivacyServerSideFixedClipping gives
around FedAvg, but not through it: it counts on as many clients as were drawn, where here some may fail; it adds its
noise after the strategy, which is too little for momenta and adaptive steps; and its accountant knows no subsampling.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid
from flwr.supercore.differential_privacy import add_gaussian_noise_inplace, compute_clip_model_update, compute_stdv
from numpy.typing import NDArray

from wordflock.federation.asking import Conversation
from wordflock.federation.messages import Weights
from wordflock.federation.roster import Client, Roster
from wordflock.federation.totals import Arrays, total_of
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings
from wordflock.files import load_tensors, save_tensors
from wordflock.head.checkpoint import get_weights
from wordflock.head.closed_form import Solution
from wordflock.head.torch_head import Head
from wordflock.privacy.accounting import rounds_clip
from wordflock.privacy.mechanism import PrivateStatistics

Array = NDArray[np.float64]
Kept = tuple[dict[str, NDArray[Any]], dict[str, Any]]


class Released:
    """What private rounds release, written down before anything else is made of it.

    A run that is killed goes on from that, so that nothing is released twice: a second release would be more than was
    promised, and one that is not known of, more than is said.
    """

    def __init__(self, folder: Path, number: int) -> None:
        """Those of round `number` of the run in `folder`."""
        self._folder, self._number = folder, number

    def once(self, what: str, release: Callable[[], tuple[Mapping[str, NDArray[Any]], dict[str, Any]]]) -> Kept:
        """What `release` returns: arrays and what JSON can say about them. It is called once in the life of a run."""
        path = self._folder / f"released-{self._number}-{what}.safetensors"
        if not path.exists():
            arrays, about = release()
            save_tensors(path, dict(arrays), {"about": json.dumps(about)})
        kept, metadata = load_tensors(path)
        return kept, json.loads(metadata["about"])

    def forget_others(self) -> None:
        """Delete those of other rounds."""
        for path in self._folder.glob("released-*"):
            if not path.name.startswith(f"released-{self._number}-"):
                path.unlink()


@dataclass(frozen=True)
class PrivateRound:
    """What came of it."""

    solution: Solution
    mechanism: PrivateStatistics
    problems: list[str]
    costs: list[dict[str, Any]]  # of the clients whose statistics they are


def private_round(
    grid: Grid, roster: Roster, settings: FederationSettings, head: Head, releases: Released
) -> PrivateRound:
    """Ask all clients for their parts of the centre and then for their bounded statistics around it, add noise to both
    totals, and solve the last layer of the head.

    Noise is the operating system's randomness. Raises WordflockError where fewer than --min-replies clients answer
    well.
    """
    mechanism = PrivateStatistics.of(settings, head.output.in_features, head.output.out_features)
    conversation = Conversation(grid, roster, settings, "private")

    def total(
        arrays: Mapping[str, Array], clients: Sequence[Client], bounded: Callable[[Array], Array], length: int
    ) -> tuple[Array, list[Client]]:
        def read(client: Client, arrays: Arrays) -> Arrays:
            vector = arrays.get("private")
            if vector is None or vector.shape != (length,) or not np.isfinite(vector).all():
                raise MalformedMessage(f"sent statistics that are not {length} finite numbers")
            # By client the bound does not depend on what the client sends; by clip a total does not show it.
            return {"private": bounded(vector.astype(np.float64))}

        request = conversation.request({**get_weights(head), **arrays})
        summed, among = total_of(conversation, "private", clients, request, {"private": (length,)}, read)
        return summed["private"], among

    def centre() -> Kept:
        middle, clients = total({}, eligible, mechanism.bounded_middle, mechanism.dimensions)
        units = len(clients) if mechanism.unit == "client" else sum(client.clips for client in clients)
        drawn = mechanism.centred(middle, units).centre
        assert drawn is not None
        return {"centre": drawn}, {"clients": [client.number for client in clients]}

    def statistics() -> Kept:
        summed, clients = total({"centre": found["centre"]}, asked, around.bounded, around.length)
        about = {"problems": conversation.problems, "costs": conversation.costs.of(clients)}
        return {"statistics": around.noisy(summed)}, about

    eligible = [roster.clients[number] for number in roster.eligible()]
    found, first = releases.once("centre", centre)
    around = replace(mechanism, centre=found["centre"])
    asked = [client for client in eligible if client.number in first["clients"]]
    released, about = releases.once("statistics", statistics)
    return PrivateRound(around.solve(released["statistics"]), around, about["problems"], about["costs"])


def clipped(head: Weights, weights: Weights, clip: float) -> Weights:
    """A client's head with its update scaled down to the norm `clip` where it is longer; Flower's clipping."""
    arrays = [array.copy() for array in head.values()]
    compute_clip_model_update(arrays, [weights[name] for name in head], clip)
    return dict(zip(head, arrays, strict=True))


def noised(mean: Weights, settings: FederationSettings, noise: float, clients: int) -> Weights:
    """The mean of `clients` clipped heads that weigh alike, with noise: what a strategy makes of it costs no more.

    Noise on what the strategy made would be too little: momenta and adaptive steps carry a client's update on by more
    than its share of the mean. (Of a mean weighted by clips, a client with many could move more.)
    """
    arrays = [array.copy() for array in mean.values()]
    add_gaussian_noise_inplace(arrays, compute_stdv(noise, rounds_clip(settings), clients))
    return dict(zip(mean, arrays, strict=True))
