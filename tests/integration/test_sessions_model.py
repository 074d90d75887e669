"""Clients, nodes and events in any order, with answers, notices and bus messages that get lost: no event does.

What must hold: all that a client subscribed to comes, or, where the stream is not kept that far, the client is told
that it missed something; nothing comes twice or out of order without a cause that the client knows of; and what comes
again is the same event.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from calltag.core.bayeux.channels import matches
from calltag.core.bayeux.codec import Reply
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import Position
from calltag.core.domain.ids import UserId
from calltag.core.store.embedded import embedded_store
from calltag.notifier.cometd.answers import HeldConnect
from calltag.notifier.cometd.claim import Caller, Claim
from calltag.notifier.cometd.hub import Hub, Turn
from parts.crashing_nodes import ForgetfulSessions, Nodes

T = TypeVar("T")
NODES = st.sampled_from(["one", "two", "three"])
CHANNELS = st.sampled_from(["/x/a", "/x/b", "/x/b/c"])
SUBSCRIPTIONS = st.lists(st.sampled_from(["/x/a", "/x/b", "/x/*", "/x/b/**"]), min_size=1, max_size=2, unique=True)
LIMITS = BayeuxLimits(max_queued_events=3, timeout_ms=1_000_000, max_interval_ms=1_000_000, max_sessions_per_user=1_000)
ALICE = UserId("alice")
MOST_CLIENTS = 3


def claim() -> Claim:
    async def look() -> Caller:
        return Caller(ALICE)

    return Claim(look)


@dataclass
class Wanted:
    """A subscription: it covers events from number `since` on, up to `until` if it has ended."""

    pattern: str
    since: int
    until: int | None = None

    def covers(self, number: int, channel: str) -> bool:
        return self.since <= number and (self.until is None or number < self.until) and matches(self.pattern, channel)


@dataclass(eq=False)
class Client:
    """A client as it should be: it acknowledges, or says with `timeout: 0` that its last connect failed.

    `unsure` says that something may come again: an answer got lost, or subscriptions changed since the last one.
    """

    client_id: str
    ack: bool
    batch: int = 0
    failed: bool = True
    unsure: bool = False
    missed: bool = False
    held: tuple[Hub, HeldConnect] | None = None
    wanted: list[Wanted] = field(default_factory=list)
    got: list[int] = field(default_factory=list)

    def connect(self) -> dict[str, Any]:
        message: dict[str, Any] = {
            "channel": "/meta/connect", "clientId": self.client_id, "connectionType": "long-polling", "id": "1",
        }  # fmt: skip
        if self.failed:
            message["advice"] = {"timeout": 0}
        if self.ack:
            message["ext"] = {"ack": self.batch}
        return message

    def receive(self, numbers: Sequence[int], reply: Reply) -> None:
        assert reply["successful"], reply
        ext = reply.get("ext", {})
        assert isinstance(ext, dict)
        assert list(numbers) == sorted(set(numbers)), "out of order, or twice in one answer"
        if numbers and self.got and not self.unsure:
            assert numbers[0] > self.got[-1], "again, or out of order, without cause"
        self.missed = self.missed or "missed" in ext.get("calltag", {})
        self.failed = self.unsure = False
        self.batch = ext.get("ack", 0)
        self.got += numbers

    def wants(self, pattern: str, since: int, now: int) -> None:
        self.stops(pattern, now)
        self.wanted.append(Wanted(pattern, since))

    def stops(self, pattern: str, now: int) -> None:
        for each in self.wanted:
            if each.pattern == pattern and each.until is None:
                each.until = now

    def lives_with(self, pattern: str) -> bool:
        return any(each.pattern == pattern and each.until is None for each in self.wanted)


class Sessions(RuleBasedStateMachine):
    """The events of one user are numbered."""

    clients = Bundle("clients")
    loop: asyncio.AbstractEventLoop

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(work, 60))

    @initialize(answer_bytes=st.sampled_from([1, 150, LIMITS.max_answer_bytes]))
    def begin(self, answer_bytes: int) -> None:
        """An answer holds one event, some, or all that wait."""
        self.store = embedded_store(None, deadline_s=30)
        self.nodes = Nodes(self.run(self.store.__aenter__()).client, replace(LIMITS, max_answer_bytes=answer_bytes))
        for name in ("one", "two", "three"):
            self.nodes.start(name)
        self.published: list[str] = []
        self.positions: list[Position] = []
        self.all: list[Client] = []
        self.kept_from = 0

    def teardown(self) -> None:
        if hasattr(self, "nodes"):
            try:
                for client in self.all:
                    self.check(client)
            finally:
                self.run(self.nodes.settle())
                self.run(self.store.__aexit__(None, None, None))

    def numbers(self, events: Sequence[bytes]) -> list[int]:
        """What events say; each says the same whenever it comes."""
        found = []
        for each in events:
            event = orjson.loads(each)
            number = event["data"]["number"]
            assert event["channel"] == self.published[number]
            assert event["data"].get("event", {}).get("replayId", self.positions[number]) == self.positions[number]
            found.append(number)
        return found

    def ask(self, name: str, message: dict[str, Any]) -> Reply:
        [reply] = self.run(self.nodes.hubs[name].exchange([message], claim())).replies
        return reply

    # -- sessions and subscriptions ------------------------------------------------------------------------------

    def shake(self, node: str, *, ack: bool) -> str:
        hello = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        return str(self.ask(node, hello | {"ext": {"ack": ack}})["clientId"])

    @precondition(lambda self: len(self.all) < MOST_CLIENTS)
    @rule(target=clients, node=NODES, ack=st.booleans(), patterns=SUBSCRIPTIONS)
    def shake_hands(self, node: str, ack: bool, patterns: list[str]) -> Client:
        client = Client(self.shake(node, ack=ack), ack)
        self.all.append(client)
        self.subscribe(client, node, patterns)
        self.connect(client, node, answered=True, saved=True)
        return client

    @rule(client=clients, node=NODES, patterns=SUBSCRIPTIONS)
    def subscribe(self, client: Client, node: str, patterns: list[str]) -> None:
        message = {"channel": "/meta/subscribe", "clientId": client.client_id, "subscription": patterns}
        assert self.ask(node, message)["successful"]
        client.unsure = True
        for pattern in patterns:
            if not client.lives_with(pattern):
                client.wants(pattern, len(self.published), len(self.published))

    @rule(client=clients, node=NODES, patterns=SUBSCRIPTIONS, back=st.integers(-1, 8))
    def subscribe_to_the_past(self, client: Client, node: str, patterns: list[str], back: int) -> None:
        """From the last event but `back` on; -1 is all that is kept."""
        now = len(self.published)
        since = max(0, now - back) if back >= 0 else 0
        if since < self.kept_from and back >= 0:
            return
        self.replay(client, node, dict.fromkeys(patterns, since))

    def replay(self, client: Client, node: str, since: dict[str, int]) -> None:
        """Subscribe to channels, each from the event of a number on."""
        ids = {each: self.positions[number - 1] if number else -2 for each, number in since.items()}
        message = {
            "channel": "/meta/subscribe", "clientId": client.client_id, "subscription": list(since),
            "ext": {"replay": ids},
        }  # fmt: skip
        assert self.ask(node, message)["successful"], ids
        client.unsure = True
        for pattern, number in since.items():
            client.wants(pattern, max(number, self.kept_from), len(self.published))

    @rule(client=clients, node=NODES, patterns=SUBSCRIPTIONS)
    def unsubscribe(self, client: Client, node: str, patterns: list[str]) -> None:
        message = {"channel": "/meta/unsubscribe", "clientId": client.client_id, "subscription": patterns}
        assert self.ask(node, message)["successful"]
        for pattern in patterns:
            client.stops(pattern, len(self.published))

    @rule(client=clients, node=NODES, expires=st.booleans())
    def begin_anew(self, client: Client, node: str, expires: bool) -> None:
        """The session is lost; a new one goes on after the last event that came, by its replay id."""
        wanted = [each for each in client.wanted if each.until is None]
        since = {each.pattern: self.first_open(client, each) for each in wanted}
        if any(0 < number < self.kept_from for number in since.values()):
            return
        if expires:
            self.run(self.nodes.expire(ALICE, client.client_id))
            reply = self.ask(node, client.connect())
            assert (reply["error"], reply["successful"]) == ("402::Unknown client", False)
        client.client_id, client.batch, client.failed, client.held = self.shake(node, ack=client.ack), 0, True, None
        for pattern, number in since.items():
            self.replay(client, node, {pattern: number})

    def first_open(self, client: Client, wanted: Wanted) -> int:
        """The number of the first event that the subscription covers and the client has not got."""
        covered = (number for number, channel in enumerate(self.published) if wanted.covers(number, channel))
        return next((number for number in covered if number not in client.got), len(self.published))

    # -- events --------------------------------------------------------------------------------------------------

    @rule(bursts=st.lists(st.tuples(st.lists(CHANNELS, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=3))
    def publish(self, bursts: list[tuple[list[str], bool]]) -> None:
        """Each burst reaches the nodes, or only the stream."""
        for channels, lost in bursts:
            self.publish_at_once(channels, lost=lost)

    def publish_at_once(self, channels: list[str], *, lost: bool) -> None:
        told = [(channel, {"number": len(self.published) + at}) for at, channel in enumerate(channels)]
        self.published += channels
        self.positions += self.run(self.nodes.publish(ALICE, told, lost=lost))

    @precondition(lambda self: self.published)
    @rule(keep=st.integers(1, 6))
    def trim(self, keep: int) -> None:
        self.run(self.nodes.trim(ALICE, keep))
        self.kept_from = max(self.kept_from, len(self.published) - keep)

    # -- connects ------------------------------------------------------------------------------------------------

    @rule(client=clients, node=NODES, answered=st.booleans(), saved=st.booleans())
    def connect(self, client: Client, node: str, answered: bool, saved: bool) -> None:
        hub, former = self.nodes.hubs[node], client.held
        self.let_save(hub, saved)
        client.held = None
        turn = self.run(hub.exchange([client.connect()], claim()))
        assert not turn.replaced
        if former is not None and not self.nodes.loses_notices:
            self.run(self.nodes.settle())
            assert former[0].connects.answers.is_due(former[1]), "an older connect is still held"
            assert former[0].connects.answers.finish(former[1]) is None, "an older connect is answered with events"
        self.end(client, hub, turn, answered=answered, saved=saved)

    def end(self, client: Client, hub: Hub, turn: Turn, *, answered: bool, saved: bool) -> None:
        """The client waits, or has its answer, or has lost it."""
        client.unsure = client.unsure or client.failed
        client.failed = True
        if turn.held is not None:
            client.held = (hub, turn.held)
        elif answered:
            self.deliver(client, hub, turn.events, turn.replies[-1], saved=saved)

    def deliver(self, client: Client, hub: Hub, events: Sequence[bytes], reply: Reply, *, saved: bool) -> None:
        self.run(hub.connects.answers.saved(client.client_id))
        client.receive(self.numbers(events), reply)
        client.unsure = not saved

    @rule(client=clients, first=NODES, second=NODES, answered=st.booleans())
    def connect_twice_at_once(self, client: Client, first: str, second: str, answered: bool) -> None:
        """The client has given up on a connect that is still under way, and sends another."""
        client.held = None
        for name in (first, second):
            self.let_save(self.nodes.hubs[name], saved=True)
        hubs = [self.nodes.hubs[first], self.nodes.hubs[second]]
        client.failed = client.unsure = True

        async def both() -> list[Turn]:
            return await asyncio.gather(*(hub.exchange([client.connect()], claim()) for hub in hubs))

        _, turn = self.run(both())
        if turn.replaced:
            return
        # Without acknowledgment nobody can tell what a connect took that was overtaken on the way.
        self.end(client, hubs[1], turn, answered=answered and client.ack, saved=True)
        client.unsure = True

    @precondition(lambda self: any(client.held is not None for client in self.all))
    @rule(client=clients, answered=st.booleans(), saved=st.booleans(), due=st.booleans(), leaves=st.booleans())
    def wait(self, client: Client, answered: bool, saved: bool, due: bool, leaves: bool = False) -> None:
        """What became of a held connect: an answer, after events or after the timeout, or that it was replaced.

        A client that leaves takes no answer.
        """
        if client.held is None:
            return
        hub, connect = client.held
        if leaves:
            hub.connects.answers.abandon(connect)
            client.held = None
            return
        if not hub.connects.answers.is_due(connect) and not due:
            return
        self.let_save(hub, saved)

        async def finish() -> tuple[list[bytes], Reply] | None:
            return hub.connects.answers.finish(connect)

        answer = self.run(finish())
        client.held = None
        if answer is not None and answered:
            self.deliver(client, hub, *answer, saved=saved)

    # -- nodes ---------------------------------------------------------------------------------------------------

    @rule(node=NODES, crashes=st.booleans())
    def lose_what_a_node_holds(self, node: str, crashes: bool) -> None:
        """A node crashes, or lets all sessions go, as it does with those that it takes for silent."""
        hub = self.nodes.hubs[node]
        if not crashes:
            self.run(self.let_all_go(hub))
            return
        for client in self.all:
            if client.held is not None and client.held[0] is hub:
                client.held = None
        self.nodes.start(node)

    async def let_all_go(self, hub: Hub) -> None:
        for session in list(hub.connects.local.sessions.values()):
            hub.connects.ends.let_go(session)

    @rule(node=NODES)
    def save_late(self, node: str) -> None:
        """What was sent in answer to earlier connects reaches the store only now."""
        store = self.nodes.hubs[node].connects.store
        assert isinstance(store, ForgetfulSessions)
        self.run(store.save_late())

    @rule(loses=st.booleans())
    def lose_notices(self, loses: bool) -> None:
        self.run(self.nodes.settle())
        self.nodes.loses_notices = loses

    def let_save(self, hub: Hub, saved: bool) -> None:
        store = hub.connects.store
        assert isinstance(store, ForgetfulSessions)
        store.forgets = not saved

    # -- what must hold ------------------------------------------------------------------------------------------

    def check(self, client: Client) -> None:
        """Connect until nothing comes any more; then everything must have come that is not said to be missed."""
        quiet = 0
        while quiet < 2:
            before = len(client.got)
            self.connect(client, "one" if quiet else "two", answered=True, saved=True)
            if client.held is not None:
                self.wait(client, answered=True, saved=True, due=True)
            quiet = quiet + 1 if len(client.got) == before else 0
        for number, channel in enumerate(self.published):
            covering = [each for each in client.wanted if each.covers(number, channel)]
            if number in client.got:
                assert covering, f"{number} was never wanted"
            elif any(each.until is None for each in covering):
                assert client.missed, f"{number} is lost and nothing is said"
                assert number < self.kept_from, f"{number} is lost although it is kept"


@pytest.mark.timeout(300)
def test_no_event_gets_lost_or_out_of_order() -> None:
    loop = Sessions.loop = asyncio.new_event_loop()
    try:
        run_state_machine_as_test(
            Sessions,
            settings=settings(
                max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
    finally:
        loop.close()
