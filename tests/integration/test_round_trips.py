"""What an operation costs the gateway in round trips to the store."""

from pathlib import Path

import httpx

from parts.in_process import InProcess, in_process, started

ATTACH = {"operationName": "AttachUserData", "userData": {"n": 1}}


async def logged_in(gateway: InProcess) -> httpx.AsyncClient:
    """A client that shows its session's cookie, and no password."""
    cookies = (await gateway.request("alice", "GET", "/me")).cookies
    transport = httpx.ASGITransport(gateway.app)
    client = httpx.AsyncClient(transport=transport, base_url="http://test/api/v2", cookies=cookies)
    return await gateway.stack.enter_async_context(client)


async def test_whose_session_it_is_and_what_call_is_asked_in_one(tmp_path: Path) -> None:
    async with in_process(tmp_path) as gateway:
        async with gateway.working():
            await gateway.send_facts(started("C", "15000", "15001"))
        client = await logged_in(gateway)
        # Scripts are known to the server from here on.
        assert (await client.post("/me/calls/C", json=ATTACH)).json() == {"statusCode": 0}
        before = gateway.backends.batcher.round_trips
        assert (await client.post("/me/calls/C", json=ATTACH)).json() == {"statusCode": 0}
        assert gateway.backends.batcher.round_trips == before + 1


async def test_who_shows_no_session_has_no_call_read(tmp_path: Path) -> None:
    async with in_process(tmp_path) as gateway:
        transport = httpx.ASGITransport(gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test/api/v2") as client:
            assert (await client.post("/me/calls/C", json=ATTACH)).status_code == 401
            assert gateway.backends.batcher.round_trips == 0
            client.cookies.set("JSESSIONID", "nobody's")
            assert (await client.post("/me/calls/C", json=ATTACH)).status_code == 401
