"""The rounds of a federation: what is asked of the clients, how it is checked, and what is made of it.

Three kinds: clients train and a strategy averages their heads, in the open or with secure aggregation; or clients send
statistics once, and the last layer is solved from them.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from wordflock.arrays import same_shapes, shapes_of, unflatten
from wordflock.errors import WordflockError
from wordflock.federation.asking import Conversation
from wordflock.federation.closed_form_round import closed_form_round
from wordflock.federation.messages import Weights, apply_delta, metric, task_record, weights_of, whole
from wordflock.federation.private import clipped, noised, private_round
from wordflock.federation.robust import BoundedMean, Update, collapsed
from wordflock.federation.roster import Client, Roster, listed
from wordflock.federation.secure.server import secure_total
from wordflock.federation.strategy import Mean, aggregate, train_messages
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.closed_form import StatisticsFolder
from wordflock.head.metrics import Score
from wordflock.head.torch_head import Head
from wordflock.head.training import load_solution
from wordflock.privacy.accounting import Releases, next_noise, rounds_clip
from wordflock.progress import report

ATTEMPTS = 3  # at one round, each with other clients
DID_WELL, FAILED = 1, 2  # who is asked again where there are not enough others: those that did well come first
MAX_STEP = 10.0  # times the norm of the head: no training goes further in a round, whatever the other clients do
MAX_SUSPECTS = 10  # clients whose updates are left out, one after the other, of a mean that collapses
AHEAD = 128  # messages under way at once in a simulation, which nobody is kept waiting by


@dataclass(frozen=True)
class RoundResult:
    """What a round brought."""

    weights: dict[str, NDArray[np.float32]]
    loss: float | None  # the clients' mean, where they trained
    problems: list[str]
    costs: list[dict[str, Any]]  # of the clients that are in it
    privacy: dict[str, Any] | None = None  # the guarantee of a round in closed form
    release: tuple[float, int, int] | None = None  # of a private round: noise, clients drawn, and those drawn from
    score: Score | None = None  # of the weights, where it was needed to accept them
    update_norm: float | None = None  # the median client's

    @property
    def clients(self) -> list[int]:
        """Who is in it."""
        return [cost["client"] for cost in self.costs]

    @property
    def bytes_up(self) -> int:
        """What a client sent, on average."""
        return int(sum(cost["bytes_up"] for cost in self.costs)) // len(self.costs)

    @property
    def bytes_down(self) -> int:
        """What a client was sent, on average."""
        return int(sum(cost["bytes_down"] for cost in self.costs)) // len(self.costs)


@dataclass(frozen=True)
class Guard:
    """What a new head is compared with before it replaces the one before."""

    score: Callable[[Weights], Score | None]  # on the server's validation clips, or on clients' holdout
    best: float  # accuracy of the best round so far
    earlier: Sequence[float] = ()  # median norms of updates in earlier rounds

    def problem(self, weights: Weights, score: Score | None) -> str:
        """Why a head cannot be taken; empty where it can."""
        if not all(np.isfinite(array).all() for array in weights.values()):
            return "has numbers that are not finite"
        if score is not None and collapsed(score.accuracy, self.best, score.clips):
            return f"has an accuracy of {score.accuracy:.3f}, after {self.best:.3f} in the best round"
        return ""


UNGUARDED = Guard(lambda weights: None, -1.0)


@dataclass(frozen=True)
class _Trained:
    """A round's updates that passed every check, and the conversation they came in."""

    conversation: Conversation
    clients: list[Client]
    updates: BoundedMean | None  # None where no client's is seen
    mean: Mean
    head: Weights  # the mean, with noise where the round is private
    release: tuple[float, int, int] | None = None


def averaged_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    strategy: FedAvg,
    number: int,
    weights: Weights,
    released: Releases = (),
    guard: Guard = UNGUARDED,
) -> RoundResult:
    """Clients train the head, and the strategy makes one of theirs; `released` are the private rounds before.

    Where the new head collapses, it is made again without the client whose update caused that, and where no single one
    did, the head stays as it was. Raises WordflockError where too few clients answer well.
    """
    train = _secure_round if settings.secure_aggregation else _train_round
    trained = train(grid, roster, settings, strategy, number, weights, released, guard)
    conversation, clients, mean = trained.conversation, trained.clients, trained.mean
    trial, head, score, problem = _aggregated(strategy, number, mean.message(trained.head), guard)
    if problem:
        caused = None
        if trained.updates is not None and trained.release is None:
            caused = _without_its_cause(trained.updates, strategy, number, guard)
        if caused is None:
            conversation.problems.append(f"the mean of this round is refused, for it {problem}")
            report(f"round {number}: {conversation.problems[-1]}")
            trial, head, score = strategy, weights, guard.score(weights)
        else:
            suspect, mean, trial, head, score = caused
            conversation.refuse(
                suspect, f"sent an update without which the mean is usable; with it, the mean {problem}"
            )
            clients = [client for client in clients if client is not suspect]
    vars(strategy).update(vars(trial))
    return RoundResult(
        weights={name: np.asarray(array) for name, array in head.items()},
        loss=mean.loss if trained.release is None else None,  # which would be one more release
        problems=conversation.problems,
        costs=conversation.costs.of(clients),
        release=trained.release,
        score=score,
        update_norm=trained.updates.median if trained.updates and trained.release is None else None,
    )


def _aggregated(
    strategy: FedAvg, number: int, reply: Message, guard: Guard
) -> tuple[FedAvg, Weights, Score | None, str]:
    """What the strategy makes of a mean, in a copy of it; the head's score, and why it cannot be taken."""
    trial = copy.copy(strategy)  # Flower's strategies replace their state, and change nothing in place
    head = aggregate(trial, number, [reply])
    score = guard.score(head) if all(np.isfinite(array).all() for array in head.values()) else None
    return trial, head, score, guard.problem(head, score)


def _without_its_cause(
    updates: BoundedMean, strategy: FedAvg, number: int, guard: Guard
) -> tuple[Client, Mean, FedAvg, Weights, Score | None] | None:
    """The client without whose update the mean does not collapse, and what is made of the others; else None."""
    for suspect, mean in islice(updates.suspects(), MAX_SUSPECTS):
        trial, head, score, problem = _aggregated(strategy, number, mean.message(), guard)
        if not problem:
            return suspect, mean, trial, head, score
    return None


def _secure_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    strategy: FedAvg,
    number: int,
    weights: Weights,
    released: Releases,
    guard: Guard,
) -> _Trained:
    """Clients train the head, and the server gets the mean of theirs only: it is the mean that is checked.

    Raises WordflockError where it cannot be a mean of trained heads.
    """
    conversation = Conversation(grid, roster, settings, f"round {number}")
    roster.refresh()
    chosen = [roster.clients[client] for client in roster.sample("train", number, 0)]
    config = task_record(roster.prepared.task.labels)
    request = train_messages(strategy, number, weights, [client.node for client in chosen], config)[0].content
    length = sum(array.size for array in weights.values()) + 2
    total, clients = secure_total(conversation, chosen, "train", request, length)
    conversation.require(clients)
    clips, loss = float(total[-2]), float(total[-1])
    update = unflatten(total[:-2] / max(clips, 1.0), shapes_of(weights))
    head = {name: (weights[name] + update[name]).astype(np.float32) for name in weights}
    introduced = sum(client.clips for client in clients)
    problem = _step_problem(head, weights)[1]
    if clips != introduced:
        problem = f"counts {clips:.0f} clips, and the clients have {introduced}"
    elif not 0 <= loss < math.inf:
        problem = "has a loss that is not a positive number"
    if problem:
        raise WordflockError(f"The total of round {number} cannot be right, so some client lied: it {problem}.")
    mean = Mean()
    mean.add(head, introduced, loss / introduced)
    return _Trained(conversation, clients, None, mean, head)


def closed_form_result(
    grid: Grid, roster: Roster, settings: FederationSettings, head: Head, folder: Path
) -> RoundResult:
    """Clients send statistics, and the head's last layer is solved from them; their total stays in the run's folder."""
    if settings.dp_epsilon is not None:
        private = private_round(grid, roster, settings, head)
        load_solution(head, private.solution)
        report = private.mechanism.report("server")
        return RoundResult(get_weights(head), None, private.problems, private.costs, report)
    kept = StatisticsFolder(folder / "statistics")
    keep = kept.keep_client if settings.keep_statistics == "by-client" else lambda client, statistics: None
    result = closed_form_round(grid, roster, settings, head, keep)
    kept.write(result.scale, result.total)
    load_solution(head, result.solution)
    return RoundResult(get_weights(head), None, result.problems, result.costs)


def _train_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    strategy: FedAvg,
    number: int,
    weights: Weights,
    released: Releases,
    guard: Guard,
) -> _Trained:
    """The mean of a round's heads that passed every check.

    Heads are added in the order of the clients' numbers, whenever they come. A repeated round draws others first.
    """
    conversation = Conversation(grid, roster, settings, f"round {number}")
    quorum, private = min(settings.min_replies, settings.clients_per_round), settings.dp_epsilon is not None
    asked: dict[int, int] = {}  # clients that were in this round already, and how they did
    for attempt in range(ATTEMPTS):
        chosen = _drawn(roster, settings, number, attempt, asked, quorum)
        # How many were drawn, and from how many at random: of those that a repeated round prefers, from no more.
        draw = len(chosen), len(chosen) if asked else len(roster.candidates(number))
        updates, mean, clients = BoundedMean(weights, chosen, guard.earlier), Mean(), list[Client]()
        messages = _messages(roster, settings, strategy, number, weights, chosen)
        ahead = None if isinstance(settings, ServerSettings) else AHEAD
        read = update_reader(weights)
        for client, update in conversation.exchange(f"round {number}", messages, read, ahead):
            clients.append(client)
            if private:
                mean.add(clipped(update.head, weights, rounds_clip(settings)), 1, update.loss)
            else:
                updates.add(update)
        well = {client.number for client in clients}
        asked |= {client.number: DID_WELL if client.number in well else FAILED for client in chosen}
        roster.stragglers |= dict.fromkeys(conversation.late, number)
        if len(clients) >= quorum:
            break
        again = "; again with others" if attempt < ATTEMPTS - 1 else ""
        report(f"round {number}: {len(clients)} of {len(chosen)} clients answered well, too few{again}")
    else:
        raise WordflockError(
            f"Round {number} failed {ATTEMPTS} times for want of clients; see what they reported above."
        )
    if settings.dp_epsilon is not None:
        noise = next_noise(settings.dp_epsilon, settings.dp_delta, draw, settings.rounds + 1 - number, released)
        head = noised(mean.head, settings, noise, len(clients))
        return _Trained(conversation, clients, None, mean, head, (noise, *draw))
    mean = updates.mean
    for client, norm, limit in updates.clipped:
        report(f"round {number}: client {client} sent an update of norm {norm:.3g}, clipped to {limit:.3g}")
    return _Trained(conversation, clients, updates, mean, mean.head)


def _drawn(
    roster: Roster, settings: FederationSettings, number: int, attempt: int, asked: dict[int, int], quorum: int
) -> list[Client]:
    """The clients of a round, after waiting for as many as it needs."""
    roster.refresh()
    if len(roster.eligible()) < quorum:
        seconds = settings.client_timeout if isinstance(settings, ServerSettings) else settings.round_timeout
        roster.wait_for(quorum, seconds)
    chosen = [roster.clients[client] for client in roster.sample("train", number, attempt, last=asked)]
    if isinstance(settings, ServerSettings):
        report(f"round {number}: clients {listed(chosen)} train, of {len(roster.connected)} connected")
    return chosen


def _messages(
    roster: Roster,
    settings: FederationSettings,
    strategy: FedAvg,
    number: int,
    weights: Weights,
    chosen: Sequence[Client],
) -> dict[Client, Message]:
    """The strategy's message to each client."""
    config = task_record(roster.prepared.task.labels)
    messages = train_messages(strategy, number, weights, [client.node for client in chosen], config)
    for message in messages:
        message.metadata.group_id = str(number)
        message.metadata.ttl = settings.round_timeout  # a client that comes back later need not do it any more
    return dict(zip(chosen, messages, strict=True))


def update_reader(weights: Weights) -> Callable[[Client, Message], Update]:
    """Reads a client's update of the `weights`; MalformedMessage says what is wrong with it."""

    def read(client: Client, reply: Message) -> Update:
        head = apply_delta(weights_of(reply), weights)
        claimed, loss = whole(reply, "num-examples"), metric(reply, "loss")
        if not same_shapes(head, weights):
            raise MalformedMessage("sent a head of another shape")
        if claimed != client.clips:
            raise MalformedMessage(f"claims {claimed} clips, and introduced itself with {client.clips}")
        if any(array.dtype != np.float32 for array in head.values()):
            raise MalformedMessage("sent numbers that are not float32")
        norm, problem = _step_problem(head, weights)
        if problem:
            raise MalformedMessage(problem)
        return Update(client, head, norm, loss)

    return read


def _step_problem(head: Weights, weights: Weights) -> tuple[float, str]:
    """The norm of a head's update, and why it cannot be one; empty where it can."""
    with np.errstate(over="ignore", invalid="ignore"):
        # In float32, ten times as fast: what overflows is too long in any case.
        steps = (np.subtract(head[name], array).ravel() for name, array in weights.items())
        norm = math.sqrt(sum(float(np.vdot(step, step)) for step in steps))
        longest = MAX_STEP * (1 + math.sqrt(sum(float(np.vdot(array, array)) for array in weights.values())))
    if not math.isfinite(norm) and not all(np.isfinite(array).all() for array in head.values()):
        return norm, "sent numbers that are not finite"
    return norm, "" if norm <= longest else f"sent an update of norm {norm:.3g}, which no training gives"
