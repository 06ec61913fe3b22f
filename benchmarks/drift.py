"""Federated rounds that the product does not have, each against the defaults: a table of RESULTS.md.

python -m benchmarks.drift --data speech_commands_mini.tar --keywords yes,no,up,down,left,right,stop,go

The rounds are a loop of their own here, which does with heads what `wordflock simulate` does. Cross-validated over the
speakers of training and validation: the test split plays no part. Each fold has a seed of its own.

Control of drift: SCAFFOLD (Karimireddy 2020, arXiv 1910.06378) with option II, whose control of a client is the mean
gradient that it met; FedDyn (Acar 2021, arXiv 2111.04263). Both are made for plain gradient descent, and tried with
AdamW too, where the correction is added to the gradient that AdamW sees.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from benchmarks.folds import Fold, against, command_line, folds
from wordflock.data.synthetic import WORDS, synthesize
from wordflock.encoder.store import Features
from wordflock.federation_settings import FederationSettings
from wordflock.head.torch_head import Head, build_head
from wordflock.head.training import Recipe, make_optimizer, predict, train_epoch
from wordflock.partition import hold_back, partition_clips
from wordflock.prepare import prepare
from wordflock.randomness import numpy_generator
from wordflock.settings import TrainSettings

Weights = list[Tensor]
SERVER_STEP = 0.1  # α of FedDyn


@dataclass(frozen=True)
class Variant:
    """One row of the table."""

    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)  # what no option says
    control: str = ""  # of drift: "scaffold" or "feddyn"
    descent: bool = False  # plain gradient descent in place of AdamW
    falling: bool = False  # the learning rate falls over the rounds, as half a cosine
    alike: bool = False  # clients count alike, however many clips they have
    synthetic: bool = False  # starts from a head trained on synthetic words


OFTEN = {"clients": 20, "partition": "dirichlet", "alpha": 0.1, "local_epochs": 1}  # labels differ, clients meet often
DESCENT = {"learning_rate": 0.1}
VARIANTS = {
    "the defaults": Variant(),
    "learning rate falls over the rounds": Variant(falling=True),
    "labels not balanced at the client": Variant(recipe={"balanced": False}),
    "clients count alike": Variant(alike=True),
    "started from synthetic words": Variant(synthetic=True),
    "SCAFFOLD": Variant(control="scaffold"),
    "FedDyn": Variant(control="feddyn"),
    "gradient descent": Variant(DESCENT, descent=True),
    "gradient descent, SCAFFOLD": Variant(DESCENT, control="scaffold", descent=True),
    "gradient descent, FedDyn": Variant(DESCENT, control="feddyn", descent=True),
    "10 of 20 clients, labels unlike": Variant(OFTEN),
    "10 of 20 clients, SCAFFOLD": Variant(OFTEN, control="scaffold"),
    "10 of 20 clients, FedDyn": Variant(OFTEN, control="feddyn"),
    "10 of 20 clients, gradient descent": Variant({**OFTEN, **DESCENT}, descent=True),
    "10 of 20 clients, gradient descent, SCAFFOLD": Variant({**OFTEN, **DESCENT}, control="scaffold", descent=True),
    "10 of 20 clients, gradient descent, FedDyn": Variant({**OFTEN, **DESCENT}, control="feddyn", descent=True),
}


class Corrected:
    """An optimizer that sees every gradient with a correction, and keeps the mean of those without."""

    def __init__(self, inner: Any, parameters: Sequence[Tensor], correction: Weights, pull: float) -> None:
        self.param_groups, self.zero_grad = inner.param_groups, inner.zero_grad
        self.inner, self.parameters, self.correction, self.pull = inner, list(parameters), correction, pull
        self.begun = [p.detach().clone() for p in parameters]
        self.sum, self.steps = [torch.zeros_like(p) for p in parameters], 0

    @torch.no_grad()
    def step(self) -> None:
        """One step; `pull` is how strongly it is held to where it began."""
        self.steps += 1
        for p, begun, total, correction in zip(self.parameters, self.begun, self.sum, self.correction, strict=True):
            assert p.grad is not None
            total += p.grad
            p.grad += correction + self.pull * (p - begun)
        self.inner.step()


class Federation:
    """All clients, and what the server and each of them remember."""

    def __init__(self, variant: Variant, settings: FederationSettings, fold: Fold) -> None:
        self.variant, self.settings = variant, settings
        training = fold.training
        self.clients: dict[int, Features] = {}
        for client, clips in enumerate(partition_clips(fold.speakers, training.labels, settings)):
            mine, _ = hold_back(clips, settings.held_back_share, settings.seed, client)
            if len(mine) >= settings.batch_size:
                self.clients[client] = training.select(mine)
        _, frames, width = training.array.shape
        self.head: Head = build_head(settings.head, frames, width, len(fold.labels), seed=settings.seed)
        self.parameters = list(self.head.parameters())
        self.memory: dict[int, Weights] = {}  # a client's: SCAFFOLD's control, FedDyn's gradient
        self.server = [torch.zeros_like(p) for p in self.parameters]

    def round(self, number: int) -> None:
        """One round: the head becomes the next one."""
        settings = self.settings
        generator = numpy_generator(settings.seed, "sample", "train", number, 0)
        drawn = sorted(generator.permutation(sorted(self.clients)).tolist()[: settings.clients_per_round])
        before = [p.detach().clone() for p in self.parameters]
        changes, remembered = [], []
        for client in drawn:
            changes.append(self._train(client, number, before))
            remembered.append(self._remember(client, changes[-1]))
        counts = torch.tensor([1.0 if self.variant.alike else len(self.clients[client]) for client in drawn])
        if self.variant.control:
            counts = torch.ones(len(drawn))  # as both papers have it
        with torch.no_grad():
            for place, p in enumerate(self.parameters):
                p.copy_(before[place])
                for change, count in zip(changes, counts, strict=True):
                    p += change[place] * (count / counts.sum())
                self.server[place] += sum(new[place] for new in remembered) / len(self.clients)
                if self.variant.control == "feddyn":
                    p -= self.server[place] / SERVER_STEP

    def _train(self, client: int, number: int, before: Weights) -> Weights:
        """What a client's training changes."""
        with torch.no_grad():
            for p, then in zip(self.parameters, before, strict=True):
                p.copy_(then)
        recipe = replace(Recipe.of(self.settings, self.settings.local_epochs), **self.variant.recipe)
        if self.variant.falling:
            share = (1 + math.cos(math.pi * (number - 1) / self.settings.rounds)) / 2
            recipe = replace(recipe, learning_rate=recipe.learning_rate * share)
        inner: Any = make_optimizer(self.head, recipe)
        if self.variant.descent:
            inner = torch.optim.SGD(self.parameters, lr=recipe.learning_rate)
        mine = self.memory.setdefault(client, [torch.zeros_like(p) for p in self.parameters])
        correction = [torch.zeros_like(p) for p in self.parameters]
        if self.variant.control == "scaffold":
            correction = [all_ - own for all_, own in zip(self.server, mine, strict=True)]
        elif self.variant.control == "feddyn":
            correction = [-own for own in mine]
        pull = SERVER_STEP if self.variant.control == "feddyn" else 0.0
        self.optimizer = Corrected(inner, self.parameters, correction, pull)
        for epoch in range(recipe.epochs):
            generator = numpy_generator(self.settings.seed, "round", number, "client", client, "epoch", epoch)
            train_epoch(self.head, self.optimizer, self.clients[client], recipe, generator, epoch=epoch)  # type: ignore[arg-type]
        return [p.detach() - then for p, then in zip(self.parameters, before, strict=True)]

    def _remember(self, client: int, change: Weights) -> Weights:
        """Renew what a client remembers; returns by how much, in the server's terms."""
        mine = self.memory[client]
        if self.variant.control == "scaffold":
            new = [total / self.optimizer.steps for total in self.optimizer.sum]
        elif self.variant.control == "feddyn":
            new = [own - SERVER_STEP * moved for own, moved in zip(mine, change, strict=True)]
        else:
            new = mine
        self.memory[client] = new
        return [now - then for now, then in zip(new, mine, strict=True)]


def main() -> None:
    """Print the table, a row at a time."""
    given = command_line(__doc__).parse_args()
    print("| configuration | before (%) | after 5 (%) | against the defaults | after 10 (%) | against | seconds |")
    print("|---" * 7 + "|", flush=True)
    reference: list[list[float]] = []
    for name, variant in VARIANTS.items():
        if reference and given.only and not any(part in name for part in given.only):
            continue
        settings = FederationSettings(data=given.data, keywords=given.keywords, cache=given.cache, **variant.options)
        started = time.process_time()
        runs = [_curve(variant, replace(settings, seed=seed), fold) for seed, fold in enumerate(folds(settings))]
        seconds = (time.process_time() - started) / len(runs)
        before, fifth, tenth = ([run[rounds] for run in runs] for rounds in (0, 5, settings.rounds))
        reference = reference or [fifth, tenth]
        row = f"{against(fifth, reference[0])} | {against(tenth, reference[1])}"
        print(f"| {name} | {mean(before):.2f} | {row} | {seconds:.1f} |", flush=True)


def _curve(variant: Variant, settings: FederationSettings, fold: Fold) -> list[float]:
    """Accuracy (%) before the first round and after each."""
    federation = Federation(variant, settings, fold)
    if variant.synthetic:
        federation.head.load_state_dict(_synthetic_head(settings).state_dict())
    curve = []
    for number in range(settings.rounds + 1):
        if number:
            federation.round(number)
        right = predict(federation.head, fold.scored).argmax(axis=1) == fold.scored.labels
        curve.append(100 * float(right.mean()))
    return curve


def _synthetic_head(settings: FederationSettings) -> Head:
    """A head that has heard the same keywords from espeak-ng, and no person."""
    folder: Path = settings.cache_folder / "synthetic-keywords"
    words = settings.keyword_list
    synthesize(folder, words=words, others=[word for word in WORDS if word not in words])
    shared = {"keywords": settings.keywords, "cache": settings.cache, "seed": settings.seed}
    of_synthetic = TrainSettings(data=str(folder), **shared)
    prepared = prepare(of_synthetic, ("train",))
    training = prepared.features["train"]
    _, frames, width = training.array.shape
    head = build_head(of_synthetic.head, frames, width, len(prepared.task.labels), seed=settings.seed)
    recipe = Recipe.of(of_synthetic, of_synthetic.epochs)
    optimizer = make_optimizer(head, recipe)
    for epoch in range(recipe.epochs):
        train_epoch(head, optimizer, training, recipe, numpy_generator(settings.seed, "epoch", epoch), epoch=epoch)
    return head


if __name__ == "__main__":
    main()
