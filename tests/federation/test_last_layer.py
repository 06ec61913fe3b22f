"""After the rounds the last layer is solved in closed form; nothing of the rounds changes by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wordflock.encoder.store import Features
from wordflock.federation import members
from wordflock.federation.scoring import Scorer
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import load_checkpoint
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.head.metrics import NO_SCORE
from wordflock.head.training import output_weights, pool

TIMES = ("seconds", "client_seconds", "peak_memory")  # of a line of history


def settings(tmp_path: Path, **options: object) -> FederationSettings:
    usual = {"runs": str(tmp_path), "clients": 4, "clients_per_round": 3, "rounds": 2, "batch_size": 8}
    return FederationSettings(**{**usual, "name": "run", "local_epochs": 2, **options})


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("head", ["attentive", "combined"])
@pytest.mark.parametrize("secure", [False, True])
def test_the_last_layer_is_what_all_clips_on_one_machine_give(tmp_path, play, secure, head):
    federation = play([24, 32, 8, 40], noise=3.0)
    folder = simulate(settings(tmp_path, secure_aggregation=secure, head=head))
    last, best = (load_checkpoint(folder / f"{name}.safetensors") for name in ("last", "best"))
    said = metrics_of(folder)["last_layer"]
    assert said["kept"] and said["clients"] == 4
    together = [member.train for member in federation.members]
    rows = np.concatenate([part.rows for part in together])
    labels = np.concatenate([part.labels for part in together])
    built = last.build()
    z = pool(built, Features(together[0].array, rows, labels))
    scale = ScaleStatistics.of(z, labels, len(last.labels)).scale()
    expected = output_weights(solve(Statistics.of(z, labels, scale), scale, parts=built.parts))
    for name, array in best.weights.items():
        np.testing.assert_allclose(array, expected.get(name, last.weights[name]), atol=2e-3 if secure else 1e-4)


def test_the_rounds_are_the_same_with_and_without(tmp_path, play):
    play([24] * 4, noise=3.0)
    solved, averaged = (
        simulate(settings(tmp_path, name=kind, last_layer=kind, head="combined"))
        for kind in ("closed-form", "averaged")
    )
    assert (solved / "last.safetensors").read_bytes() == (averaged / "last.safetensors").read_bytes()
    timeless = [
        [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]
        for lines in ((run / "history.jsonl").read_text().splitlines() for run in (solved, averaged))
    ]
    assert timeless[0] == timeless[1]
    assert "last_layer" not in metrics_of(averaged)


def test_a_word_that_few_clients_have_survives_the_rounds(tmp_path, play):
    federation = play([40] * 6, noise=1.5)
    rare = 0
    for number, member in enumerate(federation.members[1:], 1):  # only client 0 has it
        common = np.flatnonzero(member.train.labels != rare)
        federation.members[number] = replace(member, train=member.train.select(common))
    runs = [
        simulate(settings(tmp_path, name=kind, clients=6, clients_per_round=2, rounds=3, last_layer=kind))
        for kind in ("averaged", "closed-form")
    ]
    before, after = (metrics_of(run)["test"]["recall"] for run in runs)
    word = next(iter(before))
    assert after[word] > 0.8 >= before[word]


@pytest.mark.parametrize(("accuracy", "clips", "kept"), [(0.01, 1000, False), (39 / 40, 40, True)])
def test_a_last_layer_is_kept_unless_it_scores_lower_beyond_chance(tmp_path, play, monkeypatch, accuracy, clips, kept):
    play([24] * 4)
    rounds, honest = 3, Scorer.score

    def score(self, number, weights):
        return replace(NO_SCORE, accuracy=accuracy, clips=clips) if number > rounds else honest(self, number, weights)

    monkeypatch.setattr(Scorer, "score", score)
    folder = simulate(settings(tmp_path, rounds=rounds))
    assert metrics_of(folder)["last_layer"]["kept"] == kept
    if kept:
        return
    history = [json.loads(line)["validation_accuracy"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert metrics_of(folder)["validation"]["accuracy"] == max(history)


@pytest.mark.parametrize(
    ("options", "problem"), [({"min_clips": 30, "min_replies": 2}, "2 are needed"), ({"head": "convolution"}, "inputs")]
)
def test_where_it_cannot_be_solved_the_head_of_the_rounds_stays(tmp_path, play, capsys, options, problem, monkeypatch):
    play([24] * 4)
    monkeypatch.setattr(members, "MAX_INPUTS", 1000)
    folder = simulate(settings(tmp_path, **options))
    assert problem in metrics_of(folder)["last_layer"]["problem"]
    assert "stays as the rounds averaged it" in capsys.readouterr().out
    history = [json.loads(line)["validation_accuracy"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert metrics_of(folder)["validation"]["accuracy"] == max(history)


def test_private_rounds_send_no_statistics(tmp_path, play):
    play([24] * 4)
    options = {"dp_epsilon": 8.0, "dp_unit": "client", "rounds": 1}
    assert "last_layer" not in metrics_of(simulate(settings(tmp_path, **options)))
