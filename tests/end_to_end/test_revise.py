"""Forgetting and learning: the head is what it would be had it been solved from the clips that are left."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from killing import killed_after, killed_at
from whole_commands import Wordflock

from wordflock.errors import WordflockError
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import load_checkpoint
from wordflock.head.closed_form import solve
from wordflock.head.metrics import Score
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.training import SHARPNESS, statistics_of
from wordflock.partition import federation
from wordflock.progress import reporting
from wordflock.revise.forget import forget
from wordflock.revise.learn import learn
from wordflock.settings import DataSettings, EvaluateSettings
from wordflock.spotting.evaluate import evaluate


@pytest.fixture
def asked(wordflock: Wordflock, tmp_path: Path) -> FederationSettings:
    return FederationSettings(
        data=str(wordflock.path("words")),
        cache=str(wordflock.path("cache")),
        encoder=str(wordflock.path("encoder")),
        window=0.4,
        layer="last",
        clients=5,
        strategy="closed-form",
        runs=str(tmp_path),
        name="run",
    )


def expected(asked: FederationSettings, folder: Path, keep, change=lambda labels: labels, labels=None):
    """The solution from the clips for which `keep(clip, label, client)`, at the scale that the run has now."""
    made = federation(asked)
    scale, _ = StatisticsFolder(folder / "statistics").read()
    head = load_checkpoint(folder / "best.safetensors").build()
    clips, names = made.prepared.examples["train"].clips, made.prepared.task.labels
    features = made.prepared.features["train"]
    owner = {row: member.client for member in made.members for row in member.train.rows.tolist()}
    chosen = [i for i, clip in enumerate(clips) if keep(clip, names[features.labels[i]], owner[int(features.rows[i])])]
    indices = np.array([(labels or names).index(change(clips[i], names[features.labels[i]])) for i in chosen])
    left = replace(features.select(np.array(chosen)), labels=indices)
    return solve(statistics_of(head, left, scale), scale)


def assert_same(folder: Path, solution) -> None:
    weights = load_checkpoint(folder / "best.safetensors").weights
    np.testing.assert_allclose(weights["output.weight"] / SHARPNESS, solution.weight, atol=1e-6)
    np.testing.assert_allclose(weights["output.bias"] / SHARPNESS, solution.bias, atol=1e-6)


def same_label(clip, label):
    return label


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"keep_statistics": "by-client"},
        {"head": "normalized", "random_features": 40, "seed": 5},
        {"augmentations": 2},
    ],
)
def test_a_client(asked, how, tmp_path):
    asked = replace(asked, **how)
    folder = simulate(asked)
    before = load_checkpoint(folder / "best.safetensors").weights["output.weight"]
    clips = forget(folder, client=2)
    assert clips == len(federation(asked).members[2].train)
    assert_same(folder, expected(asked, folder, lambda clip, label, client: client != 2, same_label))
    assert np.abs(load_checkpoint(folder / "last.safetensors").weights["output.weight"] - before).max() > 1e-3
    assert not (folder / "statistics" / "client-2.safetensors").exists()
    assert json.loads((folder / "revisions.jsonl").read_text())["forget"] == {"client": 2}
    assert forget(folder, client=2) == clips  # a repetition changes nothing
    assert len((folder / "revisions.jsonl").read_text().splitlines()) == 1
    forget(folder, client=1)
    with pytest.raises(WordflockError, match="has no clips of client 2; it has those of clients 0, 3"):
        forget(folder, client=2)


def test_a_speaker_of_a_client_that_is_forgotten_as_well(asked):
    folder = simulate(asked)
    made = federation(asked)
    speakers = sorted({clip.speaker for clip in made.prepared.examples["train"].clips if clip.speaker})
    forget(folder, speaker=speakers[0])
    forget(folder, client=1)
    assert_same(
        folder,
        expected(asked, folder, lambda clip, label, client: clip.speaker != speakers[0] and client != 1, same_label),
    )


def test_a_label_and_learning_it_again(asked, wordflock):
    folder = simulate(asked)
    data = EvaluateSettings(data=asked.data, cache=asked.cache, split="train")
    before: Score = evaluate(str(folder), data).score
    forget(folder, label="stop")
    labels = load_checkpoint(folder / "best.safetensors").labels
    assert labels == [label for label in before.labels if label != "stop"]
    assert_same(folder, expected(asked, folder, lambda clip, label, client: label != "stop", same_label, labels))
    learn(folder, data, ["stop"])
    after = load_checkpoint(folder / "best.safetensors")
    assert set(after.labels) == set(before.labels)
    again = evaluate(str(folder), data).score
    assert again.accuracy == pytest.approx(before.accuracy, abs=0.03)


def test_a_new_word_that_was_unknown_before(asked, wordflock):
    folder = simulate(asked)
    clips = learn(folder, DataSettings(data=asked.data, cache=asked.cache), ["cat"])
    labels = load_checkpoint(folder / "best.safetensors").labels
    assert "cat" in labels
    made = federation(asked)
    assert clips == sum(clip.word == "cat" for clip in made.prepared.examples["train"].clips)
    assert_same(
        folder,
        expected(
            asked,
            folder,
            lambda clip, label, client: True,
            lambda clip, label: "cat" if clip.word == "cat" else label,
            labels,
        ),
    )


def copy(folder: Path, name: str) -> Path:
    shutil.rmtree(folder.parent / name, ignore_errors=True)
    return Path(shutil.copytree(folder, folder.parent / name))


def content(folder: Path) -> dict[str, bytes]:
    """The files of a run's folder, but for the time and the salt of a revision."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    record = [json.loads(line) for line in files["revisions.jsonl"].splitlines()]
    clips = [(line["clips"], sorted(line), line.get("learn")) for line in record]
    return {**files, "revisions.jsonl": repr(clips).encode()}


@pytest.mark.parametrize(
    ("what", "keep", "step"),
    [
        ("client", "by-client", 2),
        ("speaker", "by-client", 5),
        ("label", "total", 5),
        ("learn", "total", 3),
        pytest.param("client", "by-client", 1, marks=pytest.mark.slow),
        pytest.param("learn", "total", 1, marks=pytest.mark.slow),
    ],
)
def test_a_revision_killed_at_a_file_operation_may_be_repeated(asked, what, keep, step):
    """Nothing is lost and nothing is counted twice; the same bytes as without the kill."""
    first = simulate(replace(asked, keep_statistics=keep))
    speakers = {c.speaker for c in federation(asked).prepared.examples["train"].clips if c.speaker}
    data = DataSettings(data=asked.data, cache=asked.cache)
    wanted = {"client": {"client": 2}, "speaker": {"speaker": min(speakers)}, "label": {"label": "stop"}}

    def revise(folder: Path) -> int:
        return learn(folder, data, ["cat"]) if what == "learn" else forget(folder, **wanted[what])

    clips = revise(copy(first, "whole"))
    whole, number = content(first.parent / "whole"), 0
    while killed_at(number, folder := copy(first, "killed"), lambda: revise(first.parent / "killed")):
        assert revise(folder) == clips, number
        assert content(folder) == whole, number
        number += step
    assert number > 20 and content(folder) == whole


@pytest.mark.slow
def test_revisions_killed_at_random_moments_may_be_repeated(asked):
    first = simulate(replace(asked, keep_statistics="by-client"))
    data, chance, kills = DataSettings(data=asked.data, cache=asked.cache), random.Random(0), 0

    def revise(folder: Path) -> None:
        learn(folder, data, ["cat"])
        forget(folder, client=2)

    revise(copy(first, "whole"))
    while kills < 60:
        folder = copy(first, "killed")
        kills += killed_after(chance.uniform(0.0, 0.8), lambda: revise(first.parent / "killed"))
        record = folder / "revisions.jsonl"
        if not record.exists():  # it was killed while it learned
            learn(folder, data, ["cat"])
        forget(folder, client=2)
        assert content(folder) == content(first.parent / "whole")


def test_nothing_of_a_forgotten_speaker_is_found_in_the_folder(asked):
    folder = simulate(replace(asked, keep_statistics="by-client", clients=6))
    statistics = StatisticsFolder(folder / "statistics")
    made = federation(replace(asked, clients=6))
    names = {clip.speaker for clip in made.prepared.examples["train"].clips if clip.speaker}
    speaker = min(names)
    owner = next(
        member.client
        for member in made.members
        if speaker
        in {
            clip.speaker
            for clip, row in zip(
                made.prepared.examples["train"].clips, made.prepared.features["train"].rows.tolist(), strict=True
            )
            if row in set(member.train.rows.tolist())
        }
    )
    sent, before = statistics.client(owner), statistics.read()[1]
    assert sent is not None
    test = json.loads((folder / "metrics.json").read_text())["test"]
    (folder / "predictions.csv").write_text(
        (folder / "predictions.csv").read_text() + f"train,x,0,{speaker},yes,yes,1,1\n"
    )
    (folder / "neighbours.json").write_text(json.dumps([{"speaker": speaker}]))
    secrets = [speaker.encode(), str(test["accuracy"]).encode(), str(test["loss"]).encode()]
    secrets += [array.tobytes()[-64:] for array in (sent.triangle, sent.cross, before.triangle, before.cross)]
    secrets.append(load_checkpoint(folder / "best.safetensors").weights["output.weight"].tobytes()[:64])

    def found() -> set[bytes]:
        content = [file.read_bytes() for file in folder.rglob("*") if file.is_file()]
        return {secret for secret in secrets if any(secret in each for each in content)}

    assert found() == set(secrets)
    said: list[str] = []
    with reporting(said.append):
        forget(folder, speaker=speaker)
    assert found() == set()
    assert any(f"rm -r {asked.cache}/features" in line for line in said)
    kept = {"config.toml", "best.safetensors", "last.safetensors", "metrics.json", "revisions.jsonl", ".lock"}
    assert {f.name for f in folder.iterdir()} == {*kept, "statistics"}
    assert [f.name for f in (folder / "statistics").iterdir()] == ["total.safetensors"]


def test_what_cannot_be_revised(asked, tmp_path, wordflock):
    folder = simulate(asked)
    data = DataSettings(data=asked.data, cache=asked.cache)
    for wrong, words in (
        ({}, "Name one"),
        ({"client": 99}, r"has no clips of client 99; it has those of clients 0, 1, \d"),
        ({"speaker": "nobody"}, "has no clips of speaker nobody[.;]"),
        ({"label": "maybe"}, "no label 'maybe'"),
    ):
        with pytest.raises(WordflockError, match=words):
            forget(folder, **wrong)
    with pytest.raises(WordflockError, match="knows 'yes' already"):
        learn(folder, data, ["yes"])
    with pytest.raises(WordflockError, match="no new training clips"):
        learn(folder, data)
    with pytest.raises(WordflockError, match="is not a run"):
        forget(tmp_path / "nothing", client=1)
