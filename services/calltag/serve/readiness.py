"""Addresses of a process, and the report that it is ready."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

import structlog

from calltag.core import VERSION
from calltag.core.backends import Backends
from calltag.core.process.waiting import set_within
from calltag.core.settings import Settings
from calltag.core.telemetry.internal_http import Health

log = structlog.get_logger()
_LOOK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports that a process listens on; a worker has none for clients."""

    internal: int
    clients: int | None = None


@dataclass(frozen=True, slots=True)
class Serving:
    """A process that is ready, with its ports."""

    parts: Backends
    ports: Ports

    def public(self) -> dict[str, object]:
        """Return the JSON of `--ready-json`, for test harnesses."""
        settings = self.parts.settings
        return {
            "event": "ready",
            "service": self.parts.health.service,
            "version": VERSION,
            "pid": os.getpid(),
            "url": settings.public_url if self.ports.clients else None,
            "port": self.ports.clients,
            "internal_url": f"http://{reachable(settings.internal.host)}:{self.ports.internal}",
            "internal_port": self.ports.internal,
        }


def as_bound(settings: Settings, ports: Ports, *, gateway: bool) -> Settings:
    """Return the settings with the bound ports in place of 0, and with a gateway's own address if no public URL is
    set."""
    changes: dict[str, Any] = {"internal": settings.internal.model_copy(update={"port": ports.internal})}
    if ports.clients is not None:
        section = "gateway" if gateway else "notifier"
        chosen = getattr(settings, section).model_copy(update={"port": ports.clients})
        changes[section] = chosen
        if gateway and "public_url" not in settings.model_fields_set:
            scheme = "https" if settings.tls.cert_file is not None else "http"
            changes["public_url"] = f"{scheme}://{reachable(chosen.host)}:{ports.clients}"
    return settings.model_copy(update=changes)


def reachable(host: str) -> str:
    """Return the host of a URL that reaches the listening address from this machine."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return host if address.version == 4 else f"[{host}]"


async def report_ready(health: Health, stop: asyncio.Event, report: Callable[[], None]) -> None:
    """Call `report` once all checks hold; return when `stop` is set."""
    while not stop.is_set():
        if all((await health.states()).values()):
            report()
            break
        await set_within(stop, _LOOK_EVERY_S)
    await stop.wait()
