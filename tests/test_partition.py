from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from wordflock.errors import WordflockError
from wordflock.federation_settings import PartitionSettings
from wordflock.partition import hold_back, partition_clips

# Other people's, on every table that they sort, and at every failed attempt.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Specifying null_placement:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The specified min_partition_size:UserWarning"),
]

KINDS = ("speaker", "iid", "dirichlet", "shard")
every_kind = pytest.mark.parametrize("kind", KINDS)
seeds = st.integers(0, 2**32)


def a_table(clips: int, speakers: int = 30, silent: int = 0, labels: int = 4, seed: int = 0) -> tuple[list[str], Any]:
    """Clips sorted by label, each with a speaker; every speaker has at least one; the last are nobody's."""
    generator = np.random.default_rng(seed)
    spoken = [f"s{number}" for number in (*range(speakers), *generator.integers(0, speakers, clips - speakers))]
    return [*generator.permutation(spoken).tolist(), *[""] * silent], np.sort(
        generator.integers(0, labels, clips + silent)
    )


def deal(kind: str, table: tuple[list[str], Any], clients: int = 5, **options: Any) -> list[NDArray[np.int64]]:
    return partition_clips(*table, PartitionSettings(partition=kind, clients=clients, **options))


def assert_whole(parts: list[NDArray[np.int64]], clips: int, clients: int) -> None:
    """Every client has clips, in rising order, and every clip has one client."""
    assert len(parts) == clients and all(len(part) for part in parts)
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(clips))


# Every clip has one client


@settings(max_examples=10)
@given(clients=st.integers(1, 12), speakers=st.integers(12, 40), silent=st.integers(0, 30), seed=seeds)
def test_speakers_stay_whole_and_clients_are_alike_in_size(clients: int, speakers: int, silent: int, seed: int) -> None:
    speaker_of, labels = a_table(60, speakers, silent, seed=seed)
    parts = deal("speaker", (speaker_of, labels), clients, seed=seed)
    assert_whole(parts, 60 + silent, clients)
    of_client = [{speaker_of[clip] for clip in part} - {""} for part in parts]
    assert sum(map(len, of_client)) == len(set().union(*of_client)) == speakers
    for counts in ([len(s) for s in of_client], [sum(not speaker_of[clip] for clip in part) for part in parts]):
        assert max(counts) - min(counts) <= 1


@settings(max_examples=10)
@given(clients=st.integers(1, 20), clips=st.integers(40, 200), seed=seeds)
def test_iid_gives_all_clients_the_same_number_of_clips(clients: int, clips: int, seed: int) -> None:
    parts = deal("iid", a_table(clips), clients, seed=seed)
    assert_whole(parts, clips, clients)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@settings(max_examples=10)
@given(
    clients=st.integers(1, 20),
    clips=st.integers(60, 200),
    alpha=st.sampled_from([0.01, 0.1, 0.5, 1.0, 1e6]),
    seed=seeds,
)
def test_dirichlet_gives_every_clip_to_one_client_or_is_refused(
    clients: int, clips: int, alpha: float, seed: int
) -> None:
    try:
        parts = deal("dirichlet", a_table(clips), clients, alpha=alpha, seed=seed)
    except WordflockError as error:
        assert str(error) == (
            f"No partition of {clips} clips among {clients} clients was found with --partition dirichlet "
            f"--alpha {alpha}; take a larger alpha or fewer clients."
        )
        assert clients > 2 or alpha < 0.5
    else:
        assert_whole(parts, clips, clients)


def test_the_usual_hundred_clients_of_unlike_labels_are_found() -> None:
    parts = partition_clips([""] * 1000, np.arange(1000) % 12, PartitionSettings(partition="dirichlet"))
    assert_whole(parts, 1000, 100)


@settings(max_examples=10)
@given(clients=st.integers(1, 10), clips=st.integers(20, 230), labels=st.integers(1, 5), seed=seeds)
def test_shards_give_every_client_two_stretches_of_the_sorted_labels(
    clients: int, clips: int, labels: int, seed: int
) -> None:
    speaker_of, label_of = a_table(230, labels=labels)
    parts = deal("shard", (speaker_of[:clips], label_of[:clips]), clients, seed=seed)
    assert_whole(parts, clips, clients)
    each, left_over = divmod(clips, 2 * clients)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for part in parts:
        stretches = np.split(part, 1 + np.flatnonzero(np.diff(part) > 1))  # one where two are neighbours
        assert len(stretches) <= 2 + len(part) - 2 * each  # a clip that is left over may stand alone
        assert left_over or [len(s) for s in stretches] in ([each, each], [2 * each])


def test_shards_give_a_client_two_labels_where_the_labels_are_as_many_as_the_shards() -> None:
    labels = np.repeat(np.arange(10), 20)
    parts = deal("shard", ([""] * 200, labels), 5, seed=3)
    assert [len(np.unique(labels[part])) for part in parts] == [2] * 5
    shuffled = np.random.default_rng(0).permutation(labels)  # it is the partitioner that sorts
    parts = deal("shard", ([""] * 200, shuffled), 5, seed=3)
    assert [len(np.unique(shuffled[part])) for part in parts] == [2] * 5


# How unlike the clients are


def unlikeness(parts: list[NDArray[np.int64]], labels: NDArray[np.int64]) -> float:
    """The mean distance (total variation, 0 to 1) of a client's distribution of labels from that of all clips."""
    whole = np.bincount(labels, minlength=10) / len(labels)
    shares = [np.bincount(labels[part], minlength=10) / len(part) for part in parts]
    return float(np.mean([np.abs(share - whole).sum() / 2 for share in shares]))


def test_clients_grow_more_unlike_as_alpha_falls() -> None:
    table = a_table(2000, labels=10)
    found = [
        np.mean([unlikeness(deal("dirichlet", table, 10, alpha=alpha, seed=seed), table[1]) for seed in range(2)])
        for alpha in (1000.0, 10.0, 1.0, 0.1)
    ]
    assert found == sorted(found)
    assert found[0] < 0.05 and found[-1] > 0.5


def test_iid_clients_are_alike_and_shards_are_not() -> None:
    table = a_table(2000, labels=10)
    assert unlikeness(deal("iid", table, 10), table[1]) < 0.15
    assert unlikeness(deal("shard", table, 10), table[1]) > 0.6


# The same again


def test_a_speaker_keeps_its_client_whatever_the_order_of_the_clips() -> None:
    speaker_of, labels = a_table(60, 20, silent=10)
    order = np.random.default_rng(1).permutation(70)
    first_of_each = np.unique(speaker_of, return_index=True)[1]
    owners = []
    for clips in (np.arange(70), order, first_of_each):
        speakers = [speaker_of[clip] for clip in clips]
        parts = deal("speaker", (speakers, labels[clips]), 7)
        owners.append({speakers[clip]: client for client, part in enumerate(parts) for clip in part if speakers[clip]})
    assert len(owners[0]) == 20 and owners[0] == owners[1] == owners[2]


ELSEWHERE = """
import json, sys
import numpy as np
from wordflock.partition import hold_back, partition_clips
from wordflock.federation_settings import PartitionSettings

kinds, (speakers, labels) = json.load(sys.stdin)
deal = lambda kind: partition_clips(speakers, np.array(labels), PartitionSettings(partition=kind, clients=5, seed=11))
parts = [[part.tolist() for part in deal(kind)] for kind in kinds]
held = [part.tolist() for part in hold_back(np.arange(40), 0.3, 11, 2)]
json.dump([parts, held], sys.stdout)
"""


def test_another_process_deals_the_same_and_another_seed_does_not() -> None:
    speaker_of, labels = table = a_table(120, silent=20)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE],
        input=json.dumps([KINDS, [speaker_of, labels.tolist()]]),
        env={"PYTHONHASHSEED": "123"},
        capture_output=True,
        text=True,
        check=True,
    )
    parts, held = json.loads(done.stdout)
    for kind, theirs in zip(KINDS, parts, strict=True):
        assert [part.tolist() for part in deal(kind, table, seed=11)] == theirs, kind
        assert [part.tolist() for part in deal(kind, table, seed=12)] != theirs, kind
    assert [part.tolist() for part in hold_back(np.arange(40), 0.3, 11, 2)] == held


# Refusals


@every_kind
def test_fewer_than_two_clips_a_client_are_refused(kind: str) -> None:
    speaker_of = [f"s{clip}" for clip in range(19)]
    with pytest.raises(WordflockError, match=r"^19 training clips are too few for --clients 10; ask for fewer clients"):
        deal(kind, (speaker_of, np.zeros(19, np.int64)), 10)


@pytest.mark.parametrize("speaker_of", [["a", "b", "c"] * 20, [""] * 60, ["a", "b", "c", ""] * 15])
def test_fewer_speakers_than_clients_are_refused(speaker_of: list[str]) -> None:
    known = len({*speaker_of} - {""})
    with pytest.raises(WordflockError, match=rf"--clients 4 .* have {known}; ask for fewer .* or another --partition"):
        deal("speaker", (speaker_of, np.zeros(60, np.int64)), 4)
    if known:
        assert_whole(deal("speaker", (speaker_of, np.zeros(60, np.int64)), known), 60, known)


# What a client holds back


@given(
    clips=st.lists(st.integers(0, 10**6), unique=True, max_size=80).map(sorted),
    share=st.floats(0, 1),
    seed=seeds,
    client=st.integers(0, 1000),
)
def test_what_is_held_back_and_what_is_trained_on_are_all_clips(
    clips: list[int], share: float, seed: int, client: int
) -> None:
    train, held = hold_back(np.array(clips, np.int64), share, seed, client)
    assert sorted([*train, *held]) == clips
    assert abs(len(held) - share * len(clips)) <= 0.5
    assert np.array_equal(train, np.sort(train)) and np.array_equal(held, np.sort(held))
    again = hold_back(np.array(clips, np.int64), share, seed, client)
    assert np.array_equal(again[0], train) and np.array_equal(again[1], held)


def test_clients_hold_back_clips_by_chance_and_not_by_place() -> None:
    clips = np.arange(20)
    held = [hold_back(clips, 0.25, 0, client)[1] for client in range(400)]
    times = np.bincount(np.concatenate(held), minlength=20)  # a quarter of 400 each, by a binomial of deviation 8.7
    assert times.min() > 65 and times.max() < 135
    assert len({tuple(part) for part in held}) > 390
    assert not np.array_equal(hold_back(clips, 0.25, 1, 0)[1], held[0])
