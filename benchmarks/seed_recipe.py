"""The seed system's recipe, as its README and its figures describe it, on the same clips and the same machine.

A window of 30 s, all layers of the encoder, run again for every batch of every epoch; a convolution head of 781,964
parameters; batches of 8; Adam with a learning rate of 1e-3. Its log-mels lie ready, so they are not timed.
Only a few clips are measured, for a batch takes seconds: `clips` says how many.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.clips import chosen_clips, run, seconds
from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.audio.spectrogram import log_mel
from wordflock.data.loading import read_samples
from wordflock.encoder.spec import feature_spec
from wordflock.encoder.torch_encoder import load_encoder
from wordflock.head.torch_head import build_head, count_parameters

WINDOW, BATCH, LABELS, MEASURED = 30.0, 8, 12, 16


def log_mels(data: str, cache: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the seed system keeps on disk: 80 × 3,000 float32 a clip."""
    clips, labels = chosen_clips(data, cache, count)
    samples = np.stack([fit(recording, round(WINDOW * SAMPLE_RATE)) for recording in read_samples(clips)])
    return torch.from_numpy(log_mel(samples)), torch.tensor(labels)


def encode(data: str, cache: str, size: int) -> dict[str, Any]:
    """The encoder's pass."""
    encoder = load_encoder(feature_spec("tiny.en", WINDOW, "last"))
    mels, _ = log_mels(data, cache, size or MEASURED)
    with torch.inference_mode():
        encoder(mels[:1])
        took = seconds(lambda: [encoder(batch) for batch in mels.split(BATCH)])
    return {"ms_a_clip": 1000 * took / len(mels), "clips": len(mels)}


def epoch(data: str, cache: str, size: int) -> dict[str, Any]:
    """Training steps, in every one of which the encoder runs again; every epoch is like the first."""
    encoder = load_encoder(feature_spec("tiny.en", WINDOW, "last"))
    head = build_head("convolution", 1500, 384, LABELS)
    assert count_parameters(head) == 781_964
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    mels, labels = log_mels(data, cache, size or MEASURED)

    def steps() -> None:
        for mel, label in zip(mels.split(BATCH), labels.split(BATCH), strict=True):
            with torch.no_grad():
                features = encoder(mel)
            loss = F.cross_entropy(head(features), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    mels, labels, everything = mels[:BATCH], labels[:BATCH], (mels, labels)
    steps()  # imports what the first step imports
    mels, labels = everything
    return {
        "ms_a_clip": 1000 * seconds(steps) / len(mels),
        "clips": len(mels),
        "head_bytes": 4 * count_parameters(head),
    }


if __name__ == "__main__":
    run({"encode": encode, "epoch": epoch})
