"""The members of a federation: who has which clips, on one data set or with a server that has few or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from wordflock.data.task import DEFAULT_KEYWORDS, Task
from wordflock.encoder.spec import FeatureSpec, feature_spec
from wordflock.encoder.store import Features
from wordflock.errors import WordflockError
from wordflock.federation_settings import ServerSettings
from wordflock.head.kinds import KINDS

if TYPE_CHECKING:
    from wordflock.federation.scoring import HoldoutScore
    from wordflock.head.checkpoint import Checkpoint
    from wordflock.partition import Member
    from wordflock.prepare import Prepared

MAX_INPUTS = 8190  # of the last layer: half of its Gram matrix is one array of a message, wire.MAX_BYTES at most


def describe_members(
    members: Sequence[Member], best: Checkpoint, costs: Mapping[int, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The clients of a simulation for metrics.json: training clips by label, how many of the clips of each label in
    their holdout (`[correct, clips]`) the best head recognises, and the costs of those that were in a round."""
    from wordflock.head.training import predict

    head, described = best.build(), []
    for member in members:
        counts = np.bincount(member.train.labels, minlength=len(best.labels))
        entry: dict[str, Any] = {
            "client": member.client,
            "clips": len(member.train),
            "labels": {label: int(count) for label, count in zip(best.labels, counts, strict=True) if count},
        }
        if len(member.holdout):
            targets = member.holdout.labels
            correct = predict(head, member.holdout).argmax(axis=1) == targets
            entry["holdout"] = {
                best.labels[label]: [int(correct[targets == label].sum()), int((targets == label).sum())]
                for label in np.unique(targets)
            }
        described.append({**entry, **costs.get(member.client, {})})
    return described


def describe_devices(costs: Sequence[Mapping[str, Any]], scores: Sequence[HoldoutScore]) -> list[dict[str, Any]]:
    """The clients of a server for metrics.json: what the rounds cost each, and how many of its holdout clips it says
    that the best head recognises: `score` of all (`[correct, clips]`) and, where it tells, `holdout` by label."""
    described: dict[int, dict[str, Any]] = {cost["client"]: dict(cost) for cost in costs}
    for score in scores:
        client = score.client
        about = {"client": client.number, "name": client.name, "clips": client.clips}
        entry = described.setdefault(client.number, about)
        entry["score"] = [round(score.accuracy * score.clips), score.clips]
        if score.recall:
            entry["holdout"] = {label: list(counts) for label, counts in score.recall.items()}
    return [described[number] for number in sorted(described)]


def server_side(settings: ServerSettings) -> Prepared:
    """What a server of real devices has: the task, the features' kind, and clips to score on where there are any.

    It has no clips to train on. Without --data the keywords alone make the task: the usual ten with silence and unknown
    where none are named, as in Speech Commands.
    """
    from wordflock.data.clips import ClipTable
    from wordflock.encoder.backend import spec_of
    from wordflock.prepare import Prepared, prepare

    if settings.data:
        prepared = prepare(settings, ("validation", "test"))
        width = prepared.features["validation"].array.shape[2]
    else:
        usual = settings.for_streams or not settings.keyword_list
        silence, unknown = (usual if wanted is None else wanted for wanted in (settings.silence, settings.unknown))
        task = Task(tuple(settings.keyword_list or DEFAULT_KEYWORDS), silence, unknown)
        if len(task.labels) < 2:
            raise WordflockError(
                f"A task needs two labels at least, and this one has {', '.join(task.labels)}; see --keywords."
            )
        spec = spec_of(settings)
        prepared = Prepared(ClipTable("the clients", "speech_commands", ()), task, spec, {}, {})
        width = feature_width(settings, spec)
    nothing = np.empty(0, dtype=np.int64)
    empty = Features(np.empty((0, prepared.spec.frames, width), dtype=np.float16), nothing, nothing)
    features = {"validation": empty, "test": empty, **prepared.features, "train": empty}
    return replace(prepared, features=features)


def feature_width(settings: ServerSettings, spec: FeatureSpec) -> int:
    """The size of a frame of features: the layers side by side."""
    from wordflock.encoder.weights import find, load

    return load(find(settings.encoder))[0].width * len(spec.layer.split("+"))


def inputs_of(settings: ServerSettings) -> int:
    """How many inputs the last layer will have. The device is not looked at, so neither torch nor Flower is imported:
    a server asks before it listens."""
    spec = feature_spec(settings.encoder, settings.window, settings.layer, settings.pooled, settings.frame_pooling)
    return settings.random_features or KINDS[settings.head].pooled_size(spec.frames, feature_width(settings, spec))


def check_inputs(size: int, head: str) -> None:
    """Raises WordflockError for a kind of head whose last layer has more than MAX_INPUTS inputs."""
    if size > MAX_INPUTS:
        raise WordflockError(
            f"The last layer of the head {head} has {size:,} inputs, and the closed form takes {MAX_INPUTS:,} at most; "
            "choose another --head or fewer layers."
        )
