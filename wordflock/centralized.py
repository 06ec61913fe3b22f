"""Centralized training: all clips at one node."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wordflock.encoder.backend import device
from wordflock.errors import WordflockError
from wordflock.files import load_tensors, save_tensors
from wordflock.head.adamw import AdamW
from wordflock.head.checkpoint import Checkpoint, load_checkpoint, set_weights
from wordflock.head.closed_form import Scale, Statistics, ridges, solve
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.torch_head import Head, count_parameters
from wordflock.head.training import (
    Recipe,
    evaluate_head,
    load_solution,
    make_optimizer,
    one_thread,
    pool,
    scale_statistics_of,
    statistics_of,
    train_epoch,
)
from wordflock.lifetime import Stages
from wordflock.prepare import Prepared, prepare, resolved
from wordflock.privacy.mechanism import PrivateStatistics, format_privacy
from wordflock.progress import progress, report
from wordflock.randomness import numpy_generator
from wordflock.run import RunWriter, checkpoint_of, finish, new_head, open_run
from wordflock.runs import LAST, METRICS, find_checkpoint
from wordflock.settings import TrainSettings


def train(settings: TrainSettings) -> Path:
    """Train a head on the training split, keep the best by validation, score that one on the test split.

    Returns the run's folder. Interrupted or killed, it leaves the checkpoint of the last whole
    epoch, from which it goes on to the same result as if it had never stopped: in the folder of that checkpoint's run,
    unless the settings name another. Raises WordflockError where the loss is no longer a finite number.
    """
    with one_thread():
        return _train(settings)


def _train(settings: TrainSettings) -> Path:
    stages = Stages()
    settings.check_together()
    if settings.checkpoint:
        settings = replace(settings, checkpoint=str(find_checkpoint(settings.checkpoint, LAST)))
    before = load_checkpoint(settings.checkpoint) if settings.checkpoint else None
    prepared = prepare(settings)
    settings = resolved(settings, prepared)
    stages.end("encode")
    head = new_head(settings, prepared)
    if settings.closed_form:
        if settings.checkpoint:
            raise WordflockError("--strategy closed-form starts from no --checkpoint; see `wordflock learn`.")
        with open_run(settings) as run:
            _train_closed_form(run, settings, prepared, head, stages)
        return run.folder
    recipe = Recipe.of(settings, settings.epochs)
    optimizer = make_optimizer(head.to(device(settings)), recipe)  # whose state goes where the head is
    done, going_on = 0, False
    if before is not None:
        path = Path(settings.checkpoint)
        done = _go_on(head, optimizer, before, path, prepared)
        if done and not settings.name:
            folder = path.parent.resolve()
            settings = replace(settings, runs=str(folder.parent), name=folder.name)
        going_on = done > 0 and path.parent.resolve() == (Path(settings.runs) / settings.name).resolve()
        if done >= settings.epochs and (not going_on or (path.parent / METRICS).exists()):
            raise WordflockError(f"{path} is of epoch {done} already; ask for more --epochs.")
    with open_run(settings, going_on=going_on) as run:
        _train_epochs(run, settings, prepared, head, optimizer, recipe, done, stages)
    return run.folder


def _train_epochs(
    run: RunWriter,
    settings: TrainSettings,
    prepared: Prepared,
    head: Head,
    optimizer: AdamW,
    recipe: Recipe,
    done: int,
    stages: Stages,
) -> None:
    """The epochs after the first `done`, and what is made of the best head."""
    trained: Any = torch.compile(head) if settings.compile else head
    labels, where = prepared.task.labels, device(settings)
    report(f"head parameters = {count_parameters(head):,}")
    score = evaluate_head(head, prepared.features["validation"], labels, device=where)
    when = f"after epoch {done}" if done else "before training"
    report(f"{when}: {score.summary}")

    (run.folder / METRICS).unlink(missing_ok=True)  # what it tells of is over
    _forget_optimizers(run.folder, done)  # a kill may have left one more
    for epoch in range(done, settings.epochs):
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
        if not math.isfinite(score.loss):
            raise WordflockError(
                f"After epoch {epoch + 1} the loss is not a finite number; take a smaller --learning-rate "
                f"than {settings.learning_rate}."
            )
        checkpoint = checkpoint_of(head, settings, prepared, epoch=epoch + 1, score=score)
        # Before the checkpoint that it belongs to, and the one before gone after it: there is always a pair.
        _save_optimizer(_optimizer_file(run.folder, epoch + 1), optimizer)
        best = run.record("epoch", checkpoint, train_loss=loss, validation_loss=score.loss)
        _forget_optimizers(run.folder, epoch + 1)
        report(f"epoch {epoch + 1}: train loss = {loss:.4f}, validation {score.summary}{' (best)' if best else ''}")
    stages.end("train")
    metrics: dict[str, Any] = {}
    if len(head.parts) > 1:
        metrics["last_layer"] = _solve_last_layer(run, settings, prepared, head.cpu())
        stages.end("last layer")
    finish(run, "epoch", settings, prepared, {**stages.as_metrics(), **metrics})


def _solve_last_layer(run: RunWriter, settings: TrainSettings, prepared: Prepared, head: Head) -> dict[str, Any]:
    """Solve the last layer of a head of which one part was not trained, as a federation does after its rounds; returns
    what metrics.json says of it."""
    try:
        scale, total = _statistics(head, prepared)
        solution = solve(total, scale, ridges(settings.for_streams), head.parts)
    except WordflockError as error:
        report(f"the last layer stays as it was trained: {error}")
        return {"kept": False, "problem": str(error)}
    load_solution(head, solution)
    score = evaluate_head(head, prepared.features["validation"], prepared.task.labels)
    solved = checkpoint_of(head, settings, prepared, epoch=settings.epochs, score=score)
    kept = run.keep_solved(solved, score)
    report(f"last layer solved: validation {score.summary}{' (best)' if kept else ''}")
    accuracy = score.accuracy if score.clips else None
    return {"kept": kept, "validation_accuracy": accuracy, "ridges": solution.ridges}


def _train_closed_form(run: RunWriter, settings: TrainSettings, prepared: Prepared, head: Head, stages: Stages) -> None:
    """The head whose output layer is solved in closed form, as that strategy of a federation does."""
    report(f"head parameters = {count_parameters(head):,}")
    features, labels = prepared.features["train"], prepared.task.labels
    metrics: dict[str, Any] = {}
    if settings.dp_epsilon is not None:
        z = pool(head, features)
        mechanism = PrivateStatistics.of(settings, z.shape[1], len(labels))
        mechanism = mechanism.centred(mechanism.middle(z), len(z))
        load_solution(head, mechanism.solve(mechanism.noisy(mechanism.contribution(z, features.labels))))
        metrics["privacy"] = mechanism.report("server")
        report(format_privacy(metrics["privacy"]))
    else:
        scale, total = _statistics(head, prepared)
        StatisticsFolder(run.folder / "statistics").write(scale, total)
        load_solution(head, solve(total, scale, ridges(settings.for_streams), head.parts))
    stages.end("train")
    score = evaluate_head(head, prepared.features["validation"], labels)
    checkpoint = checkpoint_of(head, settings, prepared, epoch=1, score=score)
    run.record("epoch", checkpoint, validation_loss=score.loss)
    report(f"solved: validation {score.summary}")
    finish(run, "epoch", settings, prepared, {**stages.as_metrics(), **metrics})


def _statistics(head: Head, prepared: Prepared) -> tuple[Scale, Statistics]:
    """The sums over the training clips that the closed form needs."""
    features = prepared.features["train"]
    scale = scale_statistics_of(head, features, len(prepared.task.labels)).scale(prepared.task.labels)
    return scale, statistics_of(head, features, scale)


def _go_on(head: nn.Module, optimizer: AdamW, before: Checkpoint, path: Path, prepared: Prepared) -> int:
    """Take over a checkpoint's weights, and the optimizer's state where its run left one; returns the epochs done."""
    spec = replace(before.spec, encoder=prepared.spec.encoder)  # the same one may go by another path
    if before.labels != prepared.task.labels or spec != prepared.spec:
        raise WordflockError(
            f"{path} was trained for {','.join(before.labels)} on {before.spec.encoder}, window {before.spec.window}, "
            f"frames pooled by {before.spec.frame_pooling}, layer {before.spec.layer} in {before.spec.precision} "
            f"by {before.spec.backend}, not for what is asked now; give the options it was trained with."
        )
    try:
        set_weights(head, before.weights)
    except RuntimeError as error:
        raise WordflockError(
            f"{path} holds a head of kind {before.head_kind}; give --head {before.head_kind}."
        ) from error
    epochs = before.training.get("epoch", 0)
    state = _optimizer_file(path.parent, epochs)
    if not epochs or not state.exists():
        return 0  # somebody else's head, or one from before the last epoch: a start, and nothing to go on with
    tensors, _ = load_tensors(state)
    slots = {
        index: {key: torch.from_numpy(tensors[f"{index}.{key}"]) for key in ("step", "exp_avg", "exp_avg_sq")}
        for index in range(len(list(head.parameters())))
    }
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    return int(epochs)


def _optimizer_file(folder: Path, epoch: int) -> Path:
    return folder / f"optimizer-{epoch}.safetensors"


def _save_optimizer(path: Path, optimizer: AdamW) -> None:
    state = optimizer.state_dict()["state"]
    tensors = {f"{i}.{key}": value.cpu().numpy() for i, slots in state.items() for key, value in slots.items()}
    save_tensors(path, tensors, {})


def _forget_optimizers(folder: Path, epoch: int) -> None:
    """Delete the optimizer's states but that of `epoch`."""
    for path in folder.glob("optimizer-*.safetensors"):
        if path != _optimizer_file(folder, epoch):
            path.unlink()
