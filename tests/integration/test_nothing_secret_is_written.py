"""A whole run with marked secrets, with much going wrong: none of them is in any output, metric or answer to others."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import aio_pika
import httpx
import pytest
import redis
from argon2 import PasswordHasher
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from parts.command import calltag
from parts.eventually import eventually
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, three_processes

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
KEY, VALUE, NESTED = "marked-key", "marked-value", "marked-nested-value"
PASSWORD, WRONG, TYPED_AS_NAME = "marked-password", "marked-wrong-password", "marked-name"
OF_BROKER, OF_STORE = "marked-password-of-the-broker", "marked-password-of-the-store"
USERS = """
[[users]]
id = "{name}"
password_hash = "{hash}"
roles = ["{role}"]
features = ["api-voice"]
[[users.devices]]
id = "device-of-{name}"
number = "{number}"
"""


@dataclass
class Run:
    """What runs, what must not be seen, and what was shown to those who may not see it."""

    system: System
    redis: RedisServer
    rabbitmq: RabbitMq
    amqp_url: str
    prefix: str
    secrets: set[str] = field(
        default_factory=lambda: {KEY, VALUE, NESTED, PASSWORD, WRONG, TYPED_AS_NAME, OF_BROKER, OF_STORE}
    )
    shown: list[str] = field(default_factory=list)

    def look(self) -> None:
        """Whether a secret is anywhere, as it is or encoded."""
        everything = [self.system.logs(), *self.shown]
        for name in self.secrets:
            forms = (name, base64.b64encode(name.encode()).decode().rstrip("="))
            for text in everything:
                for form in forms:
                    where = text.find(form)
                    assert where < 0, f"{name} is in: ...{text[max(0, where - 300) : where + 100]}..."

    def metrics(self) -> str:
        ports = [program.environment["CALLTAG_INTERNAL__PORT"] for program in self.system.programs.values()]
        return "\n".join(httpx.get(f"http://127.0.0.1:{port}/metrics").text for port in ports)


@pytest.fixture
def run(tmp_path: Path, rabbitmq: RabbitMq) -> Iterator[Run]:
    """Three processes that have their secrets from files, on a broker and a store with passwords, logging all."""
    stored, prefix = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD), f"s{uuid4().hex[:8]}"
    people = (("alice", "agent", "15000"), ("bob", "agent", "15001"), ("switch", "switch", "15009"))
    users = tmp_path / "users.toml"
    users.write_text("".join(USERS.format(name=name, hash=stored, role=role, number=at) for name, role, at in people))
    broker_user = f"user-{prefix}"
    rabbitmq.control("add_user", broker_user, OF_BROKER)
    rabbitmq.control("set_permissions", broker_user, ".*", ".*", ".*")
    (tmp_path / "redis").mkdir()
    store = RedisServer(tmp_path / "redis")
    store.start()
    with redis.Redis(port=store.port) as client:
        client.config_set("requirepass", OF_STORE)
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    amqp_url = f"amqp://{broker_user}:{OF_BROKER}@127.0.0.1:{rabbitmq.port}/"
    (secrets / "CALLTAG_AMQP__URL").write_text(amqp_url)
    (secrets / "CALLTAG_REDIS__URL").write_text(f"redis://:{OF_STORE}@127.0.0.1:{store.port}/0")
    (secrets / "CALLTAG_TLS__KEY_PASSWORD").write_text(OF_STORE)
    settings = {
        "CALLTAG_SECRETS_DIR": str(secrets),
        "CALLTAG_DIRECTORY__DEMO": "false",
        "CALLTAG_DIRECTORY__FILE": str(users),
        "CALLTAG_LOG__LEVEL": "debug",
        "CALLTAG_LOGIN__FAILURES_PER_USER": "3",
        "CALLTAG_REDIS__DEADLINE_S": "5",
    }
    (tmp_path / "system").mkdir()
    try:
        with three_processes(tmp_path / "system", "", "", prefix, **settings) as system:
            yield Run(system, store, rabbitmq, amqp_url, prefix)
    finally:
        store.process.kill()
        rabbitmq.control("delete_user", broker_user)


@pytest.mark.timeout(300)
async def test_no_secret_is_written_anywhere(run: Run) -> None:
    system, call = run.system, uuid4().hex
    data: dict[str, Any] = {KEY: VALUE, "nested": [{"deep": NESTED}]}
    async with (
        httpx.AsyncClient(base_url=system.gateway_url, auth=("alice", PASSWORD), timeout=20) as alice,
        httpx.AsyncClient(base_url=system.gateway_url, auth=("bob", PASSWORD), timeout=20) as bob,
        httpx.AsyncClient(base_url=system.gateway_url, auth=("switch", PASSWORD), timeout=20) as switch,
        httpx.AsyncClient(base_url=system.gateway_url, timeout=20) as nobody,
    ):
        parties = [{"phoneNumber": "15000", "state": "Established"}]
        fact = {"eventId": f"s-{call}", "eventType": "CallStarted", "id": call, "parties": parties, "userData": data}
        told = await switch.post("/api/v2/switch/events", json=fact, headers={"Prefer": "wait=10"})
        assert told.json() == {"statusCode": 0}
        path, waits = f"/api/v2/me/calls/{call}", {"Prefer": "wait=10", "Idempotency-Key": "one"}
        good = {"operationName": "AttachUserData", "userData": data}
        assert VALUE in (await alice.post(path, json=good, headers=waits)).text
        run.secrets.add(str(alice.cookies["JSESSIONID"]))
        # To others, and to those who send what cannot be read.
        for body in (good, data, [data], {"operationName": VALUE}, {"operationName": "SendDtmf", "digits": VALUE}):
            run.shown.append((await bob.post(path, json=body)).text)
            run.shown.append((await nobody.post(path, json=body)).text)
            if body not in (good, {"operationName": VALUE}):
                run.shown.append((await alice.post(path, json=body)).text)
        for raw in (
            b'{"operationName":"AttachUserData","userData":{"marked-key":marked-value}}',
            b'{"a":"marked-value\xff"}',
        ):
            run.shown.append((await alice.post(path, content=raw)).text)
        await alice.post(path, json={"operationName": "AttachUserData", "userData": {KEY: [VALUE] * 2_000}})
        await alice.post(
            path, json={"operationName": "UpdateUserData", "userData": {"not-there": VALUE}}, headers=waits
        )
        for name in ("alice", TYPED_AS_NAME):
            for _ in range(5):
                run.shown.append((await nobody.get("/api/v2/me", auth=(name, WRONG))).text)
        run.shown.append((await nobody.get("/api/v2/me", headers={"Authorization": f"Bearer {PASSWORD}"})).text)
        run.shown.append((await nobody.get("/api/v2/me", headers={"Cookie": f"JSESSIONID={WRONG}"})).text)
        await cometd(run, nobody)
        await unreadable(run, call, bob)
        run.rabbitmq.control("close_all_connections", "for a test")
        await eventually(lambda: "broker_lost" in system.logs(), 30)
        run.shown.append(run.metrics())
        assert "calltag_http_requests_total" in run.shown[-1]
        for command in ("config", "doctor"):
            done = calltag(command, cwd=system.folder, **system.environment)
            run.shown.append(done.stdout + done.stderr)
        assert ":***@" in run.shown[-2]
        # Last of all, what is in hand when the store goes: errors with causes.
        run.redis.process.kill()
        run.shown += [
            (await bob.post(path, json=good)).text,
            (await nobody.get("/api/v2/me", auth=("bob", WRONG))).text,
        ]
    assert '"level":"debug"' in system.logs() or '"level":"info"' in system.logs()
    run.look()


async def cometd(run: Run, http: httpx.AsyncClient) -> None:
    """Handshakes with passwords in them, good ones and others, and frames that are none."""
    for name, password in (("bob", PASSWORD), (TYPED_AS_NAME, WRONG)):
        shown = HELLO | {"ext": {"authentication": {"user": name, "password": password}}}
        answer = await http.post(f"{run.system.cometd_url}/genesys/cometd", json=[shown])
        reply = answer.json()[0] if answer.status_code == 200 else {}
        run.secrets.update({reply["clientId"]} if "clientId" in reply else ())
        run.secrets.update(filter(None, [answer.cookies.get("JSESSIONID")]))
        run.shown.append("" if reply.get("successful") else answer.text)
    bad = f'[{{"channel":"/meta/handshake","ext":{{"authentication":{{"password":"{PASSWORD}"'
    run.shown.append((await http.post(f"{run.system.cometd_url}/genesys/cometd", content=bad)).text)
    for frame in (bad, VALUE.encode() + b"\xff"):
        url = run.system.cometd_url.replace("http", "ws")
        async with connect(f"{url}/genesys/cometd", additional_headers={"Cookie": f"JSESSIONID={WRONG}"}) as socket:
            await socket.send(frame, text=True)
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            run.shown.append(str(closed.value))


async def unreadable(run: Run, call: str, http: httpx.AsyncClient) -> None:
    """A record in the store and a message on the broker that nobody can read."""
    with redis.Redis(port=run.redis.port, password=OF_STORE) as client:
        for key in list(client.scan_iter(match=f"*{call}*")):
            name = key.decode()
            if client.type(key) == b"hash":
                client.hset(name, mapping={each.decode(): VALUE for each in client.hkeys(name)})
            elif client.type(key) == b"string":
                client.set(name, VALUE)
    answer = await http.get(f"/api/v2/me/calls/{call}")
    assert answer.status_code == 500, answer.text
    run.shown.append(answer.text)
    async with await aio_pika.connect(run.amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(f"{run.prefix}.ops", ensure=False)
        for body in (VALUE.encode(), b'{"action":{"user_data":"marked-value"}}', b"\xff" + VALUE.encode()):
            await exchange.publish(aio_pika.Message(body), "p00")
    await eventually(lambda: "operations_malformed_total 3.0" in run.metrics(), 60)
