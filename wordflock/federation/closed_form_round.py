"""One round, closed form: clients send sums, and the server solves the head's last layer as if it had all clips.

Two messages a client: moments first (a few numbers a coordinate), from which the server makes the scale that all
standardise by, then the sums. Both are added as they come, some clients at a time, so that the server never holds more
than a few clients' sums, whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from flwr.app import RecordDict
from flwr.serverapp import Grid
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.asking import ask
from wordflock.federation.costs import Costs
from wordflock.federation.messages import content, task_record, weights_of
from wordflock.federation.roster import Client, Roster
from wordflock.federation.secure.masking import unflatten
from wordflock.federation.secure.server import secure_total
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.closed_form import Scale, ScaleStatistics, Solution, Statistics, add_labels, solve
from wordflock.head.torch_head import Head
from wordflock.progress import report
from wordflock.revise import earlier
from wordflock.runs import find_run

Added = TypeVar("Added", ScaleStatistics, Statistics)


@dataclass(frozen=True)
class ClosedFormRound:
    """What came of it."""

    solution: Solution
    scale: Scale
    total: Statistics
    problems: list[str]
    costs: list[dict[str, Any]]  # of the clients whose sums they are


def closed_form_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    head: Head,
    keep: Callable[[int, Statistics], None] = lambda client, sums: None,
) -> ClosedFormRound:
    """Ask all clients for moments, then for sums, and solve the last layer of the head. `keep` gets each client's sums.

    With --add-to or --take-from the scale is that of the earlier run, and the sums are added to its or taken from it.
    Raises WordflockError where fewer than --min-replies clients answer well.
    """
    asking = _Asking(grid, roster, settings, head)
    prepared, changed = roster.prepared, settings.add_to or settings.take_from
    eligible = [roster.clients[number] for number in roster.eligible()]
    before = earlier(find_run(changed), settings, prepared.spec, head) if changed else None
    moments, clients = asking.total("scale", eligible, {}, ScaleStatistics)
    if before is None:
        scale = moments.scale()
        total, clients = asking.total("statistics", clients, scale.packed(), Statistics, keep)
    else:
        scale, total = add_labels(before[1], before[2], before[0], prepared.task.labels, moments.counts)
        sums, clients = asking.total("statistics", clients, scale.packed(), Statistics, keep)
        total = total - sums if settings.take_from else total + sums
        if (total.counts < 0.5).any():
            raise WordflockError(
                f"Without these clients' clips {changed} would have none left of some label, or had none."
            )
    return ClosedFormRound(solve(total, scale), scale, total, asking.problems, asking.costs.of(clients))


class _Asking:
    """Adds up what clients send, and keeps account of it."""

    def __init__(self, grid: Grid, roster: Roster, settings: FederationSettings, head: Head) -> None:
        self._grid, self._roster, self._settings = grid, roster, settings
        self._weights, self._size, self._labels = get_weights(head), head.output.in_features, head.output.out_features
        self.problems: list[str] = []
        self.costs = Costs()

    def total(
        self,
        what: str,
        clients: Sequence[Client],
        arrays: dict[str, NDArray[Any]],
        kind: type[Added],
        keep: Callable[[int, Added], None] = lambda client, added: None,
    ) -> tuple[Added, list[Client]]:
        """The total of what clients send, of `kind`, and whose it is; `keep` gets each one's that is seen."""
        request = content({**self._weights, **arrays})
        request["config"] = task_record(self._roster.prepared.task.labels)
        if self._settings.secure_aggregation:
            return self._secretly(what, clients, request, kind)
        shapes = kind.shapes(self._size, self._labels)
        total = kind(**{name: np.zeros(shape) for name, shape in shapes.items()})
        summed: list[Client] = []
        requests = dict.fromkeys(clients, request)
        for client, reply in ask(self._grid, what, requests, self._settings.round_timeout, self._refuse, self.costs):
            try:
                theirs = kind.unpacked(weights_of(reply), self._size, self._labels)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                self._refuse(client, f"sent {what} that are {error}")
                continue
            clips = theirs.counts.sum()
            if clips != client.clips:
                self._refuse(client, f"sent {what} over {clips:.0f} clips, and introduced itself with {client.clips}")
                continue
            total += theirs
            keep(client.number, theirs)
            summed.append(client)
        self._enough(summed)
        return total, summed

    def _secretly(
        self, what: str, clients: Sequence[Client], request: RecordDict, kind: type[Added]
    ) -> tuple[Added, list[Client]]:
        shapes, deadline = kind.shapes(self._size, self._labels), self._settings.round_timeout
        length = sum(math.prod(shape) for shape in shapes.values())
        came = secure_total(self._grid, clients, what, request, length, deadline, self._refuse, self.costs)
        self._enough(came.clients)
        total = kind(**unflatten(came.total, shapes))
        if total.counts.sum() != sum(client.clips for client in came.clients):
            raise WordflockError(f"The total of the {what} counts other clips than its clients have: some client lied.")
        return total, came.clients

    def _refuse(self, client: Client, problem: str) -> None:
        self.problems.append(f"client {client} {problem}")
        report(f"exact: {self.problems[-1]}")

    def _enough(self, clients: Sequence[Client]) -> None:
        least = self._settings.min_replies
        if len(clients) < least:
            raise WordflockError(f"{len(clients)} clients sent usable sums, and {least} are needed.")
