"""By how much the scores of a solved layer must be multiplied to be logits: `SHARPNESS` of wordflock/training.py.

python -m benchmarks.sharpness --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

Prints the cross-entropy on validation clips for several factors, for one layer's features and for three layers'.
"""

from __future__ import annotations

import argparse

from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.head.metrics import score
from wordflock.head.torch_head import build_head
from wordflock.head.training import pool
from wordflock.prepare import prepare
from wordflock.settings import TrainSettings

FACTORS = (1, 2, 5, 8, 10, 12, 15, 20, 40)


def main() -> None:
    """Print one row for each kind of features."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--keywords", default="")
    parser.add_argument("--cache", default="")
    given = parser.parse_args()
    print("| layer | " + " | ".join(f"× {factor}" for factor in FACTORS) + " |")
    print("|---" * (len(FACTORS) + 1) + "|")
    for layer in ("last", "2+3+last"):
        settings = TrainSettings(**vars(given), strategy="closed-form", layer=layer)
        prepared = prepare(settings, ["train", "validation"])
        train, validation, labels = prepared.features["train"], prepared.features["validation"], prepared.task.labels
        _, frames, width = train.array.shape
        head = build_head(settings.head, frames, width, len(labels))
        z = pool(head, train)
        scale = ScaleStatistics.of(z, train.labels, len(labels)).scale()
        solution = solve(Statistics.of(z, train.labels, scale), scale)
        scores = pool(head, validation) @ solution.weight.T + solution.bias
        losses = [score((factor * scores).astype("float32"), validation.labels, labels, 0).loss for factor in FACTORS]
        print(f"| {layer} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |", flush=True)


if __name__ == "__main__":
    main()
