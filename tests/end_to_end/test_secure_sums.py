"""Secure sums between real processes, where every message is a fresh one: secrets last from one to the next."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from flock import Started, free_port, random_encoder, tones

from wordflock.checkpoint import load_checkpoint

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")

TASK = ["--no-silence", "--no-unknown", "--keywords", "low,mid,high,top"]
KINDS = {
    "exact": ["--strategy", "exact", "--head", "attentive", "--min-clips", 4],
    "rounds": ["--strategy", "fedavg", "--rounds", 1, "--local-epochs", 1, "--batch-size", 8, "--clients-per-round", 3],
}


def test_three_devices_give_the_plain_simulation_s_head(tmp_path: Path) -> None:
    data = tones(tmp_path / "data", [f"{number:08x}" for number in range(24)], takes=1)
    encoder = random_encoder(tmp_path / "encoder.safetensors")
    shared = ["--data", data, "--clients", 3, "--cache", tmp_path / "cache", "--encoder", encoder, "--window", 0.4]
    where, port = ["--runs", tmp_path / "runs"], free_port()
    with ExitStack() as stack:
        for cid in range(3):
            client = Started(
                tmp_path, f"client-{cid}", "client", "--server", f"127.0.0.1:{port}", "--cid", cid, "--held-back", 0,
                *shared, *TASK,
            )  # fmt: skip
            stack.enter_context(client).wait_for("clips ready")
        for name, options in KINDS.items():
            at = ["--listen", f"127.0.0.1:{port}", "--min-clients", 3, "--secure-sums", "--held-back", 0]
            with Started(tmp_path, name, "server", *at, *where, "--name", name, *shared, *TASK, *options) as server:
                assert server.wait() == 0, server.output
    for name, options in KINDS.items():
        plain = [*where, "--name", f"{name}-plain", "--held-back", 0, *shared, *TASK, *options]
        with Started(tmp_path, f"{name}-plain", "simulate", *plain) as simulation:
            assert simulation.wait() == 0, simulation.output
        ours, theirs = (
            load_checkpoint(tmp_path / "runs" / run / "last.safetensors").weights for run in (name, f"{name}-plain")
        )
        for key, array in theirs.items():
            np.testing.assert_allclose(ours[key], array, atol=1e-3 * max(1.0, float(np.abs(array).max())))
