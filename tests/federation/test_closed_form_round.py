"""The exact strategy: one round, whatever the partition, equals the centralized solution."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import LABELS
from named_clips import named_clips

from wordflock.data.task import Task
from wordflock.errors import WordflockError
from wordflock.federation import client_app
from wordflock.federation.messages import content, weights_of
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import load_checkpoint
from wordflock.head.closed_form import ScaleStatistics, Statistics, solve
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.torch_head import build_head
from wordflock.head.training import SHARPNESS, pool


def options(tmp_path: Path, **changed) -> FederationSettings:
    usual = {"runs": str(tmp_path), "strategy": "closed-form", "head": "attentive", "name": "run"}
    return FederationSettings(**{**usual, **changed})


def centralized(federation, seed: int = 0):
    """The solution over all clients' clips in one place."""
    features = [member.train for member in federation.members]
    labels = np.concatenate([part.labels for part in features])
    _, frames, width = features[0].array.shape
    head = build_head("attentive", frames, width, len(LABELS), seed=seed)
    z = np.concatenate([pool(head, part) for part in features])
    scale = ScaleStatistics.of(z, labels, len(LABELS)).scale()
    return solve(Statistics.of(z, labels, scale), scale)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(8, 40), min_size=2, max_size=6), seed=st.integers(0, 1000))
def test_any_partition_gives_the_centralized_head(tmp_path_factory, play, sizes, seed):
    federation = play(sizes, seed=seed)
    folder = simulate(options(tmp_path_factory.mktemp("closed-form"), clients=len(sizes)))
    central = centralized(federation)
    weights = load_checkpoint(folder / "best.safetensors").weights
    np.testing.assert_allclose(weights["output.weight"] / SHARPNESS, central.weight, atol=1e-6)
    np.testing.assert_allclose(weights["output.bias"] / SHARPNESS, central.bias, atol=1e-6)


def test_a_clip_with_augmented_versions_counts_once_as_their_mean(tmp_path, play):
    """One client has versions, and its statistics pass all checks; the solution is that of weighted rows."""
    federation = play([20, 12, 30])
    member = federation.members[1]
    rows = np.stack([member.train.rows, federation.members[2].train.rows[:12]], axis=1)  # any other clips will do
    federation.members[1] = replace(member, train=replace(member.train, augmentations=rows))
    folder = simulate(options(tmp_path, clients=3))
    features = [member.train for member in federation.members]
    head = build_head("attentive", *features[0].array.shape[1:], len(LABELS), seed=0)
    weighted = [
        (pool(head, version), part.labels, 1 / (1 if part.augmentations is None else 3))
        for part in features
        for version in part.versions()
    ]
    scales = [(ScaleStatistics.of(z, y, len(LABELS)), weight) for z, y, weight in weighted]
    scale = ScaleStatistics(
        *(sum(weight * getattr(one, name) for one, weight in scales) for name in ("counts", "total", "squares"))
    ).scale()
    parts = [(Statistics.of(z, y, scale), weight) for z, y, weight in weighted]
    total = Statistics(
        *(sum(weight * getattr(one, name) for one, weight in parts) for name in ("triangle", "cross", "counts"))
    )
    assert total.counts.sum() == pytest.approx(62)
    weights = load_checkpoint(folder / "best.safetensors").weights
    np.testing.assert_allclose(weights["output.weight"] / SHARPNESS, solve(total, scale).weight, atol=1e-6)


def test_it_takes_one_round_and_writes_an_ordinary_run(tmp_path, play):
    play([30] * 5, noise=0.7)
    folder = simulate(options(tmp_path, clients=5))
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["rounds"] == 1
    assert metrics["test"]["accuracy"] > 0.9
    assert not (folder / "accuracy.png").exists(), "one point is no curve"


@pytest.mark.parametrize("secure", [False, True])
def test_random_features_make_the_sums_small_and_the_head_the_same_anywhere(tmp_path, play, secure):
    federation = play([20, 30, 25])
    few = {"head": "normalized", "random_features": 5, "seed": 7, "clients": 3, "secure_aggregation": secure}
    folder = simulate(options(tmp_path, **few))
    checkpoint, features = load_checkpoint(folder / "best.safetensors"), [member.train for member in federation.members]
    z = np.concatenate([pool(checkpoint.build(), part) for part in features])
    labels = np.concatenate([part.labels for part in features])
    scale = ScaleStatistics.of(z, labels, len(LABELS)).scale()
    central = solve(Statistics.of(z, labels, scale), scale)
    assert z.shape[1] == 5 and StatisticsFolder(folder / "statistics").read()[1].triangle.shape == (21,)
    atol = 1e-4 if secure else 1e-6
    np.testing.assert_allclose(checkpoint.weights["output.weight"] / SHARPNESS, central.weight, atol=atol)


def test_fewer_bits_are_fewer_bytes(tmp_path, play):
    play([30] * 5)
    bytes_up = {}
    for upload_dtype in ("float64", "float32", "float16"):
        folder = simulate(options(tmp_path, clients=5, name=upload_dtype, upload_dtype=upload_dtype))
        bytes_up[upload_dtype] = json.loads((folder / "history.jsonl").read_text())["bytes_up"]
    assert bytes_up["float64"] > bytes_up["float32"] > bytes_up["float16"]


def test_a_client_with_few_clips_sends_no_sums(tmp_path, play, capsys):
    play([30, 7, 30])
    folder = simulate(options(tmp_path, clients=3))
    assert json.loads((folder / "history.jsonl").read_text())["clients"] == [0, 2]
    assert "client 1 has 7 clips" in capsys.readouterr().out


def test_clients_sums_are_kept_on_request_and_add_up(tmp_path, play):
    play([30, 20, 30])
    folder = simulate(options(tmp_path, clients=3, keep_statistics="by-client"))
    kept = StatisticsFolder(folder / "statistics")
    _, total = kept.read()
    parts = [kept.client(client) for client in range(3)]
    np.testing.assert_allclose(sum(part.triangle for part in parts), total.triangle, rtol=1e-12)
    assert [part.counts.sum() for part in parts] == [30, 20, 30]


def test_what_is_not_asked_for_is_not_kept(tmp_path, play):
    play([30, 20])
    folder = simulate(options(tmp_path, clients=2))
    assert [path.name for path in (folder / "statistics").iterdir()] == ["total.safetensors"]


def test_rounds_from_the_exact_head_never_end_below_it(tmp_path, play):
    play([30] * 6, noise=2.0)
    asked = options(
        tmp_path, clients=6, clients_per_round=3, strategy="fedavg", init="closed-form", rounds=3, batch_size=8
    )
    folder = simulate(asked)
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2, 3]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["validation"]["accuracy"] >= lines[0]["validation_accuracy"]


@pytest.mark.parametrize("changed", [{}, {"strategy": "fedavg", "init": "closed-form"}])
def test_a_last_layer_whose_statistics_no_message_takes_is_refused(changed, tmp_path, play, monkeypatch):
    """The head `convolution` has 49,152 inputs with the encoder tiny.en: on devices every client failed."""
    monkeypatch.setattr("wordflock.federation.members.MAX_INPUTS", 4)
    play([30, 20])
    with pytest.raises(WordflockError, match="inputs, and the closed form takes 4 at most"):
        simulate(options(tmp_path, clients=2, **changed))


def test_a_client_that_comes_later_adds_its_sums_and_one_that_wants_out_takes_them_away(tmp_path, play):
    """With nobody's sums kept but the total, and nobody else asked: to the head of those that are in it."""
    federation = play([30, 25, 40])
    everyone, stragglers = list(federation.members), federation.members[2]

    def these(members, name, **changed):
        federation.members[:] = [replace(member, client=place) for place, member in enumerate(members)]
        return simulate(options(tmp_path, clients=len(members), name=name, **changed))

    def solution(members, scale):
        z = np.concatenate([pool(load_checkpoint(first / "best.safetensors").build(), m.train) for m in members])
        return solve(Statistics.of(z, np.concatenate([m.train.labels for m in members]), scale), scale)

    first = these(everyone[:2], "first")
    scale, _ = StatisticsFolder(first / "statistics").read()
    with_late = these([stragglers], "with-late", add_to=str(first))
    without_one = these(everyone[:1], "without-one", take_from=str(with_late))
    for folder, members in ((with_late, everyone), (without_one, everyone[1:])):
        weights, expected = load_checkpoint(folder / "best.safetensors").weights, solution(members, scale)
        np.testing.assert_allclose(weights["output.weight"] / SHARPNESS, expected.weight, atol=1e-6)
        np.testing.assert_allclose(weights["output.bias"] / SHARPNESS, expected.bias, atol=1e-6)
    for wrong, words in (
        ({"take_from": str(without_one)}, "would have none left"),
        ({"add_to": str(first), "seed": 1}, "of other features"),
        ({"add_to": str(first), "take_from": str(first)}, "one of them at a time"),
        ({"add_to": str(tmp_path)}, "no run or checkpoint"),
    ):
        with pytest.raises(WordflockError, match=words):
            these(everyone, "wrong", **wrong)


def test_a_late_client_brings_a_new_word(tmp_path, play):
    federation = play([30, 25, 40])
    first, stragglers, labels = list(federation.members[:2]), federation.members[2], federation.prepared.task.labels
    known = [label for label in labels if label != "no"]
    # The first clients' federation has no such label; its clips are nobody's.
    seen = [label for label in range(len(labels)) if labels[label] != "no"]
    for place, member in enumerate(first):
        mine = member.train.select(np.flatnonzero(np.isin(member.train.labels, seen)))
        train, nothing = replace(mine, labels=np.searchsorted(seen, mine.labels)), member.holdout.select(np.arange(0))
        first[place] = replace(member, train=train, holdout=nothing, labels=known)
    task = federation.prepared.task
    federation.members[:] = first
    object.__setattr__(federation.prepared, "task", Task.of_labels(known))
    held, named = dict(federation.prepared.features), dict(federation.prepared.examples)
    for split in held:
        part = held[split].select(np.flatnonzero(np.isin(held[split].labels, seen)))
        federation.prepared.features[split] = replace(part, labels=np.searchsorted(seen, part.labels))
        federation.prepared.examples[split] = named_clips(split, part.labels.tolist())
    before = simulate(options(tmp_path, clients=2, name="before"))
    object.__setattr__(federation.prepared, "task", task)
    federation.prepared.features.update(held)
    federation.prepared.examples.update(named)
    federation.members[:] = [replace(stragglers, client=0)]
    after = simulate(options(tmp_path, clients=1, name="after", add_to=str(before)))
    assert load_checkpoint(after / "best.safetensors").labels == labels
    assert json.loads((after / "metrics.json").read_text())["test"]["recall"]["no"] > 0.8


def test_a_label_that_no_client_has_is_said(tmp_path, play):
    federation = play([30, 30])
    for member in federation.members:
        member.train.labels[member.train.labels == 3] = 0
    with pytest.raises(WordflockError, match="no training clips of "):
        simulate(options(tmp_path, clients=2))


def lying(monkeypatch, change):
    """Client 1 sends other statistics than it has: `change` gets the message's kind and its arrays."""
    for kind in ("scale", "statistics"):
        honest = client_app.app._registered_funcs[f"train.{kind}"]

        def answer(message, context, honest=honest, kind=kind):
            reply = honest(message, context)
            if context.node_config["partition-id"] == 1:
                arrays = {name: array.copy() for name, array in weights_of(reply).items()}
                change(kind, arrays)
                reply.content = content(arrays)
            return reply

        monkeypatch.setitem(client_app.app._registered_funcs, f"train.{kind}", answer)


def times(name, factor, kind="statistics"):
    def change(now, arrays):
        if now == kind:
            arrays[name] *= factor

    return change


def other_scale(now, arrays):
    """As if its features were a hundred times as large."""
    if now == "scale":
        arrays["total"] *= 100
        arrays["squares"] *= 100**2


def other_counts(now, arrays):
    if now == "statistics":
        arrays["counts"][:2] += [1, -1]


def indefinite(now, arrays):
    """Off its diagonal a Gram matrix that no clips have, and so large that the total cannot be solved."""
    if now == "statistics":
        arrays["triangle"][1 : len(arrays["cross"]) - 1] += 1e6


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (times("cross", -20), "last row"),
        (times("triangle", 1.5), "last row"),
        (times("total", 50, "scale"), "larger than their squares"),
        (times("counts", 0.5, "scale"), "parts of clips"),
        (times("counts", 2, "scale"), "introduced itself"),
        (times("squares", float("nan"), "scale"), "not finite"),
        (other_scale, "another scale"),
        (other_counts, "other counts"),
        (indefinite, "semidefinite"),
    ],
)
def test_statistics_that_no_clips_have_are_refused_by_name(tmp_path, play, monkeypatch, change, said):
    play([30] * 5, noise=0.7)
    lying(monkeypatch, change)
    folder = simulate(options(tmp_path, clients=5))
    line = json.loads((folder / "history.jsonl").read_text())
    assert line["clients"] == [0, 2, 3, 4]
    assert line["refused"][0].startswith("client 1 ") and said in line["refused"][0]
    assert json.loads((folder / "metrics.json").read_text())["test"]["accuracy"] > 0.9


@pytest.mark.parametrize("upload_dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("head", ["attentive", "linear", "convolution", "combined"])
def test_honest_statistics_pass_in_every_number_type(tmp_path, play, upload_dtype, head):
    play([30, 8, 60, 200, 9])
    folder = simulate(options(tmp_path, clients=5, upload_dtype=upload_dtype, head=head))
    assert "refused" not in json.loads((folder / "history.jsonl").read_text())
