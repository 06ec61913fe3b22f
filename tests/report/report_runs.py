"""Runs that were never trained, for reports: folders with what a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tomli_w

from wordflock.head.metrics import score
from wordflock.predictions import ClipPrediction, write_predictions
from wordflock.report.live import ASKED, AWAY, CLIENTS, REFUSED, REPLIED

LABELS = ["yes", "no", "_silence_", "_unknown_"]


def write_run(
    folder: Path,
    *,
    clips: int = 60,
    wrong: int = 6,
    clients: int = 5,
    seed: int = 0,
    labels: list[str] = LABELS,
    **config: object,
) -> Path:
    """A finished run of a simulation whose head is wrong about the first `wrong` of its test clips."""
    generator = np.random.default_rng(seed)
    targets = np.arange(clips) % len(labels)
    logits = (5 * np.eye(len(labels))[targets] + generator.normal(0, 0.1, (clips, len(labels)))).astype(np.float32)
    logits[:wrong] = np.roll(logits[:wrong], 1, axis=1)
    folder.mkdir(parents=True)
    settings = {"mode": "simulate", "data": "/home/ada/words.tar", "keywords": "", "table": "", "seed": seed, **config}
    (folder / "config.toml").write_text(tomli_w.dumps(settings))
    history = [
        {
            "round": n,
            "validation_accuracy": 0.8 + 0.01 * n,
            "client_accuracy": 0.7,
            "refused": ["client 3 sent <b>nonsense</b>"],
        }
        for n in range(1, 4)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    result = score(logits, targets, labels, 1234)
    members = [
        {"client": n, "clips": 9 + n, "labels": {"yes": 4 + n, "no": 5}, "holdout": {"yes": [n % 3, 2]}}
        for n in range(clients)
    ]
    metrics = {"seconds": {"encode": 1.0, "rounds": 2.0}, "test": result.as_json(), "clients": members}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    best = logits.argmax(axis=1)
    rows = [
        ClipPrediction("test", f"{n}.wav", 0.0, f"s{n // 6}", labels[t], labels[b], 0.9 + n / 1000, 0.1)
        for n, (t, b) in enumerate(zip(targets, best, strict=True))
    ]
    write_predictions(folder, rows)
    return folder


def write_live_run(folder: Path, *, clients: int = 4) -> Path:
    """A server's run that has three of its ten rounds."""
    write_run(folder, mode="server", rounds=10, strategy="fedavg")
    (folder / "metrics.json").unlink()
    states = (ASKED, AWAY, REFUSED, REPLIED)
    entries = [
        {"number": n, "name": f"<i>pi {n}</i>", "clips": 9, "state": states[n % len(states)]} for n in range(clients)
    ]
    (folder / CLIENTS).parent.mkdir()
    (folder / CLIENTS).write_text(json.dumps(entries))
    return folder


def add_round(run: Path, number: int) -> None:
    """Go on with a run by one round."""
    line = json.dumps({"round": number, "validation_accuracy": 0.9, "clients": [1]}) + "\n"
    (run / "history.jsonl").write_text((run / "history.jsonl").read_text() + line)
