"""A table of RESULTS.md: accuracy of the closed form against ε, by clip and by client.

python -m benchmarks.privacy --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

The noise is drawn anew --draws times. Every speaker is a client; one with fewer than --min-clips clips takes no part.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wordflock.federation_settings import FederationSettings
from wordflock.head.training import pool
from wordflock.partition import federation
from wordflock.privacy.mechanism import PrivateStatistics
from wordflock.run import new_head

EPSILONS = (1.0, 2.0, 4.0, 8.0, math.inf)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--clients", type=int, default=627, help="as many as speakers: one speaker a client")
    parser.add_argument("--min-clips", type=int, default=8)
    parser.add_argument("--units", nargs="+", default=["clip", "client"])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--dp-clipping-norm", type=float, default=None)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--split", default="test", choices=["test", "validation"])
    options = parser.parse_args(arguments)
    settings = FederationSettings(
        data=options.data,
        keywords=options.keywords,
        cache=options.cache,
        clients=options.clients,
        min_clips=options.min_clips,
        strategy="closed-form",
        dp_epsilon=math.inf,
        dp_clipping_norm=options.dp_clipping_norm,
    )
    players = federation(settings)
    head = new_head(settings, players.prepared)
    members = [member for member in players.members if len(member.train) >= settings.min_clips]
    parts = [(pool(head, member.train), member.train.labels) for member in members]
    test = players.prepared.features[options.split]
    z, y = pool(head, test), test.labels
    print(f"{sum(len(labels) for _, labels in parts)} clips of {len(parts)} clients; {len(y)} {options.split} clips")
    print("| unit | dimensions | " + " | ".join(f"ε = {epsilon:g}" for epsilon in EPSILONS) + " |")
    print("|---" * (2 + len(EPSILONS)) + "|")
    everyone = parts
    for unit in options.units:
        if unit == "clip":  # whose clips they are makes no difference
            parts = [(np.concatenate([z for z, _ in everyone]), np.concatenate([y for _, y in everyone]))]
        else:
            parts = everyone
        for dimensions in options.dimensions:
            chosen = replace(settings, dp_unit=unit, dp_dimensions=dimensions)
            free = PrivateStatistics.of(chosen, z.shape[1], len(players.prepared.task.labels))
            middle = np.sum([free.middle(part) for part, _ in parts], axis=0)
            units = len(parts) if unit == "client" else sum(len(labels) for _, labels in parts)
            row = []
            for epsilon in EPSILONS:
                accuracy = []
                for draw in range(options.draws if math.isfinite(epsilon) else 1):
                    generator = np.random.default_rng(draw)
                    mechanism = replace(free, epsilon=epsilon).centred(middle, units, generator)
                    total = np.sum([mechanism.contribution(*part) for part in parts], axis=0)
                    solution = mechanism.solve(mechanism.noisy(total, generator))
                    accuracy.append(float((np.argmax(z @ solution.weight.T + solution.bias, axis=1) == y).mean()))
                row.append(f"{100 * np.mean(accuracy):.1f}" + (f" ± {100 * np.std(accuracy):.1f}" if draw else ""))
            print(f"| {unit} | {dimensions} | " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
