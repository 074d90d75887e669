"""Serving in our own loop: ports, answers, a clean stop."""

import asyncio
import socket
from contextlib import closing

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from calltag.core.http.server import PortBusy, bound_socket, serving


class App:
    """Answers each request once `go` is set; says when one came in and when one was cancelled."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, scope: Scope, _: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.arrived.set()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        head: Message = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
        await send(head)
        await send({"type": "http.response.body", "body": b"ok"})


def free_socket() -> socket.socket:
    return bound_socket("127.0.0.1", 0, "--port")


async def get(port: int) -> httpx.Response:
    async with httpx.AsyncClient() as client:
        return await client.get(f"http://127.0.0.1:{port}/")


def test_a_busy_port_is_named_with_the_way_out() -> None:
    with closing(free_socket()) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortBusy) as busy:
            bound_socket("127.0.0.1", port, "PORT= or --port")
    assert str(busy.value) == (
        f"cannot listen on 127.0.0.1:{port}: port {port} is in use by another process; "
        "choose another with PORT= or --port"
    )


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(PortBusy, match=r"192\.0\.2\.1:0: Cannot assign requested address; choose"):
        bound_socket("192.0.2.1", 0, "--host")


def test_an_address_of_version_six() -> None:
    with closing(bound_socket("::1", 0, "--port")) as listener:
        assert listener.family == socket.AF_INET6


async def test_the_real_port_is_told_and_served() -> None:
    async with serving(App(), free_socket(), drain_timeout_s=1) as port:
        assert port > 0
        answer = await get(port)
        assert (answer.status_code, answer.text) == (200, "ok")
        assert "server" not in answer.headers


async def test_afterwards_nobody_listens() -> None:
    async with serving(App(), free_socket(), drain_timeout_s=1) as port:
        pass
    with pytest.raises(httpx.ConnectError):
        await get(port)
    bound_socket("127.0.0.1", port, "--port").close()


async def test_an_idle_kept_connection_does_not_hold_the_end_up() -> None:
    loop = asyncio.get_running_loop()
    async with httpx.AsyncClient() as client:
        async with serving(App(), free_socket(), drain_timeout_s=30) as port:
            await client.get(f"http://127.0.0.1:{port}/")
            began = loop.time()
        assert loop.time() - began < 5


async def test_a_request_under_way_is_finished() -> None:
    app = App()
    app.go.clear()
    async with asyncio.TaskGroup() as group, serving(app, free_socket(), drain_timeout_s=30) as port:
        answer = group.create_task(get(port))
        await app.arrived.wait()
        group.create_task(answer_once_closed(app, port))
    assert answer.result().text == "ok"


async def answer_once_closed(app: App, port: int) -> None:
    """Let the request go on when new connections are refused already."""
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                break
            writer.close()
            await asyncio.sleep(0.01)
    app.go.set()


async def test_a_request_that_takes_too_long_is_cancelled() -> None:
    app = App()
    app.go.clear()
    async with asyncio.TaskGroup() as group:
        async with serving(app, free_socket(), drain_timeout_s=0.01) as port:
            answer = group.create_task(get(port))
            await app.arrived.wait()
        async with asyncio.timeout(10):
            await app.cancelled.wait()
            told = await answer
    assert (told.status_code, told.json()["statusCode"]) == (503, 4)
    assert (told.headers["retry-after"], told.headers["connection"]) == ("1", "close")


async def test_an_answer_that_has_begun_is_cut_off_where_it_is() -> None:
    begun = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"o", "more_body": True})
        begun.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        async with serving(app, free_socket(), drain_timeout_s=0.01) as port:
            answer = group.create_task(failure(port))
            await begun.wait()
        assert isinstance(await answer, httpx.RemoteProtocolError)


async def failure(port: int) -> Exception | None:
    try:
        await get(port)
    except httpx.TransportError as error:
        return error
    return None


async def test_an_error_inside_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with serving(App(), free_socket(), drain_timeout_s=1):
            raise KeyError


async def test_cancelling_what_runs_inside_ends_the_server() -> None:
    serves = asyncio.Event()

    async def serve() -> None:
        async with serving(App(), free_socket(), drain_timeout_s=1):
            serves.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    await serves.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
