"""CometD hubs without bus and HTTP: several nodes on one store, in one process."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.events import Event, Published
from calltag.core.bayeux.extensions.acknowledgment import Acknowledgment
from calltag.core.bayeux.extensions.replay import Replay
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.client_ids import digest_of
from calltag.core.store.cometd_sessions import RedisCometdSessions
from calltag.core.store.keys import Keys
from calltag.core.store.user_streams import Addition, Entry, RedisUserStreams
from calltag.core.store.watches import RedisWatches
from calltag.core.wire.messages import SessionNotice
from calltag.notifier.cometd.connects import Connects
from calltag.notifier.cometd.feeding import Feeding
from calltag.notifier.cometd.hub import Hub
from calltag.notifier.cometd.local import Local
from calltag.notifier.cometd.metrics import Limit
from calltag.notifier.cometd.residence import Residence
from calltag.notifier.cometd.side_tasks import SideTasks
from calltag.notifier.cometd.watching import Watching

KEYS = Keys("hubs")


class NoMetrics:
    """Implements HubMetrics."""

    def received(self, messages: int) -> None: ...

    def refused(self, error: str) -> None: ...

    def limited(self, limit: Limit) -> None: ...

    def begun(self) -> None: ...

    def delivered(self, channel: str, sessions: int) -> None: ...

    def handed_over(self, latency_s: float, times: int = 1) -> None: ...

    def redelivered(self, events: int) -> None: ...

    def resumed(self) -> None: ...

    def swept(self) -> None: ...

    def gap(self) -> None: ...


class ForgetfulSessions(RedisCometdSessions):
    """Puts off, on demand, what is to be saved after an answer: until it is asked to, or for ever."""

    forgets = False

    def __init__(self, client: RedisClient, batcher: ScriptBatcher, keys: Keys, node: NodeId) -> None:
        super().__init__(client, batcher, keys, node)
        self._put_off: list[Callable[[], Awaitable[bool]]] = []

    async def save(self, client_id: str, **known: Any) -> bool:
        saving = partial(super().save, client_id, **known)
        if self.forgets:
            self._put_off.append(saving)
            return False
        return await saving()

    async def save_late(self) -> None:
        """Save what was put off."""
        while self._put_off:
            await self._put_off.pop(0)()


def translate(_: UserId, entry: Entry) -> Published:
    """An entry is JSON `{"channel", "data"}`."""
    told = orjson.loads(entry.event)
    return Published(entry.position, entry.previous, (Event(told["channel"], told["data"]),))


@dataclass
class Nodes:
    """The nodes by name; a node that crashed has a successor under the same name."""

    client: RedisClient
    limits: BayeuxLimits = field(default_factory=BayeuxLimits)
    hubs: dict[str, Hub] = field(default_factory=dict)
    clock_ms: int = 0
    loses_notices: bool = False
    _by_id: dict[NodeId, Hub] = field(default_factory=dict)
    _all: list[Hub] = field(default_factory=list)
    _count: int = 0
    _versions: int = 0

    def __post_init__(self) -> None:
        self.batcher = ScriptBatcher(self.client)
        self.streams = RedisUserStreams(self.client, self.batcher, KEYS)

    def start(self, name: str) -> Hub:
        """Start a node, or its successor."""
        self._count += 1
        node, local, tasks, metrics = NodeId(f"{name}-{self._count}"), Local(), SideTasks(), NoMetrics()
        store = ForgetfulSessions(self.client, self.batcher, KEYS, node)
        allowed: Callable[[str, str], bool] = lambda _, channel: channel.startswith(("/v2/", "/x/"))  # noqa: E731
        connects = Connects(
            node,
            Engine(self.limits, allowed, lambda *_: False, (Acknowledgment(), Replay())),
            store,
            local,
            Feeding(local, self.streams, translate, self.limits, metrics, tasks),
            Residence(store, local, tasks),
            Watching(RedisWatches(self.client, self.batcher, KEYS), tasks, lambda: self.clock_ms),
            self,
            metrics,
            tasks,
            lambda user: f"credential of {user}",
            clock_ms=lambda: self.clock_ms,
        )
        former = self.hubs.get(name)
        if former is not None:
            self._by_id.pop(former.connects.node)
        hub = self.hubs[name] = self._by_id[node] = Hub(connects, reachable=True)
        self._all.append(hub)
        return hub

    async def tell(self, node: NodeId, notice: SessionNotice) -> None:
        """Implements Post: between the nodes of this process."""
        hub = self._by_id.get(node)
        if hub is not None and not self.loses_notices:
            await hub.heed(notice)

    async def publish(
        self, user: UserId, told: Sequence[tuple[str, object]], *, lost: bool = False
    ) -> Sequence[Position]:
        """Add events, each a channel and data, to the user's stream, and tell the nodes, unless that is `lost`.

        Returns where they are.
        """
        additions = []
        for channel, data in told:
            self._versions += 1
            additions.append(Addition("subject", self._versions, orjson.dumps({"channel": channel, "data": data})))
        appended = (await self.streams.append({user: additions}, to_watchers=True))[user]
        for node in appended.nodes:
            hub = self._by_id.get(node)
            for addition, place in zip(additions, appended.places, strict=True):
                if hub is not None and place is not None and not lost:
                    entry = Entry(place.position, place.previous, addition.event)
                    hub.connects.feeding.publish(user, translate(user, entry))
        return [place.position for place in appended.places if place is not None]

    async def expire(self, user: UserId, client_id: str) -> None:
        """The session's time is up in the store; the nodes do not know."""
        await self.client.connection.delete(KEYS.cometd_session(user, digest_of(client_id)))

    async def trim(self, user: UserId, most: int) -> None:
        """Let the user's stream keep no more than its last events."""
        await self.client.connection.xtrim(KEYS.stream_of(user), maxlen=most, approximate=False)

    async def settle(self) -> None:
        """Wait until nothing is done aside any more."""
        for hub in self._all:
            await hub.connects.side_tasks.finish()
