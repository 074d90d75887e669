"""Composition of the worker."""

import asyncio
import time
from typing import Final

import orjson

from calltag.core.backends import Backends
from calltag.core.broker.ports import Partition
from calltag.core.broker.rabbitmq.operation_batch import MOST_BYTES
from calltag.core.contracts.stored_call import Lifetimes
from calltag.core.domain.call import ConsultData
from calltag.core.domain.family import MergedData
from calltag.core.domain.outcome import CallLimits, CallRules
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.settings.sections import Worker
from calltag.core.store.backlog import RedisLags
from calltag.core.store.byte_window import ByteWindow
from calltag.core.store.calls import RedisCallBlocks, RedisCallStore
from calltag.core.store.event_log import RedisEventLog
from calltag.core.store.ports import WorkerId
from calltag.core.store.replica_wait import Durability
from calltag.core.store.watches import RedisWatches
from calltag.core.store.workers import RedisCallIndex, RedisWorkerRegistry
from calltag.worker.assignment import Assignments
from calltag.worker.event_publisher import EventPublisher
from calltag.worker.expiry import Sweep
from calltag.worker.loss_recovery import RecentByPartition, RecentLimits
from calltag.worker.metrics import WorkerMetrics
from calltag.worker.node_sender import NodeSender
from calltag.worker.parking import Parking
from calltag.worker.partition_runner import PartitionRunner, RetryLimits
from calltag.worker.reports import BlockCounts, LagReports

_SWEEP_EVERY_S: Final = 30.0
_LONGER: Final = 2
"""Live calls are kept longer than their lifetime, so that a worker can end them."""

_MOST_HEARTBEAT_S: Final = 1.0
"""Workers notice changes of the registry at their next heartbeat."""


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def prefetch_of(settings: Worker, partitions: int) -> int:
    """Return the prefetch of a partition.

    RabbitMQ bounds the number of prefetched messages but not their bytes (`prefetch_size` is not implemented), and the
    number is fixed for a consumer. So it is the number of largest messages that fit on a worker with all partitions.
    """
    return max(1, min(settings.prefetch, settings.prefetch_bytes // (partitions * MOST_BYTES)))


def lag_reports(backends: Backends) -> LagReports:
    """Return the lag reports of the worker."""
    return LagReports(RedisLags(backends.client, backends.keys), now_ms)


def worker_parts(backends: Backends, reports: LagReports | None = None) -> Assignments:
    """Return the worker on these backends."""
    noted = reports or lag_reports(backends)
    settings, client, keys = backends.settings.worker, backends.client, backends.keys
    redis, partitions, max_bytes = (
        backends.settings.redis,
        backends.settings.partitions,
        backends.settings.max_batch_bytes,
    )
    window = ByteWindow(max_bytes, redis.deadline_s)
    prefetch = prefetch_of(settings, partitions)
    # An operation id that Redis may have dropped must not count as lost.
    most_recent = min(settings.recent_operations, settings.remembered_operations)
    recent = RecentByPartition(RecentLimits(settings.recent_s, most_recent, settings.recent_bytes // partitions))
    lifetimes = Lifetimes(
        settings.live_call_lifetime_s * 1000 * _LONGER,
        settings.wrap_up_s * 1000,
        backends.settings.operation_memory_s * 1000,
    )
    store = RedisCallStore(
        client,
        keys,
        lifetimes=lifetimes,
        remembered_operations=settings.remembered_operations,
        durability=Durability(redis.wait_replicas, round(redis.wait_timeout_s * 1000)),
        max_batch_bytes=max_bytes,
    )
    kept = backends.settings.events
    streams = RedisEventLog(
        client,
        backends.batcher,
        keys,
        retention_ms=round(kept.retention_s * 1000),
        most_events=kept.per_user,
        most_bytes=kept.per_user_bytes,
        most_events_of_watcher=kept.per_watcher,
        most_bytes_of_watcher=kept.per_watcher_bytes,
        max_batch_bytes=max_bytes,
    )
    index = RedisCallIndex(client, keys, lifetime_ms=lifetimes.live_ms)
    metrics = WorkerMetrics(backends.metrics)
    nodes = NodeSender(backends.broker, streams, max_bytes, on_sent=metrics.node_messages_sent.inc)
    publisher = EventPublisher(nodes, index, streams, RedisWatches(client, backends.batcher, keys), window)
    limits = CallLimits(
        lambda value: len(orjson.dumps(value)),
        settings.max_call_pairs,
        settings.max_call_bytes,
        settings.max_call_parties,
        rules=CallRules(ConsultData(settings.consult_user_data), MergedData(settings.merged_user_data)),
    )
    parking_lot = Parking(backends.broker)
    backends.metrics.before_scrape(lambda: metrics.store_window_bytes.set(window.size_bytes))

    def make(partition: Partition) -> PartitionRunner:
        return PartitionRunner(
            partition,
            store,
            publisher,
            limits,
            metrics,
            batch_limit=settings.batch_limit,
            lag=noted.of(partition),
            sweep=Sweep(
                partition,
                store,
                settings.live_call_lifetime_s * 1000,
                min(_SWEEP_EVERY_S, settings.live_call_lifetime_s / 4),
                time.monotonic,
                now_ms,
            ),
            recent=recent.of(partition),
            window=window,
            call_cache_bytes=settings.call_cache_bytes,
            parking_lot=parking_lot,
            retry_limits=RetryLimits(settings.park_after_s, settings.max_crashes),
        )

    return Assignments(
        WorkerId(f"worker-{backends.instance}"),
        backends.broker,
        RedisWorkerRegistry(client, keys, lease_ms=round(settings.lease_s * 1000)),
        make,
        metrics,
        partitions=partitions,
        prefetch=prefetch,
        heartbeat_s=min(settings.lease_s / 3, _MOST_HEARTBEAT_S),
        lease_s=settings.lease_s,
        on_other_owner=recent.note_other_owner,
        finish=publisher.finish,
    )


async def run_worker(backends: Backends, life: Lifecycle, stop: asyncio.Event) -> None:
    """Work until `stop` is set, then finish the work in progress, no longer than the drain timeout."""
    reports = lag_reports(backends)
    assignments = worker_parts(backends, reports)
    metrics = WorkerMetrics(backends.metrics)
    backends.health.checks["partitions"] = assignments.all_consumed
    backends.health.details["partitions"] = lambda: {
        "worker": assignments.worker,
        "owned": sorted(assignments.partitions),
        "consumed": [each.partition for each in assignments.held()],
        "missing": assignments.missing(),
    }
    backends.metrics.before_scrape(
        lambda: metrics.held(assignments.held(), len(assignments.missing()), round(time.time() * 1_000))
    )
    task = life.supervise("worker", assignments.run(stop))
    reporting = life.supervise("lag-reports", reports.run(lambda: assignments.partitions))
    blocks = RedisCallBlocks(backends.client, backends.keys, backends.settings.partitions)
    counting = life.supervise("block-counts", BlockCounts(blocks, metrics).run(lambda: assignments.partitions))
    await stop.wait()
    await asyncio.wait({task}, timeout=backends.settings.drain_timeout_s)
    reporting.cancel()
    counting.cancel()
