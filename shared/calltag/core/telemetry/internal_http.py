"""Internal port: liveness, readiness, metrics and version."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from calltag.core import VERSION
from calltag.core.http.scope import routed
from calltag.core.telemetry.conditions import Condition
from calltag.core.telemetry.metrics import CONTENT_TYPE, Metrics

Check = Callable[[], bool | Awaitable[bool]]
_CHECK_DEADLINE_S: Final = 2.0
_CHECK_FAILED: Final = Condition("health_check_failed", over="health_check_answered")


@dataclass(slots=True)
class Health:
    """Named checks; the service is ready while all pass and it is not stopping.

    A check is a function or coroutine function. One that raises, or takes longer than two seconds, fails.
    """

    service: str
    checks: dict[str, Check] = field(default_factory=dict)
    details: dict[str, Callable[[], object]] = field(default_factory=dict)
    """JSON values that `/readyz?verbose` adds to the checks; usually why the check of that name fails."""
    stopping: bool = False

    def stop(self) -> None:
        """Report from now on that the service is not ready."""
        self.stopping = True

    async def states(self) -> Mapping[str, bool]:
        """Run all checks concurrently; return their results and `running`. A check added meanwhile is False."""
        asked = dict(self.checks)
        outcomes = await asyncio.gather(*(_outcome(name, check) for name, check in asked.items()))
        known = dict(zip(asked, outcomes, strict=True))
        return {name: known.get(name, False) for name in self.checks} | {"running": not self.stopping}


async def _outcome(name: str, check: Check) -> bool:
    try:
        async with asyncio.timeout(_CHECK_DEADLINE_S):
            held = check()
            holds = bool(await held if inspect.isawaitable(held) else held)
    except Exception as error:  # noqa: BLE001 - a broken check must show as not ready, not break the page
        _CHECK_FAILED.fails(error, name, check=name)
        return False
    _CHECK_FAILED.holds(name)
    return holds


def internal_app(health: Health, metrics: Metrics) -> Starlette:
    """`/livez`, `/readyz`, `/metrics`, `/version`.

    `/readyz` returns 503 while a check fails, and lists every check with its state; `/metrics` has the same as
    `calltag_readiness_check`. `/readyz?verbose` adds details.
    """

    checks = metrics.gauge("readiness_check", "1 while the readiness check of that name passes.", "check")

    async def livez(_: Request) -> Response:
        return _json({"alive": True})

    async def readyz(request: Request) -> Response:
        states = await health.states()
        ready = all(states.values())
        report: dict[str, object] = {"ready": ready, "checks": states}
        if "verbose" in request.query_params:
            report["details"] = {name: detail() for name, detail in health.details.items()}
        return _json(report, 200 if ready else 503)

    async def show_metrics(_: Request) -> Response:
        for name, holds in (await health.states()).items():
            checks.labels(name).set(holds)
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    async def version(_: Request) -> Response:
        return _json({"service": health.service, "version": VERSION})

    return routed(
        [
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", show_metrics),
            Route("/version", version),
        ]
    )


def _json(content: object, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
