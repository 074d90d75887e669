"""Nobody reads, changes or hears of what is not theirs: every role at every route, operation and channel."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Mount, Route, WebSocketRoute

from calltag.core.bayeux.events import BEGINNING
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import new_client_id
from parts.access_table import (
    ALICES_DEVICE,
    CALL,
    CHANNELS,
    COMETD_PATHS,
    COMETD_ROUTES,
    DEVICES,
    JSON,
    KNOWN,
    LACKS,
    MONITORING,
    NEVER,
    OPERATIONS,
    OTHERS,
    ROLES,
    ROUTES,
    YES,
    as_page,
    contact_centre,
    device_operation,
    operation,
)
from parts.both_in_process import Both, both_in_process
from parts.system import embedded_system

NAMES = {
    "/docs/files/{name}": "swagger-ui.css",
    "/api/v2/services/{name}": "voice",
    "/api/v2/features/{name}": "api-voice",
}
MARK = "what-only-alice-and-hers-may-see"
PAGE = Path(__file__).parents[2] / "docs" / "security.md"
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
EVERY_CHANNEL = (*CHANNELS, *NEVER)


@pytest.fixture
async def centre(tmp_path: Path) -> AsyncIterator[Both]:
    """Alice has the call CALL, with MARK in its user data."""
    settings = {
        "login": {"failures_per_user": 0, "failures_per_address": 0},
        "notifier": {"timeout_s": 0.2, "max_sessions_per_user": 1_000, "max_subscriptions": 200},
    }
    async with both_in_process(tmp_path, lambda made: replace(made, directory=contact_centre()), **settings) as made:
        await begin(made, CALL)
        yield made


async def begin(centre: Both, call: str) -> None:
    """A call of alice's with somebody outside."""
    parties = [{"phoneNumber": number, "state": "Established"} for number in ("15000", "0891234")]
    fact = {
        "eventId": f"s-{call}",
        "eventType": "CallStarted",
        "id": call,
        "parties": parties,
        "userData": {"secret": MARK},
    }
    told = await ask(centre, "switch", "POST", "/api/v2/switch/events", fact, Prefer="wait=10")
    assert told.json() == {"statusCode": 0}


async def ask(centre: Both, role: str, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
    """A request without cookies."""
    centre.http.cookies.clear()
    auth = ROLES[role]
    return await centre.http.request(method, path, json=body, headers=headers, auth=auth or httpx.USE_CLIENT_DEFAULT)


def outcome(response: httpx.Response) -> str:
    """As the table has it. What is let in may be wrong in another way: no such call, or not in this state."""
    status = response.status_code
    if status in {401, 403, 405}:
        return f"{status} ({response.json()['statusCode']})"
    return YES


async def state(centre: Both, call: str = CALL) -> JSON:
    """The call as the administrator sees it, without what changes by itself."""
    shown = (await ask(centre, "administrator", "GET", f"/api/v2/me/calls/{call}")).json()["call"]
    return {name: value for name, value in shown.items() if name != "duration"}


async def cometd(centre: Both, role: str, *messages: JSON, path: str = COMETD_PATHS[0]) -> list[JSON]:
    response = await ask(centre, role, "POST", path, list(messages))
    assert response.status_code == 200, response.text
    answer: list[JSON] = response.json()
    return answer


async def shaken(centre: Both, role: str) -> str:
    """The id of a new session."""
    [reply] = await cometd(centre, role, HELLO)
    assert reply["successful"], reply
    return str(reply["clientId"])


def subscribing(client_id: str, channel: Any, **ext: Any) -> JSON:
    return {"channel": "/meta/subscribe", "clientId": client_id, "subscription": channel, "ext": ext}


def connecting(client_id: str) -> JSON:
    return {"channel": "/meta/connect", "clientId": client_id, "connectionType": "long-polling"}


def every_route(routes: Iterable[Any]) -> Iterator[Route | Mount]:
    """The routes, with those of routers that were included."""
    for route in routes:
        if isinstance(route, Route | Mount):
            yield route
        else:
            yield from every_route(route.original_router.routes)


def framework(app: Any) -> FastAPI:
    """The application that has the routes, behind what is before it."""
    return app if isinstance(app, FastAPI) else framework(app.app)


def test_the_table_has_every_route_and_the_page_shows_the_table(centre: Both) -> None:
    of_api: set[tuple[str, str]] = set()
    for route in every_route(framework(centre.api).routes):
        methods = (route.methods or ()) if isinstance(route, APIRoute) else {"GET"}
        of_api |= {(method, route.path) for method in methods}
    assert of_api == set(ROUTES)
    others = [route for route in centre.app.routes if not isinstance(route, Mount)]
    assert {route.path for route in others if isinstance(route, Route | WebSocketRoute)} == COMETD_ROUTES
    assert as_page() in PAGE.read_text(encoding="utf-8"), f"docs/security.md has to have:\n{as_page()}"


@pytest.mark.parametrize("role", ROLES)
async def test_routes(centre: Both, role: str) -> None:
    for (method, pattern), rule in ROUTES.items():
        path = pattern.format(device_id=ALICES_DEVICE, call_id=CALL, user_id="alice", name=NAMES.get(pattern), kind="x")
        response = await ask(centre, role, method, path, rule.body)
        assert outcome(response) == rule.of(role), (method, pattern, response.text)
        if rule.of(role) != YES:
            assert MARK not in response.text
    own = await ask(centre, role, "GET", "/api/v2/me/calls?fields=*")
    assert (MARK in own.text) == (role == "party")


@pytest.mark.parametrize("role", ROLES)
async def test_operations(centre: Both, role: str) -> None:
    for number, (name, outcomes) in enumerate(OPERATIONS.items()):
        expected = outcomes[KNOWN.index(role)] if role in KNOWN else "401 (20)"
        keyed = {"Idempotency-Key": f"key-{number}", "Prefer": "wait=5"}
        # A call of its own for each attempt: some operations end it for the sender.
        attempts: list[list[dict[str, str]]] = [[{}], [{"Prefer": "wait=5"}], [keyed, keyed]]
        for attempt, requests in enumerate(attempts):
            call = f"call-{role.replace(' ', '-')}-{number}-{attempt}"
            await begin(centre, call)
            before = await state(centre, call)
            for headers in requests:
                response = await ask(centre, role, "POST", f"/api/v2/me/calls/{call}", operation(name), **headers)
                assert outcome(response) == expected, (name, response.text)
                if expected != YES:
                    assert MARK not in response.text
                    assert await state(centre, call) == before


@pytest.mark.parametrize("role", ROLES)
async def test_operations_on_devices(centre: Both, role: str) -> None:
    await begin(centre, "C1-of-devices")
    for name, outcomes in DEVICES.items():
        expected = outcomes[KNOWN.index(role)] if role in KNOWN else "401 (20)"
        user = (ROLES[role] or ("alice",))[0]
        own = f"device-of-{user}" if name in MONITORING else ALICES_DEVICE
        path, body = f"/api/v2/me/devices/{own}", device_operation(name)
        for headers in ({}, {"Prefer": "wait=5"}):
            response = await ask(centre, role, "POST", path, body, **headers)
            assert outcome(response) == expected, (name, response.text)
    calls = await ask(centre, role, "GET", "/api/v2/me/calls?fields=userData")
    assert (MARK in calls.text) == (role == "party")


async def test_a_key_of_another_user_shows_nothing(centre: Both) -> None:
    keyed = {"Idempotency-Key": "guessed", "Prefer": "wait=5"}
    done = await ask(centre, "party", "POST", f"/api/v2/me/calls/{CALL}", operation("AttachUserData"), **keyed)
    assert MARK in done.text
    for role in ("other agent", "supervisor", "other supervisor", "switch", "without feature", "nobody"):
        response = await ask(centre, role, "POST", f"/api/v2/me/calls/{CALL}", operation("AttachUserData"), **keyed)
        assert outcome(response) in {OTHERS, LACKS, "401 (20)"}
        assert MARK not in response.text


VARIANTS = (
    "/api/v2/me/calls/C1/", "/api/v2/me/calls//C1", "//api/v2/me/calls/C1", "/api/v2/me/calls/%43%31",
    "/api/v2/me/calls/%2543%2531", "/api/v2/me/calls/c1", "/API/v2/me/calls/C1", "/api/v2/Me/calls/C1",
    "/api/v2/me/calls/./C1", "/api/v2/me/calls/x/../C1", "/api/v2/me/../me/calls/C1",
    "/api/v2/me/calls/%2e%2e/calls/C1",
    "/api/v2/me/calls/x%2f..%2fC1", "/api/v2/me/calls/C1;x", "/api/v2/me/calls/C1%00", "/api/v2/me/calls/C1%20",
    "/api/v2/me/calls/C1%2f", "/api/v2/me/calls/C1?user=alice", "/api/v2/me/calls/C1?fields=userData&fields=*",
    "/api/v2/me/calls?user=alice&fields=*", "/api/v2/me/calls/?fields=*", "/api/v2/users/alice/calls?fields=*",
    "/api/v2/users/alice", "/api/v2/calls/C1", "/api/v2/calls?fields=*", "/calls/C1", "/api/v2/me/calls/C1/userData",
    "/api/v2/me/calls/\uff231", "/api/v2/me/calls/*", "/api/v2/me/calls/%2a",
    "/genesys/cometd/../../api/v2/me/calls/C1",
    "/genesys/cometd/api/v2/me/calls/C1", "/docs/files/../../api/v2/me/calls/C1", "/docs/files/%2e%2e/%2e%2e/me",
    "/docs/files/..%2f..%2f..%2fetc%2fpasswd", "/livez", "/metrics", "/readyz",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "get")
STRANGERS = ("nobody", "wrong password", "other agent", "other supervisor", "switch", "without feature")


@pytest.mark.parametrize("role", STRANGERS)
async def test_no_address_and_no_method_is_a_way_round(centre: Both, role: str) -> None:
    before = await state(centre)
    for path in VARIANTS:
        for method in METHODS if role in {"nobody", "other agent"} else METHODS[:3]:
            body = operation("DeleteUserData") if method in {"POST", "PUT", "PATCH"} else None
            response = await ask(centre, role, method, path, body, **{"X-HTTP-Method-Override": "POST"})
            assert MARK not in response.text, (method, path)
            assert "root:" not in response.text, (method, path)
            assert response.status_code < 500, (method, path)
    assert await state(centre) == before


@pytest.mark.parametrize("role", ROLES)
async def test_channels(centre: Both, role: str) -> None:
    """Whom the server lets subscribe, and what comes of it."""
    if role not in KNOWN:
        [refused] = await cometd(centre, role, HELLO)
        assert (refused["successful"], "clientId" in refused) == (False, False)
        return
    sessions = {channel: await shaken(centre, role) for channel in EVERY_CHANNEL}
    for channel, client_id in sessions.items():
        [reply] = await cometd(centre, role, subscribing(client_id, channel))
        allowed = role in CHANNELS.get(channel, ())
        assert reply["successful"] is allowed, (channel, reply)
        if not allowed:
            [mixed] = await cometd(centre, role, subscribing(client_id, ["/v2/me/calls", channel]))
            assert not mixed["successful"], (channel, mixed)
    for path in COMETD_PATHS:
        for channel in (*CHANNELS, "/v2/users/alice/calls", "/anything"):
            message = {"channel": channel, "clientId": sessions["/v2/me/calls"], "data": {"forged": True}}
            [told] = await cometd(centre, role, message, path=path)
            assert told["successful"] is (channel == "/service/x"), (channel, told)
    for client_id in sessions.values():
        await cometd(centre, role, connecting(client_id))
    fresh = f"new-{role.replace(' ', '-')}"
    await begin(centre, fresh)
    ours = {channel for channel in CHANNELS if role in CHANNELS[channel]}
    expected = {each for each in ours if "/users/alice" in each or each == "/v2/calls"}
    if role in {"supervisor", "administrator"}:
        expected |= {"/v2/users/**", "/v2/**", "/**"}
    if role == "administrator":
        expected |= {"/v2/*"}
    if role == "party":
        expected |= {"/v2/me/calls", "/v2/me/*", "/v2/me/**", "/v2/**", "/**"}
    heard = set()
    for comes in (True, False):
        those = [channel for channel in sessions if (channel in expected) is comes]
        told_to = await asyncio.gather(*(heard_by(centre, role, sessions[each], comes=comes) for each in those))
        heard |= {channel for channel, events in zip(those, told_to, strict=True) if MARK in str(events)}
    assert heard == expected


async def heard_by(centre: Both, role: str, client_id: str, *, comes: bool = False) -> list[JSON]:
    """Return the events of two suspended connects; if an event `comes`, of as many as it takes."""
    heard: list[JSON] = []
    for _ in range(200 if comes else 2):
        heard += [each for each in await cometd(centre, role, connecting(client_id)) if "data" in each]
        if comes and heard:
            break
    return heard


@pytest.mark.parametrize("role", ["nobody", "other agent", "supervisor", "administrator", "switch"])
async def test_a_session_of_another_is_of_no_use(centre: Both, role: str) -> None:
    """Whoever learns an id, or makes one up, can neither hear, change nor end the session."""
    hers = await shaken(centre, "party")
    await cometd(centre, "party", subscribing(hers, "/v2/me/calls"), connecting(hers))
    position = BEGINNING
    made_up = [new_client_id(UserId("alice"), bearer=bearer) for bearer in (True, False)]
    other_kind = next(each for each in made_up if each[0] != hers[0])[0] + hers[1:]
    for client_id in (hers, *made_up, other_kind, hers.upper(), f"{hers} ", f" {hers}", hers + "a", hers[:-1]):
        for message in (
            connecting(client_id),
            subscribing(client_id, "/v2/me/calls", replay={"/v2/me/calls": -2}),
            {"channel": "/meta/unsubscribe", "clientId": client_id, "subscription": "/v2/me/calls"},
            {"channel": "/meta/disconnect", "clientId": client_id},
            {"channel": "/v2/me/calls", "clientId": client_id, "data": {}},
            connecting(client_id) | {"ext": {"ack": int(position)}},
        ):
            answer = await cometd(centre, role, message)
            assert [each["successful"] for each in answer] == [False], (client_id, message, answer)
            assert MARK not in str(answer)
    await begin(centre, f"later-{role.replace(' ', '-')}")
    assert MARK in str(await heard_by(centre, "party", hers, comes=True))


@pytest.mark.parametrize("role", ["other agent", "supervisor", "other supervisor", "switch", "without feature"])
async def test_replay_begins_at_any_position_and_shows_ones_own_only(centre: Both, role: str) -> None:
    hers = await shaken(centre, "party")
    await cometd(centre, "party", subscribing(hers, "/v2/me/calls", replay={"/v2/me/calls": -2}))
    events = await heard_by(centre, "party", hers)
    assert MARK in str(events)
    known = [each["ext"]["calltag"]["replayId"] for each in events]

    async def replayed(replay_id: int, channel: str) -> list[JSON]:
        mine = await shaken(centre, role)
        await cometd(centre, role, subscribing(mine, channel, replay={channel: replay_id}))
        return await heard_by(centre, role, mine)

    replay_ids = (-2, 0, *known, *(each - 1 for each in known))
    channels = ("/v2/me/calls", "/v2/me/**")
    shown = await asyncio.gather(*(replayed(each, channel) for each in replay_ids for channel in channels))
    assert MARK not in str(shown)


async def test_over_real_http_without_anybody_tidying_the_address(tmp_path: Path) -> None:
    with embedded_system(tmp_path, CALLTAG_LOG__LEVEL="warning") as system:
        parties = [{"phoneNumber": "15000", "state": "Established"}]
        fact = {
            "eventId": "s",
            "eventType": "CallStarted",
            "id": "C1",
            "parties": parties,
            "userData": {"secret": MARK},
        }
        async with httpx.AsyncClient(base_url=system.gateway_url) as http:
            told = await http.post(
                "/api/v2/switch/events", json=fact, auth=("switch", "demo"), headers={"Prefer": "wait=10"}
            )
            assert told.json() == {"statusCode": 0}
            seen = await http.get("/api/v2/me/calls/C1", auth=("alice", "demo"))
            assert MARK in seen.text
        port = httpx.URL(system.gateway_url).port
        for path in VARIANTS:
            for raw in await asyncio.gather(*(exchange(port or 0, method, path) for method in ("GET", "POST"))):
                assert raw.startswith(b"HTTP/1.1 "), path
                assert MARK.encode() not in raw, path


async def exchange(port: int, method: str, path: str) -> bytes:
    """What bob is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = b'{"operationName":"AttachUserData","userData":{"a":1}}' if method == "POST" else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic Ym9iOmRlbW8=\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    try:
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
        await writer.wait_closed()
