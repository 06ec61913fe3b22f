"""The members of a federation: who has which clips, on one data set or with a server that has few or none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from wordflock.errors import WordflockError
from wordflock.features import Features, FeatureSpec
from wordflock.settings import FederationSettings, ServerSettings
from wordflock.task import DEFAULT_KEYWORDS, Task

if TYPE_CHECKING:
    from wordflock.prepare import Prepared


@dataclass(frozen=True)
class Member:
    """What one client knows."""

    client: int
    train: Features
    held_back: Features
    labels: list[str]
    spec: FeatureSpec
    name: str = ""
    encode_seconds: float = 0.0


@dataclass(frozen=True)
class Federation:
    """A data set, and its training clips divided among the clients."""

    prepared: Prepared
    members: list[Member]


@lru_cache(maxsize=1)
def federation(settings: FederationSettings) -> Federation:
    """The federation that the settings describe; made once in a process, and the same in every process."""
    # Here, because a real device's rounds need neither.
    from wordflock.partition import hold_back, partition_clips
    from wordflock.prepare import prepare

    prepared = prepare(settings)
    features = prepared.features["train"]
    speakers = [clip.speaker for clip in prepared.examples["train"].clips]
    parts = partition_clips(speakers, features.labels, settings)
    members = []
    for client, clips in enumerate(parts):
        train, held_back = hold_back(clips, settings.held_back_share, settings.seed, client)
        labels, spec = prepared.task.labels, prepared.spec
        members.append(Member(client, features.select(train), features.select(held_back), labels, spec))
    return Federation(prepared, members)


def server_side(settings: ServerSettings) -> Prepared:
    """What a server of real devices has: the task, the features' kind, and clips to score on where there are any.

    It has no clips to train on. Without --data the keywords alone make the task: the usual ten with silence and unknown
    where none are named, as in Speech Commands.
    """
    from wordflock.data.clips import ClipTable
    from wordflock.features import spec_of
    from wordflock.prepare import Prepared, prepare
    from wordflock.weights import find, load

    if settings.data:
        prepared = prepare(settings, ("validation", "test"))
        width = prepared.features["validation"].array.shape[2]
    else:
        usual = not settings.keyword_list
        silence, unknown = (usual if wanted is None else wanted for wanted in (settings.silence, settings.unknown))
        task = Task(tuple(settings.keyword_list or DEFAULT_KEYWORDS), silence, unknown)
        if len(task.labels) < 2:
            raise WordflockError(f"A task needs two labels at least, and this one has {task.labels}; see --keywords.")
        spec = spec_of(settings)
        prepared = Prepared(ClipTable("the clients", "speech_commands", ()), task, spec, {}, {})
        width = load(find(settings.encoder))[0].width
    nothing = np.empty(0, dtype=np.int64)
    empty = Features(np.empty((0, prepared.spec.frames, width), dtype=np.float16), nothing, nothing)
    features = {"validation": empty, "test": empty, **prepared.features, "train": empty}
    return replace(prepared, features=features)
