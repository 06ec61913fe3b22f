"""Every figure about speed that the documentation gives: `make bench`, or

    python -m benchmarks.bench --data speech_commands_mini.tar

Each row of each contender runs in a process of its own, one after the other, several times; the table has medians, and
ratios of medians. Nothing else should run on the machine meanwhile: the load before the start is written down.
Without --data synthetic words take the place of recordings, which changes no figure but that of disk reads.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

REPOSITORY = Path(__file__).parents[1]
PACKAGES = ("torch", "numpy", "flwr")
TIMEOUT = 3600


@dataclass(frozen=True)
class Row:
    """One measurement: a row of a contender's module, for a number of clients or clips."""

    name: str
    module: str
    row: str
    size: int = 0
    repetitions: int = 3

    @property
    def contender(self) -> str:
        """The contender, as the table calls it."""
        return {"seed_recipe": "seed", "ours": "Wordflock", "ray_engine": "Flower on Ray", "pfl_simulation": "pfl"}[
            self.module
        ]


HEADS = ("", ", attentive")  # the default one, and the one that pfl is measured with
ROWS = [
    Row("pass", "seed_recipe", "encode"),
    *[Row(f"pass{kind}", "ours", f"pass{kind}") for kind in ("", "-float32", "-fast")],
    *[Row(f"encode{kind}", "ours", f"encode{kind}") for kind in ("", "-float32", "-fast")],
    Row("epoch", "seed_recipe", "epoch"),
    *[Row(f"epoch{head}", "ours", f"epoch{head}") for head in HEADS],
    *[
        Row(f"round of 10 × {size}, 1 local epoch{head}", "ours", f"round, 1 epoch{head}", size)
        for head in HEADS
        for size in (85, 850)
    ],
    *[Row(f"round of 10 × 85, 5 local epochs{head}", "ours", f"round{head}", 85) for head in HEADS],
    *[Row(f"round of 10 × 850, 5 local epochs{head}", "ours", f"round{head}", 850, 2) for head in HEADS],
    *[
        Row(f"round of 10 × {size}, 1 local epoch, attentive", "pfl_simulation", "round-one-epoch", size)
        for size in (85, 850)
    ],
    *[Row(f"empty round, {size} clients", "ours", "empty", size) for size in (100, 1000, 10000)],
    *[Row(f"empty round, {size} clients", "pfl_simulation", "empty", size) for size in (100, 1000)],
    Row("empty round, 10000 clients", "pfl_simulation", "empty", 10000, 1),
    Row("empty round, 100 clients", "ray_engine", "empty", 100),
    *[Row(f"empty round, {size} clients", "ray_engine", "empty", size, 1) for size in (1000, 10000)],
    *[Row(f"100 of {size} clients, 10 rounds", "ours", "scale", size) for size in (100, 1000, 10000)],
]


def main() -> None:
    """Measure, print as it goes, and write results.json and results.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic", help="a Speech Commands data set")
    parser.add_argument("--cache", default=str(Path.home() / ".cache" / "wordflock"))
    parser.add_argument("--out", default=str(REPOSITORY / "benchmarks" / "results"))
    parser.add_argument("--repetitions", type=int, default=0, help="of every row (default: what suits the row)")
    parser.add_argument("--only", default="", help="rows whose name has this in it")
    parser.add_argument("--pfl", default=sys.executable, help="a Python that has pfl installed")
    given = parser.parse_args()
    if given.data != "synthetic" and not Path(given.data).exists():
        print(f"{given.data} is not there; synthetic words take its place")
        given.data = "synthetic"
    results: dict[str, Any] = {"machine": machine(), "command": " ".join(sys.argv[1:]), "data": given.data, "rows": []}
    for row in ROWS:
        if given.only in row.name:
            python = given.pfl if row.module == "pfl_simulation" else sys.executable
            command = [python, "-m", f"benchmarks.{row.module}", row.row, "--size", str(row.size)]
            found = repeat(
                [*command, "--data", given.data, "--cache", given.cache], given.repetitions or row.repetitions
            )
            results["rows"].append({"name": row.name, "contender": row.contender, **found})
            print(f"  {found}", flush=True)
    if given.only in "start-up":
        results["rows"] += list(start_up(given.cache, given.repetitions or 5))
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(results, indent=2))
    (out / "results.md").write_text(table(results))
    print(table(results))


def repeat(command: list[str], repetitions: int) -> dict[str, Any]:
    """The median of every figure over several processes; or why there is none."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    figures = []
    for _ in range(repetitions):
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        if done.returncode:
            return {"missing": done.stderr.strip().splitlines()[-1]}
        figures.append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {key: median(figure[key] for figure in figures) for key in figures[0]} | {"repetitions": repetitions}


def start_up(cache: str, repetitions: int) -> Iterator[dict[str, Any]]:
    """Seconds until a command has done its work or, for simulate, is about to train; files in the system's cache."""
    wordflock = str(Path(sys.executable).parent / "wordflock")
    with tempfile.TemporaryDirectory() as scratch:
        small = f"--cache {cache} --runs {scratch} --clients 4 --clients-per-round 1 --rounds 1 --local-epochs 1"
        subprocess.run([wordflock, *f"simulate {small} --name first".split()], check=True, capture_output=True)
        clip = next((Path(cache) / "synthetic").rglob("*.flac"))
        commands = {
            "--help": "--help",
            "predict": f"predict {scratch}/first/best.safetensors {clip}",
            "simulate": f"simulate {small}",
        }
        for name, command in commands.items():
            took = [until([wordflock, *command.split()], "head parameters") for _ in range(repetitions)]
            row = {"name": f"start-up, {name}", "contender": "Wordflock", "seconds": median(took)}
            print(row, flush=True)
            yield {**row, "repetitions": repetitions}


def until(command: list[str], line: str) -> float:
    """Seconds until a command prints a line that starts so, or ends."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        took = next((time.perf_counter() - started for said in process.stdout if said.startswith(line)), None)
        process.stdout.read()
        process.wait()
    return took or time.perf_counter() - started


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "bf16": "avx512_bf16" in flags,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    found = {(row["contender"], row["name"]): row for row in results["rows"]}
    lines = [
        ", ".join(f"{key} {value}" for key, value in results["machine"].items()),
        "",
        "| what | seed's recipe | Wordflock | Flower on Ray | pfl | ratio |",
        "|---|---|---|---|---|---|",
    ]

    def figure(contender: str, name: str, key: str) -> float | None:
        row = found.get((contender, name), {})
        return row.get(key)

    def line(
        what: str, unit: str, ours: float | None, seed: float | None = None, note: str = "", **others: Any
    ) -> None:
        if ours is None:
            return
        theirs = {"seed": seed, "Ray": others.get("ray"), "pfl": others.get("pfl")}
        ratios = [f"{value / ours:,.2g}× {name}" if value / ours < 100 else f"{value / ours:,.0f}× {name}"
                  for name, value in theirs.items() if value]  # fmt: skip
        cells = [
            _number(theirs["seed"], unit, note),
            _number(ours, unit),
            *(_number(theirs[n], unit) for n in ("Ray", "pfl")),
        ]
        lines.append(f"| {what} | {' | '.join(cells)} | {', '.join(ratios)} |")

    seed_ms, step_ms = figure("seed", "pass", "ms_a_clip"), figure("seed", "epoch", "ms_a_clip")
    clips = found.get(("seed", "epoch"), {}).get("clips")
    worked = f" (worked out from {clips:.0f} clips)" if clips else ""
    for row, work in (("pass", "a clip through the encoder"), ("encode", "a clip from recording to stored features")):
        for kind, how in (("", ""), ("-float32", ", in float32"), ("-fast", ", fastest recipe")):
            line(work + how, "ms", figure("Wordflock", row + kind, "ms_a_clip"), seed_ms,
                 " (its encoder's pass alone)" if row == "encode" else "")  # fmt: skip
    seed_epoch = step_ms and step_ms * 0.85
    for head in HEADS:
        for what, key in (("first epoch over 850 clips, encoding included", "first_s"),
                          ("a later epoch over 850 clips", "later_s")):  # fmt: skip
            line(what + head, "s", figure("Wordflock", f"epoch{head}", key), seed_epoch, worked)
    for size in (85, 850):
        for epochs in ("1 local epoch", "5 local epochs"):
            seed_round = step_ms and step_ms * size / 100 * int(epochs[0])
            for head in HEADS:
                name = f"round of 10 × {size}, {epochs}{head}"
                line(name, "s", figure("Wordflock", name, "seconds"), seed_round, worked,
                     pfl=figure("pfl", name, "seconds"))  # fmt: skip
    for size in (100, 1000, 10000):
        name = f"empty round, {size} clients"
        line(f"{name}, a client", "ms", figure("Wordflock", name, "ms_a_client"),
             ray=figure("Flower on Ray", name, "ms_a_client"), pfl=figure("pfl", name, "ms_a_client"))  # fmt: skip
        first = figure("Flower on Ray", name, "first_s")
        line(
            f"{name}: the first",
            "s",
            figure("Wordflock", name, "first_s"),
            ray=first,
            pfl=figure("pfl", name, "first_s"),
        )
    stored = figure("seed", "epoch", "head_bytes")
    name = "round of 10 × 85, 1 local epoch"
    ours_kb = figure("Wordflock", name, "bytes")
    line("a client and round on the network, both ways", "KB", ours_kb and ours_kb / 1e3, stored and 2 * stored / 1e3)
    disk = figure("Wordflock", "encode", "disk_a_clip")
    line("1,000 clips on disk", "MB", disk and disk / 1e3, 80 * 3000 * 4 / 1e3, " (worked out: float32 log-mels)")
    line("peak memory, an epoch over 850 clips", "MB", _mega(figure("Wordflock", "epoch", "peak_memory")),
         _mega(figure("seed", "epoch", "peak_memory")))  # fmt: skip
    for size in (100, 1000, 10000):
        name = f"100 of {size} clients, 10 rounds"
        line(f"{name}, 20 clips each: a round", "s", figure("Wordflock", name, "round_s"))
        line(f"{name}, 20 clips each: peak memory", "MB", _mega(figure("Wordflock", name, "peak_memory")))
        line(f"{name}, 20 clips each: the same without pages of files", "MB",
             _mega(figure("Wordflock", name, "own_memory")))  # fmt: skip
    for command in ("--help", "predict", "simulate"):
        line(f"start-up, `wordflock {command}`", "s", figure("Wordflock", f"start-up, {command}", "seconds"))
    lines += ["", *(f"{row['contender']}, {row['name']}: left out ({row['missing']})"
                    for row in results["rows"] if "missing" in row)]  # fmt: skip
    return "\n".join(lines) + "\n"


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _number(value: float | None, unit: str, note: str = "") -> str:
    if value is None:
        return ""
    return (f"{value:,.0f}" if value >= 100 else f"{value:.3g}") + f" {unit}{note}"


if __name__ == "__main__":
    main()
