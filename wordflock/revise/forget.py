"""`wordflock forget`: a head without a client, a speaker or a label."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from wordflock.errors import WordflockError, did_you_mean
from wordflock.head.closed_form import Statistics
from wordflock.progress import report
from wordflock.revise.contents import Part, contents, matches, says, statistics_of_parts
from wordflock.revise.solved_run import SolvedRun, opened, write

MAX_LISTED = 10  # clients


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
    with opened(folder) as run:
        if run.revisions and says(run.revisions[-1].get("forget", {}), what):
            return int(run.revisions[-1]["clips"])  # done by a process that was killed before it could say so
        labels, scale = run.checkpoint.labels, run.scale
        if label and label not in labels:
            raise WordflockError(f"The head has no label {label!r}, only {', '.join(labels)}.")
        kept = run.statistics.client(client) if client is not None and run.only_clients_forgotten else None
        parts = [] if kept else _parts(run, what)
        gone: Statistics = kept or statistics_of_parts(run, parts)
        total = run.total - gone
        if label:
            stay = [index for index, name in enumerate(labels) if name != label]
            total = replace(total, cross=total.cross[:, stay], counts=total.counts[stay])
            scale = replace(scale, label_weights=scale.label_weights[stay])
            labels = [labels[index] for index in stay]
        if (total.counts < 0.5).any() or len(labels) < 2:
            empty = [name for name, count in zip(labels, total.counts, strict=True) if count < 0.5]
            raise WordflockError(
                f"Without {_named(what)} no clips of {', '.join(empty)} would be left; forget such a label instead."
            )
        clips = round(float(gone.counts.sum()))
        revisions = [_without(line, {part.clip.key for part in parts}) for line in run.revisions]
        revisions.append({"forget": _pseudonymous(what), "clips": clips})
        # A speaker or a label is in what some clients sent.
        write(run, total, scale, labels, revisions, f"statistics/client-{'*' if client is None else client}.*")
        cache = run.settings.cache_folder
        report(
            "Not in the run's folder, and still there: the recordings, and their features and names in the cache "
            f"(rm -r {cache / 'features'} {cache / 'tables'} {cache / 'files.sqlite'} removes them)."
            if run.has_data
            else "Not in the run's folder, and still there: the client's recordings and features on its device."
        )
    return clips


def _parts(run: SolvedRun, what: dict[str, Any]) -> list[Part]:
    """The clips that are forgotten. Raises WordflockError where there are none, or they are not here."""
    sent = run.statistics.clients
    if not run.has_data and "client" in what and sent:
        raise WordflockError(f"{run.folder} kept no statistics of {_named(what)}, only of {_listed(sent)}.")
    everything = contents(run)
    if found := [part for part in everything if matches(part, what)]:
        return found
    if "speaker" in what:
        remedy = did_you_mean(what["speaker"], {part.clip.speaker for part in everything})
    else:
        remedy = f"; it has those of {_listed(sorted({part.client for part in everything if part.client >= 0}))}."
    raise WordflockError(f"The head of {run.folder} has no clips of {_named(what)}{remedy}")


def _named(what: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in what.items())


def _listed(clients: Sequence[int]) -> str:
    """The numbers of clients, as a sentence has room for."""
    if len(clients) > MAX_LISTED:
        return f"{len(clients)} clients from {clients[0]} to {clients[-1]}"
    return f"{'client' if len(clients) == 1 else 'clients'} {', '.join(map(str, clients))}"


def _pseudonymous(what: dict[str, Any]) -> dict[str, Any]:
    """What was forgotten, without a speaker's name: a salted digest, which tells later revisions whose clips are out.

    Who has a name can test whether it is the one; who has the digest alone learns nothing.
    """
    if "speaker" not in what:
        return what
    salt = secrets.token_hex(16)
    return {"speaker": {"salt": salt, "sha256": sha256((salt + what["speaker"]).encode()).hexdigest()}}


def _without(line: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    """A revision's record without the clips that are forgotten later."""
    if "learn" not in line:
        return line
    return {**line, "learn": {**line["learn"], "keys": [key for key in line["learn"]["keys"] if key not in keys]}}
