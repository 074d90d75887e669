"""Clients, nodes and events in any order, with answers, notices and bus messages that get lost: no event does."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from calltag.core.bayeux.codec import Reply
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.domain.ids import UserId
from calltag.core.store.embedded import embedded_store
from calltag.notifier.cometd.claim import Caller, Claim
from calltag.notifier.cometd.connects import HeldConnect
from calltag.notifier.cometd.hub import Hub
from parts.crashing_nodes import ForgetfulSessions, Nodes

T = TypeVar("T")
NODES = st.sampled_from(["one", "two", "three"])
CHANNELS = st.sampled_from(["/v2/a", "/v2/b"])
LIMITS = BayeuxLimits(max_queued_events=3, timeout_ms=1_000_000, max_interval_ms=1_000_000, max_sessions_per_user=1_000)
ALICE = UserId("alice")


def claim() -> Claim:
    async def look() -> Caller:
        return Caller(ALICE)

    return Claim(look)


class Client:
    """A client as it should be: it acknowledges, or says with `timeout: 0` that its last connect failed."""

    def __init__(self, client_id: str, *, ack: bool) -> None:
        self.client_id = client_id
        self.ack = ack
        self.batch = 0
        self.failed = True
        self.held: tuple[Hub, HeldConnect] | None = None
        self.wanted: dict[str, int] = {}
        self.got: list[int] = []

    def connect(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "channel": "/meta/connect", "clientId": self.client_id, "connectionType": "long-polling", "id": "1",
        }  # fmt: skip
        if self.failed:
            message["advice"] = {"timeout": 0}
        if self.ack:
            message["ext"] = {"ack": self.batch}
        return message

    def receive(self, events: list[bytes], reply: Reply, number_of: Any) -> None:
        assert reply["successful"], reply
        ext = reply.get("ext", {})
        assert isinstance(ext, dict)
        assert "missed" not in ext.get("calltag", {})
        self.failed = False
        self.batch = ext.get("ack", 0)
        self.got += [number_of(event) for event in events]


class Sessions(RuleBasedStateMachine):
    """The events of one user are numbered; every client must get those that it subscribed to, in order."""

    clients = Bundle("clients")
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize()
    def begin(self) -> None:
        self.store = embedded_store(None)
        self.nodes = Nodes(self.run(self.store.__aenter__()).client, LIMITS)
        for name in ("one", "two", "three"):
            self.nodes.start(name)
        self.published: list[str] = []
        self.all: list[Client] = []

    def teardown(self) -> None:
        if hasattr(self, "nodes"):
            try:
                for client in self.all:
                    self.check(client)
            finally:
                self.run(self.nodes.settle())
                self.run(self.store.__aexit__(None, None, None))

    def number_of(self, event: bytes) -> int:
        number = int(event.split(b'"number":')[1].split(b"}")[0])
        assert self.published[number].encode() in event
        return number

    def ask(self, name: str, message: dict[str, Any]) -> Reply:
        [reply] = self.run(self.nodes.hubs[name].exchange([message], claim())).replies
        return reply

    @rule(target=clients, node=NODES, ack=st.booleans())
    def shake_hands(self, node: str, ack: bool) -> Client:
        hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        reply = self.ask(node, hello | {"ext": {"ack": ack}})
        client = Client(str(reply["clientId"]), ack=ack)
        self.all.append(client)
        return client

    @rule(client=clients, node=NODES, channel=CHANNELS)
    def subscribe(self, client: Client, node: str, channel: str) -> None:
        message = {"channel": "/meta/subscribe", "clientId": client.client_id, "subscription": channel}
        assert self.ask(node, message)["successful"]
        client.wanted.setdefault(channel, len(self.published))

    @rule(channels=st.lists(CHANNELS, min_size=1, max_size=5), lost=st.booleans())
    def publish(self, channels: list[str], lost: bool) -> None:
        told = [(channel, {"number": len(self.published) + at}) for at, channel in enumerate(channels)]
        self.published += channels
        self.run(self.nodes.publish(ALICE, told, lost=lost))

    @rule(client=clients, node=NODES, answered=st.booleans(), saved=st.booleans())
    def connect(self, client: Client, node: str, answered: bool, saved: bool) -> None:
        hub = self.nodes.hubs[node]
        self.let_save(hub, saved)
        client.held = None
        turn = self.run(hub.exchange([client.connect()], claim()))
        client.failed = True
        if turn.held is not None:
            client.held = (hub, turn.held)
        elif answered:
            assert not turn.replaced
            client.receive(turn.events, turn.replies[-1], self.number_of)

    @rule(client=clients, answered=st.booleans(), saved=st.booleans(), due=st.booleans())
    def wait(self, client: Client, answered: bool, saved: bool, due: bool) -> None:
        """What became of a held connect: an answer, after events or after the timeout, or that it was replaced."""
        if client.held is None:
            return
        hub, connect = client.held
        if not hub.connects.is_due(connect) and not due:
            return
        self.let_save(hub, saved)

        async def finish() -> tuple[list[bytes], Reply] | None:
            return hub.connects.finish(connect)

        answer = self.run(finish())
        client.held = None
        if answer is not None and answered:
            client.receive(*answer, self.number_of)

    @rule(client=clients)
    def go_away(self, client: Client) -> None:
        if client.held is not None:
            hub, connect = client.held
            hub.connects.abandon(connect)
            client.held = None
            client.failed = True

    @rule(node=NODES)
    def crash(self, node: str) -> None:
        hub = self.nodes.hubs[node]
        for client in self.all:
            if client.held is not None and client.held[0] is hub:
                client.held = None
        self.nodes.start(node)

    @rule(loses=st.booleans())
    def lose_notices(self, loses: bool) -> None:
        self.nodes.loses_notices = loses

    @rule()
    def settle(self) -> None:
        self.run(self.nodes.settle())

    def let_save(self, hub: Hub, saved: bool) -> None:
        store = hub.connects.store
        assert isinstance(store, ForgetfulSessions)
        store.forgets = not saved

    def check(self, client: Client) -> None:
        """Connect until nothing comes any more; then everything must have come."""
        quiet = 0
        while quiet < 2:
            before = len(client.got)
            self.connect(client, "one" if quiet else "two", answered=True, saved=True)
            if client.held is not None:
                self.wait(client, answered=True, saved=True, due=True)
            quiet = quiet + 1 if len(client.got) == before else 0
        first_times = list(dict.fromkeys(client.got))
        assert first_times == [
            number
            for number, channel in enumerate(self.published)
            if number >= client.wanted.get(channel, len(self.published))
        ]


@pytest.mark.timeout(300)
def test_no_event_gets_lost_or_out_of_order() -> None:
    loop = Sessions.loop = asyncio.new_event_loop()
    try:
        run_state_machine_as_test(
            Sessions,
            settings=settings(
                max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        loop.close()
