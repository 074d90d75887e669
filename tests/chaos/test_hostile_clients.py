"""P6 under attack: hostile clients cost the others nothing, and the process no memory."""

import json
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest

from chaos.hostile import CONNECTIONS, HTTP, WEBSOCKETS
from chaos.under_attack import ATTACK_S, SETTINGS, Victim, address, attack, own_request, signed_in
from parts.rabbitmq import RabbitMq
from parts.raw_http import head
from parts.redis_server import RedisServer
from parts.system import System, three_processes

pytestmark = pytest.mark.heavy

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
SUCCESSFUL = b'"successful":true'
GROUPS = {"http": HTTP, "connections": CONNECTIONS, "websockets": WEBSOCKETS}


def message(http: httpx.Client, **content: object) -> bytes:
    """A Bayeux message of alice's."""
    body = json.dumps([content])
    return head(
        "POST /genesys/cometd HTTP/1.1", "Host: localhost", f"Cookie: JSESSIONID={http.cookies['JSESSIONID']}",
        "Content-Type: application/json", f"Content-Length: {len(body)}",
    ) + body.encode()  # fmt: skip


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, rabbitmq: RabbitMq) -> Iterator[System]:
    redis = RedisServer(tmp_path_factory.mktemp("redis-under-attack"))
    redis.start()
    try:
        folder = tmp_path_factory.mktemp("under-attack")
        with three_processes(folder, rabbitmq.url, redis.url, "hostile", **SETTINGS) as running:
            yield running
    finally:
        redis.process.kill()


@pytest.fixture(scope="module")
def gateway(system: System) -> Victim:
    with signed_in(system, verify=False) as http:
        return Victim(
            system.programs["gateway"], address(system.gateway_url), "/api/v2/me", own_request(http), b'"statusCode":0'
        )


@pytest.fixture(scope="module")
def notifier(system: System) -> Victim:
    """The other client repeats a subscription of its session."""
    with signed_in(system, verify=False) as http:
        [shaken] = http.post(f"{system.cometd_url}/genesys/cometd", json=[HELLO]).json()
        repeated = message(http, channel="/meta/subscribe", clientId=shaken["clientId"], subscription="/v2/me/calls")
    notifier = system.programs["notifier"]
    return Victim(notifier, address(system.cometd_url), "/genesys/cometd", repeated, SUCCESSFUL)


@pytest.fixture(scope="module")
def shaking_hands(system: System, notifier: Victim) -> Victim:
    """The other client begins a session each time."""
    with signed_in(system, verify=False) as http:
        return replace(notifier, request=message(http, **HELLO))


@pytest.mark.timeout(120 + 2 * ATTACK_S)
@pytest.mark.parametrize("group", ["http", "connections"])
async def test_others_are_served_by_a_gateway_under_attack(gateway: Victim, group: str) -> None:
    await attack(gateway, GROUPS[group])


@pytest.mark.timeout(120 + 2 * ATTACK_S)
@pytest.mark.parametrize("group", ["http", "connections", "websockets"])
async def test_others_are_served_by_a_notifier_under_attack(notifier: Victim, group: str) -> None:
    await attack(notifier, GROUPS[group])


@pytest.mark.timeout(120 + 2 * ATTACK_S)
async def test_others_begin_sessions_while_handshakes_without_credentials_come(shaking_hands: Victim) -> None:
    await attack(shaking_hands, ["handshakes without credentials"], rate=5)
