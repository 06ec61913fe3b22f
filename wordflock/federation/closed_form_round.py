"""One round in closed form: clients send statistics, the server solves the last layer as if it had all clips.

Two messages a client: first the statistics of the scale (a few numbers a coordinate), from which the server makes the
scale that all standardise by, then those that the layer is solved from. The latter are added as they come, some clients
at a time: the server never holds more than a few clients' Gram matrices, whatever their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid

from wordflock.errors import WordflockError
from wordflock.federation.asking import Conversation
from wordflock.federation.checks import (
    LabelMeans,
    check_counts,
    check_scale_statistics,
    check_semidefinite,
    check_statistics,
    other_words,
    unlike_others,
)
from wordflock.federation.members import check_inputs
from wordflock.federation.messages import weights_of
from wordflock.federation.robust import MAX_WEIGHT, lower_median
from wordflock.federation.roster import Client, Roster
from wordflock.federation.secure.masking import STEP
from wordflock.federation.totals import Arrays, total_of
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.closed_form import Scale, ScaleStatistics, Solution, Statistics, add_labels, ridges, solve
from wordflock.head.torch_head import Head
from wordflock.revise.solved_run import earlier
from wordflock.runs import find_run

Kind = TypeVar("Kind", ScaleStatistics, Statistics)
Keep = Callable[[int, Statistics], None]


@dataclass(frozen=True)
class ClosedFormRound:
    """What came of it."""

    solution: Solution
    scale: Scale
    total: Statistics
    problems: list[str]
    costs: list[dict[str, Any]]  # of the clients whose statistics they are


def closed_form_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    head: Head,
    keep: Keep = lambda client, statistics: None,
    *,
    bounded: bool = False,
) -> ClosedFormRound:
    """Ask all clients for the statistics of the scale, then for the others, and solve the last layer of the head.

    `keep` gets each client's statistics. Every clip counts alike, unless `bounded`: then a client with more clips than
    MAX_WEIGHT times the median's counts for that many, as in a round, where the server sees each client's. With
    --add-to or --take-from the scale is that of the earlier run, and the statistics are added to its or taken from it.
    Raises WordflockError where fewer than --min-replies clients answer well, and as `check_inputs`.
    """
    check_inputs(head.output.in_features, settings.head)
    prepared, changed = roster.prepared, settings.add_to or settings.take_from
    before = earlier(find_run(changed), settings, prepared.spec, head) if changed else None
    clients = [roster.clients[number] for number in roster.eligible()]
    conversation = Conversation(grid, roster, settings, "closed form")
    collection = _Collection(conversation, head, bounded=bounded)
    clients = collection.ask_for_scale(clients)

    def combined(sent: Statistics) -> Statistics:
        total = sent if kept is None else kept - sent if settings.take_from else kept + sent
        if kept is not None and (total.counts < 0.5).any():
            raise WordflockError(
                f"Without these clients' clips {changed} would have none left of some label, or had none."
            )
        return total

    # That a Gram matrix is positive semidefinite takes longer to check than to make. It is checked at once where
    # clients are strangers, and in a simulation only where the total cannot be solved.
    thorough = isinstance(settings, ServerSettings)
    while True:
        scale_total = collection.scale_statistics(clients)
        if before is None:
            scale, kept = scale_total.scale(prepared.task.labels), None
        else:
            scale, kept = add_labels(before[1], before[2], before[0], prepared.task.labels, scale_total.counts)
        sent, clients = collection.statistics(clients, scale, keep, thorough=thorough)
        if not (liars := collection.liars(clients)):
            break
        for client in liars:
            conversation.refuse(client, "sent statistics of other words than those that all others call so")
        clients = [client for client in clients if client not in liars]
        conversation.require(clients)
    try:
        total = combined(sent)
        solution = solve(total, scale, ridges(settings.for_streams), head.parts)
    except WordflockError:
        if thorough or settings.secure_aggregation:
            raise
        sent, clients = collection.statistics(clients, scale, keep, thorough=True)
        total = combined(sent)
        solution = solve(total, scale, ridges(settings.for_streams), head.parts)
    return ClosedFormRound(solution, scale, total, conversation.problems, conversation.costs.of(clients))


class _Collection:
    """Collects the statistics of one round."""

    def __init__(self, conversation: Conversation, head: Head, *, bounded: bool) -> None:
        self._conversation, self._weights, self._bounded = conversation, get_weights(head), bounded
        self._size, self._labels = head.output.in_features, head.output.out_features
        self._scales: dict[int, ScaleStatistics] = {}  # of each client, where they are seen
        self._means: dict[int, LabelMeans] = {}  # likewise
        self._scale_total: ScaleStatistics | None = None  # where they are not
        self._shares: dict[int, float] = {}  # of its clips that count, of those clients that have too many

    def ask_for_scale(self, clients: Sequence[Client]) -> list[Client]:
        """Ask for the statistics of the scale; returns whose can be used."""
        request, shapes = self._conversation.request(self._weights), ScaleStatistics.shapes(self._size, self._labels)
        if self._conversation.settings.secure_aggregation:
            arrays, among = total_of(self._conversation, "scale", clients, request, shapes, _unread)
            total = ScaleStatistics(**arrays)
            rounding = STEP / 2 * len(among)
            _check_total("scale", lambda: check_scale_statistics(total, _clips(among), rounding))
            self._scale_total = total
            return among

        def read(client: Client, reply: Message) -> ScaleStatistics:
            arrays = weights_of(reply)
            one = _unpacked("statistics of the scale", ScaleStatistics, arrays, self._size, self._labels)
            check_scale_statistics(one, client.clips)
            return one

        sent = dict(self._conversation.ask("scale", dict.fromkeys(clients, request), read))
        for client in unlike_others(sent):
            self._conversation.refuse(client, "sent statistics of features on another scale than those of all others")
            del sent[client]
        self._conversation.require(list(sent))
        self._scales = {client.number: one for client, one in sent.items()}
        return list(sent)

    def scale_statistics(self, clients: Sequence[Client]) -> ScaleStatistics:
        """The total of what these clients sent; with secure aggregation the one total there is."""
        if self._scale_total is not None:
            return self._scale_total
        if self._bounded:
            limit = MAX_WEIGHT * lower_median([client.clips for client in clients])
            self._shares = {client.number: limit / client.clips for client in clients if client.clips > limit}
        shapes = ScaleStatistics.shapes(self._size, self._labels)
        total = ScaleStatistics(**{name: np.zeros(shape) for name, shape in shapes.items()})
        for client in clients:
            one = self._scales[client.number]
            total = total + (one * self._shares[client.number] if client.number in self._shares else one)
        return total

    def liars(self, clients: Sequence[Client]) -> list[Client]:
        """Those whose words are unlike all others', where each client's statistics are seen."""
        return other_words({client: self._means[client.number] for client in clients if client.number in self._means})

    def statistics(
        self, clients: Sequence[Client], scale: Scale, keep: Keep, *, thorough: bool
    ) -> tuple[Statistics, list[Client]]:
        """The total of the clients' statistics, and whose they are; `keep` gets each one's that is seen."""
        request = self._conversation.request({**self._weights, **scale.packed()})
        shapes = Statistics.shapes(self._size, self._labels)

        def read(client: Client, arrays: Arrays) -> Arrays:
            one = _unpacked("statistics", Statistics, arrays, self._size, self._labels)
            dtype = str(arrays["triangle"].dtype)
            check_statistics(one, client.clips, scale, self._scales[client.number], dtype)
            if thorough:
                check_semidefinite(one, dtype)
            keep(client.number, one)
            self._means[client.number] = LabelMeans.of(one, scale)
            if client.number in self._shares:
                one = one * self._shares[client.number]
            return {"triangle": one.triangle, "cross": one.cross, "counts": one.counts}

        arrays, among = total_of(self._conversation, "statistics", clients, request, shapes, read)
        total = Statistics(**arrays)
        if self._conversation.settings.secure_aggregation:
            _check_total("statistics", lambda: check_counts(total.counts, _clips(among)))
        return total, among


def _clips(clients: Sequence[Client]) -> int:
    return sum(client.clips for client in clients)


def _unread(client: Client, arrays: Arrays) -> Arrays:
    raise AssertionError("with secure aggregation the server sees no client's statistics")


def _check_total(what: str, check: Callable[[], None]) -> None:
    try:
        check()
    except MalformedMessage as error:
        raise WordflockError(f"The total of the {what} cannot be right, so some client lied: it {error}.") from error


def _unpacked(what: str, kind: type[Kind], arrays: Arrays, size: int, labels: int) -> Kind:
    """Statistics of a kind from the arrays of a message."""
    try:
        return kind.unpacked(arrays, size, labels)
    except ValueError as error:
        raise MalformedMessage(f"sent {what} that are {error}") from error
