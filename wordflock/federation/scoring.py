"""What clients say of a head on the clips that they hold out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from wordflock.encoder.store import Features
from wordflock.federation.messages import Weights, content, metric, task_record, whole
from wordflock.federation.robust import MAX_WEIGHT, lower_median, trimmed_mean
from wordflock.federation.roster import Roster, answered, collect
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import set_weights
from wordflock.head.metrics import NO_SCORE, Score
from wordflock.head.torch_head import Head
from wordflock.head.training import evaluate_head
from wordflock.progress import report


@dataclass(frozen=True)
class ClientScores:
    """What clients say of a head on their holdout clips."""

    mean: Score  # weighted by clips, for reports
    trimmed: Score  # without the lowest and the highest, to choose the best head by: no client decides alone
    by_client: list[tuple[int, int, int]]  # client, clips that are recognised, clips


def clients_score(
    grid: Grid, roster: Roster, settings: FederationSettings, number: int, weights: Weights
) -> ClientScores | None:
    """Accuracy and loss on the holdout clips of some clients; None where no client has any."""
    chosen = [roster.clients[client] for client in roster.sample("evaluate", number, holdout=True)]
    by_node = {client.node: client for client in chosen}
    head = content(weights)
    head["config"] = task_record(roster.prepared.task.labels)
    messages = [
        Message(head, node, MessageType.EVALUATE, ttl=settings.round_timeout, group_id=str(number)) for node in by_node
    ]
    came = collect(grid, messages, settings.round_timeout, lambda nodes: f"for the accuracy of {len(nodes)}")
    replied = {reply.metadata.src_node_id for reply in came if answered(reply)}
    roster.stragglers |= {client.number: number for client in chosen if client.node not in replied}
    scores: list[tuple[int, int, float, float]] = []
    for reply in came:
        client = by_node.get(reply.metadata.src_node_id)
        if client is None or not reply.has_content():
            continue
        try:
            clips, accuracy, loss = whole(reply, "num-examples"), metric(reply, "accuracy"), metric(reply, "loss")
            if clips != client.holdout:
                raise MalformedMessage(f"scored {clips} clips, and introduced itself with {client.holdout}")
        except MalformedMessage as error:
            report(f"round {number}: client {client} {error}")
            continue
        scores.append((client.number, clips, accuracy, loss))
    return _client_scores(sorted(scores)) if scores else None


def _client_scores(scores: Sequence[tuple[int, int, float, float]]) -> ClientScores:
    clips = [score[1] for score in scores]
    accuracies, losses = [score[2] for score in scores], [score[3] for score in scores]
    limit = MAX_WEIGHT * lower_median(clips)
    weights = [min(count, limit) for count in clips]

    def mean(values: Sequence[float]) -> float:
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)

    plain = replace(NO_SCORE, accuracy=mean(accuracies), loss=mean(losses), clips=sum(clips))
    trimmed = replace(plain, accuracy=trimmed_mean(accuracies, weights), loss=trimmed_mean(losses, weights))
    by_client = [(number, round(accuracy * count), count) for number, count, accuracy, _ in scores]
    return ClientScores(plain, trimmed, by_client)


class Scorer:
    """Scores heads: on the server's validation clips, or where it has none on the clips that clients hold out."""

    def __init__(
        self, grid: Grid, roster: Roster, settings: FederationSettings, head: Head, validation: Features
    ) -> None:
        self._head, self._validation = head, validation
        self._labels = roster.prepared.task.labels
        self._ask = partial(clients_score, grid, roster, settings)
        self._public = settings.dp_epsilon is None  # clients' scores of a private head would be one more release
        self._clients: ClientScores | None = None  # of the last head that was scored on their clips only

    def score(self, number: int, weights: Weights) -> Score | None:
        """The score by which the best round is chosen; None where no one has clips for it."""
        if len(self._validation):
            set_weights(self._head, weights)
            return evaluate_head(self._head, self._validation, self._labels)
        self._clients = self._ask(number, weights) if self._public else None
        return self._clients.trimmed if self._clients else None

    def client_score(self, number: int, weights: Weights) -> Score | None:
        """The clients' score of the head that was scored last, for reports."""
        if len(self._validation) and self._public:
            self._clients = self._ask(number, weights)
        return self._clients.mean if self._clients else None

    @property
    def by_client(self) -> list[tuple[int, int, int]]:
        """What each client said of that head: its number, clips that are recognised, clips."""
        return self._clients.by_client if self._clients else []
