"""Federated rounds alone: Wordflock's own round loop and ClientApp, on clips that need not be anybody's."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from wordflock.data.clips import ClipTable
from wordflock.data.task import Task
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import Features
from wordflock.federation import client_app
from wordflock.federation.in_process import in_process_grid
from wordflock.federation.roster import Roster
from wordflock.federation.rounds import Round, averaged_round
from wordflock.federation.strategy import make_strategy
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import get_weights
from wordflock.partition import Federation, Member
from wordflock.prepare import Prepared
from wordflock.run import new_head

SPEC = FeatureSpec("none", "0" * 64, 1.4, "2+3+last", frame_pooling=6)  # what the default head works on
TASK = Task(tuple(f"word{n}" for n in range(10)), silence=True, unknown=True)
WIDTH = 3 * 384


def play(clips: Sequence[Features]) -> Prepared:
    """Let the ClientApp's clients have these clips, one entry each; returns what the server knows."""
    members = [Member(client, own, own.part(0, 0), TASK.labels, SPEC) for client, own in enumerate(clips)]
    prepared = Prepared(ClipTable("made up", "folder", ()), TASK, SPEC, {}, {"train": clips[0]})
    federation = Federation(prepared, members)
    vars(client_app)["federation"] = lambda settings: federation
    return prepared


def few_clips(count: int = 20) -> Features:
    """Made-up clips."""
    labels = np.arange(count) % len(TASK.labels)
    return Features(np.zeros((count, SPEC.frames, WIDTH), np.float16), np.arange(count), labels)


def timed_rounds(grid: Grid, settings: FederationSettings, prepared: Prepared) -> dict[str, Any]:
    """The seconds that introductions took, and each round; the bytes that a client receives and sends in one."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    strategy, weights = make_strategy(settings), get_weights(new_head(settings, prepared))
    started = time.perf_counter()
    roster = Roster(grid, settings, prepared)
    roster.wait_for(1, settings.round_timeout)
    introductions, rounds = time.perf_counter() - started, []
    for number in range(1, settings.rounds + 1):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            outcome = averaged_round(Round(grid, roster, settings, strategy, number, weights, Path(folder)))
        rounds.append(time.perf_counter() - started)
        assert len(outcome.clients) == settings.clients_per_round, outcome.problems
        weights = outcome.weights
    return {"introductions": introductions, "rounds": rounds, "bytes": outcome.bytes_up + outcome.bytes_down}


def rounds_in_process(clips: Sequence[Features], workers: int, **options: Any) -> dict[str, Any]:
    """Rounds on the in-process grid; all clients take part unless `options`, which are settings, say otherwise."""
    clients = len(clips)
    settings = FederationSettings(**{"rounds": 10, "clients": clients, "clients_per_round": clients, **options})
    with in_process_grid(client_app.app, clients, settings.as_config(), workers) as grid:
        return timed_rounds(grid, settings, play(clips))
