"""What a client does: train the head on its own clips, and score it on those it held back.

The server names the round and sends the head; all else the client knows from the run's configuration, its own clips
and its number. A round's result depends on these alone, whichever engine or process runs it.
"""

from __future__ import annotations

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from torch import nn

from wordflock.checkpoint import get_weights, set_weights
from wordflock.federation.members import Member, federation
from wordflock.federation.messages import content, weights_of
from wordflock.head import build_head
from wordflock.randomness import numpy_generator
from wordflock.settings import FederationSettings
from wordflock.training import Recipe, evaluate_head, make_optimizer, train_epoch

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Which client this node is, and how many clips it trains on."""
    member, client, _ = _who(context)
    numbers = content(client=client, num_examples=len(member.train), held_back=len(member.held_back))
    return Message(numbers, reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the head for the local epochs."""
    member, client, settings = _who(context)
    config = message.content.config_records["config"]
    number, proximal = config["server-round"], config.get("proximal-mu", 0.0)
    assert isinstance(number, int) and isinstance(proximal, float)
    recipe = local_recipe(settings, number, proximal)
    head = _head(message, member, settings)
    optimizer = make_optimizer(head, recipe)
    for epoch in range(recipe.epochs):
        generator = numpy_generator(settings.seed, "round", number, "client", client, "epoch", epoch)
        loss = train_epoch(head, optimizer, member.train, recipe, generator, epoch=epoch)
    trained = content(get_weights(head), client=client, num_examples=len(member.train), loss=loss)
    return Message(trained, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the head on the clips held back."""
    member, client, settings = _who(context)
    score = evaluate_head(_head(message, member, settings), member.held_back, member.labels)
    numbers = content(client=client, num_examples=score.clips, accuracy=score.accuracy, loss=score.loss)
    return Message(numbers, reply_to=message)


def local_recipe(settings: FederationSettings, number: int, proximal: float = 0.0) -> Recipe:
    """How a client trains in round `number`."""
    return Recipe(
        epochs=settings.local_epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        label_smoothing=settings.label_smoothing,
        proximal=proximal,
    )


def _who(context: Context) -> tuple[Member, int, FederationSettings]:
    # One thread a client: the grid runs clients side by side, and sums come out the same however many there are.
    torch.set_num_threads(1)
    settings = FederationSettings.from_config(context.run_config)
    client = int(context.node_config["partition-id"])
    return federation(settings).members[client], client, settings


def _head(message: Message, member: Member, settings: FederationSettings) -> nn.Module:
    _, frames, width = member.train.array.shape
    head = build_head(settings.head, frames, width, len(member.labels), seed=None, allow_large=True)
    set_weights(head, weights_of(message))
    return head
