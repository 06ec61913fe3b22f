"""The members of a federation that plays on one data set: who has which clips."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from wordflock.features import Features
from wordflock.partition import hold_back, partition_clips
from wordflock.prepare import Prepared, prepare
from wordflock.settings import FederationSettings


@dataclass(frozen=True)
class Member:
    """What one client knows."""

    train: Features
    held_back: Features
    labels: list[str]


@dataclass(frozen=True)
class Federation:
    """A data set, and its training clips divided among the clients."""

    prepared: Prepared
    members: list[Member]


@lru_cache(maxsize=1)
def federation(settings: FederationSettings) -> Federation:
    """The federation that the settings describe; made once in a process, and the same in every process."""
    prepared = prepare(settings)
    features = prepared.features["train"]
    speakers = [clip.speaker for clip in prepared.examples["train"].clips]
    parts = partition_clips(speakers, features.labels, settings)
    members = []
    for client, clips in enumerate(parts):
        train, held_back = hold_back(clips, settings.held_back, settings.seed, client)
        members.append(Member(features.select(train), features.select(held_back), prepared.task.labels))
    return Federation(prepared, members)
