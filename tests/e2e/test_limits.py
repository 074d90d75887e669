"""Limits that an operator sets: each is small here and unlike all others, and an answer beyond it says the number."""

from collections.abc import Iterator
from typing import Any

import pytest
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import ConnectionClosed

from parts.agent import Agent, agent
from parts.samples import sample
from parts.system import System, embedded_system

LIMITS = {
    "CALLTAG_GATEWAY__MAX_BODY_BYTES": "3001",
    "CALLTAG_GATEWAY__MAX_DEPTH": "7",
    "CALLTAG_GATEWAY__MAX_PAIRS": "8",
    "CALLTAG_GATEWAY__MAX_USER_DATA_BYTES": "501",
    "CALLTAG_GATEWAY__MAX_KEY_BYTES": "21",
    "CALLTAG_GATEWAY__MAX_SWITCH_EVENTS": "3",
    "CALLTAG_GATEWAY__MAX_WAIT_S": "6",
    "CALLTAG_WORKER__MAX_CALL_PAIRS": "11",
    "CALLTAG_WORKER__MAX_CALL_BYTES": "701",
    "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_USER": "2",
    "CALLTAG_NOTIFIER__MAX_SUBSCRIPTIONS": "4",
    "CALLTAG_NOTIFIER__MAX_MESSAGES": "5",
    "CALLTAG_NOTIFIER__MAX_BODY_BYTES": "1501",
    "CALLTAG_NOTIFIER__MAX_DEPTH": "10",
}
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with embedded_system(tmp_path_factory.mktemp("limited"), **LIMITS) as running:
        yield running


def deep(levels: int) -> list[Any]:
    """Lists in lists, so many in all."""
    return [deep(levels - 1)] if levels > 1 else []


def attached(**user_data: Any) -> dict[str, Any]:
    return {"operationName": "AttachUserData", "userData": user_data}


def started(call: str) -> dict[str, Any]:
    return {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call,
            "parties": [{"phoneNumber": "15000", "state": "Established"}]}  # fmt: skip


async def begin(switch: Agent, call: str) -> None:
    assert (await switch.post("/switch/events", started(call), Prefer="wait=5")).json() == {"statusCode": 0}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (attached(a="x" * 3_001), 413, "larger than 3001 bytes"),
        (attached(a=deep(6)), 400, "more than 7 deep"),
        (attached(a=[1] * 9), 400, "has 9 pairs; a request may carry 8"),
        (attached(a="x" * 500), 400, "has 503 bytes; a request may carry 501"),
        (attached(**{"k" * 22: 1}), 400, "a key is longer than 21 bytes"),
        ({"operationName": "DeleteUserDataPair", "key": "k" * 22}, 400, "key is longer than 21 bytes"),
    ],
)
async def test_what_one_request_may_carry(
    limited: System, call_id: str, body: dict[str, Any], status: int, said: str
) -> None:
    async with agent(limited, "switch") as switch, agent(limited, "alice") as alice:
        await begin(switch, call_id)
        answer = await alice.post(f"/me/calls/{call_id}", body)
        assert (answer.status_code, answer.json()["statusCode"]) == (status, 10)
        assert said in answer.json()["statusMessage"]


@pytest.mark.parametrize("body", [attached(a=deep(5)), attached(a=[1] * 8), attached(a="x" * 498), {
    "operationName": "DeleteUserDataPair", "key": "k" * 21}])  # fmt: skip
async def test_what_is_just_within_the_limits_is_taken(limited: System, call_id: str, body: dict[str, Any]) -> None:
    async with agent(limited, "switch") as switch, agent(limited, "alice") as alice:
        await begin(switch, call_id)
        assert (await alice.post(f"/me/calls/{call_id}", body)).json() == {"statusCode": 0}


@pytest.mark.parametrize(
    ("user_data", "said"),
    [
        ({"a": [1] * 6}, "would hold 12 pairs of user data; a call may hold 11"),
        ({"a": "x" * 400}, "would hold 806 bytes of user data; a call may hold 701"),
    ],
)
async def test_what_one_call_may_hold(limited: System, call_id: str, user_data: dict[str, Any], said: str) -> None:
    async with agent(limited, "switch") as switch, agent(limited, "alice") as alice:
        await begin(switch, call_id)
        first = await alice.operate(call_id, "AttachUserData", prefer="wait=5", userData=user_data)
        assert first["statusCode"] == 0
        second = await alice.operate(call_id, "AttachUserData", prefer="wait=5", userData=user_data)
        assert second["statusCode"] == 10
        assert said in second["statusMessage"]


async def test_how_many_events_the_switch_may_tell_at_once(limited: System, call_id: str) -> None:
    events = [started(f"{call_id}-{number}") for number in range(4)]
    async with agent(limited, "switch") as switch:
        assert (await switch.post("/switch/events", events[:3])).json() == {"statusCode": 0}
        answer = await switch.post("/switch/events", events)
        assert (answer.status_code, answer.json()["statusCode"]) == (400, 10)
        assert "has 4 events; a request may carry 3" in answer.json()["statusMessage"]


async def test_how_long_a_client_may_wait(limited: System, call_id: str) -> None:
    async with agent(limited, "switch") as switch:
        for asked, given in (("5", "5"), ("300", "6")):
            answer = await switch.post("/switch/events", started(f"{call_id}-{asked}"), Prefer=f"wait={asked}")
            assert answer.headers["Preference-Applied"] == f"wait={given}"


@pytest.mark.parametrize(
    ("request_", "said", "limit"),
    [
        ([HELLO | {"ext": "x" * 1_501}], "larger than 1501 bytes", "max_body_bytes"),
        ([HELLO | {"ext": deep(9)}], "more than 10 deep", "max_depth"),
        ([HELLO] * 6, "more than 5 messages", "max_messages"),
    ],
)
async def test_what_one_request_to_cometd_may_carry(
    limited: System, request_: list[Any], said: str, limit: str
) -> None:
    async with agent(limited, "bob") as bob:
        before = await sample(limited, "serve", "calltag_cometd_limited_total", limit=limit)
        answer = await bob.http.post("/genesys/cometd", json=request_)
        assert answer.status_code == 413
        assert said in answer.text
        assert f"CALLTAG_NOTIFIER__{limit.upper()}" in answer.text
        assert await sample(limited, "serve", "calltag_cometd_limited_total", limit=limit) == before + 1


async def test_a_frame_is_bounded_as_a_request_is(limited: System) -> None:
    async with websocket_connect(limited.cometd_url.replace("http://", "ws://") + "/genesys/cometd") as socket:
        await socket.send("[" + " " * 1_500 + "]")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
    assert closed.value.rcvd is not None
    # The server's words, not the codec's: the frame does not come as far as that.
    assert (closed.value.rcvd.code, "exceeds limit of 1501 bytes" in closed.value.rcvd.reason) == (1009, True)


async def test_how_many_sessions_a_user_may_have(limited: System) -> None:
    async with agent(limited, "carol") as carol:
        replies = [(await carol.bayeux(HELLO))[0] for _ in range(3)]
        assert [reply["successful"] for reply in replies] == [True, True, False]
        assert replies[2]["error"] == "429:2:too_many_sessions"
    assert await sample(limited, "serve", "calltag_cometd_limited_total", limit="max_sessions_per_user") >= 1


async def test_how_many_subscriptions_a_session_may_have(limited: System) -> None:
    channels = ["/v2/me/calls", "/v2/me/devices", "/v2/me/*", "/v2/me/**", "/notifications/services"]
    async with agent(limited, "alice", *channels[:4]) as alice:
        more = {"channel": "/meta/subscribe", "clientId": alice.client_id, "subscription": channels[4]}
        [reply] = await alice.bayeux(more)
        assert (reply["successful"], reply["error"]) == (False, "429:4:too_many_subscriptions")
    assert await sample(limited, "serve", "calltag_cometd_limited_total", limit="max_subscriptions") == 1
