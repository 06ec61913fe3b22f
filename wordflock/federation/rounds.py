"""The rounds of a federation: what is asked of the clients, how it is checked, and what is made of it.

Three kinds: clients train and a strategy averages their heads, in the open or as a secure sum; or clients send sums
once, and the last layer is solved from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Message, MessageType
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation.closed_form_round import closed_form_round
from wordflock.federation.costs import Costs, cost_of
from wordflock.federation.messages import (
    Weights,
    apply_delta,
    content,
    failure_of,
    metric,
    payload_bytes,
    printable,
    task_record,
    weights_of,
)
from wordflock.federation.private import clipped, noised, private_round
from wordflock.federation.roster import Client, Roster, answered, collect, listed, replies_to
from wordflock.federation.secure.masking import unflatten
from wordflock.federation.secure.server import secure_total
from wordflock.federation.strategy import Mean, aggregate, train_messages
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.closed_form import StatisticsFolder
from wordflock.head.metrics import NO_SCORE, Score
from wordflock.head.torch_head import Head
from wordflock.head.training import load_solution
from wordflock.privacy.accounting import Releases, next_noise, rounds_clip
from wordflock.progress import report

ATTEMPTS = 3  # at one round, each with other clients
DID_WELL, FAILED = 1, 2  # who is asked again where there are not enough others: those that did well come first
MAX_UPDATE = 10.0  # times the norm of the head: no honest training goes further in a round
AHEAD = 128  # messages under way at once in a simulation, which nobody is kept waiting by


@dataclass(frozen=True)
class RoundResult:
    """What a round brought."""

    weights: dict[str, NDArray[np.float32]]
    loss: float | None  # the clients' mean, where they trained
    problems: list[str]
    costs: list[dict[str, Any]]  # of the clients that are in it
    privacy: dict[str, Any] | None = None  # what was promised of a round in closed form
    release: tuple[float, int, int] | None = None  # of a private round: noise, clients drawn, and those drawn from

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


def averaged_round(
    grid: Grid,
    roster: Roster,
    settings: FederationSettings,
    strategy: FedAvg,
    number: int,
    weights: Weights,
    released: Releases = (),
) -> RoundResult:
    """Clients train the head, and the strategy makes one of theirs; `released` are the private rounds before."""
    if settings.secure_aggregation:
        return _secure_round(grid, roster, settings, strategy, number, weights)
    mean, costs, problems, draw = _train_round(grid, roster, settings, strategy, number, weights)
    head, release = mean.head, None
    if settings.dp_epsilon is not None:
        left = settings.rounds + 1 - number
        noise = next_noise(settings.dp_epsilon, settings.dp_delta, draw, left, released)
        head, release = noised(head, settings, noise, len(costs)), (noise, *draw)
    return RoundResult(
        weights=aggregate(strategy, number, [mean.message(head)]),
        loss=mean.loss if release is None else None,  # which would be one more release
        release=release,
        problems=problems,
        costs=costs,
    )


def _secure_round(
    grid: Grid, roster: Roster, settings: FederationSettings, strategy: FedAvg, number: int, weights: Weights
) -> RoundResult:
    """Clients train the head, and the strategy gets the mean of theirs in place of each.

    What is checked is the mean, for no client's head is seen. Raises WordflockError where it is none.
    """
    problems, costs = list[str](), Costs()

    def refuse(client: Client, problem: str) -> None:
        problems.append(f"client {client} {problem}")
        report(f"round {number}: {problems[-1]}")

    roster.refresh()
    chosen = [roster.clients[client] for client in roster.sample("train", number, 0)]
    config = task_record(roster.prepared.task.labels)
    request = train_messages(strategy, number, weights, [client.node for client in chosen], config)[0].content
    length = sum(array.size for array in weights.values()) + 2
    came = secure_total(grid, chosen, "train", request, length, settings.round_timeout, refuse, costs)
    if len(came.clients) < settings.min_replies:
        raise WordflockError(f"{len(came.clients)} clients trained, and {settings.min_replies} are needed.")
    clips, loss = float(came.total[-2]), float(came.total[-1])
    update = unflatten(came.total[:-2] / max(clips, 1.0), {name: array.shape for name, array in weights.items()})
    mean = {name: (weights[name] + update[name]).astype(np.float32) for name in weights}
    reply = Message(content(mean, num_examples=clips, loss=loss / max(clips, 1.0)), 0, MessageType.TRAIN)
    _, problem = checked_head(reply, weights, sum(client.clips for client in came.clients), longest_step(weights))
    if problem:
        raise WordflockError(f"The total of round {number} cannot be right, so some client lied: it {problem}.")
    return RoundResult(
        weights=aggregate(strategy, number, [reply]),
        loss=loss / clips,
        problems=problems,
        costs=costs.of(came.clients),
    )


def closed_form_result(
    grid: Grid, roster: Roster, settings: FederationSettings, head: Head, folder: Path
) -> RoundResult:
    """Clients send sums, and the head's last layer is solved from them; the sums stay in the run's folder."""
    if settings.dp_epsilon is not None:
        private = private_round(grid, roster, settings, head)
        load_solution(head, private.solution)
        report = private.mechanism.report("server")
        return RoundResult(get_weights(head), None, private.problems, private.costs, report)
    kept = StatisticsFolder(folder / "statistics")
    keep = kept.keep_client if settings.keep_statistics == "by-client" else lambda client, sums: None
    result = closed_form_round(grid, roster, settings, head, keep)
    kept.write(result.scale, result.total)
    load_solution(head, result.solution)
    return RoundResult(get_weights(head), None, result.problems, result.costs)


def _train_round(
    grid: Grid, roster: Roster, settings: FederationSettings, strategy: FedAvg, number: int, weights: Weights
) -> tuple[Mean, list[dict[str, Any]], list[str], tuple[int, int]]:
    """The mean of a round's heads that passed every check, what they cost, and what was wrong with the others.

    Heads are added in the order of the clients' numbers, whenever they come. The last is how many clients were drawn,
    and from how many at random: of those that a repeated round prefers, from no more than were drawn.
    """
    quorum = min(settings.min_replies, settings.clients_per_round)
    problems: list[str] = []
    asked: dict[int, int] = {}  # clients that were in this round already, and how they did
    for attempt in range(ATTEMPTS):
        roster.refresh()
        if len(roster.eligible()) < quorum:
            seconds = settings.client_timeout if isinstance(settings, ServerSettings) else settings.round_timeout
            roster.wait_for(quorum, seconds)
        chosen = [roster.clients[client] for client in roster.sample("train", number, attempt, last=asked)]
        draw = len(chosen), len(chosen) if asked else len(roster.candidates(number))
        by_node = {client.node: client for client in chosen}
        if isinstance(settings, ServerSettings):
            report(f"round {number}: clients {listed(chosen)} train, of {len(roster.connected)} connected")
        config = task_record(roster.prepared.task.labels)
        messages = train_messages(strategy, number, weights, list(by_node), config)  # in the order of `chosen`
        for message in messages:
            message.metadata.group_id = str(number)
            message.metadata.ttl = settings.round_timeout  # a client that comes back later need not do it any more
        mean, costs, longest = Mean(), list[dict[str, Any]](), longest_step(weights)
        came = replies_to(
            grid,
            messages,
            settings.round_timeout,
            lambda nodes, by_node=by_node: (  # type: ignore[misc]
                f"for round {number} ({len(by_node) - len(nodes)} of {len(by_node)} replied): "
                f"{listed([by_node[node] for node in nodes])}"
            ),
            None if isinstance(settings, ServerSettings) else AHEAD,
        )
        for client, reply in zip(chosen, came, strict=True):
            if reply is None or not answered(reply):
                roster.stragglers[client.number], problem = number, "did not answer in time"
            else:
                head, problem = checked_head(reply, weights, client.clips, longest)
            asked[client.number] = FAILED if problem else DID_WELL
            if problem:
                problems.append(f"client {client} {problem}")
                report(f"round {number}: {problems[-1]}")
            elif reply is not None:
                private = settings.dp_epsilon is not None
                head = clipped(head, weights, rounds_clip(settings)) if private else head
                mean.add(head, 1 if private else client.clips, metric(reply, "loss"))
                costs.append(cost_of(client, reply, payload_bytes(reply), payload_bytes(messages[0])))
        if len(costs) >= quorum:
            return mean, costs, problems, draw
        again = "; again with others" if attempt < ATTEMPTS - 1 else ""
        report(f"round {number}: {len(costs)} of {len(chosen)} clients answered well, too few{again}")
    raise WordflockError(f"Round {number} failed {ATTEMPTS} times for want of clients; see what they reported above.")


def checked_head(reply: Message, weights: Weights, clips: int, longest: float) -> tuple[Weights, str]:
    """A client's head, and what is wrong with it: empty where nothing is. Nothing from a client is used unchecked.

    `longest` is the `longest_step` from the `weights` that were sent out.
    """
    if reply.has_error():
        return {}, failure_of(reply)
    try:
        head, claimed, loss = (
            apply_delta(weights_of(reply), weights),
            metric(reply, "num-examples"),
            metric(reply, "loss"),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return {}, f"sent something that is no head ({printable(error)})"
    problem = ""
    if {name: array.shape for name, array in head.items()} != {n: w.shape for n, w in weights.items()}:
        problem = "sent a head of another shape"
    elif claimed != clips:
        problem = f"claims {claimed} clips, and introduced itself with {clips}"
    elif any(array.dtype != np.float32 for array in head.values()):
        problem = "sent numbers that are not float32"
    elif not np.isfinite(loss):
        problem = "reports a loss that is no finite number"
    elif not _norm(head.values()) + longest / MAX_UPDATE <= longest + 1:
        # Nearly always the norms of the head and of the weights show that the one between them is short enough, for it
        # is no longer than both together: that is one reading of the head, and of numbers not finite they show nothing.
        with np.errstate(over="ignore", invalid="ignore"):
            step = _norm(head[name] - weights[name] for name in weights)
        if not np.isfinite(step) and not all(np.isfinite(array).all() for array in head.values()):
            problem = "sent numbers that are not finite"
        elif not step <= longest:
            problem = f"sent an update of norm {step:.3g}, which no training gives"
    return head, problem


def longest_step(weights: Weights) -> float:
    """The norm of an update beyond which it is no training's."""
    return MAX_UPDATE * (1 + _norm(weights.values()))


def clients_score(
    grid: Grid, roster: Roster, settings: FederationSettings, number: int, weights: Weights
) -> Score | None:
    """Accuracy and loss on the holdout clips of some clients; None where nobody holds any back."""
    chosen = [roster.clients[client] for client in roster.sample("evaluate", number, holdout=True)]
    holdout = {client.node: client.holdout for client in chosen}
    head = content(weights)
    head["config"] = task_record(roster.prepared.task.labels)
    messages = [
        Message(head, node, MessageType.EVALUATE, ttl=settings.round_timeout, group_id=str(number)) for node in holdout
    ]
    replies = []
    came = collect(grid, messages, settings.round_timeout, lambda nodes: f"for the accuracy of {len(nodes)}")
    heard = {reply.metadata.src_node_id for reply in came if answered(reply)}
    roster.stragglers |= {client.number: number for client in chosen if client.node not in heard}
    for reply in came:
        try:
            figures = (
                [metric(reply, key) for key in ("num-examples", "accuracy", "loss")] if reply.has_content() else []
            )
        except (KeyError, TypeError):
            continue
        if figures and figures[0] == holdout[reply.metadata.src_node_id] and 0 <= figures[1] <= 1:
            replies.append(reply)
    if not replies:
        return None
    replies.sort(key=lambda reply: metric(reply, "client"))
    clips = sum(int(metric(reply, "num-examples")) for reply in replies)
    accuracy = _mean(replies, "accuracy")
    return replace(NO_SCORE, accuracy=accuracy, loss=_mean(replies, "loss"), clips=clips)


def _mean(replies: Sequence[Message], key: str) -> float:
    """A metric's mean over clients, weighted by their clips."""
    pairs = [(metric(reply, key), metric(reply, "num-examples")) for reply in replies]
    return sum(value * clips for value, clips in pairs) / sum(clips for _, clips in pairs)


def _norm(arrays: Iterable[NDArray[np.float32]]) -> float:
    # In float32, ten times as fast: what overflows is too long in any case.
    return math.sqrt(sum(float(np.vdot(array, array)) for array in arrays))
