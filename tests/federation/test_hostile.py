"""One hostile client of ten, keys and all: rounds end about where they end without it, and it is named."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.attacks import ATTACKS, Attack, Weights, hostile
from wordflock.federation.robust import BoundedMean, Update, collapsed, lower_median, trimmed_mean
from wordflock.federation.roster import Client
from wordflock.federation.simulation import simulate
from wordflock.federation.strategy import Mean
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import load_checkpoint

HOSTILE, CLIENTS = 3, 10
NEGATED = ATTACKS[0]


def one_hostile(attack: Attack | None, times: int = 1, **claims: float) -> AbstractContextManager[None]:
    """In the block, one client lies."""
    return hostile(attack, lambda client: client == HOSTILE, times, **claims)


def rounds(tmp_path, name: str, **options):
    usual = {
        "clients": CLIENTS,
        "clients_per_round": CLIENTS,
        "rounds": 10,
        "batch_size": 8,
        "local_epochs": 2,
        "last_layer": "averaged",
    }
    folder = simulate(FederationSettings(**{**usual, **options, "runs": str(tmp_path), "name": name}))
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    return folder, json.loads((folder / "metrics.json").read_text())["test"]["accuracy"], lines


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_ten_rounds_end_within_three_points_of_those_without_it(tmp_path, play, attack):
    play([24] * CLIENTS, noise=0.5)
    usual = {"learning_rate": 1e-2, "local_epochs": 5}
    _, honest, _ = rounds(tmp_path, "honest", **usual)
    with one_hostile(attack):
        _, attacked, _ = rounds(tmp_path, "attacked", **usual)
    assert attacked > honest - 0.03


@pytest.mark.parametrize("times", [1, 1000])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_a_lie_about_the_last_layer_costs_at_most_three_points(tmp_path, play, attack, times):
    """However many clips it claims. The rounds are one short one, so that the last layer is what counts."""
    play([40] * CLIENTS, noise=1.0)
    usual = {"last_layer": "closed-form", "rounds": 1, "local_epochs": 1, "learning_rate": 1e-5}
    _, honest, _ = rounds(tmp_path, "honest", **usual)
    with one_hostile(attack, times):
        folder, attacked, _ = rounds(tmp_path, "attacked", **usual)
    assert attacked > honest - 0.03
    assert json.loads((folder / "metrics.json").read_text())["last_layer"]["kept"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_examples", 1e300), ("num_examples", 10**9), ("num_examples", -1), ("loss", -1e308), ("loss", float("nan"))],
)
def test_a_number_out_of_its_range_is_refused_by_name(tmp_path, play, name, value):
    play([24] * CLIENTS)
    with one_hostile(None, **{name: value}):
        folder, _, lines = rounds(tmp_path, "run", rounds=1)
    assert HOSTILE not in lines[0]["clients"] and f"client {HOSTILE} " in lines[0]["refused"][0]
    assert all(np.isfinite(array).all() for array in load_checkpoint(folder / "best.safetensors").weights.values())


def test_a_mean_that_collapses_is_made_again_without_its_cause(tmp_path, play, monkeypatch):
    """With no bound on norms, one update is enough for that."""
    play([40] * 5, noise=0.7)
    calls = [0]

    def late(sent: Weights, trained: Weights) -> Weights:
        calls[0] += 1
        return NEGATED.head(sent, trained) if calls[0] > 4 else trained

    monkeypatch.setattr("wordflock.federation.robust.MAX_UPDATE", 1e9)
    with one_hostile(replace(NEGATED, head=late)):
        _, accuracy, lines = rounds(tmp_path, "late", clients=5, rounds=6, local_epochs=4)
    for line in lines[4:]:
        assert line["clients"] == [0, 1, 2, 4]
        assert f"client {HOSTILE} sent an update without which the mean is usable" in line["refused"][0]
    assert accuracy > 0.9 and [line["clients"] for line in lines[:4]] == [list(range(5))] * 4


def client(number: int, clips: int = 20) -> Client:
    return Client(number, number + 2, clips, 0, 0.0, "", "")


def updates(norms: list[float]) -> list[Update]:
    generator, made = np.random.default_rng(0), []
    for number, norm in enumerate(norms):
        step = generator.normal(size=50).astype(np.float32)
        made.append(Update(client(number), {"w": step * np.float32(norm / np.linalg.norm(step))}, norm, 0.1))
    return made


def mean_of(some: list[Update], clips: int = 20, earlier: tuple[float, ...] = ()) -> BoundedMean:
    mean = BoundedMean({"w": np.zeros(50, np.float32)}, [client(n, clips) for n in range(len(some))], earlier)
    for update in some:
        mean.add(update)
    return mean


def test_honest_rounds_are_the_plain_mean_to_the_bit():
    some, plain = updates([1.0, 1.9, 0.4, 1.2, 1.1, 1.5] * 20), Mean()
    for update in some:
        plain.add(update.head, update.client.clips, update.loss)
    bounded = mean_of(some)
    assert bounded.mean.head["w"].tobytes() == plain.head["w"].tobytes() and not bounded.clipped


@pytest.mark.parametrize("place", [0, 2, 100])
def test_a_long_update_becomes_twice_the_median_wherever_it_comes(place):
    norms = [1.0] * 130
    norms[place] = 1e4
    bounded = mean_of(updates(norms))
    assert np.isfinite(bounded.mean.head["w"]).all()
    ((who, norm, limit),) = bounded.clipped
    assert (who.number, norm, limit) == (place, 1e4, 2.0)


def test_where_few_reply_earlier_rounds_say_what_is_usual():
    assert mean_of(updates([50.0, 60.0]), earlier=(1.0, 1.1, 0.9)).mean.head["w"].max() < 2
    assert not mean_of(updates([1.0])).clipped


def test_many_clips_count_for_three_times_the_median_s():
    many = [Update(client(0, 10**7), {"w": np.ones(50, np.float32)}, 1.0, 0.0)]
    rest = [Update(client(n), {"w": np.zeros(50, np.float32)}, 1.0, 0.0) for n in range(1, 10)]
    mean = BoundedMean({"w": np.zeros(50, np.float32)}, [u.client for u in many + rest])
    for update in many + rest:
        mean.add(update)
    assert mean.mean.head["w"].max() == pytest.approx(3 / 12)


def test_no_client_s_accuracy_decides_alone():
    assert trimmed_mean([0.5, 0.52, 1.0, 0.48, 0.51], [10, 10, 10**9, 10, 10]) == pytest.approx(0.51, abs=0.01)
    assert lower_median([1, 2]) == 1 and lower_median([3, 1, 2]) == 2
    assert collapsed(0.5, 0.97, 1000) and not collapsed(0.8, 0.97, 1000) and not collapsed(0.5, 0.9, 10)
