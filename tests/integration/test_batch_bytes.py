"""What is more than a batch is committed in several, in order and once, also where large ones never arrive."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from calltag.core.bayeux.events import BEGINNING
from calltag.core.broker.memory import MemoryBroker
from calltag.core.broker.ports import Partition
from calltag.core.contracts.operations import EVENT, OPERATION, OperationMessage
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.events import CallChanged, NotificationType
from calltag.core.domain.ids import CallId, ConnId, DeviceId, EventId, OperationId
from calltag.core.domain.operations import AttachUserData, CallAction, CallOperation, CallStarted, UpdateUserData
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.user_data import UserData
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.calls import RedisCallReader, RedisCallStore
from calltag.core.store.client import RedisClient
from calltag.core.store.embedded import embedded_store
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.ports import Change, CommitPosition, Committal, Epoch, Loaded, StoreUnavailable
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.watches import RedisWatches
from calltag.core.store.workers import RedisCallIndex
from calltag.core.telemetry.metrics import Metrics
from calltag.worker.event_publisher import EventPublisher
from calltag.worker.expiry import Sweep
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.node_sender import NodeSender
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner, RetryLimits
from integration.test_partition_runner import ALICE, HERE, KEYS, PARTITIONS
from parts.eventually import eventually
from parts.store_commands import library

LEG = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), ALICE)
CALLS = [CallId("C1"), CallId("C2"), CallId("C5")]
"""All of one partition."""


class NarrowStore(RedisCallStore):
    """A store to which commits of more bytes never get; of those that do, every third loses its answer."""

    narrow_bytes = 10**9
    loses_answers = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.committed: list[int] = []
        self.loaded: list[int] = []
        self.too_large = 0

    async def load(
        self, partition: Partition, wanted: Mapping[str, Sequence[OperationId]], max_bytes: int | None = None
    ) -> Mapping[str, Loaded]:
        found = await super().load(partition, wanted, max_bytes)
        self.loaded.append(len(found))
        self._arrives(sum(len(orjson.dumps(each.state)) for each in found.values() if each.state is not None))
        return found

    async def kept(
        self, partition: Partition, epoch: Epoch, skip: int = 0, max_bytes: int | None = None
    ) -> Sequence[bytes]:
        events = await super().kept(partition, epoch, skip, max_bytes)
        self._arrives(sum(map(len, events)))
        return events

    def _arrives(self, size_bytes: int) -> None:
        if size_bytes > self.narrow_bytes:
            self.too_large += 1
            raise StoreUnavailable("Redis did not answer within 1 s")

    async def commit(
        self,
        partition: Partition,
        epoch: Any,
        changes: Sequence[Change],
        events: Sequence[bytes],
        *more: Any,
        **named: Any,
    ) -> Committal:
        size_bytes = sum(map(len, events))
        self._arrives(size_bytes)
        made = await super().commit(partition, epoch, changes, events, *more, **named)
        self.committed.append(size_bytes)
        if self.loses_answers and len(self.committed) % 3 == 0:
            raise StoreUnavailable("the answer was lost")
        return made


class LosingStore(RedisCallStore):
    """A store that loses the first answer to each request for kept events, and to drop them."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.lost: list[object] = []
        self.dropped: list[CommitPosition] = []

    async def kept(
        self, partition: Partition, epoch: Epoch, skip: int = 0, max_bytes: int | None = None
    ) -> Sequence[bytes]:
        events = await super().kept(partition, epoch, skip, max_bytes)
        self._loses(skip)
        return events

    async def sent(self, partition: Partition, epoch: Epoch, position: CommitPosition) -> None:
        await super().sent(partition, epoch, position)
        self.dropped.append(position)
        self._loses("sent")

    def _loses(self, answer: object) -> None:
        if answer not in self.lost:
            self.lost.append(answer)
            raise StoreUnavailable("the answer was lost")


class FailingStore(RedisCallStore):
    """A store with which the worker fails when it asks for more than the first kept events."""

    async def kept(
        self, partition: Partition, epoch: Epoch, skip: int = 0, max_bytes: int | None = None
    ) -> Sequence[bytes]:
        if skip:
            raise RuntimeError("the worker fails")
        return await super().kept(partition, epoch, skip, max_bytes)


@dataclass
class Here:
    """A partition, and what is asked of its calls."""

    client: RedisClient
    broker: MemoryBroker = field(default_factory=lambda: MemoryBroker(PARTITIONS))
    numbers: int = 0

    async def publish(self, call: CallId, action: CallAction) -> None:
        self.numbers += 1
        operation = CallOperation(OperationId(f"o{self.numbers}"), call, action, 1, ALICE)
        await self.broker.publish_operation(HERE, OPERATION.encode(OperationMessage(operation=operation)), operation.id)

    async def begin(self, call: CallId, held: int) -> None:
        await self.publish(call, CallStarted(ConnId("c"), CallType.INBOUND, "", (LEG,), (("held", "x" * held),)))

    @asynccontextmanager
    async def working(
        self, store: RedisCallStore, max_bytes: int, *, limits: CallLimits | None = None, sweep: Sweep | None = None
    ) -> AsyncIterator[None]:
        """A worker whose batches are bounded, while the context is open."""
        batcher, window = ScriptBatcher(self.client), ByteWindow(max_bytes)
        streams = RedisEventLog(self.client, batcher, KEYS)
        outgoing = EventPublisher(
            NodeSender(self.broker, streams, window.max_batch_bytes), RedisCallIndex(self.client, KEYS), streams,
            RedisWatches(self.client, batcher, KEYS), window,
        )  # fmt: skip
        worker = PartitionRunner(
            HERE, store, outgoing, limits or CallLimits(lambda value: len(orjson.dumps(value))),
            WorkerMetrics(Metrics()), parking_lot=Parking(self.broker), batch_limit=300, window=window,
            retry_limits=RetryLimits(park_after_s=0.1), sweep=sweep,
        )  # fmt: skip
        released = asyncio.Event()
        async with self.broker.partition(HERE, 1_000) as consumer:
            running = asyncio.create_task(worker.run(consumer, released))
            try:
                yield
            finally:
                released.set()
                await running

    async def values(self, call: CallId) -> Sequence[object]:
        found = await self._reader.call(call)
        return () if found is None else found.user_data.values.get("n", ())

    async def has_ended(self, call: CallId) -> bool:
        found = await self._reader.call(call)
        return found is not None and found.released

    @property
    def _reader(self) -> RedisCallReader:
        return RedisCallReader(self.client, KEYS, PARTITIONS)

    async def told(self) -> list[tuple[str, int]]:
        """Call and version of each event in the agent's stream."""
        streams, position, told = RedisEventLog(self.client, ScriptBatcher(self.client), KEYS), BEGINNING, []
        while (page := await streams.read(ALICE, position, 100)).entries:
            events = [orjson.loads(entry.event) for entry in page.entries]
            told += [(each["call"]["id"], each["call"]["version"]) for each in events if "call" in each]
            position = page.entries[-1].position
        return told


@pytest.fixture
async def here() -> AsyncIterator[Here]:
    async with embedded_store(None, deadline_s=20) as store:
        yield Here(store.client)


async def attach_all(here: Here, count: int) -> None:
    for number in range(count):
        await here.publish(CALLS[0], AttachUserData((("n", number),)))


async def until_attached(here: Here, call: CallId, wanted: Sequence[object]) -> None:
    async def so() -> bool:
        return list(await here.values(call)) == list(wanted)

    await eventually(so, within_s=40)


async def until_told(here: Here, count: int) -> None:
    async def so() -> bool:
        return len(await here.told()) == count

    await eventually(so, within_s=40)


async def test_operations_of_one_call_are_spread_over_commits_of_bounded_size(here: Here) -> None:
    store = NarrowStore(here.client, KEYS)
    await here.begin(CALLS[0], 10_000)
    await attach_all(here, 60)
    async with here.working(store, 100_000):
        await until_attached(here, CALLS[0], range(60))
    assert await here.told() == [("C1", version) for version in range(1, 62)]
    assert max(store.committed) <= 100_000
    assert len(store.committed) <= 10, "and they are filled"
    assert len(store.loaded) == 1


@pytest.mark.parametrize("loses_answers", [False, True])
async def test_where_large_commits_never_arrive_smaller_ones_are_made(here: Here, *, loses_answers: bool) -> None:
    store = NarrowStore(here.client, KEYS)
    store.narrow_bytes, store.loses_answers = 40_000, loses_answers
    await here.begin(CALLS[0], 10_000)
    await attach_all(here, 40)
    async with here.working(store, 1_048_576):
        await until_attached(here, CALLS[0], range(40))
    assert await here.told() == [("C1", version) for version in range(1, 42)]
    assert 0 < store.too_large < 20


async def test_where_large_answers_never_arrive_smaller_ones_are_asked_for(here: Here) -> None:
    for call in CALLS:
        await here.begin(call, 10_000)
    async with here.working(RedisCallStore(here.client, KEYS), 1_048_576):
        await until_told(here, len(CALLS))
    store = NarrowStore(here.client, KEYS)
    store.narrow_bytes = 15_000
    # What the former owner committed and did not send is more than arrives at once, and so is what the calls hold.
    outbox, streams = KEYS.outbox(HERE), RedisEventLog(here.client, ScriptBatcher(here.client), KEYS)
    entries = (await streams.read(ALICE, BEGINNING, 100)).entries
    await library(here.client).rpush(outbox, *(each.event for each in entries))
    for call in CALLS:
        await here.publish(call, AttachUserData((("n", 1),)))
    async with here.working(store, 1_048_576):
        for call in CALLS:
            await until_attached(here, call, [1])
        await until_told(here, 2 * len(CALLS))
    assert await library(here.client).llen(outbox) == 0
    assert store.too_large > 0


async def commit_and_crash(here: Here, versions: int) -> None:
    """A former owner: a commit for each version of a call, whose events were not sent."""
    store = RedisCallStore(here.client, KEYS)
    epoch, before = (await store.take_over(HERE)).epoch, None
    for version in range(1, versions + 1):
        held = UserData().update((("held", "x" * 1_000), ("n", version)))
        call = Call(CALLS[0], ConnId("c"), CallType.INBOUND, "", 1, (LEG,), held, version=version)
        event = CallChanged(EventId(f"e{version}"), NotificationType.ATTACHED_DATA_CHANGED, call, call.users(), 1)
        await store.commit(HERE, epoch, [Change(f"call:{call.id}", before, call, ())], [EVENT.encode(event)])
        before = call


async def test_kept_events_of_several_commits_are_told_in_pages_whatever_is_interrupted(here: Here) -> None:
    await commit_and_crash(here, 9)
    await here.publish(CALLS[0], UpdateUserData((("n", "next"),)))
    with pytest.raises(RuntimeError, match="the worker fails"):
        async with here.working(FailingStore(here.client, KEYS), 4_000):
            await until_told(here, 2)
    # What the first page held is sent again, in the same order, and recognised.
    assert await library(here.client).llen(KEYS.outbox(HERE)) == 9
    store = LosingStore(here.client, KEYS)
    async with here.working(store, 4_000):
        await until_attached(here, CALLS[0], ["next"])
        await until_told(here, 10)
        await eventually(lambda: len(store.dropped) == 3)
    assert await here.told() == [("C1", version) for version in range(1, 11)]
    assert store.dropped == [9, 9, 10], "together, when all are sent; and then those of the next commit"
    assert len(store.lost) > 3
    assert await library(here.client).llen(KEYS.outbox(HERE)) == 0


async def test_a_single_event_that_is_larger_than_a_batch_is_committed(here: Here) -> None:
    store = NarrowStore(here.client, KEYS)
    await here.begin(CALLS[0], 50_000)
    for number in range(3):
        await here.publish(CALLS[0], UpdateUserData((("n", number),)))
    async with here.working(store, 1_024):
        await until_attached(here, CALLS[0], [2])
    assert len(store.committed) == 4


async def test_many_large_calls_are_read_a_batch_at_a_time(here: Here) -> None:
    for call in CALLS:
        await here.begin(call, 10_000)
    async with here.working(RedisCallStore(here.client, KEYS), 1_048_576):
        for call in CALLS:
            await here.publish(call, AttachUserData((("n", 1),)))
        for call in CALLS:
            await until_attached(here, call, [1])
    store = NarrowStore(here.client, KEYS)
    for number in (2, 3):
        for call in CALLS:
            await here.publish(call, AttachUserData((("n", number),)))
    async with here.working(store, 12_000):
        for call in CALLS:
            await until_attached(here, call, [1, 2, 3])
    assert max(store.loaded) == 1


async def test_behind_one_that_fails_in_an_earlier_commit_those_of_its_call_wait_and_others_go_on(here: Here) -> None:
    def length(value: object) -> int:
        if value == "poison":
            raise KeyError(value)
        return len(orjson.dumps(value))

    broken, well = CALLS[:2]
    for call in (broken, well):
        await here.begin(call, 2_000)
    await here.publish(broken, AttachUserData((("n", 1),)))
    await here.publish(broken, AttachUserData((("n", "poison"),)))
    for number in range(1, 9):
        await here.publish(well, AttachUserData((("n", number),)))
        await here.publish(broken, AttachUserData((("n", number + 1),)))
    async with here.working(NarrowStore(here.client, KEYS), 3_000, limits=CallLimits(length)):
        await until_attached(here, well, range(1, 9))
        await eventually(lambda: bool(here.broker.parked))
    assert await here.values(broken) == (1,)
    assert [each.message_id for each in here.broker.parked] == ["o4"]


async def test_silent_calls_are_ended_over_several_commits(here: Here) -> None:
    for call in CALLS:
        await here.begin(call, 2_000)
    store = NarrowStore(here.client, KEYS)
    async with here.working(store, 3_000):
        await eventually(lambda: len(store.committed) == len(CALLS))
    ending = NarrowStore(here.client, KEYS)
    sweep = Sweep(HERE, ending, 0, 0.05, time.monotonic, lambda: 1)

    async def all_ended() -> bool:
        return all([await here.has_ended(call) for call in CALLS])

    async with here.working(ending, 3_000, sweep=sweep):
        await eventually(all_ended)
    assert len(ending.committed) == len(CALLS)
