"""Notifiers' hubs in one process, on one store, and clients that talk to them without a transport."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import orjson
import redis.asyncio

from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.events import Event, Published
from calltag.core.bayeux.extensions.acknowledgment import Acknowledgment
from calltag.core.bayeux.extensions.delivery import Delivery
from calltag.core.bayeux.extensions.replay import Replay
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.keys import Keys
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.user_streams import PER_MS, Addition, Entry, RedisUserStreams
from calltag.core.store.watches import RedisWatches
from calltag.core.wire.messages import SessionNotice
from calltag.notifier.cometd.answers import Answer
from calltag.notifier.cometd.claim import Caller, Claim
from calltag.notifier.cometd.clocks import monotonic_ms
from calltag.notifier.cometd.connects import Connects
from calltag.notifier.cometd.feeding import Feeding
from calltag.notifier.cometd.hub import Hub, Turn
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import Limit
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks
from calltag.notifier.cometd.watching import Watching

CALLS = "/v2/me/calls"
KEYS = Keys("calltag-test")
HELLO = {"channel": "/meta/handshake", "id": "1", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


@dataclass(frozen=True, slots=True)
class CountingClient(RedisClient):
    """A client that counts its exchanges with the store, and may be cut off from it."""

    exchanges: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def exchange(self) -> AsyncIterator[redis.asyncio.Redis]:
        if self.cut:
            raise StoreUnavailable(self.cut[0])
        self.exchanges.append("")
        async with RedisClient.exchange(self) as connection:
            yield connection


@dataclass(slots=True)
class Counts:
    """Implements HubMetrics, and SessionListener."""

    redeliveries: int = 0
    latencies: list[float] = field(default_factory=list)
    messages: int = 0
    gaps: int = 0
    moves: int = 0
    silent: int = 0
    handshakes: int = 0
    limits: list[Limit] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    endings: list[tuple[str, str, Ending]] = field(default_factory=list)
    deliveries: list[tuple[str, int]] = field(default_factory=list)

    def received(self, messages: int) -> None:
        self.messages += messages

    def refused(self, error: str) -> None:
        self.errors.append(error)

    def limited(self, limit: Limit) -> None:
        self.limits.append(limit)

    def begun(self) -> None:
        self.handshakes += 1

    def delivered(self, channel: str, sessions: int) -> None:
        self.deliveries.append((channel, sessions))

    def handed_over(self, latency_s: float, times: int = 1) -> None:
        self.latencies += [latency_s] * times

    def redelivered(self, events: int) -> None:
        self.redeliveries += events

    def resumed(self) -> None:
        self.moves += 1

    def swept(self) -> None:
        self.silent += 1

    def gap(self) -> None:
        self.gaps += 1

    def ended(self, session: str, user: str, ending: Ending) -> None:
        """Implements SessionListener."""
        self.endings.append((session, user, ending))


def translate(_user: UserId, entry: Entry) -> Published:
    """Every entry is one event about calls; what it tells of was accepted when it was added to the stream."""
    accepted_at_ms = entry.position // PER_MS
    return Published(entry.position, entry.previous, (Event(CALLS, orjson.loads(entry.event)),), accepted_at_ms)


class Node:
    """One hub with all that it needs. `ahead_ms` is how far its clock is ahead."""

    def __init__(self, name: str, installation: "Installation", limits: BayeuxLimits) -> None:
        client = installation.client
        self.name = NodeId(name)
        self.client = installation.client_type(client.connection, client.deadline_s)
        self.batcher = ScriptBatcher(self.client)
        self.metrics, self.local, self.side_tasks, self.ahead_ms = Counts(), Local(), SideTasks(), 0
        store = RedisCometdSessions(self.client, self.batcher, KEYS, self.name)
        streams = RedisUserStreams(self.client, self.batcher, KEYS)
        self.feeding = Feeding(self.local, streams, translate, limits, self.metrics, self.side_tasks)
        self.connects = Connects(
            self.name,
            Engine(
                limits,
                lambda _, channel: channel.startswith(("/v2/", "/notifications/")),
                lambda _, channel: channel.startswith("/service/"),
                (Acknowledgment(), Replay(), Delivery()),
            ),
            store,
            self.local,
            self.feeding,
            Residence(store, self.local, self.side_tasks),
            Watching(RedisWatches(self.client, self.batcher, KEYS), self.side_tasks, monotonic_ms),
            installation,
            self.metrics,
            self.side_tasks,
            lambda user: installation.credentials.get(user, f"credential of {user}"),
            clock_ms=lambda: monotonic_ms() + self.ahead_ms,
            listeners=(self.metrics,),
        )
        self.hub = Hub(self.connects, reachable=True, parting_s=0.0)


class Installation:
    """Two nodes, the streams that workers write, and the post between nodes, which may lose what it is given."""

    client_type: type[CountingClient] = CountingClient
    """By what each node talks to the store."""

    def __init__(self, client: RedisClient, limits: BayeuxLimits) -> None:
        self.client, self.loses_notices = client, False
        self.credentials: dict[UserId, str] = {}
        self.one, self.two = Node("n1", self, limits), Node("n2", self, limits)
        self.nodes = {node.name: node for node in (self.one, self.two)}
        self.streams = RedisUserStreams(client, ScriptBatcher(client), KEYS)
        self._numbers = count()

    async def tell(self, node: NodeId, notice: SessionNotice) -> None:
        """Implements Post."""
        if not self.loses_notices:
            await self.nodes[node].hub.heed(notice)

    async def publish(self, *numbers: int, user: str = "alice", by_bus: bool = True) -> list[Position]:
        """Add events to the user's stream; tell the nodes that hold sessions of the user. Returns their positions."""
        events = [orjson.dumps({"n": number}) for number in numbers]
        additions = [Addition(f"call:{next(self._numbers)}", 1, event) for event in events]
        appended = (await self.streams.append({UserId(user): additions}, to_watchers=True))[UserId(user)]
        places = [place for place in appended.places if place is not None]
        for node in appended.nodes if by_bus else ():
            entries = [
                translate(UserId(user), Entry(place.position, place.previous, event))
                for place, event in zip(places, events, strict=True)
            ]
            self.nodes[node].feeding.publish(UserId(user), *entries)
        return [place.position for place in places]

    async def registered(self, user: str = "alice") -> Sequence[NodeId]:
        """The nodes to which the user's events go."""
        members: Any = await self.client.connection.smembers(KEYS.nodes_of(UserId(user)))
        return sorted(NodeId(member.decode()) for member in members)

    async def settle(self) -> None:
        """Wait until no node does anything aside any more."""
        for node in self.nodes.values():
            await node.side_tasks.finish()


def numbers(events: Sequence[bytes]) -> list[int]:
    """What the events say."""
    return [orjson.loads(event)["data"]["n"] for event in events]


@dataclass(slots=True)
class Client:
    """A client, and what its requests prove: its user, with a session of its own or by the handshake alone."""

    user: str | None = "alice"
    bearer: bool = False
    login: str = ""
    address: str = ""
    shows_credentials: bool = True
    client_id: str = ""

    async def look(self) -> Caller:
        return Caller(self.user, bearer=self.bearer)

    async def send(self, node: Node, *messages: object, streaming: bool = False) -> Turn:
        """One request."""
        claim = Claim(self.look, self.login, self.address, self.shows_credentials)
        try:
            return await node.hub.exchange(messages, claim, streaming=streaming)
        finally:
            claim.drop()

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
        """A connect, which may be held."""
        return await self.send(node, self.connecting(**more))

    async def poll(self, node: Node, **more: object) -> tuple[list[int], dict[str, Any]]:
        """A connect with its answer, however long it takes: what the events say, and the reply."""
        return await self.finish(node, await self.connect(node, **more))

    async def finish(self, node: Node, turn: Turn) -> tuple[list[int], dict[str, Any]]:
        """The answer to a connect that was sent."""
        if turn.held is None:
            [reply] = turn.replies
            return numbers(turn.events), reply
        answer: Answer | None = await node.connects.answers.hold(turn.held)
        assert answer is not None
        return numbers(answer[0]), answer[1]

    async def begin(self, node: Node, *, ack: bool = False) -> "Client":
        """A session that is subscribed and connected for the first time."""
        assert (await self.shake(node, ext={"ack": ack}))["successful"]
        assert (await self.subscribe(node))["successful"]
        events, reply = await self.poll(node)
        assert (events, reply["successful"]) == ([], True)
        await node.side_tasks.finish()
        return self
