"""The benchmarks call the product's inner functions, so they are type-checked with it, and the shortest row runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path


def test_a_round_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks.ours", "empty", "--size", "3"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["ms_a_client"] > 0
