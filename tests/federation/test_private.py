"""Private federations, whole: what is promised is written down, and no more is released."""

import json
import math

import numpy as np
import pytest
from flwr.app import Message, MessageType
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping

from wordflock.federation import rounds
from wordflock.federation.in_process import in_process_grid
from wordflock.federation.messages import content, to_record, weights_of
from wordflock.federation.private import clipped, noised
from wordflock.federation.simulation import simulate
from wordflock.federation.strategy import Mean, make_strategy
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import load_checkpoint
from wordflock.privacy.accounting import next_noise, rounds_epsilon, rounds_noise


def run(tmp_path, **changed):
    usual = {"runs": str(tmp_path), "clients": 5, "name": "run", "dp_epsilon": 50.0}
    folder = simulate(FederationSettings(**{**usual, **changed}))
    return folder, json.loads((folder / "metrics.json").read_text())


@pytest.mark.parametrize("unit", ["clip", "client"])
def test_one_round(tmp_path, play, capsys, unit):
    play([40] * 5, noise=0.7)
    folder, metrics = run(tmp_path, strategy="closed-form", head="normalized", dp_unit=unit, dp_dimensions=8)
    assert metrics["privacy"]["epsilon"] == 50.0 and metrics["privacy"]["unit"] == unit
    assert f"(50, 1e-05)-differentially private by {unit}" in capsys.readouterr().out
    assert not (folder / "statistics").exists()


def test_the_head_learns(tmp_path, play):
    play([200] * 5, noise=0.5)
    _, metrics = run(tmp_path, strategy="closed-form", head="normalized", dp_dimensions=32)
    assert metrics["test"]["accuracy"] > 0.9


def test_rounds(tmp_path, play):
    play([30] * 5)
    options = {"strategy": "fedavg", "dp_unit": "client", "rounds": 2, "clients_per_round": 2, "local_epochs": 1}
    folder, metrics = run(tmp_path, **options)
    assert 0 < metrics["privacy"]["epsilon"] <= 50 and metrics["privacy"]["releases"] == 2
    for line in (folder / "history.jsonl").read_text().splitlines():
        assert json.loads(line)["train_loss"] is None and json.loads(line)["client_accuracy"] is None
    assert all(np.isfinite(array).all() for array in load_checkpoint(folder / "last.safetensors").weights.values())


def test_an_update_is_clipped_as_a_whole():
    weights = {"a": np.zeros(3, dtype=np.float32), "b": np.ones((2, 2), dtype=np.float32)}
    head = {"a": np.full(3, 4.0, dtype=np.float32), "b": np.full((2, 2), 5.0, dtype=np.float32)}
    short = clipped(head, weights, 0.5)
    update = np.concatenate([(short[name] - weights[name]).ravel() for name in weights])
    assert np.linalg.norm(update) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(clipped(head, weights, 100.0)["a"], head["a"])


def test_a_round_is_what_flowers_wrapper_makes_of_it(monkeypatch):
    generator, settings = (
        np.random.default_rng(0),
        FederationSettings(dp_epsilon=1.0, dp_unit="client", dp_clipping_norm=0.7),
    )
    weights = {name: generator.normal(size=shape).astype(np.float32) for name, shape in (("a", (3, 4)), ("b", (5,)))}
    heads = [
        {name: array + generator.normal(0, size, array.shape).astype(np.float32) for name, array in weights.items()}
        for size in (0.01, 0.1, 1.0, 10.0)
    ]
    mean = Mean()
    for head in heads:
        mean.add(clipped(head, weights, 0.7), 1, 0.0)
    monkeypatch.setattr(np.random, "normal", np.random.default_rng(1).normal)
    ours = noised(mean.head, settings, 0.5, len(heads))
    wrapper = DifferentialPrivacyServerSideFixedClipping(make_strategy(settings), 0.5, 0.7, len(heads))
    wrapper.current_arrays = to_record(weights)
    monkeypatch.setattr(np.random, "normal", np.random.default_rng(1).normal)
    with in_process_grid(ClientApp(), 1, {}, 1):
        replies = [Message(content(head, num_examples=1), 0, MessageType.TRAIN) for head in heads]
        theirs, _ = wrapper.aggregate_train(1, replies)
    for name in weights:
        np.testing.assert_allclose(ours[name], theirs[name].numpy(), atol=1e-6)
    assert np.abs(ours["a"] - mean.head["a"]).max() > 1e-3, "there is noise"


def test_more_noise_fewer_rounds_and_smaller_samples_are_more_private():
    base = rounds_epsilon(3.0, 1e-5, ((10, 100),) * 5)
    assert rounds_epsilon(6.0, 1e-5, ((10, 100),) * 5) < base
    assert rounds_epsilon(3.0, 1e-5, ((10, 100),) * 2) < base
    assert rounds_epsilon(3.0, 1e-5, ((10, 1000),) * 5) < base
    assert rounds_epsilon(3.0, 1e-5, ((10, 100),) * 20) > base


@pytest.mark.parametrize("population", [(10, 10, 10, 10), (10, 10, 4, 4), (4, 10, 3, 2), (2, 3, 50, 2)])
def test_epsilon_holds_however_many_clients_come(population):
    done = ()
    for number, among in enumerate(population):
        noise = next_noise(8.0, 1e-5, (2, among), len(population) - number, done)
        done += ((noise, 2, among),)
        assert rounds_epsilon(0.0, 1e-5, (), done) <= 8
    assert rounds_epsilon(0.0, 1e-5, (), done) > 0.9 * 8, "and no noise is wasted in the last round"
    assert rounds_epsilon(3.0, 1e-5, ((2, 10),) * 2) == rounds_epsilon(0.0, 1e-5, (), ((3.0, 2, 10),) * 2)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam"])
def test_what_a_strategy_remembers_is_noisy_too(tmp_path, play, strategy, monkeypatch):
    """Its momenta are made of what was released: with other clips and the same releases they would be the same."""
    play([30] * 3)
    released, given = [], []
    noised, aggregate = rounds.noised, rounds.aggregate

    def watched(*arguments):
        released.append(noised(*arguments))
        return released[-1]

    def watching(strategy, number, replies):
        given.append(weights_of(replies[0]))
        return aggregate(strategy, number, replies)

    monkeypatch.setattr(rounds, "noised", watched)
    monkeypatch.setattr(rounds, "aggregate", watching)
    run(tmp_path, strategy=strategy, dp_unit="client", rounds=2, clients=3, local_epochs=1)
    for head, seen in zip(released, given, strict=True):
        assert {name: array.tobytes() for name, array in head.items()} == {n: a.tobytes() for n, a in seen.items()}


def test_the_noise_of_rounds_is_enough():
    planned = ((2, 10),) * 3
    assert 0.9 * 8 < rounds_epsilon(rounds_noise(8.0, 1e-5, planned), 1e-5, planned) <= 8
    assert rounds_noise(math.inf, 1e-5, planned) == 0
