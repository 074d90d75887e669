"""Tasks that must not end: without them a process runs on, and is of no use."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from calltag.core.runtime.backoff import backoff_s

log = structlog.get_logger()


async def restart_forever(run: Callable[[], Awaitable[None]], name: str) -> None:
    """Run it for as long as this task runs: whatever ends it is logged, and it begins anew after a while.

    That includes a cancellation that nobody asked for: libraries cancel what waits for a connection that goes away.
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
