"""Revise a head that was solved in closed form: forget a client, a speaker or a label, learn more clips and new words.

Statistics are subtracted or added and the output layer is solved again, without any other client. The scale of the
run (what everybody standardises and weights by) stays as it was. Every revision is a line in the run's
revisions.jsonl.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from wordflock.data.clips import Clip
from wordflock.data.task import UNKNOWN, Task
from wordflock.encoder.spec import FeatureSpec
from wordflock.errors import WordflockError
from wordflock.federation_settings import FederationSettings
from wordflock.files import finish_switch, locked, switching, write_atomically
from wordflock.head.checkpoint import Checkpoint, get_weights, load_checkpoint, save_checkpoint
from wordflock.head.closed_form import Scale, Statistics, add_labels, ridges, solve
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.torch_head import Head
from wordflock.head.training import output_weights, statistics_of
from wordflock.learning import clips_to_learn
from wordflock.prepare import encode_augmented, load_table, prepare
from wordflock.progress import report
from wordflock.runs import BEST, LAST, METRICS, REVISIONS, read_config, read_metrics, read_revisions
from wordflock.settings import DataSettings, HeadSettings, TrainSettings

# Everything in a run's folder but the settings, the head, the statistics and the record of revisions.
OF_THE_OLD_HEAD = (
    "history.jsonl",
    "predictions.csv",
    "neighbours.json",
    "events.*",
    "*.png",
    "*.html",
    "README.md",
    "labels.txt",
    "optimizer-*",
    "strategy-*",
    "server",
)


def forget(folder: Path, *, client: int | None = None, speaker: str = "", label: str = "") -> int:
    """Make the run's head what it would be without a client, a speaker or a label; returns how many clips that were.

    What a client sent is subtracted where the run kept it (--keep-statistics by-client); otherwise the statistics of
    what goes are computed again from the run's data. All changes are one step, which may be repeated after a kill.
    Raises WordflockError where nothing of it is in the head.
    """
    asked: dict[str, Any] = {"client": client, "speaker": speaker, "label": label}
    what = {key: value for key, value in asked.items() if value not in (None, "")}
    if len(what) != 1:
        raise WordflockError("Name one of --client, --speaker and --label to forget.")
    with _opened(folder) as run:
        if run.revisions and _says(run.revisions[-1].get("forget", {}), what):
            return int(run.revisions[-1]["clips"])  # done by a process that was killed before it could say so
        labels, scale = run.checkpoint.labels, run.scale
        if label and label not in labels:
            raise WordflockError(f"The head has no label {label!r}, only {', '.join(labels)}.")
        kept = run.statistics.client(client) if client is not None and run.only_clients_forgotten else None
        parts = [] if kept else [part for part in _contents(run) if _matches(part, what)]
        if not kept and not parts:
            raise WordflockError(f"Nothing of {what} is in the head of {folder}; look at `wordflock data describe`.")
        gone: Statistics = kept or _statistics(run, parts)
        total = run.total - gone
        if label:
            stay = [index for index, name in enumerate(labels) if name != label]
            total = replace(total, cross=total.cross[:, stay], counts=total.counts[stay])
            scale = replace(scale, label_weights=scale.label_weights[stay])
            labels = [labels[index] for index in stay]
        if (total.counts < 0.5).any() or len(labels) < 2:
            empty = [name for name, count in zip(labels, total.counts, strict=True) if count < 0.5]
            raise WordflockError(
                f"Without {what} no clips of {', '.join(empty)} would be left; forget such a label instead."
            )
        clips = round(float(gone.counts.sum()))
        revisions = [_without(line, {part.clip.key for part in parts}) for line in run.revisions]
        revisions.append({"forget": _pseudonymous(what), "clips": clips})
        # A speaker or a label is in what some clients sent.
        _write(run, total, scale, labels, revisions, f"statistics/client-{'*' if client is None else client}.*")
        cache = run.settings.cache_folder
        report(
            "Not in the run's folder, and still there: the recordings, and their features and names in the cache "
            f"(rm -r {cache / 'features'} {cache / 'tables'} {cache / 'files.sqlite'} removes them)."
            if run.has_data
            else "Not in the run's folder, and still there: the client's recordings and features on its device."
        )
    return clips


def learn(folder: Path, settings: DataSettings, words: Sequence[str] = ()) -> int:
    """Add the training clips of a data set to the run's head, `words` as new labels; returns how many clips.

    Clips of words that are neither a label nor new, and those that the head has already, are left out and reported. All
    changes are one step, which may be repeated after a kill: clips are never counted twice.
    """
    source = {key: getattr(settings, key) for key in ("data", "speaker_pattern", "table", "layout")}
    with _opened(folder) as run:
        last: dict[str, Any] = run.revisions[-1] if run.revisions else {}
        learned = last.get("learn", {})
        if repeated := bool(learned) and (learned["words"], learned["from"]) == (list(words), source):
            words = ()  # which a process learned that was killed before it could say so
        labels, scale, total = run.checkpoint.labels, run.scale, run.total
        for word in words:
            if word in labels:
                raise WordflockError(
                    f"The head knows {word!r} already; leave it out of --words to add more clips of it."
                )
        parts = _contents(run) if run.has_data else []
        # Clips of a new word that were unknown until now change their label.
        moving = [part for part in parts if _was_unknown(part, words)]
        if moving:
            total -= _statistics(run, moving)
        known = {part.clip.key for part in parts if not _was_unknown(part, words)}
        if not run.has_data:
            known |= {key for line in run.revisions for key in line.get("learn", {}).get("keys", [])}
        placed = Task.of_labels([*labels, *words]).labels
        table = load_table(settings)
        clips = clips_to_learn(table, placed, known)
        if not clips and repeated:
            return int(last["clips"])
        if not clips:
            raise WordflockError(f"{table.source} has no new training clips of {', '.join(placed)}.")
        indices = [placed.index(clip.word) for clip in clips]
        arriving = np.bincount(indices, minlength=len(placed)).astype(np.float64)
        scale, total = add_labels(scale, total, labels, placed, arriving)
        total += _added(run, settings, clips, indices, scale)
        entry = {"words": list(words), "from": source, "keys": [clip.key for clip in clips]}
        _write(run, total, scale, placed, [*run.revisions, {"learn": entry, "clips": len(clips)}])
    return len(clips)


def earlier(folder: Path, settings: HeadSettings, spec: FeatureSpec, head: Head) -> tuple[list[str], Scale, Statistics]:
    """The labels, the scale and the statistics of a run that other clients' are to be added to or taken from.

    Raises WordflockError where the settings, features and untrained head are not such that they go together.
    """
    with _opened(folder, to_read=True) as run:
        pass
    seed = run.checkpoint.training.get("seed")
    body = {name: array for name, array in get_weights(head).items() if not name.startswith("output.")}
    if (
        (run.checkpoint.head_kind, run.checkpoint.random_features) != (settings.head, settings.random_features)
        or run.checkpoint.spec.kind != spec.kind
        or (settings.random_features and seed != settings.seed)
        or any(not np.array_equal(array, run.checkpoint.weights[name]) for name, array in body.items())
    ):
        raise WordflockError(
            f"The statistics of {folder} are of other features; give the options in its config.toml, --head, --layer, "
            "--window, --random-features and --seed among them."
        )
    return run.checkpoint.labels, run.scale, run.total


@dataclass(frozen=True)
class _Run:
    """A run that was solved in closed form, as it stands."""

    folder: Path
    settings: FederationSettings | TrainSettings
    has_data: bool  # its clips are here: not on devices
    checkpoint: Checkpoint
    head: Head
    statistics: StatisticsFolder
    scale: Scale
    total: Statistics
    revisions: list[dict[str, Any]]

    @property
    def only_clients_forgotten(self) -> bool:
        """Whether what each client sent is still what the total has of it."""
        return all(line.get("forget", {}).keys() == {"client"} for line in self.revisions)


@contextmanager
def _opened(folder: Path, *, to_read: bool = False) -> Iterator[_Run]:
    """The run, kept from other processes; a revision that was killed half-way is finished or undone first.

    A server that keeps running after the run uses its `server/`, which a revision deletes and a reader leaves alone.
    """
    config = read_config(folder)
    with ExitStack() as stack:
        stack.enter_context(locked(folder))
        if (folder / "server").is_dir() and not to_read:
            stack.enter_context(locked(folder / "server"))
        finish_switch(folder)
        yield _read(folder, config)


def _read(folder: Path, config: dict[str, Any]) -> _Run:
    kept = StatisticsFolder(folder / "statistics")
    kind = TrainSettings if config.get("mode") == "train" else FederationSettings
    settings = kind.from_config(config)
    if not settings.closed_form or not (kept.folder / "total.safetensors").exists():
        raise WordflockError(
            f"The run {folder} kept no statistics; only runs with --strategy closed-form can be revised."
        )
    checkpoint = load_checkpoint(folder / BEST)
    revisions = read_revisions(folder)
    scale, total = kept.read()
    has_data = config.get("mode") in ("train", "simulate")
    if isinstance(settings, FederationSettings) and (settings.add_to or settings.take_from):
        has_data = False  # not all of what is in the statistics
    return _Run(folder, settings, has_data, checkpoint, checkpoint.build(), kept, scale, total, revisions)


@dataclass(frozen=True)
class _Part:
    """A clip that is in a head, with its label's name and the client that brought it (-1: none, it was learned)."""

    clip: Clip
    label: str
    client: int


def _contents(run: _Run) -> list[_Part]:
    """What is in a head now: what it was solved from, and all revisions since, in their order."""
    if not run.has_data:
        raise WordflockError(
            f"The clips of {run.folder} are with its clients; forget one whose statistics the run kept "
            "(--keep-statistics by-client)."
        )
    parts = _solved_from(run.settings)
    for line in run.revisions:
        if "learn" in line:
            parts = [part for part in parts if not _was_unknown(part, line["learn"]["words"])]
            parts += _learned(run, line["learn"])
        else:
            parts = [part for part in parts if not _matches(part, line["forget"])]
    return parts


def _matches(part: _Part, what: dict[str, Any]) -> bool:
    return _says(what, {"client": part.client, "speaker": part.clip.speaker, "label": part.label})


def _pseudonymous(what: dict[str, Any]) -> dict[str, Any]:
    """What was forgotten, without a speaker's name: a salted digest, which tells later revisions whose clips are out.

    Who has a name can test whether it is the one; who has the digest alone learns nothing.
    """
    if "speaker" not in what:
        return what
    salt = secrets.token_hex(16)
    return {"speaker": {"salt": salt, "sha256": sha256((salt + what["speaker"]).encode()).hexdigest()}}


def _says(forgotten: dict[str, Any], own: dict[str, Any]) -> bool:
    """Whether what was forgotten, by name or pseudonymously, is one's own."""
    for key, value in forgotten.items():
        if isinstance(value, dict):
            if key not in own or sha256((value["salt"] + own[key]).encode()).hexdigest() != value["sha256"]:
                return False
        elif own.get(key) != value:
            return False
    return bool(forgotten)


def _without(line: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """A revision's record without the clips that are forgotten later."""
    if "learn" not in line:
        return line
    return {**line, "learn": {**line["learn"], "keys": [key for key in line["learn"]["keys"] if key not in keys]}}


def _was_unknown(part: _Part, words: Sequence[str]) -> bool:
    return part.label == UNKNOWN and part.clip.word in words


def _solved_from(settings: FederationSettings | TrainSettings) -> list[_Part]:
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
        _Part(clip, labels[label], int(client))
        for clip, label, client in zip(those.clips, those.labels, owner, strict=True)
        if client >= 0
    ]


def _learned(run: _Run, entry: dict[str, Any]) -> list[_Part]:
    table = load_table(replace(run.settings, **entry["from"]))
    keys = set(entry["keys"])
    found = {clip.key: clip for clip in table.clips if clip.key in keys}
    if len(found) < len(keys):
        raise WordflockError(f"{table.source} no longer has all clips that {run.folder} learned from it.")
    return [_Part(clip, clip.word, -1) for clip in found.values()]


def _statistics(run: _Run, parts: Sequence[_Part]) -> Statistics:
    """The statistics of clips, with the labels as the head has them now."""
    labels = [run.checkpoint.labels.index(part.label) for part in parts]
    return _added(run, run.settings, [part.clip for part in parts], labels, run.scale)


def _added(run: _Run, where: DataSettings, clips: Sequence[Clip], labels: Sequence[int], scale: Scale) -> Statistics:
    """The statistics of clips, augmented as the run's own are and encoded in the cache of `where`."""
    return statistics_of(run.head, encode_augmented(clips, labels, run.checkpoint.spec, run.settings, where), scale)


def _write(
    run: _Run,
    total: Statistics,
    scale: Scale,
    labels: list[str],
    revisions: list[dict[str, Any]],
    outdated: str = "",
) -> None:
    """Solve, and change head, statistics and record in one step; what was made of the old head goes.

    That are its scores, predictions and logs, and the files that match `outdated`.
    """
    solution = solve(total, scale, ridges(run.settings.for_streams), run.head.parts)
    weights = {**run.checkpoint.weights, **output_weights(solution)}  # all but the last layer is as it was
    training = {key: value for key, value in run.checkpoint.training.items() if key != "validation_accuracy"}
    revised = replace(run.checkpoint, labels=labels, weights=weights, training=training)
    metrics = read_metrics(run.folder)
    metrics = {key: value for key, value in metrics.items() if key not in ("validation", "test", "clients")}
    revisions[-1] = {**revisions[-1], "time": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    with switching(run.folder, [*OF_THE_OLD_HEAD, *[outdated] * bool(outdated)]) as new:
        StatisticsFolder(new / "statistics").write(scale, total)
        for name in (BEST, LAST):
            save_checkpoint(new / name, revised)
        write_atomically(new / REVISIONS, "".join(json.dumps(line) + "\n" for line in revisions).encode())
        write_atomically(new / METRICS, json.dumps(metrics, indent=2).encode())
