"""What a client does: train the head on its own clips, and score it on its holdout.

The server names the round and sends the head; all else the client knows from the run's configuration, its own clips
and its number. A round's result depends on these alone, whichever engine or process runs it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from wordflock.arrays import flatten
from wordflock.encoder.processor import processor_name
from wordflock.errors import WordflockError, counted
from wordflock.federation.device import load_device
from wordflock.federation.messages import (
    add_metrics,
    config_of,
    content,
    float16_delta,
    labels_of,
    pack_head,
    packed,
    printable,
    weights_of,
)
from wordflock.federation.secure import client as secure_client
from wordflock.federation_settings import FederationSettings
from wordflock.head.adamw import AdamW
from wordflock.head.checkpoint import overwrite, own_weights
from wordflock.head.closed_form import Scale, ScaleStatistics, Statistics
from wordflock.head.numpy_head import Projection
from wordflock.head.torch_head import Head, build_head
from wordflock.head.training import (
    Recipe,
    evaluate_head,
    make_optimizer,
    one_thread,
    pool,
    scale_statistics_of,
    statistics_of,
    train_epoch,
)
from wordflock.lifetime import peak_memory
from wordflock.partition import Member, federation
from wordflock.privacy.mechanism import PrivateStatistics
from wordflock.randomness import numpy_generator

DEVICE = "wordflock-device"  # in a real device's node configuration: the file that says where its clips are

SECURE = ("train.keys", "train.shares", "train.masked", "train.unmask")  # the messages of secure aggregation

_thread = threading.local()


def measured(message: Message, context: Context, answer: ClientAppCallable) -> Message:
    """Every answer says what it cost. It depends on the processor and the number of clips, which the server knows."""
    started = time.perf_counter()
    reply = answer(message, context)
    add_metrics(reply, seconds=time.perf_counter() - started, peak_memory=peak_memory())
    return reply


def packed_if_asked_so(message: Message, context: Context, answer: ClientAppCallable) -> Message:
    """Who is sent a packed head sends its own one packed: there is a network in between."""
    reply = answer(message, context)
    if packed(message.content):
        pack_head(reply.content)
    return reply


app = ClientApp(mods=[measured, packed_if_asked_so])


@app.lifespan()
def one_thread_a_client(context: Context) -> Iterator[None]:
    """Grids run clients side by side. The thread may be the server's, in a simulation."""
    with one_thread():
        yield


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Which client this node is, how many clips it trains on, and what its features are."""
    member, _ = _who(message, context)
    _, frames, width = member.train.array.shape
    numbers = content(
        client=member.client,
        num_examples=len(member.train),
        holdout=len(member.holdout),
        frames=frames,
        width=width,
        encode_seconds=member.encode_seconds,
    )
    numbers["about"] = ConfigRecord({"features": member.spec.kind, "name": member.name, "processor": processor_name()})
    return Message(numbers, reply_to=message)


@app.query("over")
def acknowledge(message: Message, context: Context) -> Message:
    """The server's run is over; `wordflock client` reads of this message in Flower's log, and ends."""
    return Message(RecordDict(), reply_to=message)


@app.query("turned_away")
def turned_away(message: Message, context: Context) -> Message:
    """The server takes nothing from this client; `wordflock client` reads in Flower's log why."""
    print(f"TURNED AWAY: {printable(config_of(message)['reason'], 400)}", flush=True)
    return Message(RecordDict(), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the head for the local epochs."""
    member, settings = _who(message, context)
    weights, loss = _trained(message, member, settings)
    trained = content(
        float16_delta(weights, weights_of(message)) if settings.upload_dtype == "float16" else weights,
        client=member.client,
        num_examples=len(member.train),
        loss=loss,
    )
    return Message(trained, reply_to=message)


def _trained(
    message: Message, member: Member, settings: FederationSettings
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """The head after the local epochs, which is this thread's own until its next message, and the last one's loss."""
    config = config_of(message)
    number, proximal = config["server-round"], config.get("proximal-mu", 0.0)
    assert isinstance(number, int) and isinstance(proximal, float)
    recipe = Recipe.of(settings, settings.local_epochs, proximal)
    received = weights_of(message)
    head = _head(received, member, settings)
    optimizer = _optimizer(head, recipe)
    anchor = [parameter.detach().clone() for parameter in head.parameters()] if recipe.proximal else []
    for epoch in range(recipe.epochs):
        generator = numpy_generator(settings.seed, "round", number, "client", member.client, "epoch", epoch)
        loss = train_epoch(head, optimizer, member.train, recipe, generator, epoch=epoch, anchor=anchor)
    return _thread.weights, loss


@app.train("scale")
def scale_statistics(message: Message, context: Context) -> Message:
    """The statistics of the scale of what the head's last layer sees: the first message of the closed form."""
    member, settings = _who(message, context)
    return Message(content(_scale_statistics(message, member, settings).packed()), reply_to=message)


@app.train("statistics")
def statistics(message: Message, context: Context) -> Message:
    """The statistics of the clips, standardised by the server's scale: the second message of the closed form."""
    member, settings = _who(message, context)
    return Message(content(_statistics(message, member, settings).packed(settings.statistics_dtype)), reply_to=message)


@app.train("private")
def private(message: Message, context: Context) -> Message:
    """The bounded statistics of the clips, or the part of the centre while there is none; the server adds noise."""
    member, settings = _who(message, context)
    return Message(content({"private": _private(message, member, settings)}), reply_to=message)


@app.train("keys")
def keys(message: Message, context: Context) -> Message:
    """The first of four messages of secure aggregation: this client's public keys."""
    return secure_client.make_keys(message, context)


@app.train("shares")
def shares(message: Message, context: Context) -> Message:
    """The second: shares of its secrets for its neighbours."""
    return secure_client.share_secrets(message, context, _who(message, context)[0].client)


@app.train("masked")
def masked(message: Message, context: Context) -> Message:
    """The third: what the server would get without secure aggregation, masked."""
    member, settings = _who(message, context)
    match message.content.config_records["secure"]["what"]:
        case "scale":
            vector = flatten(_scale_statistics(message, member, settings).packed())
        case "statistics":
            own = _statistics(message, member, settings)
            vector = flatten({"triangle": own.triangle, "cross": own.cross, "counts": own.counts})
        case "private":
            vector = _private(message, member, settings)
        case "train":
            received, clips = weights_of(message), len(member.train)
            weights, loss = _trained(message, member, settings)
            update = {name: (weights[name].astype(np.float64) - received[name]) * clips for name in received}
            vector = np.append(flatten(update), [clips, clips * loss])
        case what:
            raise WordflockError(f"there is no secure total of {what!r}")
    return secure_client.masked(message, context, member.client, vector)


@app.train("unmask")
def unmask(message: Message, context: Context) -> Message:
    """The last: what removes the masks from the total."""
    return secure_client.unmask(message, context, _who(message, context)[0].client)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the head on the holdout clips.

    How many clips of each label there are, and are recognised, is left out where either side asks for secure
    aggregation, which is to hide which words a client has.
    """
    member, settings = _who(message, context)
    score = evaluate_head(_head(weights_of(message), member, settings), member.holdout, member.labels)
    numbers = content(client=member.client, num_examples=score.clips, accuracy=score.accuracy, loss=score.loss)
    reply = Message(numbers, reply_to=message)
    if score.clips and not settings.secure_aggregation:
        confusion = np.array(score.confusion)
        add_metrics(
            reply, clips_by_label=confusion.sum(axis=1).tolist(), correct_by_label=confusion.diagonal().tolist()
        )
    return reply


def _who(message: Message, context: Context) -> tuple[Member, FederationSettings]:
    settings = _settings(tuple(context.run_config.items()))
    if DEVICE in context.node_config:
        # The device says which clips are its own. Nothing that the server sends can make it read others.
        device = load_device(str(context.node_config[DEVICE]))
        # Nor send more, or more openly, than the device allows.
        kind = message.metadata.message_type
        if device.secure_aggregation and kind.startswith("train") and kind not in SECURE:
            raise WordflockError("this client takes part in --secure-aggregation only")
        settings = replace(
            settings,
            min_clips=max(settings.min_clips, device.min_clips),
            secure_aggregation=settings.secure_aggregation or device.secure_aggregation,
        )
        labels = labels_of(message)
        train, holdout = device.features(labels)
        member = Member(device.client, train, holdout, labels, device.spec, device.name, device.encode_seconds)
        return member, settings
    return federation(settings).members[int(context.node_config["partition-id"])], settings


@lru_cache(maxsize=1)
def _settings(config: tuple[tuple[str, bool | float | int | str], ...]) -> FederationSettings:
    return FederationSettings.from_config(dict(config))


def _scale_statistics(message: Message, member: Member, settings: FederationSettings) -> ScaleStatistics:
    return scale_statistics_of(_untrained(message, member, settings), member.train, len(member.labels))


def _statistics(message: Message, member: Member, settings: FederationSettings) -> Statistics:
    scale = Scale.unpacked(weights_of(message))
    return statistics_of(_untrained(message, member, settings), member.train, scale)


def _private(message: Message, member: Member, settings: FederationSettings) -> NDArray[np.float64]:
    z = pool(_untrained(message, member, settings), member.train)
    mechanism = PrivateStatistics.of(settings, z.shape[1], len(member.labels))
    if (centre := weights_of(message).get("centre")) is None:
        return mechanism.middle(z)
    return replace(mechanism, centre=centre.astype(np.float64)).contribution(z, member.train.labels)


def _untrained(message: Message, member: Member, settings: FederationSettings) -> Head:
    """The head in a request for statistics. A client with too few clips sends none: they would reveal the clips."""
    if len(member.train) < settings.min_clips:
        raise WordflockError(f"{counted(len(member.train), 'clip', 'are')} fewer than --min-clips {settings.min_clips}")
    arrays = weights_of(message)
    return _head({name: arrays[name] for name in arrays.keys() - Scale.NAMES - {"centre"}}, member, settings)


def _head(weights: dict[str, NDArray[np.float32]], member: Member, settings: FederationSettings) -> Head:
    """The head with these weights. A thread, which plays one client at a time, builds one only once."""
    _, frames, width = member.train.array.shape
    sizes = settings.head, frames, width, len(member.labels)
    drawn = Projection(settings.random_features, settings.seed) if settings.random_features else None
    if getattr(_thread, "made", None) != (sizes, drawn):
        _thread.head = build_head(*sizes, seed=None, allow_large=True, projection=drawn)
        _thread.weights = own_weights(_thread.head)
        _thread.made = sizes, drawn
    head: Head = _thread.head
    overwrite(_thread.weights, weights)
    return head


def _optimizer(head: Head, recipe: Recipe) -> AdamW:
    """An optimizer that remembers nothing. A thread makes one only once for its head, whose parameters torch takes long
    to list."""
    if getattr(_thread, "optimizes", None) != (head, recipe):
        _thread.optimizer = make_optimizer(head, recipe)
        _thread.optimizes = head, recipe
    optimizer: AdamW = _thread.optimizer
    optimizer.forget()
    return optimizer
