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
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from wordflock.arrays import shapes_of, unflatten
from wordflock.errors import WordflockError
from wordflock.federation.asking import Conversation
from wordflock.federation.closed_form_round import closed_form_round
from wordflock.federation.messages import Weights, content, task_record
from wordflock.federation.private import Kept, Released, clipped, noised, private_round
from wordflock.federation.robust import BoundedMean, collapsed, longest_step, step_problem, update_reader
from wordflock.federation.roster import Client, Roster, listed
from wordflock.federation.secure.server import secure_total
from wordflock.federation.strategy import Mean, aggregate, train_messages
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.metrics import Score
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.torch_head import Head
from wordflock.head.training import load_solution
from wordflock.privacy.accounting import Releases, next_noise, rounds_clip
from wordflock.progress import report

ATTEMPTS = 3  # at one round, each with other clients
DID_WELL, FAILED = 1, 2  # who is asked again where there are not enough others: those that did well come first
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
class Round:
    """One round of training: who is there, what is asked of them, and where it starts from."""

    grid: Grid
    roster: Roster
    settings: FederationSettings
    strategy: FedAvg
    number: int
    weights: Weights
    folder: Path  # of the run
    done: Releases = ()  # of the private rounds before
    guard: Guard = UNGUARDED


@dataclass(frozen=True)
class _Trained:
    """A round's updates that passed every check, and the conversation they came in."""

    conversation: Conversation
    clients: list[Client]
    mean: Mean
    updates: BoundedMean | None = None  # None where no client's is seen, or where they are clipped for privacy
    draw: tuple[int, int] = (0, 0)  # clients drawn, and from how many at random


def averaged_round(this: Round) -> RoundResult:
    """Clients train the head, and the strategy makes one of theirs.

    Where the new head collapses, it is made again without the client whose update caused that, and where no single one
    did, the head stays as it was. Raises WordflockError where too few clients answer well.
    """
    if this.settings.dp_epsilon is not None:
        return _private_round(this)
    trained = _secure_round(this) if this.settings.secure_aggregation else _train_round(this)
    conversation, clients, mean = trained.conversation, trained.clients, trained.mean
    made = _aggregated(this, mean.message())
    if made.problem and trained.updates is not None and (found := _without_its_cause(this, trained.updates)):
        suspect, mean, without = found
        conversation.refuse(
            suspect, f"sent an update without which the mean is usable; with it, the mean {made.problem}"
        )
        clients, made = [client for client in clients if client is not suspect], without
    weights, score = _adopted(this, made, conversation.problems)
    return RoundResult(
        weights=weights,
        loss=mean.loss,
        problems=conversation.problems,
        costs=conversation.costs.of(clients),
        score=score,
        update_norm=trained.updates.median if trained.updates else None,
    )


def _private_round(this: Round) -> RoundResult:
    """As `averaged_round`, where all that is used of the clients' heads is their mean with noise: one release."""
    settings = this.settings
    assert settings.dp_epsilon is not None
    epsilon, left = settings.dp_epsilon, settings.rounds + 1 - this.number

    def release() -> Kept:
        trained = _train_round(this)
        noise = next_noise(epsilon, settings.dp_delta, trained.draw, left, this.done)
        head = noised(trained.mean.head, settings, noise, len(trained.clients))
        conversation = trained.conversation
        costs = conversation.costs.of(trained.clients)
        return dict(head), {"release": [noise, *trained.draw], "problems": conversation.problems, "costs": costs}

    kept, about = Released(this.folder, this.number).once("head", release)
    # A strategy must have seen the weights before it aggregates, and has not where the release was kept from before.
    train_messages(this.strategy, this.number, this.weights, [0])
    mean = {name: kept[name] for name in this.weights}  # in the head's own order: files have the alphabet's
    made = _aggregated(this, Message(content(mean, num_examples=1), 0, MessageType.TRAIN))
    weights, score = _adopted(this, made, about["problems"])
    noise, drawn, among = about["release"]
    return RoundResult(
        weights=weights,
        loss=None,  # which would be one more release
        problems=about["problems"],
        costs=about["costs"],
        release=(noise, drawn, among),
        score=score,
    )


@dataclass(frozen=True)
class _Made:
    """What the strategy makes of a mean, in a copy of it."""

    strategy: FedAvg
    head: Weights
    score: Score | None
    problem: str  # why the head cannot be taken; empty where it can


def _aggregated(this: Round, reply: Message) -> _Made:
    trial = copy.copy(this.strategy)  # Flower's strategies replace their state, and change nothing in place
    head = aggregate(trial, this.number, [reply])
    score = this.guard.score(head) if all(np.isfinite(array).all() for array in head.values()) else None
    return _Made(trial, head, score, this.guard.problem(head, score))


def _without_its_cause(this: Round, updates: BoundedMean) -> tuple[Client, Mean, _Made] | None:
    """The client without whose update the mean does not collapse, and what is made of the others; else None."""
    for suspect, mean in islice(updates.suspects(), MAX_SUSPECTS):
        made = _aggregated(this, mean.message())
        if not made.problem:
            return suspect, mean, made
    return None


def _adopted(this: Round, made: _Made, problems: list[str]) -> tuple[dict[str, NDArray[np.float32]], Score | None]:
    """The round's new head and its score, with the strategy in the state that made it; where the head cannot be taken,
    the one before, the strategy unchanged, and one problem more."""
    head, score = made.head, made.score
    if made.problem:
        problems.append(f"the mean of this round is refused, for it {made.problem}")
        report(f"round {this.number}: {problems[-1]}")
        head, score = this.weights, this.guard.score(this.weights)
    else:
        vars(this.strategy).update(vars(made.strategy))
    return {name: np.asarray(array) for name, array in head.items()}, score


def _secure_round(this: Round) -> _Trained:
    """Clients train the head, and the server gets the mean of theirs only: it is the mean that is checked.

    Raises WordflockError where it cannot be a mean of trained heads.
    """
    number, weights = this.number, this.weights
    conversation = Conversation(this.grid, this.roster, this.settings, f"round {number}")
    this.roster.refresh()
    chosen = [this.roster.clients[client] for client in this.roster.sample("train", number, 0)]
    request = next(iter(_messages(this, chosen).values())).content
    length = sum(array.size for array in weights.values()) + 2
    total, clients = secure_total(conversation, chosen, "train", request, length)
    conversation.require(clients)
    clips, loss = float(total[-2]), float(total[-1])
    update = unflatten(total[:-2] / max(clips, 1.0), shapes_of(weights))
    head = {name: (weights[name] + update[name]).astype(np.float32) for name in weights}
    introduced = sum(client.clips for client in clients)
    problem = step_problem(head, weights, longest_step(weights))[1]
    if clips != introduced:
        problem = f"counts {clips:.0f} clips, and the clients have {introduced}"
    elif not 0 <= loss < math.inf:
        problem = "has a loss that is not a positive number"
    if problem:
        raise WordflockError(f"The total of round {number} cannot be right, so some client lied: it {problem}.")
    mean = Mean()
    mean.add(head, introduced, loss / introduced)
    return _Trained(conversation, clients, mean)


def closed_form_result(
    grid: Grid, roster: Roster, settings: FederationSettings, head: Head, folder: Path
) -> RoundResult:
    """Clients send statistics, and the head's last layer is solved from them; their total stays in the run's folder."""
    if settings.dp_epsilon is not None:
        private = private_round(grid, roster, settings, head, Released(folder, 1))
        load_solution(head, private.solution)
        report = private.mechanism.report("server")
        return RoundResult(get_weights(head), None, private.problems, private.costs, report)
    kept = StatisticsFolder(folder / "statistics")
    keep = kept.keep_client if settings.keep_statistics == "by-client" else lambda client, statistics: None
    result = closed_form_round(grid, roster, settings, head, keep)
    kept.keep_only(cost["client"] for cost in result.costs)
    kept.write(result.scale, result.total)
    load_solution(head, result.solution)
    return RoundResult(get_weights(head), None, result.problems, result.costs)


def _train_round(this: Round) -> _Trained:
    """The mean of a round's heads that passed every check.

    Heads are added in the order of the clients' numbers, whenever they come. A repeated round draws others first.
    """
    roster, settings, number, weights = this.roster, this.settings, this.number, this.weights
    conversation = Conversation(this.grid, roster, settings, f"round {number}")
    quorum, private = min(settings.min_replies, settings.clients_per_round), settings.dp_epsilon is not None
    asked: dict[int, int] = {}  # clients that were in this round already, and how they did
    for attempt in range(ATTEMPTS):
        chosen = _drawn(this, attempt, asked, quorum)
        # How many were drawn, and from how many at random: of those that a repeated round prefers, from no more.
        draw = len(chosen), len(chosen) if asked else len(roster.candidates(number))
        updates, mean, clients = BoundedMean(weights, chosen, this.guard.earlier), Mean(), list[Client]()
        ahead = None if isinstance(settings, ServerSettings) else AHEAD
        read = update_reader(weights)
        for client, update in conversation.exchange(f"round {number}", _messages(this, chosen), read, ahead):
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
    if private:
        return _Trained(conversation, clients, mean, draw=draw)
    mean = updates.mean
    for client, norm, limit in updates.clipped:
        report(f"round {number}: client {client} sent an update of norm {norm:.3g}, clipped to {limit:.3g}")
    return _Trained(conversation, clients, mean, updates)


def _drawn(this: Round, attempt: int, asked: dict[int, int], quorum: int) -> list[Client]:
    """The clients of a round, after waiting for as many as it needs."""
    roster, settings = this.roster, this.settings
    roster.refresh()
    if len(roster.eligible()) < quorum:
        seconds = settings.client_timeout if isinstance(settings, ServerSettings) else settings.round_timeout
        roster.wait_for(quorum, seconds)
    chosen = [roster.clients[client] for client in roster.sample("train", this.number, attempt, last=asked)]
    if isinstance(settings, ServerSettings):
        report(f"round {this.number}: clients {listed(chosen)} train, of {len(roster.connected)} connected")
    return chosen


def _messages(this: Round, chosen: Sequence[Client]) -> dict[Client, Message]:
    """The strategy's message to each client."""
    config = task_record(this.roster.prepared.task.labels)
    messages = train_messages(this.strategy, this.number, this.weights, [client.node for client in chosen], config)
    for message in messages:
        message.metadata.group_id = str(this.number)
        message.metadata.ttl = this.settings.round_timeout  # who comes back later need not do it any more
    return dict(zip(chosen, messages, strict=True))
