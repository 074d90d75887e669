"""Notifiers in one process, on one store, and clients that talk to them without a transport."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson

from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.events import Event, Position, StreamedEvent
from calltag.core.bayeux.extensions import Acknowledgment, DeliveryExtension, ReplayExtension
from calltag.core.bayeux.messages import BayeuxLimit, BayeuxLimits, Reply
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import demo_directory
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Request
from calltag.core.store.event_log import PER_MS, Addition, Entry, RedisEventLog
from calltag.core.store.keys import Keys
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.routing import Router
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.sessions import SessionStore
from calltag.core.store.watches import RedisWatches
from calltag.core.telemetry.metrics import Metrics
from calltag.notifier.authentication import Caller, Credentials
from calltag.notifier.bayeux_server import BayeuxServer
from calltag.notifier.channel_policy import ChannelPolicy, WatchRenewal
from calltag.notifier.connect_replies import ConnectAnswer, ConnectReplies
from calltag.notifier.event_dispatcher import EventDispatcher
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.node_presence import Background, NodeLease, Registrations, boot_ms
from calltag.notifier.session_claims import Claims
from calltag.notifier.session_manager import HomeSettings, SessionManager
from calltag.notifier.session_registry import ConnectRequest, RequestContext, Resident, SessionRegistry, Suspended
from parts.store_commands import library

CALLS = "/v2/me/calls"
KEYS = Keys("calltag-test")
HELLO = {"channel": "/meta/handshake", "id": "1", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


class CountingClient(RedisClient):
    """A client that counts its exchanges with the store, and may be cut off from it."""

    def __init__(self, router: Router, deadline_s: float) -> None:
        super().__init__(router, deadline_s)
        self.exchanges: list[str] = []
        self.cut: list[str] = []

    async def send(self, requests: Sequence[Request]) -> None:
        if self.cut:
            raise StoreUnavailable(self.cut[0])
        self.exchanges.append("")
        await super().send(requests)


def translate(_user: UserId, entry: Entry) -> StreamedEvent:
    """Every entry is one event about calls; what it tells of was accepted when it was added to the stream."""
    accepted_at_ms = entry.position // PER_MS
    return StreamedEvent(entry.position, entry.previous, (Event(CALLS, orjson.loads(entry.event)),), accepted_at_ms)


class Node:
    """One notifier with all that it needs. `ahead_ms` is how far its clock is ahead."""

    def __init__(self, name: str, installation: "Installation", limits: BayeuxLimits) -> None:
        client = installation.client
        self.name = NodeId(name)
        self.client = installation.client_type(client.router, client.deadline_s)
        self.batcher = ScriptBatcher(self.client)
        self.ahead_ms, self.endings = 0, list[tuple[str, str, Ending]]()
        self.all_metrics = Metrics()
        self.metrics = _Told(self.all_metrics, self.endings)
        self.background = Background()
        self.store = SessionStore(self.client, self.batcher, KEYS, self.name)
        self.registry = SessionRegistry(limits, self.now_ms)
        self.lease = NodeLease(self.store, installation.lease_ms, self.now_ms)
        engine = Engine(
            limits,
            lambda _, channel: channel.startswith(("/v2/", "/notifications/")),
            lambda _, channel: channel.startswith("/service/"),
            (Acknowledgment(), ReplayExtension(), DeliveryExtension()),
        )
        streams = RedisEventLog(self.client, self.batcher, KEYS)
        self.dispatcher = EventDispatcher(
            self.registry, streams, translate, limits, self.metrics, self.background, self.lease
        )
        self.sessions = SessionManager(
            self.name,
            engine,
            self.store,
            self.registry,
            self.dispatcher,
            ConnectReplies(engine, self.registry, self.metrics),
            Registrations(self.store, self.registry, self.background),
            self.lease,
            Claims(
                self.name,
                engine,
                self.store,
                installation,
                self.metrics,
                lambda user: installation.credentials.get(user, f"credential of {user}"),
                installation.flush_timeout_s,
            ),
            WatchRenewal(ChannelPolicy(demo_directory()), RedisWatches(self.client, self.batcher, KEYS), self.now_ms),
            self.metrics,
            self.background,
            HomeSettings(roaming_ms=installation.roaming_ms),
        )
        self.server = BayeuxServer(self.sessions, is_reachable=True, parting_s=0.0)

    def now_ms(self) -> int:
        return boot_ms() + self.ahead_ms

    def count(self, name: str, **labels: str) -> float:
        """What a metric says, by its name without `calltag_cometd_`."""
        self.metrics.flush()
        return self.all_metrics.registry.get_sample_value(f"calltag_cometd_{name}", labels) or 0.0

    def limits(self) -> dict[BayeuxLimit, float]:
        """The limits that were met, and how often."""
        counts = {limit: self.count("limited_total", limit=limit) for limit in BayeuxLimit}
        return {limit: count for limit, count in counts.items() if count}

    async def lapse(self) -> None:
        """The lease lapses, for this node and for the others."""
        self.lease.valid_until_ms = 0
        await self.store.end_lease()


class _Told(NotifierMetrics):
    """Remembers which sessions ended."""

    def __init__(self, metrics: Metrics, endings: list[tuple[str, str, Ending]]) -> None:
        super().__init__(metrics)
        self._endings = endings

    def ended(self, handle: str, user: str, ending: Ending) -> None:
        super().ended(handle, user, ending)
        self._endings.append((handle, user, ending))


class Installation:
    """Two nodes, the streams that workers write, and the post between nodes, which may lose what it is given."""

    client_type: type[CountingClient] = CountingClient
    """By what each node talks to the store."""

    def __init__(
        self,
        client: RedisClient,
        limits: BayeuxLimits,
        *,
        flush_timeout_s: float = 5.0,
        roaming_ms: int = 30_000,
        lease_ms: int = 3_000,
    ) -> None:
        self.client, self.loses_notices = client, False
        self.flush_timeout_s, self.roaming_ms, self.lease_ms = flush_timeout_s, roaming_ms, lease_ms
        self.credentials: dict[UserId, str] = {}
        self.one, self.two = Node("n1", self, limits), Node("n2", self, limits)
        self.nodes = {node.name: node for node in (self.one, self.two)}
        self.streams = RedisEventLog(client, ScriptBatcher(client), KEYS)
        self._numbers = count()

    async def begin(self) -> None:
        """The nodes are alive."""
        for node in self.nodes.values():
            await node.lease.renew()

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        """Implements Post."""
        if self.loses_notices:
            return False
        there = self.nodes[node]
        if notice.kind is NoticeKind.FLUSHED:
            there.sessions.claims.flushed(notice)
        else:
            await there.server.handle_notice(notice)
        return True

    async def publish(self, *numbers: int, user: str = "alice", by_broker: bool = True) -> list[Position]:
        """Add events to the user's stream; notify the nodes that hold sessions of the user. Returns their positions."""
        events = [orjson.dumps({"n": number}) for number in numbers]
        additions = [Addition(f"call:{next(self._numbers)}", 1, event) for event in events]
        appended = (await self.streams.append({UserId(user): additions}, to_watchers=True))[UserId(user)]
        places = [place for place in appended.places if place is not None]
        for node in appended.nodes if by_broker else ():
            entries = [
                translate(UserId(user), Entry(place.position, place.previous, event))
                for place, event in zip(places, events, strict=True)
            ]
            self.nodes[node].dispatcher.publish(UserId(user), *entries)
        return [place.position for place in places]

    async def registered(self, user: str = "alice") -> Sequence[NodeId]:
        """The nodes to which the user's events go."""
        members: Any = await library(self.client).smembers(KEYS.nodes_of(UserId(user)))
        return sorted(NodeId(member.decode()) for member in members)

    async def settle(self) -> None:
        """Save what changed, and wait until no node does anything in the background."""
        for node in self.nodes.values():
            await node.background.finish()
            await node.sessions.sync.save_marked()
            await node.background.finish()


def numbers(events: Sequence[bytes]) -> list[int]:
    """What the events say."""
    return [orjson.loads(event)["data"]["n"] for event in events]


class Line:
    """A transport that keeps what it is given; implements Outlet."""

    def __init__(self, node: Node) -> None:
        self.budget = node.sessions.replies.budget
        self.events: list[bytes] = []
        self.frames: list[bytes] = []
        self.reply: Reply | None = None
        self.is_replaced = self.is_gone = False
        self.answered = asyncio.Event()

    def send(self, suspended: Suspended, events: list[bytes], reply: Reply) -> bool:  # noqa: ARG002 - the interface's
        if self.is_gone:
            return False
        self.events += events
        self.reply = reply
        self.answered.set()
        return True

    def replace(self, suspended: Suspended) -> None:  # noqa: ARG002 - the interface's
        self.is_replaced = True
        self.answered.set()

    def push(self, frame: bytes, *, one_of_many: bool) -> bool:  # noqa: ARG002 - the interface's
        return False

    def has_news(self, resident: Resident) -> None:
        pass


class _Shown(Credentials):
    """Credentials with a login that the test chose."""

    __slots__ = ("_login",)
    _login: str

    def __init__(self, login: str, address: str) -> None:
        super().__init__(address=address)
        object.__setattr__(self, "_login", login)

    @property
    def login(self) -> str:
        return self._login


class Claim:
    """What a request claims; implements what servers use of a CallerClaim."""

    def __init__(self, look: Callable[[], Awaitable[Caller]], login: str, address: str, shows: bool) -> None:
        self._look, self.shown, self.shows_credentials = look, _Shown(login, address), shows
        self._looking: asyncio.Task[Caller] | None = None

    def caller(self) -> asyncio.Task[Caller]:
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._looked())
        return self._looking

    async def _looked(self) -> Caller:
        return await self._look()


@dataclass(slots=True)
class Turn:
    """What came of a request."""

    line: Line
    events: list[bytes]
    replies: list[Reply]
    held: Suspended | None
    replaced: list[ConnectRequest]


@dataclass(slots=True)
class Client:
    """A client, and what its requests prove: its user, with a session of its own or by the handshake alone."""

    user: str | None = "alice"
    bearer: bool = False
    login: str = ""
    address: str = ""
    shows_credentials: bool = True
    client_id: str = ""
    connection_id: int = 1

    async def look(self) -> Caller:
        return Caller(self.user, bearer=self.bearer)

    async def send(self, node: Node, *messages: object, streaming: bool = False) -> Turn:
        """One request."""
        line = Line(node)
        context = RequestContext(line, self.connection_id, self.address, self.login.encode(), is_streaming=streaming)
        outcome = node.server.process_now(messages, context)
        if isinstance(outcome, ConnectAnswer):
            return Turn(line, outcome.events, [outcome.reply], None, [])
        if isinstance(outcome, Suspended):
            return Turn(line, [], [], outcome, [])
        claim: Any = Claim(self.look, self.login, self.address, self.shows_credentials)
        response = await node.server.process(messages, claim, context)
        return Turn(line, response.events, response.replies, response.suspended, response.replaced)

    async def ask(self, node: Node, channel: str, **more: object) -> dict[str, Any]:
        """The reply to one message."""
        [reply] = (await self.send(node, {"channel": channel, "id": "7", "clientId": self.client_id, **more})).replies
        return reply

    async def shake(self, node: Node, **more: object) -> dict[str, Any]:
        """Begin a session, if the node lets."""
        [reply] = (await self.send(node, HELLO | more)).replies
        self.client_id = str(reply.get("clientId", ""))
        return reply

    async def subscribe(self, node: Node, subscription: object = CALLS, **more: object) -> dict[str, Any]:
        return await self.ask(node, "/meta/subscribe", subscription=subscription, **more)

    def connecting(self, **more: object) -> dict[str, object]:
        message = {"channel": "/meta/connect", "id": "8", "clientId": self.client_id, "connectionType": "long-polling"}
        return message | more

    async def connect(self, node: Node, **more: object) -> Turn:
        """A connect, which may be suspended."""
        return await self.send(node, self.connecting(**more))

    async def poll(self, node: Node, **more: object) -> tuple[list[int], dict[str, Any]]:
        """A connect with its answer, however long it takes: what the events say, and the reply."""
        return await self.finish(node, await self.connect(node, **more))

    async def move(self, node: Node, **more: object) -> tuple[list[int], dict[str, Any]]:
        """The same at another node than the home, without acknowledgement: the first connect brings nothing."""
        events, reply = await self.poll(node)
        assert (events, reply["successful"]) == ([], True)
        return await self.poll(node, **more)

    async def finish(self, node: Node, turn: Turn) -> tuple[list[int], dict[str, Any]]:
        """The answer to a connect that was sent."""
        if turn.held is None:
            [reply] = turn.replies
            return numbers(turn.events), reply
        while not turn.line.answered.is_set():
            node.sessions.tick()
            await asyncio.sleep(0.005)
        assert turn.line.reply is not None
        return numbers(turn.line.events), turn.line.reply

    async def begin(self, node: Node, *, ack: bool = False) -> "Client":
        """A session that is subscribed and connected for the first time."""
        assert (await self.shake(node, ext={"ack": ack}))["successful"]
        assert (await self.subscribe(node))["successful"]
        events, reply = await self.poll(node)
        assert (events, reply["successful"]) == ([], True)
        await node.background.finish()
        return self
