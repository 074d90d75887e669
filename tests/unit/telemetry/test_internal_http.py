"""The port for operators."""

import httpx

from calltag.core import VERSION
from calltag.core.telemetry.internal_http import Health, internal_app
from calltag.core.telemetry.metrics import Metrics


async def test_what_operators_see() -> None:
    async def fine() -> bool:
        return True

    health = Health("worker", {"bus": fine, "store": lambda: False})
    transport = httpx.ASGITransport(internal_app(health, Metrics()))
    async with httpx.AsyncClient(transport=transport, base_url="http://internal") as http:
        assert (await http.get("/livez")).status_code == 200
        unready = await http.get("/readyz")
        assert (unready.status_code, unready.json()["checks"]) == (503, {"bus": True, "store": False, "running": True})
        health.checks["store"] = fine
        assert (await http.get("/readyz")).json()["ready"]
        health.stopping = True
        assert (await http.get("/readyz")).status_code == 503
        assert "calltag_partitions_owned" in (await http.get("/metrics")).text
        assert (await http.get("/version")).json() == {"service": "worker", "version": VERSION}
