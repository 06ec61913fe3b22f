"""Accuracy of the defaults over several seeds, and of what else was tried: tables of RESULTS.md.

python -m benchmarks.accuracy --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go
and the same with --explored

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
from wordflock.federation_settings import FederationSettings
from wordflock.settings import TrainSettings

CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "centralized, 10 epochs": ("train", {}),
    "centralized, exact": ("train", {"strategy": "closed-form"}),
    "federated, 5 rounds": ("simulate", {"rounds": 5}),
    "federated, 10 rounds": ("simulate", {"rounds": 10}),
    "federated, exact, one round": ("simulate", {}),
    "federated, exact, means of layer last, float16": (
        "simulate",
        {"strategy": "closed-form", "head": "linear-mean", "layer": "last", "upload-dtype": "float16"},
    ),
    "federated, exact, 512 random features, float16": (
        "simulate",
        {"strategy": "closed-form", "random_features": 512, "upload-dtype": "float16"},
    ),
    "federated, exact, means of layers 2, 3, last, float16": (
        "simulate",
        {"strategy": "closed-form", "head": "linear-mean", "upload-dtype": "float16"},
    ),
    "federated, exact, layer last, float16": (
        "simulate",
        {"strategy": "closed-form", "layer": "last", "upload-dtype": "float16"},
    ),
    "federated, exact, layer last, float32": (
        "simulate",
        {"strategy": "closed-form", "layer": "last", "upload-dtype": "float32"},
    ),
    "federated, exact, layers 3, last, float16": (
        "simulate",
        {"strategy": "closed-form", "layer": "3+last", "upload-dtype": "float16"},
    ),
    "federated, exact, layers 2, 3, last, float16": (
        "simulate",
        {"strategy": "closed-form", "upload-dtype": "float16"},
    ),
    "federated, exact, layers 2, 3, last, float32": (
        "simulate",
        {"strategy": "closed-form", "upload-dtype": "float32"},
    ),
    "federated, started from the exact head, 10 rounds": ("simulate", {"rounds": 10, "init": "closed-form"}),
    # What the file has clips of: 22 of "on" and 21 of "off" to train with, and over 400 of each of the fifteen words.
    "12 labels: the ten usual keywords": ("train", {"keywords": "yes,no,up,down,left,right,on,off,stop,go"}),
    "17 labels: fifteen keywords": (
        "train",
        {"keywords": "yes,no,up,down,left,right,stop,go,zero,one,five,eight,bed,cat,happy"},
    ),
}
# What else was tried in rounds, on validation clips: the test split plays no part in choosing.
EXPLORED: dict[str, dict[str, Any]] = {
    "fedavg, the defaults": {},
    **{strategy: {"strategy": strategy} for strategy in ("fedavgm", "fedadam", "fedyogi", "fedprox")},
    "20 clients a round": {"clients_per_round": 20},
    "partition iid": {"partition": "iid"},
    "partition dirichlet 1.0": {"partition": "dirichlet", "alpha": 1.0},
    "partition dirichlet 0.1": {"partition": "dirichlet", "alpha": 0.1},
    "one speaker a client, batches of 8": {"clients": 627, "batch_size": 8},
    "started from the exact head": {"init": "closed-form"},
    "1 local epoch": {"local_epochs": 1},
    "3 local epochs": {"local_epochs": 3},
    "learning rate 1e-3": {"learning_rate": 1e-3},
    "learning rate 5e-3": {"learning_rate": 5e-3},
    "cosine in each round": {"schedule": "cosine"},
}
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # 97.5% quantiles of Student's t for this many seeds


def main() -> None:
    """Print a table, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--explored", action="store_true", help="what else was tried in rounds, on validation clips")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    options = parser.parse_args()
    if options.explored:
        _print_explored(options)
    else:
        _print_configurations(options)


def _print_configurations(options: argparse.Namespace) -> None:
    print(
        "| configuration | parameters | validation (%) | test (%) | unknown recall (%) | calibration error "
        "| bytes up a client | seconds |"
    )
    print("|---" * 8 + "|", flush=True)
    for name, (mode, changes) in CONFIGURATIONS.items():
        if options.only not in name:
            continue
        runs = [_run(mode, {**changes, "seed": seed}, options) for seed in range(options.seeds)]
        tests = [100 * run["test"]["accuracy"] for run in runs]
        half = STUDENT[len(tests)] * stdev(tests) / len(tests) ** 0.5 if len(tests) > 1 else float("nan")
        first, validation = runs[0], mean(100 * run["validation"]["accuracy"] for run in runs)
        unknown = mean(100 * run["test"]["recall"]["_unknown_"] for run in runs)
        error = mean(run["test"]["calibration_error"] for run in runs)
        print(
            f"| {name} | {first['test']['parameters']:,} | {validation:.2f} | {mean(tests):.2f} ± {half:.2f} "
            f"| {unknown:.1f} | {error:.4f} | {first['bytes_up']:,} | {mean(run['elapsed'] for run in runs):.1f} |",
            flush=True,
        )


def _print_explored(options: argparse.Namespace) -> None:
    print("| configuration | after 5 (%) | after 10 (%) | rounds to 95% | seconds |")
    print("|---" * 5 + "|", flush=True)
    for name, changes in EXPLORED.items():
        if options.only not in name:
            continue
        runs = [_run("simulate", {"rounds": 10, **changes, "seed": seed}, options) for seed in range(options.seeds)]
        curves = [[100 * accuracy for accuracy in run["curve"]] for run in runs]
        fifth, last = spread([curve[4] for curve in curves]), spread([curve[-1] for curve in curves])
        reached = [next((n for n, now in enumerate(curve, 1) if now >= 95), 0) for curve in curves]
        rounds = ", ".join(str(n) if n else "none" for n in reached)
        seconds = mean(run["elapsed"] for run in runs)
        print(f"| {name} | {fifth} | {last} | {rounds} | {seconds:.1f} |", flush=True)


def spread(values: list[float]) -> str:
    """The mean, and the standard deviation over seeds."""
    return f"{mean(values):.2f} ± {stdev(values):.2f}" if len(values) > 1 else f"{values[0]:.2f}"


def _run(mode: str, changes: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """The metrics of one run, with what a client sent in a round and the seconds it took after encoding."""
    with tempfile.TemporaryDirectory() as runs, contextlib.redirect_stdout(io.StringIO()):
        shared = {"data": options.data, "keywords": options.keywords, "cache": options.cache, "runs": runs, **changes}
        started = time.perf_counter()
        if mode == "train":
            folder = train(TrainSettings(**shared, name="run"))
        else:
            folder = simulate(FederationSettings(**shared, name="run"))
        metrics: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
        metrics["elapsed"] = time.perf_counter() - started - metrics["seconds"]["encode"]
        lines = [json.loads(line) for line in (Path(folder) / "history.jsonl").read_text().splitlines()]
        metrics["bytes_up"] = max(line.get("bytes_up", 0) for line in lines)
        # A start in closed form is round 0 and no round of training.
        metrics["curve"] = [line["validation_accuracy"] for line in lines if line.get("round", 1) > 0]
    return metrics


if __name__ == "__main__":
    main()
