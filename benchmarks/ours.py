"""Wordflock, with its defaults unless a row's name says otherwise."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.clips import chosen_clips, features_of, own_memory, run, seconds
from benchmarks.rounds import SPEC, WIDTH, few_clips, rounds_in_process
from wordflock.audio.reading import SAMPLE_RATE, fit
from wordflock.audio.spectrogram import log_mel
from wordflock.data.loading import read_samples
from wordflock.encoder.backend import batch_size, spec_of
from wordflock.encoder.onnx_encoder import build_onnx_encoder
from wordflock.encoder.spec import FeatureSpec, weights_for
from wordflock.encoder.store import Features, encode_clips
from wordflock.encoder.torch_encoder import load_encoder
from wordflock.federation_settings import FederationSettings
from wordflock.head.torch_head import build_head
from wordflock.head.training import Recipe, make_optimizer, train_epoch
from wordflock.settings import TrainSettings

LABELS, WORKERS = 12, os.cpu_count() or 1
HEADS = {"": TrainSettings().head, ", attentive": "attentive"}  # by the ending of a row's name
FAST: dict[str, Any] = {"window": 1.0, "layer": "2"}  # the fastest within half a point of the default's accuracy


def encoder_pass(data: str, cache: str, size: int, **options: Any) -> dict[str, Any]:
    """The encoder alone, from log-mels in memory to features in memory: what the seed's row has, in our way, which is
    a thread a core with batches of its own."""
    clips, _ = chosen_clips(data, cache, size or 400)
    spec = spec_of(TrainSettings(**options))
    work = from_log_mels(spec)
    samples = np.stack([fit(recording, round(spec.window * SAMPLE_RATE)) for recording in read_samples(clips)])
    together = batch_size(spec, "cpu")
    log_mels = log_mel(samples)
    batches = [log_mels[start : start + together] for start in range(0, len(clips), together)]
    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, batches[:WORKERS]))
        took = seconds(lambda: list(pool.map(work, batches)))
    return {"ms_a_clip": 1000 * took / len(clips), "clips": len(clips)}


def from_log_mels(spec: FeatureSpec) -> Callable[[NDArray[np.float32]], object]:
    """The encoder of a spec in one thread, without what comes before it and after it."""
    if spec.backend == "onnxruntime":
        built = build_onnx_encoder(spec, *weights_for(spec))
        return lambda batch: built.session.run(None, {"log_mel": batch})
    encoder = load_encoder(spec)

    def work(batch: NDArray[np.float32]) -> torch.Tensor:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return encoder(torch.from_numpy(batch))

    return work


def encode(data: str, cache: str, size: int, **options: Any) -> dict[str, Any]:
    """From recordings on disk to features on disk: reading, log-mel, encoder and store together."""
    clips, labels = chosen_clips(data, cache, size or 400)
    spec = spec_of(TrainSettings(**options))
    with tempfile.TemporaryDirectory() as store:
        encode_clips(clips[:1], labels[:1], spec, Path(store), "cpu")
        took = seconds(lambda: encode_clips(clips, labels, spec, Path(store), "cpu"))
        disk = sum(file.stat().st_size for file in Path(store).rglob("*") if file.is_file())
    return {"ms_a_clip": 1000 * took / (len(clips) - 1), "clips": len(clips), "disk_a_clip": disk / len(clips)}


def epoch(data: str, cache: str, size: int, head: str) -> dict[str, Any]:
    """The first epoch over 850 clips, encoding included, and a later one."""
    settings = TrainSettings(head=head)
    recipe, clips = Recipe.of(settings, settings.epochs), chosen_clips(data, cache)
    spec = spec_of(settings)
    with tempfile.TemporaryDirectory() as store:
        started = time.perf_counter()
        features = encode_clips(*clips, spec, Path(store), "cpu")
        _, frames, width = features.array.shape
        model = build_head(head, frames, width, LABELS)
        optimizer = make_optimizer(model, recipe)
        train_epoch(model, optimizer, features, recipe, np.random.default_rng(0))
        first = time.perf_counter() - started
        later = [
            seconds(lambda: train_epoch(model, optimizer, features, recipe, np.random.default_rng(0))) for _ in range(3)
        ]
    return {"first_s": first, "later_s": float(np.median(later)), "clips": len(features)}


def one_core(data: str, cache: str, size: int) -> dict[str, Any]:
    """A device with one core: the seconds to encode 850 clips once, and those of the second epoch over them."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    settings = FederationSettings(strategy="fedavg")
    clips, recipe = chosen_clips(data, cache), Recipe.of(settings, settings.local_epochs)
    wall, processor = time.perf_counter(), time.process_time()
    features = encode_clips(*clips, spec_of(settings), Path(cache), "cpu")
    out = {"encode_s": time.perf_counter() - wall, "encode_processor_s": time.process_time() - processor}
    _, frames, width = features.array.shape
    head = build_head(settings.head, frames, width, LABELS)
    optimizer = make_optimizer(head, recipe)
    for epoch in range(2):
        wall, processor = time.perf_counter(), time.process_time()
        train_epoch(head, optimizer, features, recipe, np.random.default_rng(epoch), epoch=epoch)
    out |= {"epoch_s": time.perf_counter() - wall, "epoch_processor_s": time.process_time() - processor}
    return {**out, "clips": len(features)}


def round_of(data: str, cache: str, size: int, local_epochs: int, head: str) -> dict[str, Any]:
    """A federated round of 10 clients with `size` clips each, all encoded: messages, training, checks and averaging."""
    clips = features_of(data, cache, spec_of(TrainSettings(head=head))).part(0, size)
    found = rounds_in_process([clips] * 10, WORKERS, rounds=2, local_epochs=local_epochs, head=head)
    return {"seconds": found["rounds"][-1], "bytes": found["bytes"]}


def scale(data: str, cache: str, size: int) -> dict[str, Any]:
    """Ten rounds of 100 clients, sampled of `size`, each with 20 clips of its own on disk; made-up features."""
    clips = 20
    with tempfile.TemporaryDirectory() as folder:
        shape = (size * clips, SPEC.frames, WIDTH)  # a file with holes: it takes no room on the disk
        array = np.memmap(Path(folder) / "features.bin", np.float16, "w+", shape=shape)
        members = [
            Features(array, np.arange(n * clips, (n + 1) * clips), np.arange(clips) % LABELS) for n in range(size)
        ]
        found = rounds_in_process(members, WORKERS, rounds=10, local_epochs=1, clients_per_round=100)
        own = own_memory()
    rounds = float(np.median(found["rounds"]))
    return {"introductions_s": found["introductions"], "round_s": rounds, "own_memory": own}


def empty(data: str, cache: str, size: int) -> dict[str, Any]:
    """Rounds in which all of `size` clients answer and nobody trains."""
    from benchmarks import empty  # which takes the training out  # noqa: F401

    found = rounds_in_process([few_clips()] * size, WORKERS, rounds=4, local_epochs=1)
    return {"ms_a_client": 1000 * float(np.median(found["rounds"][1:])) / size, "first_s": found["rounds"][0]}


if __name__ == "__main__":
    run(
        {
            "encode": encode,
            "encode-float32": partial(encode, precision="float32"),
            "encode-fast": partial(encode, **FAST),
            "pass": encoder_pass,
            "pass-float32": partial(encoder_pass, precision="float32"),
            "pass-fast": partial(encoder_pass, **FAST),
            "one-core": one_core,
            **{f"epoch{end}": partial(epoch, head=head) for end, head in HEADS.items()},
            **{f"round{end}": partial(round_of, local_epochs=5, head=head) for end, head in HEADS.items()},
            **{f"round, 1 epoch{end}": partial(round_of, local_epochs=1, head=head) for end, head in HEADS.items()},
            "scale": scale,
            "empty": empty,
        }
    )
