"""Restarting of tasks that must not end, since the process would run on without its function."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from calltag.core.runtime.backoff import backoff_s

log = structlog.get_logger()


async def restart_forever(run: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a coroutine function until cancelled; when it ends, log that and restart it with backoff.

    That includes spurious cancellations: libraries cancel tasks that wait for a closing connection.
    """
    delays = backoff_s(0.1, 5.0)
    while True:
        try:
            await run()
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is None or current.cancelling():
                raise
            log.error("task_cancelled", task=name)
        except Exception:
            log.exception("task_failed", task=name)
        else:
            log.error("task_ended", task=name)
        await asyncio.sleep(next(delays))
