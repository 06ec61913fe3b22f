"""The clips that all contenders work on, and how a contender's process reports."""

from __future__ import annotations

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wordflock.data.clips import Clip
from wordflock.data.task import choose_task, examples
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import Features, encode_clips
from wordflock.prepare import load_table
from wordflock.settings import Settings

CLIPS = 850  # of one client: the number that the seed system gives its figures for


def chosen_clips(data: str, cache: str, count: int = CLIPS) -> tuple[list[Clip], list[int]]:
    """Training clips of a data set, drawn at random, and their labels."""
    settings = Settings(data=data, cache=cache)
    table = load_table(settings)
    task = choose_task(table, settings.keyword_list, settings.silence, settings.unknown)
    those = examples(table, task, "train", 0)
    chosen = np.random.default_rng(0).permutation(len(those.clips))[:count]
    return [those.clips[i] for i in chosen], [those.labels[i] for i in chosen]


def features_of(data: str, cache: str, spec: FeatureSpec, count: int = CLIPS) -> Features:
    """Their features, encoded where the cache does not have them."""
    clips, labels = chosen_clips(data, cache, count)
    return encode_clips(clips, labels, spec, Path(cache), "cpu")


def seconds(work: Callable[[], Any]) -> float:
    """How long a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def own_memory() -> int:
    """Bytes that this process holds now and no file has: without pages of memory-mapped features and of libraries."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


def run(rows: dict[str, Callable[..., dict[str, Any]]], arguments: Sequence[str] | None = None) -> None:
    """Measure one row in this process, and print it as one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("row", choices=rows)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--cache", default=str(Path.home() / ".cache" / "wordflock"))
    parser.add_argument("--size", type=int, default=0, help="clients, clips or whatever else the row counts")
    given = parser.parse_args(arguments)
    gc.set_threshold(10_000, 50, 50)  # as the command line does
    found = rows[given.row](given.data, given.cache, given.size)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("\n" + json.dumps({**found, "peak_memory": memory}))
