"""What a round costs each client: whatever kind of round it is, all its messages count."""

from __future__ import annotations

import pytest
from flwr.app import ArrayRecord, Message
from made_up import FRAMES, LABELS, WIDTH

from wordflock.federation import client_app
from wordflock.federation.costs import format_costs, sum_costs
from wordflock.federation.in_process import InProcessGrid
from wordflock.federation.messages import metric
from wordflock.federation.roster import Roster
from wordflock.federation.rounds import Round, averaged_round, closed_form_result
from wordflock.federation.strategy import make_strategy
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import get_weights
from wordflock.head.torch_head import build_head

SIZES = [20, 30, 25]
EXACT = {"strategy": "closed-form", "head": "attentive"}
PRIVATE = {"strategy": "closed-form", "head": "normalized", "dp_epsilon": 50.0, "dp_dimensions": 6}
ROUNDS = {"strategy": "fedavg", "head": "attentive", "local_epochs": 1}
SECURE = {"secure_aggregation": True}


class Watched(InProcessGrid):
    """Remembers what a round's messages and their answers were."""

    def _answer(self, message: Message) -> Message:
        reply = super()._answer(message)
        if message.metadata.message_type.startswith("train"):
            self.seen.append((message, reply))
        return reply


def played(play, folder, **options):
    """What a round of three clients brought, and its messages with their answers."""
    prepared = play(SIZES).prepared
    settings = FederationSettings(clients=3, clients_per_round=3, **options)
    grid = Watched(client_app.app, 3, settings.as_config(), 2)
    grid.seen = []
    roster = Roster(grid, settings, prepared)
    roster.wait_for(3, 60.0)
    head = build_head(settings.head, FRAMES, WIDTH, len(LABELS), seed=0)
    if settings.strategy == "closed-form":
        outcome = closed_form_result(grid, roster, settings, head, folder)
    else:
        outcome = averaged_round(Round(grid, roster, settings, make_strategy(settings), 1, get_weights(head), folder))
    grid.close()
    return outcome, grid.seen


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (ROUNDS, 1),
        (ROUNDS | SECURE, 4),
        (EXACT, 2),
        (EXACT | SECURE, 8),
        (PRIVATE, 2),
        (PRIVATE | SECURE, 8),
    ],
)
def test_each_client_s_messages_are_added_up(tmp_path, play, options, messages):
    outcome, seen = played(play, tmp_path, **options)
    assert outcome.clients == [0, 1, 2]
    for number, cost in enumerate(outcome.costs):
        asked, told = zip(*(pair for pair in seen if pair[0].metadata.dst_node_id == number + 2), strict=True)
        assert len(told) == messages
        assert cost["clips"] == SIZES[number]
        assert cost["seconds"] == pytest.approx(sum(metric(reply, "seconds") for reply in told)) and cost["seconds"] > 0
        assert cost["peak_memory"] == max(metric(reply, "peak-memory") for reply in told) > 1e6
        for way, those in (("bytes_up", told), ("bytes_down", asked)):
            # An array has 128 bytes for its shape and type. Keys and shares are small, and not counted here.
            least = sum(array.numpy().nbytes + 128 for message in those for array in arrays_of(message))
            assert least <= cost[way] <= least + (0 if messages < 4 else 5_000)
    assert outcome.bytes_up == sum(cost["bytes_up"] for cost in outcome.costs) // 3


def test_a_secure_sum_s_answers_have_no_numbers_but_masked_ones_and_what_they_cost(tmp_path, play):
    """No loss, no counts: what an answer cost hangs on the number of clips, which the client has told before."""
    for message, reply in played(play, tmp_path, **ROUNDS, **SECURE)[1]:
        masked = message.metadata.message_type == "train.masked"
        assert set(reply.content) == {"metrics", "secure", *["arrays"] * masked}
        assert not masked or dict(reply.content["secure"]) == {"unreadable": []}
        assert set(reply.content["metrics"]) == {"seconds", "peak-memory"}


def arrays_of(message: Message):
    return [
        array for record in message.content.values() if isinstance(record, ArrayRecord) for array in record.values()
    ]


def test_the_table_sums_up_the_rounds():
    def cost(seconds, memory, up, encode):
        return {
            "client": 7, "name": "kitchen", "processor": "ARM", "clips": 30, "encode_seconds": encode,
            "bytes_up": up, "bytes_down": 2 * up, "seconds": seconds, "peak_memory": memory,
        }  # fmt: skip

    lines = [{"costs": [cost(1.0, 10**8, 1000, 5.0)]}, {"costs": []}, {}, {"costs": [cost(None, 2 * 10**8, 3000, 0.1)]}]
    (summed,) = sum_costs(lines)
    assert (summed["rounds"], summed["bytes_up"], summed["bytes_down"]) == (2, 4000, 8000)
    assert (summed["encode_seconds"], summed["train_seconds_per_round"], summed["peak_memory"]) == (5.0, 1.0, 2 * 10**8)
    _, heading, row = format_costs([summed]).splitlines()
    assert row.split() == ["7", "kitchen", "2", "30", "5.0", "1.0", "2", "4", "200", "ARM"]
    assert heading.startswith("client")
