"""Secure sums: the total and nothing else, whoever drops out and whoever lies."""

import math
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import FRAMES, LABELS, WIDTH

from wordflock.errors import WordflockError
from wordflock.federation import client_app
from wordflock.federation.asking import Conversation
from wordflock.federation.in_process import in_process_grid
from wordflock.federation.messages import content, task_record, weights_of
from wordflock.federation.roster import Client, Roster
from wordflock.federation.secure import client as secure_client
from wordflock.federation.secure import masking
from wordflock.federation.secure.masking import STEP, from_fixed_point, neighbourhoods, threshold, to_fixed_point
from wordflock.federation.secure.server import secure_total
from wordflock.federation.simulation import simulate
from wordflock.federation_settings import FederationSettings
from wordflock.head.checkpoint import get_weights, load_checkpoint
from wordflock.head.statistics_folder import StatisticsFolder
from wordflock.head.torch_head import build_head

LENGTH = 7


class Lie(Exception):
    """What a dead client says."""


def application(vectors, before=lambda stage, number: None, after=lambda stage, number, reply: None):
    """Clients with these vectors; `before` may raise, for one that drops out, and `after` change what one says."""
    app = ClientApp()

    def handler(stage, answer):
        @app.train(stage)
        def handle(message: Message, context: Context) -> Message:
            number = int(context.node_config["partition-id"])
            before(stage, number)
            reply = answer(message, context, number)
            after(stage, number, reply)
            return reply

    handler("keys", lambda message, context, number: secure_client.make_keys(message, context))
    handler("shares", secure_client.share_secrets)
    handler("masked", lambda message, context, number: secure_client.masked(message, context, number, vectors[number]))
    handler("unmask", secure_client.unmask)
    return app


def total_of(vectors, **events):
    with in_process_grid(application(vectors, **events), len(vectors), {}, 1) as grid:
        clients = [Client(n, n + 2, 1, 0, 0.0, "", "") for n in range(len(vectors))]
        settings = FederationSettings(round_timeout=60.0)
        conversation = Conversation(grid, Roster(grid, settings, None), settings, "test")
        total, among = secure_total(conversation, clients, "any", RecordDict({"config": ConfigRecord({})}), LENGTH)
    problems = [re.fullmatch(r"client (\d+) (.*)", problem).groups() for problem in conversation.problems]
    return total, [client.number for client in among], [(int(number), problem) for number, problem in problems]


def vectors_of(clients: int, seed: int = 0):
    return np.random.default_rng(seed).normal(0, 1000, (clients, LENGTH))


def dropping(stage, *gone):
    def before(at, number):
        if at == stage and number in gone:
            raise Lie("gone")

    return before


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(1, 1000))
def test_numbers_come_back_to_half_a_step(numbers, clients):
    vector = np.array(numbers)
    assert np.abs(from_fixed_point(to_fixed_point(vector, clients)) - vector).max() <= STEP / 2


def test_a_total_that_could_wrap_around_is_refused():
    for bad in (1e12, np.nan, np.inf):
        with pytest.raises(WordflockError, match="too large"):
            to_fixed_point(np.array([0.0, bad]), 3)


@settings(max_examples=6)
@given(clients=st.integers(3, 8), seed=st.integers(0, 1000))
def test_the_total_is_the_plain_one_to_the_step(clients, seed):
    vectors = vectors_of(clients, seed)
    total, summed, problems = total_of(vectors)
    assert summed == list(range(clients)) and not problems
    np.testing.assert_allclose(total, vectors.sum(axis=0), rtol=0, atol=clients * STEP / 2)


def test_more_clients_than_neighbours():
    vectors = vectors_of(30)
    total, summed, _ = total_of(vectors, before=dropping("masked", 4, 17))
    assert len(summed) == 28
    np.testing.assert_allclose(total, np.delete(vectors, [4, 17], axis=0).sum(axis=0), rtol=0, atol=30 * STEP)


@settings(max_examples=8)
@given(
    stage=st.sampled_from(["keys", "shares", "masked"]),
    gone=st.sets(st.integers(0, 6), min_size=1, max_size=2),
)
def test_those_that_drop_out_are_not_in_the_total(stage, gone):
    vectors = vectors_of(7)
    total, summed, problems = total_of(vectors, before=dropping(stage, *gone))
    assert summed == [n for n in range(7) if n not in gone]
    assert sorted(number for number, _ in problems) == sorted(gone)
    np.testing.assert_allclose(total, vectors[summed].sum(axis=0), rtol=0, atol=7 * STEP)


def test_one_that_drops_out_after_masking_is_in_the_total():
    vectors = vectors_of(6)
    total, summed, problems = total_of(vectors, before=dropping("unmask", 2))
    assert summed == list(range(6)) and [number for number, _ in problems] == [2]
    np.testing.assert_allclose(total, vectors.sum(axis=0), rtol=0, atol=6 * STEP)


@pytest.mark.parametrize("stage", ["keys", "shares", "masked", "unmask"])
def test_fewer_than_the_threshold_learn_nothing(stage):
    with pytest.raises(WordflockError, match="clients are left of the"):
        total_of(vectors_of(7), before=dropping(stage, 0, 1, 2, 3, 4))


def test_two_clients_are_no_flock():
    with pytest.raises(WordflockError, match="2 clients are left of the 3"):
        total_of(vectors_of(2))


def test_what_the_server_gets_looks_like_nothing():
    """Zeros, masked, are as good as any other bytes; and not the same twice."""
    seen = []

    def after(stage, number, reply):
        if stage == "masked":
            seen.append(weights_of(reply)["masked"])

    vectors = np.zeros((4, LENGTH))
    total_of(vectors, after=after)
    total_of(vectors, after=after)
    bits = np.unpackbits(np.stack(seen).view(np.uint8))
    assert len({row.tobytes() for row in seen}) == 8
    assert abs(bits.mean() - 0.5) < 4 * 0.5 / np.sqrt(bits.size)


def other_curve():
    return public_key_to_bytes(ec.generate_private_key(ec.SECP256R1()).public_key())


def off_the_curve():
    """A key whose point was moved off the curve."""
    import base64

    head, *lines, foot = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key()).split(b"\n")[:-1]
    raw = bytearray(base64.b64decode(b"".join(lines)))
    raw[-1] ^= 1
    return b"\n".join([head, base64.b64encode(bytes(raw)), foot]) + b"\n"


@pytest.mark.parametrize("key", [b"", b"no key", other_curve(), off_the_curve()])
def test_a_key_that_is_no_point_of_the_curve(key):
    def after(stage, number, reply):
        if stage == "keys" and number == 1:
            reply.content["secure"]["mask-key"] = key

    vectors = vectors_of(5)
    total, summed, problems = total_of(vectors, after=after)
    assert problems == [(1, "sent a public key that is not a point of the curve")]
    np.testing.assert_allclose(total, vectors[summed].sum(axis=0), rtol=0, atol=5 * STEP)


def test_the_key_of_another():
    first = {}

    def after(stage, number, reply):
        if stage == "keys":
            keys = first.setdefault("keys", dict(reply.content["secure"]))
            if number == 3:
                reply.content["secure"]["cipher-key"] = keys["mask-key"]

    vectors = vectors_of(6)
    _, summed, problems = total_of(vectors, after=after)
    assert problems == [(0, "sent a public key that is another's too"), (3, "sent a public key that is another's too")]
    assert summed == [1, 2, 4, 5]


def test_a_valid_key_that_is_not_its_own():
    """The client itself sees that the server passes on what it did not make; a liar that goes on spoils letters."""

    def after(stage, number, reply):
        if stage == "keys" and number == 1:
            reply.content["secure"]["mask-key"] = public_key_to_bytes(
                ec.generate_private_key(ec.SECP384R1()).public_key()
            )

    _, summed, problems = total_of(vectors_of(5), after=after)
    assert summed == [0, 2, 3, 4]
    assert "a wrong key on as this client's own" in problems[0][1]


def garbage(stage, number, reply, *, to):
    """Client 1's letters to some neighbours cannot be read."""
    if stage == "shares" and number == 1:
        secure = reply.content["secure"]
        letters = zip(secure["to"], secure["shares"], strict=True)
        secure["shares"] = [b"garbage" if neighbour in to else letter for neighbour, letter in letters]


@pytest.mark.parametrize("to", [{0}, {0, 4}])
def test_letters_that_some_cannot_read_cost_nobody_anything(to):
    vectors = vectors_of(7)
    total, summed, problems = total_of(vectors, after=partial(garbage, to=to))
    assert summed == list(range(7)) and not problems
    np.testing.assert_allclose(total, vectors.sum(axis=0), rtol=0, atol=7 * STEP)


@pytest.mark.parametrize("gone", [(), (1,)])
def test_letters_that_nobody_can_read_cost_their_sender_only(gone):
    vectors = vectors_of(5)
    before = dropping("masked", *gone)
    total, summed, problems = total_of(vectors, before=before, after=partial(garbage, to={0, 2, 3, 4}))
    assert summed == [0, 2, 3, 4] and {number for number, _ in problems} == {1}
    assert "sent shares of its secrets that 4 of its neighbours cannot read" in problems[-1][1]
    np.testing.assert_allclose(total, vectors[summed].sum(axis=0), rtol=0, atol=5 * STEP)


@pytest.mark.parametrize("letters", [b"", b"short", bytes(19), bytes(4000)])
def test_a_letter_that_holds_anything_else(letters, monkeypatch):
    """Encrypted well, so that only its content is wrong."""
    honest = secure_client.share_keys_plaintext_concat
    monkeypatch.setattr(
        secure_client, "share_keys_plaintext_concat", lambda own, *rest: letters if own == 1 else honest(own, *rest)
    )
    vectors = vectors_of(5)
    total, summed, _ = total_of(vectors)
    assert summed == [0, 2, 3, 4]
    np.testing.assert_allclose(total, vectors[summed].sum(axis=0), rtol=0, atol=5 * STEP)


@pytest.mark.parametrize("gone", [(), (1,)])
def test_shares_of_other_secrets_cost_their_sender_only(gone, monkeypatch):
    honest = secure_client.share_keys_plaintext_concat

    def other(own, neighbour, seed_share, key_share):
        changed = (share[:4] + bytes(len(share) - 4) for share in (seed_share, key_share))
        return honest(own, neighbour, *(changed if own == 1 else (seed_share, key_share)))

    monkeypatch.setattr(secure_client, "share_keys_plaintext_concat", other)
    vectors = vectors_of(5)
    total, summed, problems = total_of(vectors, before=dropping("masked", *gone))
    assert summed == [0, 2, 3, 4] and "do not fit" in problems[-1][1]
    np.testing.assert_allclose(total, vectors[summed].sum(axis=0), rtol=0, atol=5 * STEP)


def test_one_that_calls_all_letters_unreadable_removes_nobody():
    def after(stage, number, reply):
        if stage == "masked" and number == 3:
            reply.content["secure"]["unreadable"] = [0, 1, 2, 4, 9]

    vectors = vectors_of(5)
    total, summed, problems = total_of(vectors, after=after)
    assert summed == list(range(5)) and not problems
    np.testing.assert_allclose(total, vectors.sum(axis=0), rtol=0, atol=5 * STEP)


@pytest.mark.parametrize("gone", [(), (4,)])
def test_wrong_shares_of_one_are_left_out(gone):
    def after(stage, number, reply):
        if stage == "unmask" and number == 0:
            shares = list(reply.content["secure"]["shares"])
            reply.content["secure"]["shares"] = [share[:-1] + bytes([share[-1] ^ 1]) for share in shares]

    vectors = vectors_of(7)
    total, summed, _ = total_of(vectors, before=dropping("masked", *gone), after=after)
    assert summed == [number for number in range(7) if number not in gone]
    np.testing.assert_allclose(total, vectors[summed].sum(axis=0), rtol=0, atol=7 * STEP)


def answered(context, stage, **secure):
    """A client's answer to a server that asks for something."""
    message = Message(RecordDict({"secure": ConfigRecord(secure)}), 2, "train")
    return getattr(secure_client, stage)(message, context, 0)


def unmasking(kept, threshold):
    record = {"kept": kept, "seed-shares": [b"s"] * len(kept), "key-shares": [b"k"] * len(kept), "threshold": threshold}
    return Context(1, 2, {}, RecordDict({masking.STATE: ConfigRecord(record)}), {})


@pytest.mark.parametrize(
    ("there", "gone"), [([0, 1, 2], [2]), ([0, 1, 2, 9], []), ([1, 2, 3], []), ([0, 0, 1, 2], []), ([0, 1], [2, 3])]
)
def test_a_server_that_asks_for_too_much_gets_nothing(there, gone):
    with in_process_grid(ClientApp(), 1, {}, 1), pytest.raises(WordflockError):
        answered(unmasking([0, 1, 2, 3], 3), "unmask", there=there, gone=gone)


def test_secrets_are_told_once():
    context = unmasking([0, 1, 2, 3], 3)
    with in_process_grid(ClientApp(), 1, {}, 1):
        answered(context, "unmask", there=[0, 1, 2], gone=[3])
        with pytest.raises(WordflockError, match="out of turn"):
            answered(context, "unmask", there=[0, 1, 2, 3], gone=[])


@given(st.sets(st.integers(0, 10_000), min_size=3, max_size=80))
def test_neighbours_are_neighbours_both_ways(numbers):
    groups = neighbourhoods(list(numbers))
    for number, group in groups.items():
        assert number in group and all(number in groups[other] for other in group)
        assert len(group) == min(len(numbers), masking.NEIGHBOURS + 1)
        assert len(group) // 2 < threshold(len(group)) <= len(group)


def options(folder: Path, **changed) -> FederationSettings:
    usual = {"runs": str(folder), "strategy": "closed-form", "head": "attentive", "clients": 5}
    return FederationSettings(**{**usual, **changed})


def test_the_exact_strategy(tmp_path, play):
    play([20, 30, 9, 12, 25])
    plain, secure = (simulate(options(tmp_path, name=str(on), secure_aggregation=on)) for on in (False, True))
    (_, plain_sums), (_, secure_sums) = (StatisticsFolder(folder / "statistics").read() for folder in (plain, secure))
    np.testing.assert_array_equal(secure_sums.counts, plain_sums.counts)
    heads = [load_checkpoint(folder / "best.safetensors").weights for folder in (plain, secure)]
    for name in heads[0]:
        np.testing.assert_allclose(heads[1][name], heads[0][name], atol=1e-4)


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_rounds(tmp_path, play, strategy):
    play([20, 30, 17, 22, 25])
    usual = {"strategy": strategy, "rounds": 2, "local_epochs": 1}
    plain, secure = (simulate(options(tmp_path, name=str(on), secure_aggregation=on, **usual)) for on in (False, True))
    heads = [load_checkpoint(folder / "last.safetensors").weights for folder in (plain, secure)]
    tolerance = 1e-5 if strategy == "fedavg" else 1e-3  # Adam divides by what may be nearly nothing
    for name in heads[0]:
        np.testing.assert_allclose(heads[1][name], heads[0][name], atol=tolerance)


def test_a_private_round(tmp_path, play):
    play([30] * 5)
    usual = {"head": "normalized", "dp_epsilon": math.inf, "dp_dimensions": 6}
    plain, secure = (simulate(options(tmp_path, name=str(on), secure_aggregation=on, **usual)) for on in (False, True))
    heads = [load_checkpoint(folder / "best.safetensors").weights for folder in (plain, secure)]
    np.testing.assert_allclose(heads[1]["output.weight"], heads[0]["output.weight"], atol=1e-4)


@pytest.mark.parametrize("strategy", ["fedavg", "closed-form"])
def test_a_lie_about_how_many_clips_is_noticed_in_the_total(tmp_path, play, monkeypatch, strategy):
    play([20, 30, 20])
    honest = secure_client.masked

    def lie(message, context, number, vector):
        return honest(message, context, number, vector * (3 if number == 1 else 1))

    monkeypatch.setattr(secure_client, "masked", lie)
    with pytest.raises(WordflockError, match="some client lied"):
        simulate(options(tmp_path, clients=3, strategy=strategy, rounds=1, local_epochs=1, secure_aggregation=True))


def test_single_clients_sums_cannot_be_kept(tmp_path, play):
    play([20] * 3)
    with pytest.raises(WordflockError, match="--keep-statistics"):
        simulate(options(tmp_path, clients=3, secure_aggregation=True, keep_statistics="by-client"))


@pytest.mark.parametrize("message_type", ["train", "train.statistics", "train.masked"])
def test_a_device_decides_how_openly_and_how_little_it_sends(tmp_path, play, monkeypatch, message_type):
    own = play([9] * 3).members[0]

    class Sparing:
        client, name, spec, encode_seconds, min_clips, secure_aggregation = 0, "", own.spec, 0.0, 10, True

        def features(self, labels):
            return own.train, own.holdout

    monkeypatch.setattr(client_app, "load_device", lambda path: Sparing())
    config = FederationSettings(strategy="closed-form", head="attentive").as_config()
    context = Context(1, 2, {client_app.DEVICE: "device"}, RecordDict(), config)
    with in_process_grid(client_app.app, 1, config, 1):
        letter = content(get_weights(build_head("attentive", FRAMES, WIDTH, len(LABELS))))
        letter["config"], letter["secure"] = task_record(LABELS), ConfigRecord({"what": "scale"})
        why = "9 clips are fewer than --min-clips 10" if message_type == "train.masked" else "--secure-aggregation only"
        with pytest.raises(WordflockError, match=why):
            client_app.app(Message(letter, 2, message_type), context)
