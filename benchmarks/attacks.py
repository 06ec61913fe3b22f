"""What a hostile client may send in the place of what it trained: for tests and for `benchmarks/hostile.py`.

Each attack is two lies: about a head, in a round, and about clips, where statistics of them are asked for. Statistics
are made of the false clips by the client's own code, so that they are consistent: what is inconsistent is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Context, Message
from numpy.typing import NDArray

from wordflock.federation import client_app
from wordflock.federation.messages import content, metric, weights_of
from wordflock.head.closed_form import Scale, ScaleStatistics, Statistics
from wordflock.head.training import pool

Weights = dict[str, NDArray[np.float32]]
Clips = tuple[NDArray[np.float32], NDArray[np.int64]]  # representations (clips, d), and labels


@dataclass(frozen=True)
class Attack:
    """What a hostile client lies."""

    name: str
    head: Callable[[Weights, Weights], Weights]  # of the head that was sent out and the one that it trained
    clips: Callable[[NDArray[np.float32], NDArray[np.int64], int], Clips]  # of its own ones, and how many labels are


def _negated(sent: Weights, trained: Weights) -> Weights:
    """At the largest norm that any round takes."""
    step = {name: sent[name] - trained[name] for name in sent}
    norm, own = (np.sqrt(sum(float((a**2).sum()) for a in arrays.values())) for arrays in (step, sent))
    return {name: sent[name] + step[name] * np.float32(9.9 * (1 + own) / norm) for name in sent}


def _scaled(sent: Weights, trained: Weights) -> Weights:
    return {name: sent[name] + 10 * (trained[name] - sent[name]) for name in sent}


def _random(sent: Weights, trained: Weights) -> Weights:
    generator = np.random.default_rng(0)
    return {name: a + generator.normal(0, 0.1, a.shape).astype(np.float32) for name, a in sent.items()}


def _bias_pushed(sent: Weights, trained: Weights) -> Weights:
    push = np.eye(1, len(trained["output.bias"]), dtype=np.float32)[0] * 20
    return {**trained, "output.bias": trained["output.bias"] + push}


def _labels_rotated(sent: Weights, trained: Weights) -> Weights:
    return {**trained, **{key: np.roll(trained[key], 1, axis=0) for key in ("output.weight", "output.bias")}}


def _random_clips(z: NDArray[np.float32], labels: NDArray[np.int64], count: int) -> Clips:
    generator = np.random.default_rng(0)
    return (z.mean(axis=0) + z.std(axis=0) * generator.normal(size=z.shape)).astype(np.float32), labels


ATTACKS = (
    Attack("negated", _negated, lambda z, labels, count: (2 * z.mean(axis=0) - z, labels)),
    Attack("scaled", _scaled, lambda z, labels, count: (np.float32(1.9) * z, labels)),
    Attack("random", _random, _random_clips),
    Attack("bias pushed", _bias_pushed, lambda z, labels, count: (z, np.zeros_like(labels))),
    Attack("labels rotated", _labels_rotated, lambda z, labels, count: (z, (labels + 1) % count)),
)


@contextmanager
def hostile(
    attack: Attack | None, is_hostile: Callable[[int], bool], times: int = 1, **claims: float
) -> Iterator[None]:
    """In the block, hostile clients of simulations lie: about heads and clips, and about other numbers of a round.

    `times` is how many clips they claim for each that they have.
    """
    handlers, patched = client_app.app._registered_funcs, client_app
    honest = {name: handlers[name] for name in ("train.default", "query.default")}
    scale_of, statistics_of = patched._scale_statistics, patched._statistics

    def train(message: Message, context: Context) -> Message:
        reply = honest["train.default"](message, context)
        if is_hostile(int(metric(reply, "client"))):
            numbers: dict[str, Any] = dict(reply.content["metrics"])
            numbers |= {"num-examples": times * int(metric(reply, "num-examples"))}
            numbers = {key.replace("-", "_"): value for key, value in numbers.items()} | claims
            sent, trained = ({n: a.copy() for n, a in weights_of(m).items()} for m in (message, reply))
            reply.content = content(attack.head(sent, trained) if attack else trained, **numbers)
        return reply

    def introduce(message: Message, context: Context) -> Message:
        reply = honest["query.default"](message, context)
        if is_hostile(int(metric(reply, "client"))):
            metrics = reply.content.metric_records["metrics"]
            metrics["num-examples"] = times * int(metric(reply, "num-examples"))
        return reply

    def clips_of(message: Message, member: Any, settings: Any) -> Clips:
        z = pool(client_app._untrained(message, member, settings), member.train)
        assert attack is not None
        z, labels = attack.clips(z, member.train.labels, len(member.labels))
        return np.tile(z, (times, 1)), np.tile(labels, times)

    def scale(message: Message, member: Any, settings: Any) -> ScaleStatistics:
        if attack is None or not is_hostile(member.client):
            return scale_of(message, member, settings)
        return ScaleStatistics.of(*clips_of(message, member, settings), len(member.labels))

    def statistics(message: Message, member: Any, settings: Any) -> Statistics:
        if attack is None or not is_hostile(member.client):
            return statistics_of(message, member, settings)
        return Statistics.of(*clips_of(message, member, settings), Scale.unpacked(weights_of(message)))

    handlers |= {"train.default": train, "query.default": introduce}
    setattr(patched, "_scale_statistics", scale)  # noqa: B010
    setattr(patched, "_statistics", statistics)  # noqa: B010
    try:
        yield
    finally:
        handlers |= honest
        setattr(patched, "_scale_statistics", scale_of)  # noqa: B010
        setattr(patched, "_statistics", statistics_of)  # noqa: B010
