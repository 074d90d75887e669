"""Clients, nodes and events in any order, with answers, notices and broker messages that get lost: no event does.

What must hold: all that a client subscribed to comes, or, where the stream is not kept that far, the client is told
that it missed something; nothing comes twice or out of order without a cause that the client knows of, or a home that
was lost before it saved; and what comes again is the same event.

What may be lost: of two answers to connects in a hurry, one after another, the second may get lost without its node
noticing it. A client that does not acknowledge then cannot be told from one that polls.
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
from calltag.core.bayeux.events import Position
from calltag.core.bayeux.messages import BayeuxLimits, Reply
from calltag.core.domain.ids import UserId
from calltag.core.store.embedded import embedded_store
from parts import hubs
from parts.crashing_nodes import Nodes
from parts.hubs import Node, Turn

T = TypeVar("T")
NAMES = ("one", "two", "three")
NODES = st.sampled_from(NAMES)
CHANNELS = st.sampled_from(["/notifications/a", "/notifications/b", "/notifications/b/c"])
SUBSCRIPTIONS = st.lists(
    st.sampled_from(["/notifications/a", "/notifications/b", "/notifications/*", "/notifications/b/**"]),
    min_size=1,
    max_size=2,
    unique=True,
)
ARRIVES, IS_LOST, IS_SEEN_LOST = "arrives", "is lost", "is seen lost"
"""What becomes of an answer; the node sees, or does not, that its connection broke."""
ANSWERS = st.sampled_from([ARRIVES, ARRIVES, IS_LOST, IS_SEEN_LOST])
TIMEOUT_MS = 1_000_000
LIMITS = BayeuxLimits(
    max_queued_events=3, timeout_ms=TIMEOUT_MS, max_interval_ms=1_000 * TIMEOUT_MS, max_sessions_per_user=1_000
)
ALICE = UserId("alice")
MOST_CLIENTS = 3


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

    `unsure`: something may come again, as an answer got lost, a home had not saved, or subscriptions changed.
    """

    ack: bool
    sends: hubs.Client = field(default_factory=hubs.Client)
    batch: int = 0
    failed: bool = True
    was_hurried: bool = False
    """Whether its last connect said that one had failed."""
    unsure: bool = False
    missed: bool = False
    replays: bool = False
    """It has not got all of the past to which it subscribed."""
    held: tuple[Node, Turn] | None = None
    home: Node | None = None
    """The node to which its last connect went."""
    wanted: list[Wanted] = field(default_factory=list)
    got: list[int] = field(default_factory=list)
    excused: set[int] = field(default_factory=set)

    @property
    def client_id(self) -> str:
        return self.sends.client_id

    def connect(self) -> dict[str, Any]:
        """Its next connect, after a failure on another connection."""
        message: dict[str, Any] = {
            "channel": "/meta/connect", "clientId": self.client_id, "connectionType": "long-polling", "id": "1",
        }  # fmt: skip
        if self.failed:
            self.sends.connection_id += 1
            message["advice"] = {"timeout": 0}
        if self.ack:
            message["ext"] = {"ack": self.batch}
        self.was_hurried = self.failed
        return message

    def receive(self, events: Sequence[tuple[int, str]], reply: Reply) -> None:
        """An answer, with the number and the channel of each event.

        What was on a channel before the client subscribed to it comes before what waits, which is older in part.
        """
        assert reply["successful"], reply
        ext = reply.get("ext", {})
        assert isinstance(ext, dict)
        told = ext.get("calltag", {})
        numbers = [number for number, _ in events]
        assert len(numbers) == len(set(numbers)), "twice in one answer"
        for on in {channel for _, channel in events}:
            of_channel = [number for number, channel in events if channel == on]
            assert of_channel == sorted(of_channel), "out of order on a channel"
        if not self.replays:
            assert numbers == sorted(numbers), "out of order"
        if numbers and self.got and not self.unsure and not self.replays:
            assert numbers[0] > self.got[-1], "again, or out of order, without cause"
        self.missed = self.missed or "missed" in told
        self.failed = False
        # Without acknowledgement the first answer of a new home may be empty: repeats come with the next one.
        self.unsure = self.unsure and not (numbers or self.ack)
        self.replays = self.replays and "behind" in told
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

    @initialize(
        answer_bytes=st.sampled_from([1, 150, LIMITS.max_answer_bytes]), roaming_ms=st.sampled_from([0, 30_000])
    )
    def begin(self, answer_bytes: int, roaming_ms: int) -> None:
        """An answer holds one event, some, or all that wait; sessions that move roam, or do not."""
        self.store = embedded_store(None, deadline_s=30)
        limits = replace(LIMITS, max_answer_bytes=answer_bytes)
        self.nodes = Nodes(self.run(self.store.__aenter__()).client, limits, roaming_ms=roaming_ms)
        for name in NAMES:
            self.run(self.nodes.start(name))
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

    def ask(self, client: Client, node: str, message: dict[str, Any]) -> Reply:
        [reply] = self.run(client.sends.send(self.nodes.named[node], message)).replies
        return reply

    # -- sessions and subscriptions ------------------------------------------------------------------------------

    def shake(self, client: Client, node: str) -> None:
        assert self.run(client.sends.shake(self.nodes.named[node], ext={"ack": client.ack}))["successful"]
        client.home = None

    @precondition(lambda self: len(self.all) < MOST_CLIENTS)
    @rule(target=clients, node=NODES, ack=st.booleans(), patterns=SUBSCRIPTIONS)
    def shake_hands(self, node: str, ack: bool, patterns: list[str]) -> Client:
        client = Client(ack)
        self.shake(client, node)
        self.all.append(client)
        self.subscribe(client, node, patterns)
        self.connect(client, node, answer=ARRIVES)
        return client

    @rule(client=clients, node=NODES, patterns=SUBSCRIPTIONS)
    def subscribe(self, client: Client, node: str, patterns: list[str]) -> None:
        message = {"channel": "/meta/subscribe", "clientId": client.client_id, "subscription": patterns}
        assert self.ask(client, node, message)["successful"]
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
        assert self.ask(client, node, message)["successful"], ids
        client.unsure = client.replays = True
        for pattern, number in since.items():
            client.wants(pattern, max(number, self.kept_from), len(self.published))

    @rule(client=clients, node=NODES, patterns=SUBSCRIPTIONS)
    def unsubscribe(self, client: Client, node: str, patterns: list[str]) -> None:
        message = {"channel": "/meta/unsubscribe", "clientId": client.client_id, "subscription": patterns}
        assert self.ask(client, node, message)["successful"]
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
            self.run(self.look_at(client))
            reply = self.ask(client, node, client.connect())
            assert (reply["error"], reply["successful"]) == ("402::Unknown client", False)
        self.shake(client, node)
        client.batch, client.failed, client.was_hurried, client.held = 0, True, False, None
        for pattern, number in since.items():
            self.replay(client, node, {pattern: number})

    async def look_at(self, client: Client) -> None:
        """Its home sees what became of the session as it saves it next."""
        for each in self.nodes.named.values():
            resident = each.registry.residents.get(client.client_id)
            if resident is not None:
                await each.sessions.sync.save([resident])

    def first_open(self, client: Client, wanted: Wanted) -> int:
        """The number of the first event that the subscription covers and the client has not got."""
        covered = (number for number, channel in enumerate(self.published) if wanted.covers(number, channel))
        lacked = (number for number in covered if number not in client.got and number not in client.excused)
        return next(lacked, len(self.published))

    # -- events --------------------------------------------------------------------------------------------------

    @rule(bursts=st.lists(st.tuples(st.lists(CHANNELS, min_size=1, max_size=3), st.booleans()), min_size=1, max_size=3))
    def publish(self, bursts: list[tuple[list[str], bool]]) -> None:
        """Each burst reaches the nodes, or only the stream."""
        for channels, lost in bursts:
            self.publish_at_once(channels, lost=lost)

    def publish_at_once(self, channels: list[str], *, lost: bool) -> None:
        told = [(channel, {"number": len(self.published) + at}) for at, channel in enumerate(channels)]
        self.published += channels
        self.positions += self.run(self.nodes.add(ALICE, told, by_broker=not lost))

    @precondition(lambda self: self.published)
    @rule(keep=st.integers(1, 6))
    def trim(self, keep: int) -> None:
        self.run(self.nodes.trim(ALICE, keep))
        self.kept_from = max(self.kept_from, len(self.published) - keep)

    # -- connects ------------------------------------------------------------------------------------------------

    @rule(client=clients, node=NODES, answer=ANSWERS)
    def connect(self, client: Client, node: str, answer: str) -> None:
        here, former = self.nodes.named[node], client.held
        self.expect_repeats(client, here)
        client.held = None
        turn = self.run(client.sends.send(here, client.connect()))
        assert not turn.replaced
        if former is not None and not self.nodes.loses_notices:
            self.run(self.nodes.settle())
            assert former[1].line.answered.is_set(), "an older connect is still suspended"
        self.end(client, here, turn, answer)

    def expect_repeats(self, client: Client, node: Node) -> None:
        """A session that moves brings repeats if its former home had not saved, and is not asked or cannot be."""
        if client.home is not None and client.home is not node and self.nodes.loses_notices:
            self.expect_repeats_of(client)
        client.home = node

    def expect_repeats_of(self, client: Client) -> None:
        """What its home has not saved is lost, or not."""
        resident = client.home.registry.residents.get(client.client_id) if client.home is not None else None
        client.unsure = client.unsure or (resident is not None and resident.is_dirty)

    def end(self, client: Client, node: Node, turn: Turn, answer: str) -> None:
        """The client waits, or has its answer, or has lost it."""
        client.unsure = client.unsure or client.failed
        client.failed = True
        if turn.held is not None:
            client.held = (node, turn)
        else:
            self.deliver(client, node, turn.events, turn.replies[-1], answer)

    def deliver(self, client: Client, node: Node, events: Sequence[bytes], reply: Reply, answer: str) -> None:
        if answer == ARRIVES:
            client.receive([(number, self.published[number]) for number in self.numbers(events)], reply)
        elif answer == IS_SEEN_LOST and self.run(self.is_home(node, client)):
            self.run(self.see_break(node, client.sends.connection_id))
        elif client.was_hurried:
            self.excuse(client, events, reply)

    async def is_home(self, node: Node, client: Client) -> bool:
        """Whether what the node sees of the session still counts: another may have taken it over meanwhile."""
        if client.client_id not in node.registry.residents:
            return False
        record = await node.store.load(client.client_id)
        return record is not None and record.home == node.name

    async def see_break(self, node: Node, connection_id: int) -> None:
        """A node notices a broken connection; where a session roams, the next node finds it in the store."""
        node.sessions.connection_broke(connection_id)
        await node.background.finish()

    def excuse(self, client: Client, events: Sequence[bytes], reply: Reply) -> None:
        """Nobody can tell that an answer got lost."""
        if not client.ack:
            client.excused.update(self.numbers(events))
            ext = reply.get("ext", {})
            assert isinstance(ext, dict)
            client.missed = client.missed or "missed" in ext.get("calltag", {})

    @rule(client=clients, first=NODES, second=NODES, answer=ANSWERS)
    def connect_twice_at_once(self, client: Client, first: str, second: str, answer: str) -> None:
        """The client has given up on a connect that is still under way, and sends another."""
        nodes = [self.nodes.named[first], self.nodes.named[second]]
        for node in nodes:
            self.expect_repeats(client, node)
        client.held, client.failed, client.unsure = None, True, True

        async def both() -> list[Turn]:
            return await asyncio.gather(*(client.sends.send(node, client.connect()) for node in nodes))

        former, turn = self.run(both())
        if turn.replaced:
            return
        if former.replies:
            self.excuse(client, former.events, former.replies[-1])
        self.end(client, nodes[1], turn, answer)
        client.unsure = True

    @precondition(lambda self: any(client.held is not None for client in self.all))
    @rule(client=clients, answer=ANSWERS, due=st.booleans(), leaves=st.booleans())
    def wait(self, client: Client, answer: str, due: bool, leaves: bool = False) -> None:
        """What became of a suspended connect: an answer, after events or after the timeout, or that it was replaced.

        A client that leaves takes no answer.
        """
        if client.held is None:
            return
        node, turn = client.held
        assert turn.held is not None
        if leaves and not turn.line.answered.is_set():
            node.sessions.abandon(turn.held)
            client.held = None
            return
        if not turn.line.answered.is_set() and not due:
            return
        self.run(self.let_answer(node, turn))
        client.held = None
        if turn.line.reply is not None:
            self.deliver(client, node, turn.line.events, turn.line.reply, answer)

    async def let_answer(self, node: Node, turn: Turn) -> None:
        if not turn.line.answered.is_set():
            await node.sessions.sync.save_marked()
            node.ahead_ms += TIMEOUT_MS
            await node.lease.renew()
        while not turn.line.answered.is_set():
            node.sessions.tick()
            await asyncio.sleep(0)

    # -- nodes ---------------------------------------------------------------------------------------------------

    @rule(node=NODES, crashes=st.booleans())
    def lose_what_a_node_holds(self, node: str, crashes: bool) -> None:
        """A node crashes, or lets all sessions go, as it does with those that it takes for silent."""
        here = self.nodes.named[node]
        for client in self.all:
            if client.home is here:
                self.expect_repeats_of(client)
            if crashes and client.held is not None and client.held[0] is here:
                client.held = None
        if crashes:
            self.run(self.nodes.crash(node))
            self.run(self.nodes.start(node))
        else:
            self.run(self.let_all_go(here))

    async def let_all_go(self, node: Node) -> None:
        for resident in list(node.registry.residents.values()):
            node.sessions.endings.release(resident)

    @rule(node=NODES)
    def save(self, node: str) -> None:
        self.run(self.nodes.named[node].sessions.sync.save_marked())

    @rule(node=NODES, is_renewed=st.booleans())
    def let_lease_lapse(self, node: str, is_renewed: bool) -> None:
        here = self.nodes.named[node]
        self.run(self.nodes.lapse(here))
        if is_renewed:
            self.run(here.lease.renew())

    @rule(loses=st.booleans())
    def lose_notices(self, loses: bool) -> None:
        self.run(self.nodes.settle())
        self.nodes.loses_notices = loses

    # -- what must hold ------------------------------------------------------------------------------------------

    def check(self, client: Client) -> None:
        """Connect until nothing comes any more; then everything must have come that is not said to be missed."""
        for node in ("two", "one"):
            quiet = 0
            # The first connect at another node may bring nothing.
            while quiet < 2:
                before = len(client.got)
                self.connect(client, node, answer=ARRIVES)
                if client.held is not None:
                    self.wait(client, answer=ARRIVES, due=True)
                quiet = quiet + 1 if len(client.got) == before else 0
        for number, channel in enumerate(self.published):
            covering = [each for each in client.wanted if each.covers(number, channel)]
            if number in client.got:
                assert covering, f"{number} was never wanted"
            elif number not in client.excused and any(each.until is None for each in covering):
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
