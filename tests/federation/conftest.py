"""A federation of made-up features, so that rounds run without audio and without an encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from made_up import FRAMES, HELD_BACK, LABELS, SPEC, WIDTH
from named_clips import named_clips

from wordflock.data.clips import ClipTable
from wordflock.data.task import Task
from wordflock.encoder.store import Features
from wordflock.federation import client_app, server_app
from wordflock.federation_settings import FederationSettings
from wordflock.partition import Federation, Member
from wordflock.prepare import Prepared

Play = Callable[..., Federation]


@pytest.fixture(autouse=True)
def server_prints(printed: None) -> None:
    """What the server reports is on standard output."""


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Makes the apps play a federation whose clients have the given numbers of training clips."""

    def make(sizes: Sequence[int], noise: float = 1.0, seed: int = 0) -> Federation:
        generator = np.random.default_rng(seed)
        centres = generator.normal(0, 1, (len(LABELS), FRAMES, WIDTH))
        clips = sum(sizes) + HELD_BACK * len(sizes) + 120
        labels = np.arange(clips) % len(LABELS)
        array = (centres[labels] + generator.normal(0, noise, (clips, FRAMES, WIDTH))).astype(np.float16)
        start = 0

        def take(count: int) -> Features:
            nonlocal start
            start += count
            rows = np.arange(start - count, start)
            return Features(array, rows, labels[rows])

        members = [Member(client, take(size), take(HELD_BACK), LABELS, SPEC) for client, size in enumerate(sizes)]
        everything = Features(array, np.arange(start), labels[:start])
        features = {"train": everything, "validation": take(60), "test": take(60)}
        examples = {split: named_clips(split, those.labels.tolist()) for split, those in features.items()}
        table = ClipTable("made up", "speech_commands", ())
        federation = Federation(Prepared(table, Task.of_labels(LABELS), SPEC, examples, features), members)

        def federation_of(settings: FederationSettings) -> Federation:
            return federation

        monkeypatch.setattr(server_app, "federation", federation_of)
        monkeypatch.setattr(client_app, "federation", federation_of)
        return federation

    return make
