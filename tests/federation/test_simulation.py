"""Rounds on the in-process grid, whole: server, clients, strategies, run folder."""

import json
import re
from hashlib import sha256
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from made_up import LABELS

from wordflock.errors import WordflockError
from wordflock.federation import client_app, server_app
from wordflock.federation.messages import content, metric, weights_of
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import get_weights, load_checkpoint
from wordflock.head.torch_head import build_head
from wordflock.head.training import Recipe, make_optimizer, train_epoch
from wordflock.randomness import numpy_generator


def settings(tmp_path: Path, **options) -> FederationSettings:
    usual = {"runs": str(tmp_path), "clients": 6, "clients_per_round": 4, "rounds": 3, "batch_size": 8}
    return FederationSettings(**{**usual, "name": "run", "local_epochs": 2, **options})


def digest(folder: Path, name: str = "last.safetensors") -> str:
    return sha256((folder / name).read_bytes()).hexdigest()


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedprox"])
def test_the_number_of_workers_changes_no_byte(tmp_path, play, strategy):
    play([24] * 6)
    folders = [simulate(settings(tmp_path, name=str(w), workers=w, strategy=strategy)) for w in (1, 2, 5)]
    assert len({digest(folder) for folder in folders}) == 1


def test_another_seed_gives_another_head(tmp_path, play):
    play([24] * 6)
    folders = [simulate(settings(tmp_path, name=str(seed), seed=seed)) for seed in (0, 1)]
    assert digest(folders[0]) != digest(folders[1])


def test_a_round_is_the_weighted_mean_of_what_its_clients_trained(tmp_path, play):
    """The other route: each sampled client trained by hand, and averaged in float64."""
    federation = play([16, 24, 32, 40])
    asked = settings(tmp_path, clients=4, clients_per_round=3, rounds=1)
    folder = simulate(asked)
    clients = history(folder)[0]["clients"]
    assert len(clients) == 3
    mean: dict[str, np.ndarray] = {}
    total = sum(len(federation.members[client].train) for client in clients)
    for client in clients:
        member = federation.members[client]
        _, frames, width = member.train.array.shape
        head = build_head(asked.head, frames, width, len(LABELS), seed=asked.seed)
        recipe = Recipe.of(asked, asked.local_epochs)
        optimizer = make_optimizer(head, recipe)
        for epoch in range(2):
            generator = numpy_generator(asked.seed, "round", 1, "client", client, "epoch", epoch)
            train_epoch(head, optimizer, member.train, recipe, generator, epoch=epoch)
        for name, array in get_weights(head).items():
            mean[name] = mean.get(name, 0) + array.astype(np.float64) * len(member.train) / total
    for name, array in load_checkpoint(folder / "last.safetensors").weights.items():
        np.testing.assert_allclose(array, mean[name], atol=1e-6)


def test_rounds_teach(tmp_path, play):
    play([32] * 6, noise=0.5)
    folder = simulate(settings(tmp_path, rounds=6, local_epochs=4))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.9
    assert metrics["rounds"] == 6
    parameters = metrics["test"]["parameters"]
    assert metrics["bytes_per_client_per_round"] == pytest.approx(2 * 4 * parameters, rel=0.5)
    best = max(line["validation_accuracy"] for line in history(folder))
    assert metrics["validation"]["accuracy"] >= best


def test_a_client_too_small_for_a_batch_is_skipped_and_said_so(tmp_path, play, capsys):
    play([24, 3, 24, 7])
    folder = simulate(settings(tmp_path, clients=4, clients_per_round=4))
    said = capsys.readouterr().out
    assert "client 1 has 3 clips" in said
    assert "client 3 has 7 clips" in said
    assert all(line["clients"] == [0, 2] for line in history(folder))


def test_no_client_has_enough_clips(tmp_path, play):
    play([3, 3])
    with pytest.raises(WordflockError, match="batch-size"):
        simulate(settings(tmp_path, clients=2))


def damaged(monkeypatch, client, change):
    """One client's trained head goes through `change` before it is sent."""
    honest = client_app.app._registered_funcs["train.default"]

    def train(message, context):
        reply = honest(message, context)
        if metric(reply, "client") == client:
            numbers = {key.replace("-", "_"): metric(reply, key) for key in reply.content["metrics"]}
            weights = {name: change(array.copy()) for name, array in weights_of(reply).items()}
            reply.content = content(weights, **numbers)
        return reply

    monkeypatch.setitem(client_app.app._registered_funcs, "train.default", train)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda array: np.full_like(array, np.nan), "not finite"),
        (lambda array: array + 1e6, "norm"),
        (lambda array: array[..., :1], "shape"),
        (lambda array: array.astype(np.int64), "float32"),
        (lambda array: np.full_like(array, -np.inf), "not finite"),
        (lambda array: np.full(array.shape, np.inf, np.float16), "finite"),  # as --upload-dtype float16 has it
    ],
)
def test_a_head_that_no_training_gives_changes_nothing(tmp_path, play, monkeypatch, capsys, change, said):
    play([24] * 4)
    options = {"clients": 4, "clients_per_round": 4, "rounds": 2}
    damaged(monkeypatch, 2, change)
    folder = simulate(settings(tmp_path, name="damaged", **options))
    assert all(line["clients"] == [0, 1, 3] for line in history(folder))
    assert all(said in line["refused"][0] for line in history(folder))
    assert "client 2" in capsys.readouterr().out
    assert json.loads((folder / "metrics.json").read_text())["refused"] == 2


def test_a_client_that_raises_is_named_and_the_round_goes_on(tmp_path, play, monkeypatch, capsys):
    play([24] * 4)

    def broken(array):
        raise RuntimeError("out of luck")

    damaged(monkeypatch, 1, broken)
    folder = simulate(settings(tmp_path, clients=4, clients_per_round=4, rounds=1))
    assert history(folder)[0]["clients"] == [0, 2, 3]
    assert "out of luck" in capsys.readouterr().out


def test_too_few_good_answers_end_the_run_with_a_sentence(tmp_path, play, monkeypatch):
    play([24] * 4)
    for client in range(4):
        damaged(monkeypatch, client, lambda array: array * np.nan)
    with pytest.raises(WordflockError, match="Round 1 failed"):
        simulate(settings(tmp_path, clients=4, clients_per_round=4, rounds=1))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("bad", list(combinations(range(5), 2)))
def test_a_round_is_repeated_with_others_until_enough_do_well(tmp_path, play, monkeypatch, capsys, bad, seed):
    """Three of five do well: the second draw has all whom the first had not, and the third those three."""
    play([24] * 5)
    for client in bad:
        damaged(monkeypatch, client, lambda array: array * np.nan)
    options = {"clients": 5, "clients_per_round": 3, "min_replies": 3, "rounds": 1, "seed": seed, "local_epochs": 1}
    folder = simulate(settings(tmp_path, **options))
    assert set(history(folder)[0]["clients"]) == set(range(5)) - set(bad)
    named = [set(map(int, re.findall(r"client (\d)", line))) for line in history(folder)[0].get("refused", [])]
    assert set().union(*named) <= set(bad)
    assert capsys.readouterr().out.count("too few; again with others") <= 2


def test_fedadam_and_fedyogi_move_the_head_their_own_way(tmp_path, play):
    play([24] * 6)
    heads = {s: simulate(settings(tmp_path, name=s, strategy=s, rounds=2)) for s in ("fedavg", "fedadam", "fedyogi")}
    assert len({digest(folder) for folder in heads.values()}) == 3


def test_the_apps_are_those_that_flower_starts():
    """The names in pyproject.toml lead to the very objects that the simulation runs, and its options are complete."""
    import tomllib
    from importlib import import_module

    pyproject = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    flower = pyproject["tool"]["flwr"]["app"]
    for component, app in (("serverapp", server_app.app), ("clientapp", client_app.app)):
        module, name = flower["components"][component].split(":")
        assert getattr(import_module(module), name) is app
    assert FederationSettings.from_config(flower["config"]) == FederationSettings()
    assert flower["config"].keys() == FederationSettings().as_config().keys()
