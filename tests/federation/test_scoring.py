"""What clients say of a head on their holdout clips: the same as a simulation measures, and nothing that cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Message, MessageType
from hypothesis import given
from hypothesis import strategies as st
from made_up import FRAMES, HELD_BACK, LABELS, SPEC, WIDTH

from wordflock.federation import client_app, scoring
from wordflock.federation.in_process import in_process_grid
from wordflock.federation.members import describe_devices, describe_members
from wordflock.federation.messages import add_metrics, content
from wordflock.federation.roster import Client, Roster
from wordflock.federation.scoring import HoldoutScore, Scorer, _read
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import Checkpoint, get_weights
from wordflock.head.torch_head import build_head

SIZES = [20, 30, 25]
OF_ALL = [{"client": n, "name": "", "clips": size} for n, size in enumerate(SIZES)]


def scored(play, **options) -> tuple[list[HoldoutScore], list[dict]]:
    """What the clients say of an untrained head, and what a simulation says of them."""
    federation = play(SIZES)
    settings = FederationSettings(clients=3, head="attentive", **options)
    head = build_head("attentive", FRAMES, WIDTH, len(LABELS), seed=0)
    weights = get_weights(head)
    with in_process_grid(client_app.app, 3, settings.as_config(), 1) as grid:
        roster = Roster(grid, settings, federation.prepared)
        roster.wait_for(3, 60.0)
        scorer = Scorer(grid, roster, settings, head, federation.prepared.features["validation"])
        scores = scorer.final_scores(weights)
    best = Checkpoint(LABELS, "attentive", WIDTH, SPEC, weights, {})
    return scores, describe_members(federation.members, best, {})


def test_devices_report_what_a_simulation_measures(play) -> None:
    scores, members = scored(play)
    for device, member in zip(describe_devices(OF_ALL, scores), members, strict=True):
        assert device["holdout"] == member["holdout"]
        assert device["score"] == [sum(counts) for counts in zip(*member["holdout"].values(), strict=True)]
        assert device["score"][1] == HELD_BACK


def test_who_has_scored_the_final_head_is_not_asked_again(play, monkeypatch) -> None:
    federation = play(SIZES)
    settings = FederationSettings(clients=3, clients_per_round=2, head="attentive")
    head = build_head("attentive", FRAMES, WIDTH, len(LABELS), seed=0)
    asked = list[int]()
    honest = scoring.holdout_scores

    def watched(grid, roster, settings, number, weights, clients):
        asked.extend(clients)
        return honest(grid, roster, settings, number, weights, clients)

    monkeypatch.setattr(scoring, "holdout_scores", watched)
    with in_process_grid(client_app.app, 3, settings.as_config(), 1) as grid:
        roster = Roster(grid, settings, federation.prepared)
        roster.wait_for(3, 60.0)
        scorer = Scorer(grid, roster, settings, head, federation.prepared.features["validation"])
        scorer.client_score(1, get_weights(head))
        assert len(asked) == 2
        assert [score.client.number for score in scorer.final_scores(get_weights(head))] == [0, 1, 2]
        assert sorted(asked) == [0, 1, 2]
        other = {name: array + 1 for name, array in get_weights(head).items()}
        scorer.final_scores(other)
        assert len(asked) == 6


def test_with_secure_aggregation_clients_do_not_say_which_words_they_have(play) -> None:
    scores, members = scored(play, secure_aggregation=True)
    assert [score.recall for score in scores] == [{}] * 3
    devices = describe_devices([], scores)  # of clients that were in no round
    assert [device["score"] for device in devices] == [
        [sum(counts) for counts in zip(*member["holdout"].values(), strict=True)] for member in members
    ]
    assert not any("holdout" in device for device in devices)


COUNTS = st.one_of(
    st.none(),
    st.lists(st.integers(-1, 5), min_size=len(LABELS) - 1, max_size=len(LABELS) + 1),
    st.lists(st.floats(), max_size=4),
    st.integers(),
)


@given(COUNTS, COUNTS, st.integers(0, HELD_BACK), st.booleans())
def test_counts_by_label_are_those_of_the_clips_or_refused(correct, among, right, mend) -> None:
    if mend and isinstance(correct, list) and isinstance(among, list) and among and isinstance(among[0], int):
        among[0] += HELD_BACK - sum(among)  # else hardly any are right
        right = int(np.clip(sum(correct), 0, HELD_BACK)) if all(isinstance(n, int) for n in correct) else right
    numbers = content(client=0, num_examples=HELD_BACK, accuracy=right / HELD_BACK, loss=1.0)
    reply = Message(numbers, 0, MessageType.EVALUATE)
    for key, value in (("correct_by_label", correct), ("clips_by_label", among)):
        if value is not None:
            add_metrics(reply, **{key: value})
    try:
        score = _read(reply, Client(0, 2, 20, HELD_BACK, 0.0, "", ""), LABELS)
    except MalformedMessage:
        assert (correct, among) != (None, None)
        return
    if correct is None or among is None:
        assert score.recall == {}
        return
    assert {label: score.recall.get(label, (0, 0)) for label in LABELS} == dict(
        zip(LABELS, zip(correct, among, strict=True), strict=True)
    )
    assert sum(n for _, n in score.recall.values()) == HELD_BACK
    assert sum(hits for hits, _ in score.recall.values()) == right
    assert all(0 <= hits <= n for hits, n in score.recall.values())


@pytest.mark.parametrize("accuracy", [0.0, 0.75])
def test_an_accuracy_that_the_counts_contradict_is_refused(accuracy: float) -> None:
    numbers = content(client=0, num_examples=HELD_BACK, accuracy=accuracy, loss=1.0)
    reply = Message(numbers, 0, MessageType.EVALUATE)
    add_metrics(reply, correct_by_label=[1, 1, 0, 0], clips_by_label=[2, 2, 0, 0])
    with pytest.raises(MalformedMessage, match="2 of 4 clips by label"):
        _read(reply, Client(0, 2, 20, HELD_BACK, 0.0, "", ""), LABELS)
