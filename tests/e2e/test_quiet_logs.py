"""What an operator reads: a line for each change, none that repeats, and what to do."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from parts.command import calltag
from parts.eventually import wait_until
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.system import calltag_program, is_ready

TRIES_S = 4
"""That nothing is said again can only be seen by waiting; everything is tried several times meanwhile."""
ROLES = pytest.mark.parametrize("role", ["gateway", "worker", "notifier", "serve"])


class Service:
    """One service with settings of its own, its log as JSON."""

    def __init__(self, folder: Path, role: str, **settings: str) -> None:
        self.internal = free_port()
        ports = {
            "CALLTAG_GATEWAY__PORT": "0",
            "CALLTAG_NOTIFIER__PORT": "0",
            "CALLTAG_INTERNAL__PORT": str(self.internal),
        }
        self.program: Program = calltag_program(folder, {"CALLTAG_PARTITIONS": "8", **ports, **settings}, role)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.program.text().splitlines()]

    def named(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == event]

    def warnings(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["level"] not in ("debug", "info")]

    def is_ready(self) -> bool:
        return is_ready(self.internal)


@pytest.fixture
def backends(rabbitmq: RabbitMq, redis_url: str, amqp_prefix: str) -> dict[str, str]:
    return {"CALLTAG_AMQP__URL": rabbitmq.url, "CALLTAG_REDIS__URL": redis_url, "CALLTAG_AMQP__PREFIX": amqp_prefix}


@ROLES
def test_a_clean_start_and_stop_has_no_warnings_and_says_ready_and_stopped(
    tmp_path: Path, backends: dict[str, str], role: str
) -> None:
    assert calltag("topology", "apply", cwd=tmp_path, CALLTAG_PARTITIONS="8", **backends).returncode == 0
    service = Service(tmp_path, role, **backends)
    service.program.start(lambda: bool(service.is_ready() and service.named("ready")))
    try:
        assert service.program.stop() == 0
    finally:
        service.program.kill()
    assert service.warnings() == []
    counts = Counter(line["event"] for line in service.lines())
    assert (counts["ready"], counts["stopping"], counts["stopped"]) == (1, 1, 1)
    assert service.lines()[-1]["event"] == "stopped"


def test_missing_queues_are_one_line_that_says_what_to_run(tmp_path: Path, backends: dict[str, str]) -> None:
    service = Service(tmp_path, "worker", **backends)
    service.program.start(lambda: bool(service.named("partition_interrupted")))
    try:
        time.sleep(TRIES_S)
        [line] = service.warnings()
        assert line["event"] == "partition_interrupted"
        assert line["reason"].endswith("does not exist; run: calltag topology apply")
        assert service.named("ready") == []
        assert calltag("topology", "apply", cwd=tmp_path, CALLTAG_PARTITIONS="8", **backends).returncode == 0
        wait_until(lambda: bool(service.named("ready")))
        assert len(service.named("partitions_consumed")) == 1
        assert service.program.stop() == 0
    finally:
        service.program.kill()
    assert len(service.warnings()) == 1


@ROLES
def test_a_broker_that_is_not_there_is_one_line_with_its_host_and_the_setting(
    tmp_path: Path, redis_url: str, role: str
) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    service = Service(tmp_path, role, CALLTAG_AMQP__URL=f"amqp://u:hunter2@{nowhere}/", CALLTAG_REDIS__URL=redis_url)
    service.program.start(lambda: bool(service.named("broker_unreachable")))
    try:
        wait_until(lambda: bool(service.named("listening" if role != "worker" else "partitions_assigned")))
        time.sleep(TRIES_S)
        [line] = service.warnings()
    finally:
        service.program.kill()
    assert line["event"] == "broker_unreachable"
    assert f"not reachable at {nowhere} " in line["reason"]
    assert "CALLTAG_AMQP__URL" in line["reason"]
    assert "hunter2" not in service.program.text()


def test_a_redis_that_is_not_there_is_one_line_with_the_setting(tmp_path: Path, backends: dict[str, str]) -> None:
    nowhere = f"redis://u:hunter2@127.0.0.1:{free_port()}/0"
    service = Service(tmp_path, "worker", **{**backends, "CALLTAG_REDIS__URL": nowhere})
    service.program.start(lambda: bool(service.named("waiting_for_store")))
    try:
        time.sleep(TRIES_S)
        [line] = service.warnings()
    finally:
        service.program.kill()
    assert "CALLTAG_REDIS__URL" in line["cure"]
    assert "hunter2" not in service.program.text()
