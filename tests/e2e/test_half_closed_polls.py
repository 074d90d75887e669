"""A client that has closed its sending side while its connect is held still reads (RFC 9112, 9.6)."""

import asyncio
import json
from base64 import b64encode

import httpx

from parts.system import System

SYSTEMS = ("one-process",)
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


def raw(*messages: dict[str, object]) -> bytes:
    body = json.dumps(messages).encode()
    return b"".join(
        (
            b"POST /genesys/cometd HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n",
            b"Authorization: Basic %b\r\n" % b64encode(b"carol:demo"),
            b"Content-Length: %d\r\n\r\n" % len(body),
            body,
        )
    )


async def test_a_held_connect_is_answered_when_its_client_sends_no_more(system: System) -> None:
    url = httpx.URL(system.cometd_url)
    async with httpx.AsyncClient(base_url=url, auth=("carol", "demo")) as http:
        [shaken] = (await http.post("/genesys/cometd", json=[HELLO])).json()
    connect: dict[str, object] = {
        "channel": "/meta/connect", "clientId": shaken["clientId"], "connectionType": "long-polling", "id": "1",
    }  # fmt: skip
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(raw(connect | {"advice": {"timeout": 0}}))
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
    writer.write(raw(connect | {"id": "2"}))
    writer.write_eof()
    async with asyncio.timeout(10):
        rest = await reader.read()
    writer.close()
    head, _, body = rest[rest.index(b"HTTP/1.1") :].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    [reply] = json.loads(body)
    assert (reply["channel"], reply["id"], reply["advice"]["reconnect"]) == ("/meta/connect", "2", "retry")
