"""Bytes changed at random, and a process that reads them in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

MEMORY = 1 << 30  # bytes, beyond what the process has when it begins
LONGEST = 60  # seconds for one mutation: what takes longer hangs
MAGIC = tuple(map(bytes.fromhex, ("00000000", "ffffffff", "7fffffff", "ffffff7f", "80000000", "00000080", "01")))


def mutated(data: bytes, generator: np.random.Generator) -> bytes:
    """The data with one to four changes: bytes set, sizes made extreme, parts cut, doubled, moved or removed."""
    changed = bytearray(data)
    for _ in range(generator.integers(1, 5)):
        if not changed:
            break
        # Headers stand at the beginning: half of all changes are made there.
        reach = len(changed) if generator.random() < 0.5 else min(len(changed), 128)
        place = int(generator.integers(reach))
        size = int(generator.integers(1, 65))
        match generator.integers(6):
            case 0:
                changed[place] = int(generator.integers(256))
            case 1:
                changed[place] ^= 1 << int(generator.integers(8))
            case 2:
                magic = MAGIC[generator.integers(len(MAGIC))]
                changed[place : place + len(magic)] = magic
            case 3:
                del changed[place:]
            case 4:
                changed[place:place] = changed[place : place + size]
            case 5:
                del changed[place : place + size]
    return bytes(changed)


def survive(consume: Callable[[Path], object], seeds: Sequence[bytes], count: int, allowed: type[Exception]) -> str:
    """Mutate and consume `count` times in a process of its own; what went wrong, "" for nothing.

    Wrong is any exception but `allowed`, a crash, more memory than MEMORY, or a mutation that takes LONGEST.
    """
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_consume_all, args=(consume, seeds, count, allowed, theirs))
    process.start()
    theirs.close()
    last = "the start"
    try:
        while True:
            kind, text = ours.recv()
            if kind == "done":
                return ""
            if kind == "failed":
                return f"{last}: {text}"
            last = text
    except EOFError:
        process.join()
        return f"{last}: the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()


def _consume_all(
    consume: Callable[[Path], object],
    seeds: Sequence[bytes],
    count: int,
    allowed: type[Exception],
    report: Connection,
) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 1 << 20
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends the process, even inside a library
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutated"
        for number in range(count):
            generator = np.random.default_rng(number)
            report.send(("at", f"mutation {number}"))
            path.write_bytes(mutated(seeds[number % len(seeds)], generator))
            signal.alarm(LONGEST)
            try:
                consume(path)
            except allowed:
                pass
            except BaseException:
                report.send(("failed", traceback.format_exc()))
                return
            signal.alarm(0)
    report.send(("done", ""))
