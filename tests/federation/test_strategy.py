"""What our round loop adds to Flower's strategies."""

import numpy as np
import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from wordflock.federation.messages import content, metric
from wordflock.federation.strategy import Mean, aggregate, get_state, make_strategy, set_state, train_messages
from wordflock.federation_settings import FederationSettings
from wordflock.files import load_tensors, save_tensors


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
@pytest.mark.parametrize("count", [1, 2, 50])
def test_a_strategy_makes_the_same_of_the_mean_as_of_all_heads(strategy, count):
    generator = np.random.default_rng(count)
    heads = [{"w": generator.normal(size=(3, 4)).astype(np.float32)} for _ in range(count)]
    clips = [int(n) for n in generator.integers(1, 100, count)]

    def aggregated(messages: list[Message]) -> np.ndarray:
        chosen = make_strategy(FederationSettings(strategy=strategy))
        train_messages(chosen, 1, {"w": np.zeros((3, 4), np.float32)}, list(range(2, count + 2)))
        return aggregate(chosen, 1, messages)["w"]

    mean = Mean()
    for node, (head, count) in enumerate(zip(heads, clips, strict=True), start=2):
        mean.add(head, count, loss=float(node))
    assert mean.loss == pytest.approx(np.average(range(2, len(clips) + 2), weights=clips))
    assert metric(mean.message(), "num-examples") == sum(clips)
    np.testing.assert_allclose(aggregated([mean.message()]), aggregated(replies_of(heads, clips)), atol=1e-5)


def test_the_mean_of_many_heads_is_as_exact_as_float32_is():
    generator = np.random.default_rng(0)
    heads, clips = generator.normal(1, 0.1, (3000, 40)).astype(np.float32), generator.integers(1, 1000, 3000)
    mean = Mean()
    for head, count in zip(heads, clips, strict=True):
        mean.add({"w": head}, int(count), loss=0.0)
    np.testing.assert_allclose(mean.head["w"], np.average(heads.astype(np.float64), axis=0, weights=clips), rtol=1e-7)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "fedyogi"])
def test_a_strategy_that_is_resumed_goes_on_as_if_it_had_not_ended(strategy, tmp_path):
    generator = np.random.default_rng(0)
    means = [generator.normal(size=(3, 4)).astype(np.float32) for _ in range(4)]

    def trained(*, resumed: bool) -> np.ndarray:
        chosen, weights = make_strategy(FederationSettings(strategy=strategy)), {"w": np.ones((3, 4), np.float32)}
        for number, mean in enumerate(means, start=1):
            train_messages(chosen, number, weights, [2])
            weights = aggregate(chosen, number, replies_of([{"w": mean}], [5]))
            if resumed:
                save_tensors(tmp_path / "state", get_state(chosen), {})
                chosen = make_strategy(FederationSettings(strategy=strategy))
                set_state(chosen, load_tensors(tmp_path / "state")[0])
        return weights["w"]

    assert trained(resumed=True).tobytes() == trained(resumed=False).tobytes()
