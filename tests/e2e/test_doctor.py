"""What `calltag doctor` and `calltag topology apply` tell, and that they tell nothing else."""

import asyncio
import re
from pathlib import Path

import aio_pika
import pytest
import redis
from aio_pika.abc import AbstractChannel, AbstractQueue

from calltag.cli import doctor as checks
from calltag.cli.output import Grade
from calltag.core.backends import amqp_settings
from calltag.core.broker.ports import Partition
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.broker.rabbitmq.topology import Topology
from calltag.core.settings import load_settings
from parts.command import calltag
from parts.ports import free_port
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq
from parts.system import calltag_program

Where = dict[str, str]
APPLY = "run: calltag topology apply"


@pytest.fixture
def where(rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str) -> Where:
    return {
        "CALLTAG_AMQP__URL": rabbitmq.url,
        "CALLTAG_AMQP__PREFIX": amqp_prefix,
        "CALLTAG_REDIS__URL": redis_url,
        "CALLTAG_PARTITIONS": "4",
        "CALLTAG_DIRECTORY__DEMO": "true",
    }


def doctor(tmp_path: Path, where: Where, **other: str) -> str:
    """What it prints: findings, and nothing else; its exit code says whether something is wrong."""
    done = calltag("doctor", cwd=tmp_path, **{**where, **other})
    assert done.stderr == ""
    for line in done.stdout.splitlines():
        assert re.match(r"(ok   |warn |bad  )  \S", line), line
    assert done.returncode == ("bad  " in done.stdout)
    return done.stdout


def test_what_is_missing_is_told_and_nothing_is_changed(tmp_path: Path, where: Where, redis_url: str) -> None:
    for _ in range(2):
        told = doctor(tmp_path, where, CALLTAG_DIRECTORY__DEMO="false")
        assert f"bad    4 of 4 partition queues are missing; {APPLY}" in told
        assert f"bad    3 of 3 exchanges are missing; {APPLY}" in told
        assert f"bad    1 of 1 parking queues are missing; {APPLY}" in told
        assert "bad    there are no users" in told
        assert "ok     nothing was ever started on this store" in told
    with redis.Redis.from_url(redis_url) as client:
        assert client.keys() == []


def test_what_is_well_is_told(tmp_path: Path, where: Where, redis_url: str) -> None:
    """The demo contact centre is not well in an installation, but works."""
    applied = calltag("topology", "apply", cwd=tmp_path, **where)
    assert (applied.returncode, applied.stderr) == (0, "")
    with redis.Redis.from_url(redis_url) as client:
        client.hset("calltag:installation", mapping={"partitions": 4, "schema": 1})
    told = doctor(tmp_path, where)
    assert "bad  " not in told
    assert "warn   the directory is the demo contact centre" in told
    for what in ("3 exchanges", "4 partition queues", "1 parking queues"):
        assert f"all {what} exist, as configured" in told


async def test_what_is_otherwise_than_the_settings_is_told(tmp_path: Path, where: Where, redis_url: str) -> None:
    connection = await aio_pika.connect(where["CALLTAG_AMQP__URL"])
    async with connection, connection.channel() as channel:
        await channel.declare_exchange(f"{where['CALLTAG_AMQP__PREFIX']}.events", "topic", durable=True)
    told = await asyncio.to_thread(doctor, tmp_path, where)
    assert "1 of 3 exchanges differ from" in told
    assert "2 of 3 exchanges are missing" in told
    clash = await asyncio.to_thread(lambda: calltag("topology", "apply", cwd=tmp_path, **where))
    assert (clash.returncode, len(clash.stderr.splitlines())) == (1, 1)
    assert "differs from the CALLTAG_AMQP__ settings" in clash.stderr


def test_other_settings_than_at_the_beginning_are_told(tmp_path: Path, where: Where, redis_url: str) -> None:
    calltag("topology", "apply", cwd=tmp_path, **where)
    with redis.Redis.from_url(redis_url) as client:
        client.hset("calltag:installation", mapping={"partitions": 4, "schema": 1})
    told = doctor(tmp_path, where, CALLTAG_AMQP__QUEUE_MAX_LENGTH="7")
    assert "4 of 4 partition queues differ from" in told
    assert "fixed when it was made" in doctor(tmp_path, where, CALLTAG_PARTITIONS="3")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("guest:guest", "guest:wrong"), "RabbitMQ refuses the user or password in CALLTAG_AMQP__URL"),
        (("guest:guest", "nobody:guest"), "RabbitMQ refuses the user or password in CALLTAG_AMQP__URL"),
        ((r"/$", "/elsewhere"), "RabbitMQ refuses the virtual host elsewhere in CALLTAG_AMQP__URL: it does not exist"),
        ((r":\d+/$", f":{free_port()}/"), r"RabbitMQ is not reachable at 127.0.0.1:"),
    ],
)
def test_why_rabbitmq_is_not_to_be_had_is_told(
    tmp_path: Path, where: Where, change: tuple[str, str], told: str
) -> None:
    wrong = {"CALLTAG_AMQP__URL": re.sub(*change, where["CALLTAG_AMQP__URL"])}
    assert f"bad    {told}" in doctor(tmp_path, where, **wrong)
    applied = calltag("topology", "apply", cwd=tmp_path, **{**where, **wrong})
    assert (applied.returncode, applied.stdout) == (1, "")
    assert applied.stderr.startswith(f"calltag: {told}")
    assert len(applied.stderr.splitlines()) == 1


def set_up(tmp_path: Path, where: Where, redis_url: str) -> None:
    """The queues, and an installation."""
    assert calltag("topology", "apply", cwd=tmp_path, **where).returncode == 0
    with redis.Redis.from_url(redis_url) as client:
        client.hset("calltag:installation", mapping={"partitions": 4, "schema": 1})


def as_user(rabbitmq: RabbitMq, where: Where, configure: str, write: str, read: str) -> Where:
    """The settings with a user of RabbitMQ who has these rights."""
    name = where["CALLTAG_AMQP__PREFIX"]
    rabbitmq.control("add_user", name, "secret")
    rabbitmq.control("set_permissions", name, configure, write, read)
    return {**where, "CALLTAG_AMQP__URL": rabbitmq.url.replace("guest:guest", f"{name}:secret")}


def test_a_user_with_the_documented_rights_is_well(
    tmp_path: Path, where: Where, rabbitmq: RabbitMq, redis_url: str
) -> None:
    set_up(tmp_path, where, redis_url)
    document = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    [rights] = re.findall(r"rabbitmqctl set_permissions -p / calltag (.*)", document)
    configure, write, read = (
        each.replace("calltag", where["CALLTAG_AMQP__PREFIX"]) for each in re.findall("'(.*?)'", rights)
    )
    user = as_user(rabbitmq, where, configure, write, read)
    told = doctor(tmp_path, user)
    assert "bad  " not in told
    assert "ok     4 of 4 partition queues exist, and were not compared with the settings" in told
    services = {**user, "CALLTAG_INTERNAL__PORT": "0", "CALLTAG_GATEWAY__PORT": "0"}
    program = calltag_program(tmp_path / "serve", services, "serve", "--ready-json")
    program.start(lambda: '"event":"ready"' in program.text())
    try:
        assert program.stop() == 0
    finally:
        program.kill()


@pytest.mark.parametrize(
    ("configure", "write", "told"),
    [
        ("^$", ".*", "may not declare, bind and send to"),
        (".*", "^$", "4 of 4 partitions may not be published to by the user in CALLTAG_AMQP__URL"),
    ],
)
def test_a_user_without_rights_that_services_need_is_told(
    tmp_path: Path, where: Where, rabbitmq: RabbitMq, configure: str, write: str, told: str
) -> None:
    calltag("topology", "apply", cwd=tmp_path, **where)
    found = doctor(tmp_path, as_user(rabbitmq, where, configure, write, ".*"))
    [line] = [line for line in found.splitlines() if told in line]
    assert line.startswith("bad    ")
    assert "docs/operating.md" in line


def test_a_redis_user_with_all_that_the_services_need_is_well(tmp_path: Path, where: Where, redis_url: str) -> None:
    set_up(tmp_path, where, redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.acl_setuser(
            "plain",
            enabled=True,
            passwords=["+pw"],
            keys=["*"],
            channels=["*"],
            categories=["+@all", "-@dangerous", "-@admin"],
        )
        try:
            told = doctor(tmp_path, where, CALLTAG_REDIS__URL=redis_url.replace("redis://", "redis://plain:pw@"))
        finally:
            client.acl_deluser("plain")
    assert "bad  " not in told
    assert "ok     Redis is reachable; its version, memory policy and persistence are not looked at" in told
    assert "the installation has 4 partitions, as configured" in told


def test_a_partition_queue_that_lost_its_binding_is_told(
    tmp_path: Path, where: Where, rabbitmq: RabbitMq, redis_url: str
) -> None:
    set_up(tmp_path, where, redis_url)
    prefix = where["CALLTAG_AMQP__PREFIX"]
    assert "ok     published operations reach all 4 partition queues" in doctor(tmp_path, where)
    asyncio.run(unbind(rabbitmq.url, f"{prefix}.ops.p02", f"{prefix}.ops", "p02"))
    assert f"bad    1 of 4 partition queues have lost their bindings: no operation gets there; {APPLY}" in doctor(
        tmp_path, where
    )
    calltag("topology", "apply", cwd=tmp_path, **where)
    assert "published operations reach all 4 partition queues" in doctor(tmp_path, where)


async def unbind(url: str, queue: str, exchange: str, key: str) -> None:
    connection = await aio_pika.connect(url)
    async with connection, connection.channel() as channel:
        await (await channel.get_queue(queue, ensure=False)).unbind(exchange, key)


def test_why_redis_is_not_to_be_had_is_told(tmp_path: Path, where: Where, redis_url: str) -> None:
    refused = "bad    Redis refuses the user or password in CALLTAG_REDIS__URL"
    address = redis_url.removeprefix("redis://")
    assert refused in doctor(tmp_path, where, CALLTAG_REDIS__URL=f"redis://calltag:wrong@{address}")
    with redis.Redis.from_url(redis_url) as client:
        client.config_set("requirepass", "right")
        try:
            assert refused in doctor(tmp_path, where)
            assert refused in doctor(tmp_path, where, CALLTAG_REDIS__URL=f"redis://:wrong@{address}")
            told = doctor(tmp_path, where, CALLTAG_REDIS__URL=f"redis://:right@{address}")
            assert re.search(r"(Redis|Valkey) \d", told)
        finally:
            client.config_set("requirepass", "")
    assert "CALLTAG_REDIS__URL says where it is" in doctor(
        tmp_path, where, CALLTAG_REDIS__URL=f"redis://127.0.0.1:{free_port()}/0"
    )


def test_a_redis_that_loses_data_is_told(tmp_path: Path, where: Where, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        before = client.config_get("maxmemory*") | client.config_get("appendonly")
        try:
            client.config_set("maxmemory-policy", "allkeys-lru")
            assert "maxmemory" not in doctor(tmp_path, where), "without a limit nothing is thrown away"
            client.config_set("maxmemory", "100mb")
            client.config_set("appendonly", "no")
            told = doctor(tmp_path, where)
            assert "bad    Redis evicts data when its memory is full (maxmemory-policy is allkeys-lru)" in told
            assert "redis-cli CONFIG SET maxmemory-policy noeviction" in told
            assert re.search("warn   Redis has appendonly off: .* are lost on a restart", told)

            client.config_set("maxmemory-policy", "noeviction")
            assert "maxmemory" not in doctor(tmp_path, where)
        finally:
            for name, value in before.items():
                client.config_set(name, value)


@pytest.mark.parametrize(
    ("mishap", "told"), [("stall", "RabbitMQ did not show its queues within 0.5 s"), ("cut", "RabbitMQ broke")]
)
async def test_a_broker_that_fails_in_the_middle_is_told(
    rabbitmq: RabbitMq, amqp_prefix: str, monkeypatch: pytest.MonkeyPatch, mishap: str, told: str
) -> None:
    declare = Topology.declare_partition

    async def fail(topology: Topology, channel: AbstractChannel, partition: Partition) -> AbstractQueue:
        await asyncio.to_thread(getattr(proxy, mishap))
        return await declare(topology, channel, partition)

    with Proxy("127.0.0.1", rabbitmq.port) as proxy:
        amqp = {"url": f"amqp://guest:guest@127.0.0.1:{proxy.port}/", "prefix": amqp_prefix}
        settings = load_settings(amqp=amqp, partitions=2)
        await apply_topology(amqp_settings(settings))
        monkeypatch.setattr(Topology, "declare_partition", fail)
        monkeypatch.setattr(checks, "_LOOK_DEADLINE_S", 0.5)
        async with asyncio.timeout(10):
            findings = await checks.broker_findings(settings)
        assert [finding.grade for finding in findings] == [Grade.OK, Grade.BAD]
        assert told in findings[-1].text
