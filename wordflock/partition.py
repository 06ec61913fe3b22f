"""Who owns which clips."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import Features
from wordflock.errors import WordflockError
from wordflock.federation_settings import FederationSettings, PartitionSettings
from wordflock.randomness import numpy_generator

if TYPE_CHECKING:
    from wordflock.prepare import Prepared


def partition_clips(
    speakers: Sequence[str], labels: NDArray[np.int64], settings: PartitionSettings
) -> list[NDArray[np.int64]]:
    """The clips of each client, as indices in rising order; every clip belongs to exactly one client.

    `speaker`: whole speakers, dealt so that clients have about as many of them each; clips that nobody spoke (silence)
    are dealt evenly. The rest by Flower Datasets' partitioners: `iid`, `dirichlet` (by label), `shard` (two shards of
    the label-sorted clips a client). Raises WordflockError where there are too few speakers or clips.
    """
    if len(labels) < 2 * settings.clients:
        raise WordflockError(
            f"{len(labels)} training clips are too few for --clients {settings.clients}; ask for fewer clients."
        )
    if settings.partition == "speaker":
        owner = _deal_speakers(speakers, settings)
        order = np.argsort(owner, kind="stable")
        return np.split(order, np.searchsorted(owner[order], range(1, settings.clients)))
    return _by_flower(labels, settings)


def hold_back(
    clips: NDArray[np.int64], share: float, seed: int, client: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A client's clips for training, and those that it keeps for its own evaluation."""
    shuffled = numpy_generator(seed, "held back", client).permutation(clips)
    count = round(len(clips) * share)
    return np.sort(shuffled[count:]), np.sort(shuffled[:count])


def _deal_speakers(speakers: Sequence[str], settings: PartitionSettings) -> NDArray[np.int64]:
    """The client of every clip: shuffled speakers are dealt round and round, and so are clips without a speaker."""
    generator = numpy_generator(settings.seed, "partition")
    known = sorted({speaker for speaker in speakers if speaker})
    if len(known) < settings.clients:
        raise WordflockError(
            f"--clients {settings.clients} of whole speakers need as many speakers, and the training clips have "
            f"{len(known)}; ask for fewer clients or another --partition."
        )
    shuffled = generator.permutation(len(known))
    owner = {known[speaker]: place % settings.clients for place, speaker in enumerate(shuffled)}
    nobody = iter(generator.permutation(sum(not speaker for speaker in speakers)) % settings.clients)
    return np.array([owner[speaker] if speaker else next(nobody) for speaker in speakers], dtype=np.int64)


def _by_flower(labels: NDArray[np.int64], settings: PartitionSettings) -> list[NDArray[np.int64]]:
    # Here, for they take a second to import, and the usual partition does without.
    from datasets import Dataset, disable_progress_bars
    from flwr_datasets import partitioner as flower

    disable_progress_bars()
    clients = settings.clients
    by_kind = {
        "iid": lambda: flower.IidPartitioner(num_partitions=clients),
        "dirichlet": lambda: flower.DirichletPartitioner(
            num_partitions=clients,
            partition_by="label",
            alpha=settings.alpha,
            min_partition_size=1,
            seed=settings.seed,
        ),
        "shard": lambda: flower.ShardPartitioner(
            num_partitions=clients, partition_by="label", num_shards_per_partition=2, seed=settings.seed
        ),
    }
    partitioner = by_kind[settings.partition]()
    clips = np.arange(len(labels))
    table = Dataset.from_dict({"clip": clips, "label": labels})
    # Only iid leaves the order as it is, and clips come sorted by word.
    partitioner.dataset = table.shuffle(seed=settings.seed) if settings.partition == "iid" else table
    with redirect_stderr(StringIO()):  # some partitioners draw a bar that cannot be switched off
        try:
            rows = [list(partitioner.load_partition(client)["clip"]) for client in range(clients)]
        except ValueError as error:
            raise WordflockError(
                f"No partition of {len(labels)} clips among {clients} clients was found with --partition "
                f"{settings.partition} --alpha {settings.alpha}; take a larger alpha or fewer clients."
            ) from error
    # Shards are of equal size; the clips that are too many for that are dealt to the first clients.
    for place, clip in enumerate(np.setdiff1d(clips, np.concatenate(rows))):
        rows[place % clients].append(int(clip))
    return [np.sort(np.array(part, dtype=np.int64)) for part in rows]


@dataclass(frozen=True)
class Member:
    """What one client knows."""

    client: int
    train: Features
    holdout: Features
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
    features, those = prepared.features["train"], prepared.examples["train"]
    whole = len(set(those.origins))  # clips; the windows made of them come after them
    parts = partition_clips([clip.speaker for clip in those.clips[:whole]], features.labels[:whole], settings)
    members = []
    for client, clips in enumerate(parts):
        train, holdout = hold_back(clips, settings.holdout_share, settings.seed, client)
        labels, spec = prepared.task.labels, prepared.spec
        train = those.made_of(train)
        members.append(Member(client, features.select(train), features.select(holdout), labels, spec))
    return Federation(prepared, members)
