"""Pages with WebSockets to nodes, whose links break at any time, and which judge what comes."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Any, Final, cast

import orjson

from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NODE, NodeMessage, SessionNotice
from calltag.core.store.client import RedisClient
from calltag.core.store.connection import Request
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.routing import Router
from calltag.notifier.inbox import NotifierInbox
from parts.frames import opened, web_sockets
from parts.hubs import CALLS, Client, CountingClient, Installation, Node

_LAST_STEPS: Final = 40
_WITHOUT_SESSION_S: Final = 1_000_000.0
_FLUSH_TIMEOUT_S: Final = 0.02


async def turns(most: int) -> None:
    """Let others go on."""
    for _ in range(most):
        await asyncio.sleep(0)


class Notices(StrEnum):
    """How notices between the nodes fare."""

    ARRIVE = "arrive"
    ARE_REFUSED = "are refused"
    VANISH = "vanish"
    ARE_LATE = "are late"


class Fault(StrEnum):
    """What is wrong between a node and the store."""

    AWAY = "away"
    ANSWERS_LOST = "answers lost"


class UnsteadyClient(CountingClient):
    """A client that carries out what it is asked and loses the answer, or is late with it, where it is told to.

    `lateness` holds the most turns of the loop that an answer may take, if it is to be late.
    """

    def __init__(self, router: Router, deadline_s: float) -> None:
        super().__init__(router, deadline_s)
        self.rng = random.Random(0)
        self.lateness: list[int] = []

    async def send(self, requests: Sequence[Request]) -> None:
        if Fault.AWAY in self.cut:
            raise StoreUnavailable(Fault.AWAY)
        await RedisClient.send(self, requests)
        if self.lateness:
            await turns(self.rng.randint(0, self.lateness[0]))
        if Fault.ANSWERS_LOST in self.cut:
            raise StoreUnavailable(Fault.ANSWERS_LOST)


class UnsteadyInstallation(Installation):
    """Two nodes whose ways to the store fail when they are told to."""

    client_type = UnsteadyClient

    def __init__(self, client: RedisClient, limits: BayeuxLimits) -> None:
        super().__init__(client, limits, flush_timeout_s=_FLUSH_TIMEOUT_S)
        nodes = self.nodes.values()
        self.sockets = {node.name: web_sockets(node.server, deadline_s=_WITHOUT_SESSION_S) for node in nodes}
        self.inboxes = {node.name: NotifierInbox(node.server, cast("Any", None), node.metrics) for node in nodes}
        self.notices = Notices.ARRIVE
        self._held_back: list[tuple[NodeId, SessionNotice]] = []

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        """Implements Post, by way of the nodes' inboxes."""
        match self.notices:
            case Notices.ARRIVE:
                self._arrives(node, notice)
            case Notices.ARE_LATE:
                self._held_back.append((node, notice))
        return self.notices is not Notices.ARE_REFUSED

    def change_notices(self, notices: Notices) -> None:
        """From now on notices fare like that; those that were late arrive."""
        self.notices, held_back, self._held_back = notices, self._held_back, []
        for node, notice in held_back:
            self._arrives(node, notice)

    def _arrives(self, node: NodeId, notice: SessionNotice) -> None:
        self.inboxes[node].handle(NODE.encode(NodeMessage(notices=(notice,))))

    async def settle(self) -> None:
        """Save what changed, and wait until no node does anything in the background."""
        await super().settle()
        while any(inbox._notices for inbox in self.inboxes.values()):
            await turns(1)
        await super().settle()

    def clients(self) -> Iterator[UnsteadyClient]:
        for node in self.nodes.values():
            assert isinstance(node.client, UnsteadyClient)
            yield node.client

    def tick(self, node: Node) -> None:
        """Let the node look at its deadlines."""
        node.sessions.tick()
        self.sockets[node.name].tick()


class Link:
    """One WebSocket of a page. What the node has sent and the page has not read is under way, or lost."""

    def __init__(self, system: UnsteadyInstallation, node: Node, *, is_slow: bool) -> None:
        self.node, self.frames, self.read = node, opened(system.sockets[node.name]), 0
        self.frames.is_slow = is_slow

    def next_frame(self) -> list[dict[str, Any]] | None:
        """The messages of the next frame, if there is one."""
        if self.read == len(self.frames.outgoing):
            return None
        self.read += 1
        return cast("list[dict[str, Any]]", orjson.loads(self.frames.outgoing[self.read - 1]))

    def unread(self) -> Iterator[int]:
        """The numbers of the events that the page has not read."""
        for frame in self.frames.outgoing[self.read :]:
            yield from (each["data"]["n"] for each in orjson.loads(frame) if each["channel"] == CALLS)


class Page:
    """A client as it should be: it connects again when a connect was answered, and after each failure it says so, by
    `timeout: 0`, or says what it has, by acknowledgment."""

    def __init__(self, name: str, steps: Sequence[str], *, acknowledges: bool) -> None:
        self.name = f"{name} {'with' if acknowledges else 'without'} acknowledgment"
        self.steps, self.acknowledges = steps, acknowledges
        self.client, self.batch = Client(), 0
        self.links: list[Link] = []
        self.pending: dict[str, object] | None = None
        """A connect that has not gone out yet."""
        self.failed = True
        """Whether the last connect has failed, or there was none."""
        self.got: list[int] = []
        self.known: set[int] = set()
        self.excused: set[int] = set()
        """What may be lost, as the client's own late connect said that it had come."""
        self.begins = True
        """Whether the next event may be any that the client has, as it has just said that it may lack some."""
        self.returns = 0
        """How often else the node may go back in the stream."""

    @property
    def link(self) -> Link:
        return self.links[-1]

    async def begin(self, node: Node) -> None:
        """A session that is subscribed, and has no link yet."""
        assert (await self.client.shake(node, ext={"ack": self.acknowledges}))["successful"]
        assert (await self.client.subscribe(node))["successful"]

    def open(self, link: Link) -> None:
        """A new link, by which the page connects; the last one is gone for the page, if not for its node."""
        self.links.append(link)
        self._fails()

    def _fails(self) -> None:
        self.failed = self.begins = True
        self._connects()

    def connecting(self) -> dict[str, object]:
        """A connect as the page would send it now, if none had failed."""
        message = self.client.connecting(connectionType="websocket")
        return message | {"ext": {"ack": self.batch}} if self.acknowledges else message

    def _connects(self) -> None:
        self.pending = self.connecting() | ({"advice": {"timeout": 0}} if self.failed else {})
        self.failed = False

    def send(self) -> None:
        """What the page has to say reaches the node."""
        if self.pending is not None:
            self.link.frames.come(self.pending)
            self.pending = None

    def receive(self, most: int) -> bool:
        """Read so many frames at most. Returns whether there were any."""
        for read in range(most):
            messages = self.link.next_frame()
            if messages is None:
                return read > 0
            for message in messages:
                if message["channel"] == CALLS:
                    self._take(message["data"]["n"])
                elif message["channel"] == "/meta/connect":
                    self._is_answered(message)
        return True

    def _is_answered(self, reply: dict[str, Any]) -> None:
        ext = reply.get("ext", {})
        assert "missed" not in ext.get("calltag", {}), self.story("is told that it missed something that is kept")
        if reply["successful"]:
            self.batch = ext.get("ack", self.batch)
            self._connects()
        else:
            assert reply["advice"]["reconnect"] == "retry", self.story(f"has lost its session: {reply}")
            self._fails()

    def _take(self, number: int) -> None:
        lacking = self.lacks(number)
        assert not lacking, self.story(f"was sent {number} before {lacking}")
        last = self.got[-1] if self.got else -1
        goes_on = number > last and self.excused.issuperset(range(last + 1, number))
        if not goes_on and not self.begins:
            assert self.returns > 0, self.story(f"was sent {number} after {last} without a cause")
            self.returns -= 1
        self.begins = False
        self.got.append(number)
        self.known.add(number)

    def lacks(self, count: int) -> list[int]:
        """Which of the first so many events it has not, and must have."""
        return [each for each in range(count) if each not in self.known and each not in self.excused]

    def confirms_blindly(self) -> None:
        """A late connect said for the page that what is under way to it, or was lost with a link, has come."""
        for link in self.links:
            self.excused.update(link.unread())

    def story(self, what: str) -> str:
        """What is wrong, and how it came to that."""
        last = "\n  ".join(self.steps[-_LAST_STEPS:])
        return f"{self.name} {what}.\nIt got {self.got}.\nThe last steps:\n  {last}"
