"""From settings to features that can be trained on: read the clips, choose the task, encode what is new."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from wordflock.audio.augment import NOWHERE, Surroundings
from wordflock.data.clips import SPLITS, Clip, ClipTable
from wordflock.data.loading import load_clips
from wordflock.data.negatives import negative_clips
from wordflock.data.stream_windows import stream_examples
from wordflock.data.surroundings import load_surroundings
from wordflock.data.task import Examples, Task, choose_task, examples
from wordflock.encoder.backend import device, spec_of
from wordflock.encoder.spec import FeatureSpec
from wordflock.encoder.store import Features, encode_clips, gathered, with_augmentations
from wordflock.errors import WordflockError, WordflockWarning
from wordflock.hub import parts_of_data_set
from wordflock.settings import DATA_SETS, SYNTHETIC, DataSettings, Settings

# What a data set without clips of a split has as a consequence.
_NOT_MEASURED = {
    "validation": "the last head counts as the best, and its probabilities are not calibrated",
    "test": "the accuracy on new speakers is not measured",
}

# Clips of a word, of which a head for streams needs all: it is measured on streams, and a tenth of so few says little.
FEW = 100

AnySettings = TypeVar("AnySettings", bound=Settings)


@dataclass(frozen=True)
class Prepared:
    """A data set, ready to train on."""

    table: ClipTable
    task: Task
    spec: FeatureSpec
    examples: dict[str, Examples]  # by split
    features: dict[str, Features]  # by split, in the order of the examples


def prepare(
    settings: Settings,
    splits: Sequence[str] = SPLITS,
    *,
    optional: Sequence[str] = ("validation", "test"),
    task: Task | None = None,
    spec: FeatureSpec | None = None,
    table: ClipTable | None = None,
) -> Prepared:
    """Read, label and encode the splits of a data set; the task and the features' spec follow from the settings where
    no checkpoint gives them. `table` is that of the settings, where it is loaded already.

    Warns of an `optional` split that has no clips, and what is not measured therefore. Raises WordflockError where
    another one has none, or none of them all has any.
    """
    spec = spec or spec_of(settings)
    table = table or load_table(settings)
    task = task or task_of(table, settings)
    chosen = {split: examples(table, task, split, settings.seed) for split in splits}
    _check_splits(table, task, chosen, optional)
    if "train" in chosen:
        chosen["train"] = training_examples(chosen["train"], task, settings)
    # One call for all splits, so that there is one progress bar and one look at the store.
    augmentations = {split: settings.augmentations if split == "train" else 0 for split in chosen}
    surroundings = surroundings_of(settings) if "train" in chosen else NOWHERE
    clips = {
        split: with_augmentations(those.clips, augmentations[split], surroundings) for split, those in chosen.items()
    }
    together = [clip for those in clips.values() for clip in those]
    labels = [label for split, those in chosen.items() for label in those.labels * (1 + int(augmentations[split]))]
    encoded = encode_clips(together, labels, spec, settings.cache_folder, device(settings))
    features, start = {}, 0
    for split, those in chosen.items():
        stop = start + len(clips[split])
        part = encoded.part(start, stop)
        features[split] = gathered(part, len(those.clips)) if those.clips else part
        start = stop
    return Prepared(table, task, spec, chosen, features)


def _check_splits(table: ClipTable, task: Task, chosen: Mapping[str, Examples], optional: Sequence[str]) -> None:
    missing = [split for split, those in chosen.items() if not those.clips]
    needed = [split for split in missing if split not in optional] or (missing if len(missing) == len(chosen) else [])
    if needed:
        raise WordflockError(
            f"{table.source} has no {needed[0]} clips with the labels {', '.join(task.labels)}; "
            "name the splits in a --table, or use a data set of more speakers."
        )
    if missing:
        consequences = "; ".join(_NOT_MEASURED[split] for split in missing)
        warnings.warn(
            f"{table.source} has no {' and no '.join(missing)} clips: {consequences}.", WordflockWarning, stacklevel=3
        )


def resolved(settings: AnySettings, prepared: Prepared) -> AnySettings:
    """The settings with the way in which the features were made, where they left it open: files tell what was used."""
    return replace(settings, backend=prepared.spec.backend, precision=prepared.spec.precision)


def encode_all(settings: Settings) -> list[Features]:
    """The features of every split that has clips, encoded where they were not yet."""
    table = load_table(settings)
    prepared = prepare(settings, [split for split in SPLITS if table.of_split(split)], table=table)
    return list(prepared.features.values())


def training_examples(base: Examples, task: Task, settings: Settings) -> Examples:
    """The examples, and where the head is for streams the windows made of them."""
    return stream_examples(base, task, settings.window) if settings.for_streams else base


def task_of(table: ClipTable, settings: Settings) -> Task:
    """The task that the settings ask for on a data set; raises as `choose_task`."""
    streams = settings.for_streams
    return choose_task(table, settings.keyword_list, settings.silence, settings.unknown, for_streams=streams)


def encode_augmented(
    clips: Sequence[Clip], labels: Sequence[int], spec: FeatureSpec, settings: Settings, where: DataSettings
) -> Features:
    """The features of clips for training, each with its augmented versions; the cache is that of `where`."""
    count = settings.augmentations
    versions, repeated = with_augmentations(clips, count, surroundings_of(settings)), [*labels] * (1 + int(count))
    return gathered(encode_clips(versions, repeated, spec, where.cache_folder, device(where)), len(clips))


def surroundings_of(settings: Settings) -> Surroundings:
    """The recorded noises and rooms that the settings name for augmentations.

    Raises WordflockError where there are no augmentations, and as `load_surroundings`.
    """
    if (settings.noise or settings.rooms) and not settings.augmentations:
        raise WordflockError("--noise and --rooms are for augmented versions; add --augmentations 1, or leave it out.")
    return load_surroundings(settings.noise, settings.rooms, settings.cache_folder)


def load_table(settings: DataSettings) -> ClipTable:
    """The clips that the settings name; synthetic words are made the first time."""
    sources = [_found(source, settings) for source in settings.sources]
    if not sources:
        raise WordflockError("There is no data set; name a folder or archive of recordings with --data.")
    table = load_clips(
        sources,
        cache=settings.cache_folder,
        speaker_pattern=settings.speaker_pattern,
        table=settings.table,
        layout=settings.layout,
        few=FEW if isinstance(settings, Settings) and settings.for_streams else 0,
    )
    if not isinstance(settings, Settings) or not settings.negatives:
        return table
    negatives = negative_clips(_talk(settings), settings.cache_folder, settings.window)
    return replace(table, negatives=negatives)


def _talk(settings: Settings) -> Path:
    """Where the recordings are that --negatives names."""
    path = Path(settings.negatives).expanduser()
    if settings.negatives == SYNTHETIC and not path.exists():
        from wordflock.data.talk import synthetic_talk

        return synthetic_talk(settings.cache_folder, settings.language)
    return path


def _found(source: str, settings: DataSettings) -> Path:
    """Where a data set is that --data names."""
    cache = settings.cache_folder
    if source == SYNTHETIC:
        from wordflock.data.synthetic import synthetic_words

        words = settings.keyword_list if isinstance(settings, Settings) else []
        return synthetic_words(cache, settings.language, words)
    path = Path(source).expanduser()
    if source in DATA_SETS and not path.exists():
        from wordflock.data.download import find

        return find(source, cache)
    if parts_of_data_set(source):
        from wordflock.data.hub import find_on_hub

        return find_on_hub(source, cache)
    return path
