"""The life and death of what is kept: everything in Redis comes to an end, and subscribers hear of a call's."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import redis

from parts.agent import Agent, agent
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

PERMANENT: Final = re.compile(
    r"calltag:(installation|\{workers\}(:places|:reports)?|\{published\}|\{p\d+\}:(epoch|outbox|position))"
)
"""The keys without an end, as the page Limits lists them."""
OF_PROCESSES: Final = re.compile(r"calltag:(lags|processes|notifier:.*)")
"""They have an end, but processes that run write them again and again."""
FOR_AN_HOUR: Final = re.compile(r"calltag:\{(u:[a-z]+|watchers)\}:?(watchers(:since)?|watching|since)?")
"""Whose end no setting brings nearer: who watches whom."""
SHORT: Final = {
    "CALLTAG_WORKER__LIVE_CALL_LIFETIME_S": "8",
    "CALLTAG_WORKER__WRAP_UP_S": "4",
    "CALLTAG_OPERATION_MEMORY_S": "3",
    "CALLTAG_EVENTS__RETENTION_S": "5",
    "CALLTAG_GATEWAY__IDEMPOTENCY_LIFETIME_S": "4",
    "CALLTAG_SESSION__IDLE_S": "30",
    "CALLTAG_NOTIFIER__TIMEOUT_S": "1",
    "CALLTAG_NOTIFIER__MAX_INTERVAL_S": "10",
    # How long a busy machine takes proves nothing.
    "CALLTAG_REDIS__DEADLINE_S": "5",
    "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "10",
}


@pytest.fixture
def short_lived(tmp_path: Path, rabbitmq: RabbitMq, redis_server: RedisServer, amqp_prefix: str) -> Iterator[System]:
    redis_server.clear()
    with three_processes(tmp_path, rabbitmq.url, redis_server.url, amqp_prefix, **SHORT) as running:
        yield running


def ends(client: redis.Redis) -> dict[str, int]:
    """Every key with the milliseconds until its end; -1 is never."""
    names = [key.decode() for key in client.scan_iter(count=1_000)]
    return {name: client.pttl(name) for name in names}


def fact(kind: str, call: str) -> dict[str, object]:
    parties = {"parties": [{"phoneNumber": "15000", "state": "Established"}]} if kind == "CallStarted" else {}
    return {"eventId": f"{kind}-{call}", "eventType": kind, "id": call, **parties}


async def told(alice: Agent, call: str) -> dict[str, object]:
    """What alice is told of the end of a call."""
    while True:
        message = await alice.next_message()
        if message["data"].get("call", {}).get("id") == call and message["data"]["call"]["state"] == "Released":
            return dict(message["ext"]["calltag"])


@pytest.mark.timeout(180)
async def test_all_that_is_kept_comes_to_an_end(short_lived: System, redis_server: RedisServer) -> None:
    async with (
        agent(short_lived, "switch") as switch,
        agent(short_lived, "alice", "/v2/me/calls", "/v2/me/devices") as alice,
        agent(short_lived, "carol", "/v2/me/calls") as carol,
    ):
        started = [fact("CallStarted", "SILENT"), fact("CallStarted", "ENDED")]
        assert (await switch.post("/switch/events", started, Prefer="wait=10")).json() == {"statusCode": 0}
        key = {"Idempotency-Key": "k1", "Prefer": "wait=10"}
        attach = {"operationName": "AttachUserData", "userData": {"a": 1}}
        assert (await alice.post("/me/calls/SILENT", attach, **key)).json()["statusCode"] == 0
        refused = await alice.operate("SILENT", "Answer", prefer="wait=10")
        assert refused["statusCode"] == 2
        session = {"operationName": "StartContactCenterSession", "channels": ["voice"]}
        assert (await alice.post("/me", session, Prefer="wait=10")).json() == {"statusCode": 0}
        ended = fact("CallEnded", "ENDED")
        assert (await switch.post("/switch/events", [ended], Prefer="wait=10")).json() == {"statusCode": 0}
        assert carol.client_id

        with redis.Redis(port=redis_server.port) as client:
            found = ends(client)
            families = {re.sub(r"[0-9a-f]{20,}|p\d\d", "", name).rpartition(":")[2] for name in found}
            assert {"userdata", "done", "order", "live", "calls", "events", "epoch"} <= families, found
            without = {name for name, end in found.items() if end < 0}
            assert {name for name in without if not PERMANENT.fullmatch(name)} == set()

            # The switch tells nothing more: the worker ends the call, and says why.
            alice.about = "SILENT"
            async with alice.listening():
                assert (await told(alice, "SILENT"))["reason"] == "silent"
            assert (await alice.http.get("/api/v2/me/calls/SILENT")).json()["call"]["state"] == "Released"

            def left() -> set[str]:
                names = {name for name in ends(client) if not PERMANENT.fullmatch(name)}
                return {name for name in names if not (FOR_AN_HOUR.fullmatch(name) or OF_PROCESSES.fullmatch(name))}

            try:
                await eventually(lambda: not left(), within_s=80)
            finally:
                print(left())
