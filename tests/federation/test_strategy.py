"""What our round loop adds to Flower's strategies."""

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from wordflock.federation.messages import content, metric
from wordflock.federation.strategy import HELD, Replies, aggregate, make_strategy, train_messages
from wordflock.settings import FederationSettings


@pytest.fixture(autouse=True)
def server():
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1


def replies_of(heads, clips) -> list[Message]:
    made = []
    for node, (head, count) in enumerate(zip(heads, clips, strict=True), start=2):
        message = Message(RecordDict(), node, "train")
        message.metadata.__dict__["_message_id"] = str(node)
        made.append(Message(content(head, num_examples=count, loss=float(node)), reply_to=message))
    return made


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
@pytest.mark.parametrize("count", [1, HELD, HELD + 1, 3 * HELD + 5])
def test_a_round_of_any_size_holds_few_heads_and_gives_the_mean_of_all(strategy, count):
    generator = np.random.default_rng(count)
    heads = [{"w": generator.normal(size=(3, 4)).astype(np.float32)} for _ in range(count)]
    clips = [int(n) for n in generator.integers(1, 100, count)]

    def aggregated(messages: list[Message]) -> np.ndarray:
        chosen = make_strategy(FederationSettings(strategy=strategy))
        train_messages(chosen, 1, {"w": np.zeros((3, 4), np.float32)}, list(range(2, count + 2)))
        return aggregate(chosen, 1, messages)["w"]

    replies = Replies()
    for message in replies_of(heads, clips):
        replies.add(message)
        assert len(replies.messages()) <= HELD
    kept = replies.messages()
    assert sum(metric(message, "num-examples") for message in kept) == sum(clips)
    loss = sum(metric(message, "num-examples") * metric(message, "loss") for message in kept) / sum(clips)
    assert loss == pytest.approx(np.average(range(2, count + 2), weights=clips))
    whole = aggregated(replies_of(heads, clips))
    # Adam's and Yogi's first step is as long for a small mean as for a large one.
    np.testing.assert_allclose(aggregated(kept), whole, atol=1e-5)
    if count <= HELD:
        np.testing.assert_array_equal(aggregated(kept), whole)
