"""What clients say of a head on the clips that they hold out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from wordflock.arrays import equal
from wordflock.encoder.store import Features
from wordflock.federation.messages import Weights, content, counts_of, metric, task_record, whole
from wordflock.federation.robust import MAX_WEIGHT, lower_median, trimmed_mean
from wordflock.federation.roster import Client, Roster, answered, collect
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import set_weights
from wordflock.head.metrics import NO_SCORE, Score
from wordflock.head.torch_head import Head
from wordflock.head.training import evaluate_head
from wordflock.progress import report

AT_A_TIME = 64  # clients that are sent the final head
FINAL_TIMEOUT = 300.0  # seconds that these may take; no head depends on their answers


@dataclass(frozen=True)
class HoldoutScore:
    """What a client says of a head on its holdout clips."""

    client: Client
    clips: int
    accuracy: float
    loss: float
    recall: dict[str, tuple[int, int]]  # by label: correct and all; empty where the client does not tell


@dataclass(frozen=True)
class ClientScores:
    """What clients say of a head on their holdout clips, together."""

    mean: Score  # weighted by clips, for reports
    trimmed: Score  # without the lowest and the highest, to choose the best head by: no client decides alone


def holdout_scores(
    grid: Grid, roster: Roster, settings: FederationSettings, number: int, weights: Weights, clients: Sequence[int]
) -> list[HoldoutScore]:
    """What some clients say of a head, in the order of their numbers; those that do not answer well are left out."""
    by_node = {roster.clients[client].node: roster.clients[client] for client in clients}
    head, labels = content(weights), roster.prepared.task.labels
    head["config"] = task_record(labels)
    messages = [
        Message(head, node, MessageType.EVALUATE, ttl=settings.round_timeout, group_id=str(number)) for node in by_node
    ]
    came = collect(grid, messages, settings.round_timeout, lambda nodes: f"for the accuracy of {len(nodes)}")
    replied = {reply.metadata.src_node_id for reply in came if answered(reply)}
    roster.stragglers |= {client.number: number for node, client in by_node.items() if node not in replied}
    scores = []
    for reply in came:
        client = by_node.get(reply.metadata.src_node_id)
        if client is None or not reply.has_content():
            continue
        try:
            scores.append(_read(reply, client, labels))
        except MalformedMessage as error:
            report(f"round {number}: client {client} {error}")
    return sorted(scores, key=lambda score: score.client.number)


def _read(reply: Message, client: Client, labels: Sequence[str]) -> HoldoutScore:
    """A client's reply. Raises MalformedMessage where its numbers are not those of a head on the client's clips."""
    clips, accuracy, loss = whole(reply, "num-examples"), metric(reply, "accuracy"), metric(reply, "loss")
    if clips != client.holdout:
        raise MalformedMessage(f"scored {clips} clips, and introduced itself with {client.holdout}")
    correct, among = (counts_of(reply, f"{what}-by-label", len(labels)) for what in ("correct", "clips"))
    if correct is None or among is None:
        return HoldoutScore(client, clips, accuracy, loss, {})
    if any(hits > count for hits, count in zip(correct, among, strict=True)) or sum(among) != clips:
        raise MalformedMessage(f"sent counts by label that are not those of {clips} clips")
    if abs(sum(correct) - accuracy * clips) > 0.5:
        raise MalformedMessage(f"sent an accuracy of {accuracy:.3f}, and {sum(correct)} of {clips} clips by label")
    counted = zip(labels, correct, among, strict=True)
    return HoldoutScore(client, clips, accuracy, loss, {label: (hits, n) for label, hits, n in counted if n})


def _together(scores: Sequence[HoldoutScore]) -> ClientScores:
    clips = [score.clips for score in scores]
    accuracies, losses = [score.accuracy for score in scores], [score.loss for score in scores]
    limit = MAX_WEIGHT * lower_median(clips)
    weights = [min(count, limit) for count in clips]

    def mean(values: Sequence[float]) -> float:
        return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)

    plain = replace(NO_SCORE, accuracy=mean(accuracies), loss=mean(losses), clips=sum(clips))
    trimmed = replace(plain, accuracy=trimmed_mean(accuracies, weights), loss=trimmed_mean(losses, weights))
    return ClientScores(plain, trimmed)


class Scorer:
    """Scores heads: on the server's validation clips, or where it has none on the clips that clients hold out."""

    def __init__(
        self, grid: Grid, roster: Roster, settings: FederationSettings, head: Head, validation: Features
    ) -> None:
        self._head, self._validation = head, validation
        self._grid, self._roster, self._settings = grid, roster, settings
        self._labels = roster.prepared.task.labels
        self._public = settings.dp_epsilon is None  # clients' scores of a private head would be one more release
        self._clients: ClientScores | None = None  # of the last head that was scored on their clips only
        self._asked: tuple[Weights, list[HoldoutScore]] = {}, []  # the last head that clients scored, and how

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

    def final_scores(self, weights: Weights) -> list[HoldoutScore]:
        """What all clients that are there say of the final head, for reports; those that scored it already are not
        asked again. None of a private head's."""
        if not self._public:
            return []
        settings = replace(self._settings, round_timeout=min(self._settings.round_timeout, FINAL_TIMEOUT))
        scored, number = {}, settings.rounds + 1
        if equal(self._asked[0], weights):
            scored = {score.client.number: score for score in self._asked[1]}
        self._roster.refresh()
        clients = [
            client
            for client in self._roster.eligible(holdout=True)
            if client not in scored and self._roster.stragglers.get(client) != number
        ]
        for start in range(0, len(clients), AT_A_TIME):
            some = clients[start : start + AT_A_TIME]
            for score in holdout_scores(self._grid, self._roster, settings, number, weights, some):
                scored[score.client.number] = score
        return [scored[client] for client in sorted(scored)]

    def _ask(self, number: int, weights: Weights) -> ClientScores | None:
        """The scores of some clients; None where no client has holdout clips."""
        clients = self._roster.sample("evaluate", number, holdout=True)
        scores = holdout_scores(self._grid, self._roster, self._settings, number, weights, clients)
        self._asked = weights, scores
        return _together(scores) if scores else None
