"""Centralized training: all clips at one node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordflock.checkpoint import (
    Checkpoint,
    get_weights,
    load_checkpoint,
    load_tensors,
    save_tensors,
    set_weights,
)
from wordflock.errors import WordflockError
from wordflock.head import build_head, count_parameters
from wordflock.metrics import Score
from wordflock.prepare import Prepared, device, prepare
from wordflock.progress import progress
from wordflock.randomness import numpy_generator
from wordflock.run import Run
from wordflock.settings import HeadSettings, TrainSettings
from wordflock.training import Recipe, evaluate_head, make_optimizer, train_epoch

OPTIMIZER = "optimizer.safetensors"


def train(settings: TrainSettings) -> Path:
    """Train a head on the training split, keep the best by validation, score that one on the test split.

    Prints its progress; returns the run's folder. Interrupted, it leaves the checkpoint of the last whole epoch, from
    which it goes on to the same result as if it had never stopped.
    """
    started = time.perf_counter()
    before = load_checkpoint(settings.checkpoint) if settings.checkpoint else None
    prepared = prepare(settings)
    seconds = {"encode": time.perf_counter() - started}
    head = new_head(settings, prepared)
    recipe = recipe_of(settings)
    optimizer = make_optimizer(head, recipe)
    first = 0
    if before is not None:
        first = _go_on(head, optimizer, before, Path(settings.checkpoint), prepared)
        if first >= settings.epochs:
            raise WordflockError(f"{settings.checkpoint} has {first} epochs behind it already; ask for more --epochs.")
    run = Run(settings, "train", going_on=first > 0)
    trained: Any = torch.compile(head) if settings.compile else head
    labels, where = prepared.task.labels, device(settings)
    head.to(where)
    print(f"head parameters = {count_parameters(head):,}")
    score = evaluate_head(head, prepared.features["validation"], labels, device=where)
    print(f"before training: loss = {score.loss:.4f}, accuracy = {score.accuracy:.4f}")

    started = time.perf_counter()
    for epoch in range(first, settings.epochs):
        generator = numpy_generator(settings.seed, "epoch", epoch)
        with progress(f"epoch {epoch + 1}", len(prepared.features["train"]), "clips") as advance:
            loss = train_epoch(
                trained,
                optimizer,
                prepared.features["train"],
                recipe,
                generator,
                epoch=epoch,
                device=where,
                step=lambda clips, loss: advance(clips, f"loss {loss:.3f}"),
            )
        score = evaluate_head(head, prepared.features["validation"], labels, device=where)
        checkpoint = checkpoint_of(head, settings, prepared, mode="train", epoch=epoch + 1, score=score)
        _save_optimizer(run.folder / OPTIMIZER, optimizer, epoch + 1)
        best = run.record("epoch", checkpoint, train_loss=loss, validation_loss=score.loss)
        print(
            f"epoch {epoch + 1}: train loss = {loss:.4f}, validation loss = {score.loss:.4f}, "
            f"accuracy = {score.accuracy:.4f}{' (best)' if best else ''}"
        )
    seconds["train"] = time.perf_counter() - started
    finish(run, "epoch", settings, prepared, {"seconds": seconds})
    return run.folder


def new_head(settings: HeadSettings, prepared: Prepared) -> nn.Module:
    """The untrained head that the settings ask for."""
    _, frames, width = prepared.features["train"].array.shape
    labels = len(prepared.task.labels)
    return build_head(settings.head, frames, width, labels, seed=settings.seed, allow_large=settings.allow_large_head)


def recipe_of(settings: TrainSettings) -> Recipe:
    """How the settings want the head trained."""
    return Recipe(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
    )


def checkpoint_of(
    head: nn.Module, settings: HeadSettings, prepared: Prepared, *, mode: str, score: Score, **counter: int
) -> Checkpoint:
    """The head as a checkpoint."""
    _, frames, width = prepared.features["validation"].array.shape
    training = {"mode": mode, "seed": settings.seed, "validation_accuracy": score.accuracy, **counter}
    return Checkpoint(prepared.task.labels, settings.head, frames, width, prepared.spec, get_weights(head), training)


def finish(run: Run, counter: str, settings: HeadSettings, prepared: Prepared, metrics: dict[str, Any]) -> None:
    """Score the best head on the test split, once, and write down everything about the run."""
    best = load_checkpoint(run.folder / "best.safetensors")
    head = best.build().to(device(settings))
    for split in ("validation", "test"):
        if not len(prepared.features[split]):
            continue  # a server of real devices need not have any clips
        score = evaluate_head(head, prepared.features[split], best.labels, device=device(settings))
        metrics = {**metrics, split: score.as_json()}
        low, high = score.interval
        if split == "test":
            print(
                f"test of the best ({counter} {best.training[counter]}): loss = {score.loss:.4f}, "
                f"accuracy = {score.accuracy:.4f} [{low:.4f}, {high:.4f}] on {score.clips} clips"
            )
    run.finish(counter, metrics)
    print(f"run: {run.folder}")


def _go_on(
    head: nn.Module, optimizer: torch.optim.Optimizer, before: Checkpoint, path: Path, prepared: Prepared
) -> int:
    """Take over a checkpoint's weights, and the optimizer's state where its run left one; returns the epochs done."""
    if before.labels != prepared.task.labels or before.spec != prepared.spec:
        raise WordflockError(
            f"{path} was trained for {','.join(before.labels)} on {before.spec.encoder}, window {before.spec.window}, "
            f"layer {before.spec.layer}, not for what is asked now; give the options it was trained with."
        )
    try:
        set_weights(head, before.weights)
    except RuntimeError as error:
        raise WordflockError(f"{path} holds a head of kind {before.head}; give --head {before.head}.") from error
    state = path.with_name(OPTIMIZER)
    epochs = int(before.training.get("epoch", 0))
    if not state.exists() or not epochs:
        return 0  # somebody else's head: a start, and nothing to go on with
    tensors, metadata = load_tensors(state)
    if int(metadata["epoch"]) != epochs:
        return 0  # the best head is older than the optimizer's state
    groups = optimizer.state_dict()
    groups["state"] = {
        index: {key: torch.from_numpy(tensors[f"{index}.{key}"]) for key in ("step", "exp_avg", "exp_avg_sq")}
        for index in range(len(list(head.parameters())))
    }
    optimizer.load_state_dict(groups)
    return epochs


def _save_optimizer(path: Path, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    state = optimizer.state_dict()["state"]
    tensors = {f"{i}.{key}": value.cpu().numpy() for i, slots in state.items() for key, value in slots.items()}
    save_tensors(path, tensors, {"epoch": str(epoch)})
