"""The worker, put together."""

import asyncio
from uuid import uuid4

import orjson

from calltag.core.backends import Backends
from calltag.core.bus.ports import Partition
from calltag.core.domain.outcome import CallLimits
from calltag.core.runtime.lifecycle import Lifecycle
from calltag.core.store.ports import WorkerId
from calltag.core.store.records import Lifetimes
from calltag.core.store.redis_registry import RedisCallIndex, RedisWorkerRegistry
from calltag.core.store.redis_state import RedisStateStore
from calltag.core.store.user_streams import RedisUserStreams
from calltag.core.store.watches import RedisWatches
from calltag.worker.assignments import Assignments
from calltag.worker.observations import WorkerObservations
from calltag.worker.outgoing import Outgoing
from calltag.worker.parking import ParkingLot
from calltag.worker.partition_worker import PartitionWorker, Patience


def worker_parts(backends: Backends) -> Assignments:
    """The worker on these backends; `run` of what is returned is its life."""
    settings, client, keys = backends.settings.worker, backends.client, backends.keys
    lifetimes = Lifetimes(
        settings.live_call_lifetime_s * 1000,
        settings.released_call_lifetime_s * 1000,
        backends.settings.operation_memory_s * 1000,
    )
    store = RedisStateStore(
        client,
        keys,
        lifetimes=lifetimes,
        remembered_operations=settings.remembered_operations,
    )
    kept = backends.settings.events
    streams = RedisUserStreams(
        client,
        backends.batcher,
        keys,
        retention_ms=round(kept.retention_s * 1000),
        most_events=kept.per_user,
        most_bytes=kept.per_user_bytes,
        most_events_of_watcher=kept.per_watcher,
        most_bytes_of_watcher=kept.per_watcher_bytes,
    )
    index = RedisCallIndex(client, keys, lifetime_ms=lifetimes.live_ms)
    outgoing = Outgoing(backends.bus, index, streams, RedisWatches(client, backends.batcher, keys))
    limits = CallLimits(
        lambda value: len(orjson.dumps(value)),
        settings.max_call_pairs,
        settings.max_call_bytes,
        settings.max_call_parties,
    )
    parking_lot = ParkingLot(backends.bus)
    observations = WorkerObservations(backends.metrics)

    def make(partition: Partition) -> PartitionWorker:
        return PartitionWorker(
            partition,
            store,
            outgoing,
            limits,
            observations,
            parking_lot=parking_lot,
            batch_limit=settings.batch_limit,
            most_waiting=settings.prefetch // 2,
            patience=Patience(settings.park_after_s, settings.max_crashes),
        )

    return Assignments(
        WorkerId(f"worker-{uuid4().hex}"),
        backends.bus,
        RedisWorkerRegistry(client, keys, lease_ms=round(settings.lease_s * 1000)),
        make,
        observations,
        partitions=backends.settings.partitions,
        prefetch=settings.prefetch,
        heartbeat_s=settings.lease_s / 3,
    )


async def run_worker(backends: Backends, life: Lifecycle, stop: asyncio.Event) -> None:
    """Work until `stop` is set, then finish what is in hand, no longer than the drain timeout."""
    assignments = worker_parts(backends)
    backends.health.checks["partitions"] = assignments.all_consumed
    task = life.supervise("worker", assignments.run(stop))
    await stop.wait()
    await asyncio.wait({task}, timeout=backends.settings.drain_timeout_s)
