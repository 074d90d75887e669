"""Gateway, worker and notifier inside the test's own process, on one port."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Mount

from calltag.core.backends import Backends, backends
from calltag.core.http.server import Server, ServerOptions, bound_socket
from calltag.core.process.lifecycle import Lifecycle
from calltag.core.settings import load_settings
from calltag.gateway.app import gateway_app
from calltag.notifier.app import Notifier, start_notifier
from calltag.worker.app import worker_parts
from parts.eventually import eventually


@dataclass(frozen=True, slots=True)
class Both:
    """What runs, and a client without credentials. `app` serves what the notifier does not serve itself."""

    backends: Backends
    app: Starlette
    api: Any
    notifier: Notifier
    http: httpx.AsyncClient


@asynccontextmanager
async def both_in_process(
    folder: Path, change: Callable[[Backends], Backends] = lambda made: made, **settings: Any
) -> AsyncIterator[Both]:
    """`change` takes the backends as they are made, before anything runs on them."""
    usual = {"partitions": 1, "directory": {"demo": True}, "embedded": {"folder": folder}, "redis": {"deadline_s": 20}}
    given = load_settings(**{**usual, **settings})
    async with backends("test", given, embedded=True) as made, asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        changed, stop = change(made), asyncio.Event()
        life = Lifecycle(group, asyncio.Event())
        stack.callback(life.end)
        working = group.create_task(worker_parts(changed).run(stop))
        stack.callback(stop.set)
        authenticator = changed.authenticator()
        notifier = start_notifier(changed, life, authenticator)
        api = gateway_app(changed, life, authenticator)
        app = Starlette(routes=[*notifier.routes, Mount("/", api)])
        await eventually(lambda: notifier.server.is_reachable)
        server = Server(app, ServerOptions(), direct=notifier.http)
        server.on_broken = notifier.server.sessions.connection_broke
        listener = bound_socket("127.0.0.1", 0, "nothing")
        port = await stack.enter_async_context(server.serving(listener, drain_timeout_s=1.0))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False))
        yield Both(changed, app, api, notifier, http)
        notifier.server.drain()
        await notifier.leave()
        stop.set()
        await working
