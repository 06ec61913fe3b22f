"""What is in a head: the clips that it was solved from, and those of all revisions since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from wordflock.data.clips import Clip
from wordflock.data.task import UNKNOWN
from wordflock.errors import WordflockError
from wordflock.federation_settings import FederationSettings
from wordflock.head.closed_form import Scale, Statistics
from wordflock.head.training import statistics_of
from wordflock.prepare import encode_augmented, load_table, prepare
from wordflock.revise.solved_run import SolvedRun
from wordflock.settings import DataSettings, TrainSettings


@dataclass(frozen=True)
class Part:
    """A clip that is in a head, with its label's name and the client that brought it (-1: none, it was learned)."""

    clip: Clip
    label: str
    client: int


def contents(run: SolvedRun) -> list[Part]:
    """What is in a head now: what it was solved from, and all revisions since, in their order."""
    if not run.has_data:
        raise WordflockError(
            f"The clips of {run.folder} are with its clients; forget one whose statistics the run kept "
            "(--keep-statistics by-client)."
        )
    parts = _solved_from(run.settings)
    for line in run.revisions:
        if "learn" in line:
            parts = [part for part in parts if not was_unknown(part, line["learn"]["words"])]
            parts += _learned(run, line["learn"])
        else:
            parts = [part for part in parts if not matches(part, line["forget"])]
    return parts


def matches(part: Part, what: dict[str, Any]) -> bool:
    return says(what, {"client": part.client, "speaker": part.clip.speaker, "label": part.label})


def says(forgotten: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether what was forgotten, by name or pseudonymously, is one's own."""
    for key, value in forgotten.items():
        if isinstance(value, dict):
            if key not in own or sha256((value["salt"] + own[key]).encode()).hexdigest() != value["sha256"]:
                return False
        elif own.get(key) != value:
            return False
    return bool(forgotten)


def was_unknown(part: Part, words: Sequence[str]) -> bool:
    return part.label == UNKNOWN and part.clip.word in words


def statistics_of_parts(run: SolvedRun, parts: Sequence[Part]) -> Statistics:
    """The statistics of clips, with the labels as the head has them now."""
    labels = [run.checkpoint.labels.index(part.label) for part in parts]
    return statistics_of_clips(run, run.settings, [part.clip for part in parts], labels, run.scale)


def statistics_of_clips(
    run: SolvedRun, where: DataSettings, clips: Sequence[Clip], labels: Sequence[int], scale: Scale
) -> Statistics:
    """The statistics of clips, augmented as the run's own are and encoded in the cache of `where`."""
    return statistics_of(run.head, encode_augmented(clips, labels, run.checkpoint.spec, run.settings, where), scale)


def _solved_from(settings: FederationSettings | TrainSettings) -> list[Part]:
    if isinstance(settings, TrainSettings):
        prepared = prepare(settings, ["train"])
        owner = np.zeros(len(prepared.features["train"]), dtype=np.int64)
    else:
        from wordflock.partition import federation

        made = federation(settings)
        prepared = made.prepared
        owner = np.full(len(prepared.features["train"]), -1)
        place = {row: index for index, row in enumerate(prepared.features["train"].rows.tolist())}
        for member in made.members:
            if len(member.train) >= settings.required_clips:
                owner[[place[row] for row in member.train.rows.tolist()]] = member.client
    those, labels = prepared.examples["train"], prepared.task.labels
    return [
        Part(clip, labels[label], int(client))
        for clip, label, client in zip(those.clips, those.labels, owner, strict=True)
        if client >= 0
    ]


def _learned(run: SolvedRun, entry: dict[str, Any]) -> list[Part]:
    table = load_table(replace(run.settings, **entry["from"]))
    keys = set(entry["keys"])
    found = {clip.key: clip for clip in table.clips if clip.key in keys}
    if len(found) < len(keys):
        raise WordflockError(f"{table.source} no longer has all clips that {run.folder} learned from it.")
    return [Part(clip, clip.word, -1) for clip in found.values()]
