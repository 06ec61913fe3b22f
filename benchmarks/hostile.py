"""What one hostile client of ten does to ten rounds on real data: `python -m benchmarks.hostile DATA --cache FOLDER`.

Prints test accuracy under each attack of `benchmarks/attacks.py` beside that without one.
"""

from __future__ import annotations

import json
import tempfile
import tomllib
from argparse import ArgumentParser
from contextlib import nullcontext

from benchmarks.attacks import ATTACKS, Attack, hostile
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings

KEYWORDS = "yes,no,up,down,left,right,stop,go"


def main() -> None:
    """Run the attacks; every tenth client is hostile."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--cache", default="")
    parser.add_argument("--keywords", default=KEYWORDS)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--strategy", default="fedavg")
    parser.add_argument("--last-layer", default="closed-form")
    parser.add_argument("--times", type=int, default=1, help="clips that the hostile client claims for each it has")
    parser.add_argument("--options", nargs="*", default=[], help="other options, as in dp-epsilon=8")
    parser.add_argument("--attacks", nargs="*", default=["none", *(attack.name for attack in ATTACKS)])
    options = parser.parse_args()
    settings = {name: getattr(options, name) for name in ("data", "cache", "keywords", "clients", "strategy")}
    settings |= {"last-layer": options.last_layer, **tomllib.loads("\n".join(options.options))}
    by_name: dict[str, Attack] = {attack.name: attack for attack in ATTACKS}
    for name in options.attacks:
        attack = hostile(by_name[name], _every_tenth, options.times) if name in by_name else nullcontext()
        with tempfile.TemporaryDirectory() as runs, attack:
            run = simulate(FederationSettings.from_config({**settings, "runs": runs}))
            metrics = json.loads((run / "metrics.json").read_text())
        kept = {True: ", last layer solved", False: ", last layer averaged"}.get(
            metrics.get("last_layer", {}).get("kept")
        )
        print(f"{name:14} {metrics['test']['accuracy']:.4f}, refused {metrics['refused']}{kept or ''}", flush=True)


def _every_tenth(client: int) -> bool:
    return client % 10 == 3


if __name__ == "__main__":
    main()
