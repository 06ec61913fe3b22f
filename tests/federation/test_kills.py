"""Simulations and trainings that are killed at any file operation, or any moment, and resumed: the same bytes."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from killing import killed_after, killed_at

from wordflock.federation import private
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import load_checkpoint


def settings(tmp_path: Path, strategy: str, **options: Any) -> FederationSettings:
    return FederationSettings(
        **{
            "runs": str(tmp_path),
            "name": "run",
            "clients": 4,
            "clients_per_round": 3,
            "rounds": 3,
            "batch_size": 8,
            "local_epochs": 1,
            "strategy": strategy,
            "workers": 1,
            **options,
        }
    )


def timeless(value: Any) -> Any:
    """What JSON says, but for times."""
    if isinstance(value, list):
        return [timeless(each) for each in value]
    if isinstance(value, dict):
        return {
            key: timeless(each)
            for key, each in value.items()
            if "seconds" not in key and key not in ("costs", "memory", "peak_memory")
        }
    return value


def left(folder: Path) -> dict[str, Any]:
    """All that a run leaves but what times and names say."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    metrics = json.loads((folder / "metrics.json").read_text())
    arrays = {name: load_checkpoint(folder / f"{name}.safetensors") for name in ("best", "last")}
    return {
        "history": timeless(lines),
        "metrics": timeless(metrics),
        "heads": {
            name: (head.training, {key: array.tobytes() for key, array in head.weights.items()})
            for name, head in arrays.items()
        },
        "files": sorted(file.name for file in folder.rglob("*") if not file.name.startswith("events.")),
    }


def again(asked: FederationSettings) -> Path:
    """Resume a run that was killed, or start it where it was killed before it had its settings."""
    folder = Path(asked.runs) / asked.name
    if (folder / "metrics.json").exists():  # it was killed after it was done
        return folder
    return simulate(FederationSettings(runs=asked.runs, resume="run") if (folder / "config.toml").exists() else asked)


@pytest.mark.parametrize("strategy", ["fedavgm", "closed-form"])
def test_a_simulation_killed_at_a_file_operation_is_resumed_to_the_same_bytes(tmp_path, play, strategy):
    play([24] * 4)
    whole = left(simulate(settings(tmp_path / "whole", strategy)))
    asked = settings(tmp_path / "killed", strategy)
    number = 0
    while killed_at(number, tmp_path, lambda: simulate(asked)):
        assert left(again(asked)) == whole, number
        shutil.rmtree(tmp_path / "killed")
        number += 1 + number // 12
    assert number > 12


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "closed-form"])
def test_a_simulation_killed_again_and_again_is_resumed_to_the_same_bytes(tmp_path, play, strategy):
    play([24] * 4)
    whole = left(simulate(settings(tmp_path / "whole", strategy)))
    chance = random.Random(0)
    for _ in range(15):
        asked = settings(tmp_path / "killed", strategy)
        kills = 0
        while killed_after(chance.uniform(0.05, 0.6), lambda asked=asked: again(asked)) and kills < 4:
            kills += 1
        assert left(again(asked)) == whole
        shutil.rmtree(tmp_path / "killed")


PRIVATE = {
    "rounds": {"strategy": "fedavgm", "dp_unit": "client", "rounds": 2},
    "closed form": {"strategy": "closed-form", "head": "normalized", "dp_dimensions": 6},
}


@pytest.mark.parametrize("kind", PRIVATE)
def test_a_private_run_killed_at_a_file_operation_releases_nothing_twice(tmp_path, play, monkeypatch, kind):
    play([24] * 4)
    released, write = tmp_path / "released", private.save_tensors

    def noting(path, *content):
        write(path, *content)
        with released.open("a") as file:
            file.write(f"{path.name}\n")

    monkeypatch.setattr(private, "save_tensors", noting)
    asked = settings(tmp_path / "killed", **{"strategy": "", "dp_epsilon": math.inf, **PRIVATE[kind]})
    expected, number = {"rounds": ["1-head", "2-head"], "closed form": ["1-centre", "1-statistics"]}[kind], 0
    while killed_at(number, tmp_path / "killed", lambda: simulate(asked)):
        folder, begun = tmp_path / "killed" / "run", released.exists()
        if begun:
            again(asked)
            assert not list(folder.glob("released-2*"))
            names = released.read_text().splitlines()  # without one that was killed between writing and noting it
            assert len(set(names)) == len(names), number
            assert set(names) <= {f"released-{name}.safetensors" for name in expected}, number
            assert json.loads((folder / "metrics.json").read_text())["privacy"]["releases"] == 2
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        released.unlink(missing_ok=True)
        number += 1 + number // 6
    assert number > 12
