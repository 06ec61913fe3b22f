"""What the server does: sample, send, collect, check, aggregate, evaluate, keep; round after round."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from numpy.typing import NDArray

from wordflock.centralized import checkpoint_of, finish, new_head
from wordflock.checkpoint import get_weights, set_weights
from wordflock.errors import WordflockError
from wordflock.federation.members import federation
from wordflock.federation.messages import Weights, content, metric, payload_bytes, weights_of
from wordflock.federation.strategy import aggregate, make_strategy, train_messages
from wordflock.head import count_parameters
from wordflock.progress import progress
from wordflock.randomness import numpy_generator
from wordflock.run import Run
from wordflock.settings import FederationSettings
from wordflock.training import evaluate_head

ATTEMPTS = 3  # at one round, each with other clients
LARGEST_UPDATE = 10.0  # times the norm of the head: no honest training goes further in a round

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run's configuration describes."""
    federate(grid, FederationSettings.from_config(context.run_config))


def federate(grid: Grid, settings: FederationSettings) -> Path:
    """Train a head over the grid's clients for the rounds; returns the run's folder.

    Every round's head is kept before the next begins. Raises WordflockError where too few clients answer.
    """
    logging.getLogger("flwr").setLevel(logging.WARNING)  # its line for every step would bury ours
    started = time.perf_counter()
    prepared = federation(settings).prepared
    seconds = {"encode": time.perf_counter() - started}
    head = new_head(settings, prepared)
    labels, validation = prepared.task.labels, prepared.features["validation"]
    run = Run(settings, "simulate")
    print(f"head parameters = {count_parameters(head):,}")
    score = evaluate_head(head, validation, labels)
    print(f"before training: loss = {score.loss:.4f}, accuracy = {score.accuracy:.4f}")

    started = time.perf_counter()
    roster = Roster(grid, settings)
    strategy = make_strategy(settings)
    weights = get_weights(head)
    traffic: list[int] = []
    with progress("rounds", settings.rounds, "rounds") as advance:
        for number in range(1, settings.rounds + 1):
            round_started = time.perf_counter()
            replies = _train_round(grid, roster, settings, strategy, number, weights)
            weights = aggregate(strategy, number, replies)
            set_weights(head, weights)
            score = evaluate_head(head, validation, labels)
            client_accuracy = _client_accuracy(grid, roster, settings, number, weights)
            checkpoint = checkpoint_of(head, settings, prepared, mode="simulate", round=number, score=score)
            sent = sum(array.nbytes for array in weights.values())
            received = sum(payload_bytes(reply) for reply in replies) // len(replies)
            traffic.append(sent + received)
            best = run.record(
                "round",
                checkpoint,
                train_loss=_mean(replies, "loss"),
                validation_loss=score.loss,
                client_accuracy=client_accuracy,
                clients=[int(metric(reply, "client")) for reply in replies],
                bytes_up=received,
                bytes_down=sent,
                seconds=time.perf_counter() - round_started,
            )
            advance(1, f"accuracy {score.accuracy:.4f}")
            print(
                f"round {number}: accuracy = {score.accuracy:.4f}, loss = {score.loss:.4f}, "
                f"clients' own = {client_accuracy:.4f}, {len(replies)} clients, "
                f"{time.perf_counter() - round_started:.1f} s{' (best)' if best else ''}"
            )
    seconds["rounds"] = time.perf_counter() - started
    metrics = {
        "seconds": seconds,
        "rounds": settings.rounds,
        "bytes_per_client_per_round": sum(traffic) // len(traffic),
    }
    finish(run, "round", settings, prepared, metrics)
    return run.folder


@dataclass
class Roster:
    """Which node is which client. Nodes' identifiers are random; clients' numbers are not, so it is they that are
    sampled, and the same clients train in a round on any engine."""

    grid: Grid
    settings: FederationSettings
    nodes: dict[int, int] = field(default_factory=dict)  # client to node
    clips: dict[int, int] = field(default_factory=dict)  # client to the clips it trains on
    held_back: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.refresh()
        small = sorted(client for client in self.nodes if self.clips[client] < self.settings.batch_size)
        if small:
            print(f"skipped, with fewer clips than a batch of {self.settings.batch_size}: clients {small}")

    def refresh(self) -> None:
        """Ask nodes that are new who they are."""
        new = sorted(set(self.grid.get_node_ids()) - set(self.nodes.values()))
        queries = [Message(RecordDict(), node, MessageType.QUERY) for node in new]
        for reply in self.grid.send_and_receive(queries, timeout=self.settings.round_deadline):
            if reply.has_error():
                raise WordflockError(f"A client cannot introduce itself: {reply.error.reason}.")
            client = int(metric(reply, "client"))
            self.nodes[client] = reply.metadata.src_node_id
            self.clips[client] = int(metric(reply, "num-examples"))
            self.held_back[client] = int(metric(reply, "held-back"))

    def sample(self, *place: str | int, held_back: bool = False) -> list[int]:
        """The clients of a round, in rising order: as many as the settings ask for, of those that have enough clips."""
        if held_back:
            able = sorted(client for client in self.nodes if self.held_back[client] > 0)
        else:
            able = sorted(client for client in self.nodes if self.clips[client] >= self.settings.batch_size)
        drawn = numpy_generator(self.settings.seed, "sample", *place).permutation(able)
        return sorted(int(client) for client in drawn[: self.settings.clients_per_round])


def _train_round(
    grid: Grid, roster: Roster, settings: FederationSettings, strategy: FedAvg, number: int, weights: Weights
) -> list[Message]:
    """The usable replies of a round, in the order of the clients' numbers."""
    for attempt in range(ATTEMPTS):
        chosen = roster.sample("train", number, attempt)
        if not chosen:
            raise WordflockError(
                f"No client has as many clips as a batch of {settings.batch_size}; take a smaller --batch-size."
            )
        messages = train_messages(strategy, number, weights, [roster.nodes[client] for client in chosen])
        replies = list(grid.send_and_receive(messages, timeout=settings.round_deadline))
        good = []
        for client in chosen:
            reply = next((r for r in replies if r.metadata.src_node_id == roster.nodes[client]), None)
            problem = "did not answer in time" if reply is None else check_reply(reply, weights, roster.clips[client])
            if problem:
                print(f"round {number}: client {client} {problem}")
            elif reply is not None:
                good.append(reply)
        if len(good) >= min(settings.min_replies, len(chosen)):
            return good
        print(f"round {number}: {len(good)} of {len(chosen)} clients answered well, too few; again with others")
    raise WordflockError(f"Round {number} failed {ATTEMPTS} times for want of clients; see what they reported above.")


def check_reply(reply: Message, weights: Weights, clips: int) -> str:
    """What is wrong with a client's head; empty where nothing is. Nothing from a client is used unchecked."""
    if reply.has_error():
        return f"failed: {reply.error.reason}"
    try:
        arrays, claimed = weights_of(reply), metric(reply, "num-examples")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        return f"sent something that is no head ({error})"
    if {name: array.shape for name, array in arrays.items()} != {n: w.shape for n, w in weights.items()}:
        return "sent a head of another shape"
    if claimed != clips:
        return f"claims {claimed} clips, and introduced itself with {clips}"
    if not all(array.dtype == np.float32 and np.isfinite(array).all() for array in arrays.values()):
        return "sent numbers that are not finite"
    step = _norm([arrays[name] - weights[name] for name in weights])
    if step > LARGEST_UPDATE * (1 + _norm(weights.values())):
        return f"sent an update of norm {step:.3g}, which no training gives"
    return ""


def _client_accuracy(
    grid: Grid, roster: Roster, settings: FederationSettings, number: int, weights: Weights
) -> float | None:
    """The accuracy on the held-back clips of some clients; None where nobody holds any back."""
    chosen = roster.sample("evaluate", number, held_back=True)
    head = content(weights)
    messages = [Message(head, roster.nodes[client], MessageType.EVALUATE) for client in chosen]
    replies = [r for r in grid.send_and_receive(messages, timeout=settings.round_deadline) if r.has_content()]
    return _mean(replies, "accuracy") if replies else None


def _mean(replies: Sequence[Message], key: str) -> float:
    """A metric's mean over clients, weighted by their clips."""
    pairs = [(metric(reply, key), metric(reply, "num-examples")) for reply in replies]
    return sum(value * clips for value, clips in pairs) / sum(clips for _, clips in pairs)


def _norm(arrays: Iterable[NDArray[np.float32]]) -> float:
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in arrays)))
