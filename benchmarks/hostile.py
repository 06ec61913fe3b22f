"""What one hostile client of ten does to ten rounds on real data: `python -m benchmarks.hostile DATA [KEYWORDS]`.

Prints the norms of honest updates and their clips against the round's median, then test accuracy under each attack.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Context, Message

from wordflock.federation import client_app, rounds
from wordflock.federation.messages import content, metric, weights_of
from wordflock.federation.robust import BoundedMean, Update, lower_median
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings

Weights = dict[str, np.ndarray[Any, Any]]
Attack = Callable[[Weights, Weights], Weights]


def _negated(sent: Weights, trained: Weights) -> Weights:
    step = {name: sent[name] - trained[name] for name in sent}
    norm, own = (np.sqrt(sum(float((a**2).sum()) for a in arrays.values())) for arrays in (step, sent))
    return {name: sent[name] + step[name] * np.float32(9.9 * (1 + own) / norm) for name in sent}


def _scaled(sent: Weights, trained: Weights) -> Weights:
    return {name: sent[name] + 5 * (trained[name] - sent[name]) for name in sent}


def _random(sent: Weights, trained: Weights) -> Weights:
    generator = np.random.default_rng(0)
    return {name: a + generator.normal(0, 0.05, a.shape).astype(np.float32) for name, a in sent.items()}


def _bias(sent: Weights, trained: Weights) -> Weights:
    push = np.eye(1, len(trained["output.bias"]), dtype=np.float32)[0] * 20
    return {**trained, "output.bias": trained["output.bias"] + push}


def _rotated(sent: Weights, trained: Weights) -> Weights:
    return {**trained, **{key: np.roll(trained[key], 1, axis=0) for key in ("output.weight", "output.bias")}}


ATTACKS: dict[str, Attack] = {
    "none": lambda sent, trained: trained,
    "negated": _negated,
    "scaled": _scaled,
    "random": _random,
    "bias": _bias,
    "rotated": _rotated,
}


def main(data: str, keywords: str = "yes,no,up,down,left,right,stop,go") -> None:
    """Run all attacks; every tenth client is hostile."""
    honest = client_app.app._registered_funcs["train.default"]
    ratios: list[tuple[float, float]] = []

    class Watched(BoundedMean):
        """Remembers how far updates and clips are above the median."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.seen: list[Update] = []

        def add(self, update: Update) -> None:
            super().add(update)
            self.seen.append(update)
            if len(self.seen) == 10:
                norms, clips = [u.norm for u in self.seen], [float(u.client.clips) for u in self.seen]
                ratios.append((max(norms) / lower_median(norms), max(clips) / lower_median(clips)))

    setattr(rounds, "BoundedMean", Watched)  # noqa: B010
    for name, attack in ATTACKS.items():

        def train(message: Message, context: Context, attack: Attack = attack) -> Message:
            reply = honest(message, context)
            if int(metric(reply, "client")) % 10 == 0:
                numbers = {key.replace("-", "_"): metric(reply, key) for key in reply.content["metrics"]}
                sent, trained = ({n: a.copy() for n, a in weights_of(m).items()} for m in (message, reply))
                reply.content = content(attack(sent, trained), **numbers)
            return reply

        client_app.app._registered_funcs["train.default"] = train
        with tempfile.TemporaryDirectory() as folder:
            run = simulate(
                FederationSettings(data=data, keywords=keywords, clients=10, runs=folder, last_layer="averaged")
            )
            metrics = json.loads((run / "metrics.json").read_text())
        print(f"{name:8} {metrics['test']['accuracy']:.4f}, refused {metrics['refused']}", flush=True)
        if name == "none":
            print(f"honest updates: at most {max(r[0] for r in ratios):.2f} times the median norm,", end=" ")
            print(f"{max(r[1] for r in ratios):.2f} times the median clips")


if __name__ == "__main__":
    main(*sys.argv[1:])
