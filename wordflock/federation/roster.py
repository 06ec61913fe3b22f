"""Which node is which client, and which of them take part in a round.

Nodes' identifiers are random; clients' numbers are not, so it is they that are sampled, and the same clients train in
a round on any engine.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from wordflock.errors import WordflockError, counted
from wordflock.federation.messages import failure_of, metric, task_record, text_of, whole
from wordflock.federation.presence import Presence
from wordflock.federation.wire import MalformedMessage
from wordflock.federation_settings import FederationSettings, ServerSettings
from wordflock.files import write_atomically
from wordflock.progress import going_on, report
from wordflock.randomness import numpy_generator

if TYPE_CHECKING:
    from wordflock.prepare import Prepared  # which a client, that needs this module too, has no use for

MAX_POLL_INTERVAL = 0.5  # seconds between two looks at what has come in
PROGRESS_INTERVAL = 0.2  # seconds between two updates of the bar
REMINDER = 60.0  # seconds of waiting after which a line says what is waited for
INTRODUCTION = 60.0  # seconds that a node has to say who it is, before it is asked again
LATE = 10  # times that, for which an answer is waited for
MAX_LISTED = 10  # clients
GRACE = 15.0  # seconds that those who are enough wait for the others
APP_FAILED = (ErrorCode.LOAD_CLIENT_APP_EXCEPTION, ErrorCode.CLIENT_APP_RAISED_EXCEPTION)


@dataclass(frozen=True)
class Client:
    """What a client said about itself."""

    number: int
    node: int
    clips: int
    holdout: int
    encode_seconds: float
    processor: str
    name: str

    def __str__(self) -> str:
        return f"{self.number} ({self.name})" if self.name else str(self.number)


@dataclass
class Roster:
    """The clients that are there."""

    grid: Grid
    settings: FederationSettings
    prepared: Prepared
    clients: dict[int, Client] = field(default_factory=dict)  # by number: all that ever introduced themselves
    connected: set[int] = field(default_factory=set)  # nodes
    presence: Presence = field(default_factory=lambda: Presence(None))  # for those who watch
    stragglers: dict[int, int] = field(default_factory=dict)  # clients to the last round in which they missed a timeout
    _asked: dict[str, tuple[int, float]] = field(default_factory=dict)  # message to node and when
    _turned_away: set[int] = field(default_factory=set)  # nodes

    @property
    def _devices(self) -> bool:
        return isinstance(self.settings, ServerSettings)

    def refresh(self) -> None:
        """See who came and who left: ask new nodes who they are, and take in the answers that are there."""
        before = self.connected
        self.connected = set(self.grid.get_node_ids())
        self._turned_away &= self.connected  # one that comes back may have mended its ways
        gone, back = before - self.connected, self.connected - before if before else set()
        for client in self.clients.values() if gone or back else ():
            if client.node in gone:
                report(f"client {client} is gone")
            elif client.node in back:
                report(f"client {client} is back")
        now = time.monotonic()
        patience = INTRODUCTION if self._devices else self.settings.round_timeout
        # An answer counts however late it is: a slow client that is asked again answers the earlier questions first.
        self._asked = {i: asked for i, asked in self._asked.items() if now - asked[1] < LATE * patience}
        busy = {node for node, asked in self._asked.values() if now - asked < patience} | self._turned_away
        new = sorted(self.connected - busy - {client.node for client in self.clients.values()})
        content = RecordDict({"config": task_record(self.prepared.task.labels)})
        queries = [Message(content, node, MessageType.QUERY, ttl=LATE * patience) for node in new]
        self._asked |= {i: (node, now) for i, node in zip(self.grid.push_messages(queries), new, strict=True)}
        if self._asked:
            heard = set[int]()
            for reply in self.grid.pull_messages(list(self._asked)):
                # The answer's own sender: Flower does not number messages in the order in which it was given them.
                node = reply.metadata.src_node_id
                if self._asked.pop(reply.metadata.reply_to_message_id, None) is not None and node not in heard:
                    heard.add(node)
                    self._welcome(node, reply)
            # Other questions to them need no answer; once for all, for there may be 10,000 of them.
            self._asked = {i: asked for i, asked in self._asked.items() if asked[0] not in heard}
        self.presence.see(self.clients.values(), self.connected)

    def wait_for(self, least: int, seconds: float) -> None:
        """Wait until `least` clients can train and every node that is there has said who it is.

        Raises WordflockError where they do not come within `seconds`.
        """
        clients = counted(least, "client")
        for _ in waiting(seconds, lambda: f"for {clients}; connected and eligible: {self._listed()}"):
            self.refresh()
            now = time.monotonic()
            # One that lost power may be listed for a minute more; it must not keep all others waiting.
            grace = GRACE if self._devices else math.inf
            if len(self.eligible()) >= least and all(now - asked > grace for _, asked in self._asked.values()):
                return
            if not self._devices and not self._asked:
                break  # in a simulation all are there from the start
        small = [client for client in self.clients.values() if client.clips < self.settings.required_clips]
        if len(small) == len(self.clients) > 0:
            raise WordflockError(
                f"No client has the {self.settings.required_clips} clips it needs; lower --batch-size or --min-clips."
            )
        raise WordflockError(
            f"{len(self.eligible())} of the {least} clients that a round needs came (within {seconds:.0f} s); "
            "start more clients, or lower --min-clients and --min-replies."
        )

    def eligible(self, *, holdout: bool = False) -> list[int]:
        """The clients, in rising order, that are there and have enough clips for training, or hold any back."""
        least = 1 if holdout else self.settings.required_clips
        return sorted(
            client.number
            for client in self.clients.values()
            if client.node in self.connected and (client.holdout if holdout else client.clips) >= least
        )

    def candidates(self, number: int, *, holdout: bool = False) -> list[int]:
        """The clients that those of round `number` are drawn from: all that are eligible and did not miss a timeout.

        A client that missed a timeout skips the rest of that round and the next one, if there are enough others.
        """
        eligible = self.eligible(holdout=holdout)
        prompt = [client for client in eligible if self.stragglers.get(client, -2) < number - 1]
        return prompt if len(prompt) >= self.settings.min_replies else eligible

    def sample(
        self, what: str, number: int, *attempt: int, holdout: bool = False, last: Mapping[int, int] | None = None
    ) -> list[int]:
        """The clients of a round, in rising order: as many as the settings ask for, of those that are eligible.

        Clients in `last` are drawn only where there are not enough others, those with a lower number there first.
        """
        generator = numpy_generator(self.settings.seed, "sample", what, number, *attempt)
        drawn: list[int] = generator.permutation(self.candidates(number, holdout=holdout)).tolist()
        drawn.sort(key=lambda client: (last or {}).get(client, 0))
        return sorted(drawn[: self.settings.clients_per_round])

    def _welcome(self, node: int, reply: Message) -> None:
        """Take a client in, or turn it away and tell it why."""
        if reply.has_error():
            if not answered(reply):
                return  # it went away, and is asked again when it is back
            self._turn_away(node, "a client", f"it cannot introduce itself and {failure_of(reply)}")
            return
        try:
            client = Client(
                number=whole(reply, "client"),
                node=node,
                clips=whole(reply, "num-examples"),
                holdout=whole(reply, "holdout"),
                encode_seconds=metric(reply, "encode-seconds"),
                processor=text_of(reply, "processor"),
                name=text_of(reply, "name"),
            )
            shape = (whole(reply, "frames"), whole(reply, "width"))
        except MalformedMessage as error:
            self._turn_away(node, "a client", f"it {error} in its introduction")
            return
        features, spec = text_of(reply, "features"), self.prepared.spec
        if features != spec.kind or shape != self.prepared.features["train"].array.shape[1:]:
            self._turn_away(
                node,
                f"client {client}",
                f"its features are of another kind ({features}); start it with "
                f"--encoder {spec.encoder} --window {spec.window} --layer {spec.layer} --frame-pooling "
                f"{spec.frame_pooling} --head {self.settings.head}",
            )
            return
        if problem := self._belongs_to_another(client):
            self._turn_away(node, f"client {client}", problem)
            return
        before = self.clients.get(client.number)
        if before is not None and before.node in self.connected:
            report(f"client {client} connected again; its earlier connection is ignored")
            self._turned_away.add(before.node)
        self.clients[client.number] = client
        if self._devices:
            report(f"client {client} is here, with {counted(client.clips, 'clip')}")
        if client.clips < (least := self.settings.required_clips):
            report(f"skipped: client {client} has {counted(client.clips, 'clip')}; the minimum is {least}")

    def _turn_away(self, node: int, who: str, problem: str) -> None:
        """Ask a node for nothing until it connects again, and say why; to it as well, which waits for no answer."""
        self._turned_away.add(node)
        report(f"{who} was turned away: {problem}")
        if self._devices:
            reason = RecordDict({"config": ConfigRecord({"reason": problem})})
            self.grid.push_messages([Message(reason, node, f"{MessageType.QUERY}.turned_away", ttl=INTRODUCTION)])

    def _belongs_to_another(self, client: Client) -> str:
        """Why a client is not who it says: for a run, number and name are those of the first key that came with them.

        A node is a key where --authorized-keys names who may come; without, anyone can be anyone.
        """
        settings = self.settings
        if not isinstance(settings, ServerSettings) or not settings.authorized_keys:
            return ""
        path = Path(settings.runs) / settings.name / "server" / "members.json"  # for a run that is resumed, too
        members = json.loads(path.read_text()) if path.exists() else {}
        for number, (node, name) in members.items():
            same = node == client.node
            if not same and int(number) == client.number:
                return f"the number {number} belongs to another key in this run; give it another --cid or --name"
            if not same and name and name == client.name:
                return f"the name {name} belongs to another key in this run; give it another --name"
            if same and int(number) != client.number:
                return f"its key belongs to client {number} in this run"
        members[str(client.number)] = [client.node, client.name]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(members).encode())
        return ""

    def _listed(self) -> str:
        return listed([self.clients[number] for number in self.eligible()])


def listed(clients: Sequence[Client]) -> str:
    """Some clients, as a line has room for."""
    more = [f"{len(clients) - MAX_LISTED} more"] * (len(clients) > MAX_LISTED)
    return ", ".join([*map(str, clients[:MAX_LISTED]), *more]) or "none"


def answered(reply: Message) -> bool:
    """Whether it is the client's own: Flower replies in the place of one that is gone, and of one whose time is up."""
    return not reply.has_error() or reply.error.code in APP_FAILED


def collect(grid: Grid, messages: Sequence[Message], seconds: float, what: Callable[[list[int]], str]) -> list[Message]:
    """Send messages and return the replies that come within `seconds`; `what` says which nodes are waited for."""
    return [reply for reply in replies_to(grid, messages, seconds, what) if reply is not None]


def replies_to(
    grid: Grid,
    messages: Sequence[Message],
    seconds: float,
    what: Callable[[list[int]], str],
    at_a_time: int | None = None,
) -> Iterator[Message | None]:
    """Send messages, one a node, and yield the reply to each, in their order; None where none comes within `seconds`.

    At most `at_a_time` messages are ahead of the reply that is yielded next, so that no more replies than that are held
    here (default: all; what waits for slow devices must not wait for the others to be asked).
    """
    at_a_time = at_a_time or len(messages)
    nodes = [message.metadata.dst_node_id for message in messages]
    missing: set[str] = set()  # messages without a reply
    missing_nodes = dict.fromkeys(nodes)
    early: dict[int, Message] = {}  # replies that have others to wait for, by node
    sent = yielded = 0
    for progressed in waiting(seconds, lambda: what(list(missing_nodes))):
        ahead = messages[sent : yielded + at_a_time]
        missing.update(grid.push_messages(ahead))
        sent += len(ahead)
        for reply in grid.pull_messages(list(missing)):
            if reply.metadata.reply_to_message_id in missing:  # of two replies to one message the second is nobody's
                missing.remove(reply.metadata.reply_to_message_id)
                # By its own sender: Flower does not number messages in the order in which it was given them.
                missing_nodes.pop(reply.metadata.src_node_id, None)
                early[reply.metadata.src_node_id] = reply
                progressed()
            # Before the next is looked for, which a grid may make only then.
            while yielded < len(nodes) and nodes[yielded] in early:
                yield early.pop(nodes[yielded])
                yielded += 1
        if yielded == len(messages):
            return
    yield from (early.get(node) for node in nodes[yielded:])


def waiting(seconds: float, what: Callable[[], str]) -> Iterator[Callable[[], None]]:
    """Come back again and again, for at most `seconds`: at once at first, then ever more slowly.

    Yields what is to be called when something has come, after which more is looked for at once.
    """
    started = said = last = time.monotonic()
    shown = -math.inf

    def progressed() -> None:
        nonlocal last
        last = time.monotonic()

    while True:
        before = last
        yield progressed
        now = time.monotonic()
        if now - started >= seconds:
            return
        if now - shown >= PROGRESS_INTERVAL:
            shown = now
            going_on(f"waiting {what()}")
        if now - said >= REMINDER:
            said = now
            report(f"waiting {what()} ({now - started:.0f} of {seconds:.0f} s)")
        if last == before:
            time.sleep(min(MAX_POLL_INTERVAL, 0.002 + 0.05 * (now - last), seconds - (now - started)))
