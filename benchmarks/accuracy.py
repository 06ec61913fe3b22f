"""Accuracy of the defaults over several seeds: the table of docs/accuracy.md.

python -m benchmarks.accuracy --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Every run reads the test split once, for the head that was best on validation. A seed decides the head's first weights,
the order of clips, which clips are silence, who owns which clips and who trains in a round.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from wordflock.centralized import train
from wordflock.federation.simulation import simulate
from wordflock.settings import FederationSettings, TrainSettings

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "centralized, 10 epochs": ("train", {}),
    "centralized, exact": ("train", {"strategy": "exact"}),
    "federated, 5 rounds": ("simulate", {"rounds": 5}),
    "federated, 10 rounds": ("simulate", {}),
    "federated, exact, one round": ("simulate", {"strategy": "exact"}),
    "federated, exact, layer last, float16": ("simulate", {"strategy": "exact", "layer": "last", "upload": "float16"}),
    "federated, exact, layer last, float32": ("simulate", {"strategy": "exact", "layer": "last", "upload": "float32"}),
    "federated, exact, layers 3, last, float16": (
        "simulate",
        {"strategy": "exact", "layer": "3+last", "upload": "float16"},
    ),
    "federated, exact, layers 2, 3, last, float16": ("simulate", {"strategy": "exact", "upload": "float16"}),
    "federated, exact, layers 2, 3, last, float32": ("simulate", {"strategy": "exact", "upload": "float32"}),
    "federated, started from the exact head, 10 rounds": ("simulate", {"start": "exact"}),
}
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5% quantiles of Student's t for this many seeds


def main() -> None:
    """Print the table, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    print(
        "| configuration | parameters | validation (%) | test (%) | unknown recall (%) | bytes up a client | seconds |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for name, (mode, changes) in CONFIGURATIONS.items():
        runs = [_run(mode, {**changes, "seed": seed}, options) for seed in range(options.seeds)]
        tests = [100 * run["test"]["accuracy"] for run in runs]
        half = STUDENT[len(tests)] * stdev(tests) / len(tests) ** 0.5 if len(tests) > 1 else float("nan")
        first, validation = runs[0], mean(100 * run["validation"]["accuracy"] for run in runs)
        unknown = mean(100 * run["test"]["recall"]["_unknown_"] for run in runs)
        print(
            f"| {name} | {first['test']['parameters']:,} | {validation:.2f} | {mean(tests):.2f} ± {half:.2f} "
            f"| {unknown:.1f} | {first['bytes_up']:,} | {mean(run['elapsed'] for run in runs):.1f} |",
            flush=True,
        )


def _run(mode: str, changes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The metrics of one run, with what a client sent in a round and the seconds it took after encoding."""
    with tempfile.TemporaryDirectory() as runs, contextlib.redirect_stdout(io.StringIO()):
        shared = {"data": options.data, "keywords": options.keywords, "cache": options.cache, "runs": runs}
        started = time.perf_counter()
        if mode == "train":
            folder = train(TrainSettings(**shared, name="run", **changes))
        else:
            folder = simulate(FederationSettings(**shared, name="run", **changes))
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        metrics["elapsed"] = time.perf_counter() - started - metrics["seconds"]["encode"]
        lines = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
        metrics["bytes_up"] = max(line.get("bytes_up", 0) for line in lines)
    return metrics


if __name__ == "__main__":
    main()
