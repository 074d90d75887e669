"""A port that the system chooses: clients and harnesses learn which one it is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from parts.command import calltag
from parts.ports import free_port
from parts.processes import Program
from parts.rabbitmq import RabbitMq
from parts.system import calltag_program

DEVICE = "631608b3-ceb1-472b-ba05-2ae39555b0d1"
ANY_PORT = {"CALLTAG_INTERNAL__PORT": "0", "CALLTAG_LOG__FORMAT": "console", "CALLTAG_PUBLIC_URL": ""}


@contextmanager
def running(folder: Path, shown: str, *arguments: str, **settings: str) -> Iterator[Program]:
    program = calltag_program(folder, {**ANY_PORT, **settings}, *arguments)
    program.start(lambda: shown in program.text())
    try:
        yield program
        assert program.stop() == 0
    finally:
        program.kill()


def ready_line(program: Program) -> dict[str, Any]:
    [line] = [line for line in program.text().splitlines() if line.startswith('{"event":"ready"')]
    told: dict[str, Any] = json.loads(line)
    return told


def check_uris(url: str) -> None:
    """What resources call themselves can be asked for."""
    with httpx.Client(base_url=url, auth=("alice", "demo")) as http:
        device = http.get("/api/v2/me/devices", params={"fields": "*"}).json()["devices"][0]
        assert device["uri"].startswith(f"{url}/")
        assert http.get(device["uri"]).status_code == 200


def test_the_banner_and_the_uris_have_the_port_that_was_chosen(tmp_path: Path) -> None:
    with running(tmp_path, "Ctrl-C ends calltag", "serve", "--embedded", "--demo", "--port", "0") as program:
        url = program.text().partition("calltag runs at ")[2].split()[0]
        assert not url.endswith(":0")
        check_uris(url)


def test_a_line_of_json_tells_a_harness_what_it_needs(tmp_path: Path) -> None:
    ready_json = ["--port", "0", "--ready-json"]
    with running(tmp_path, '{"event":"ready"', "serve", "--embedded", "--demo", *ready_json) as program:
        told = ready_line(program)
        assert "Ctrl-C ends calltag" not in program.text()
        assert (told["service"], told["pid"]) == ("serve", program.pid)
        assert told["url"] == f"http://127.0.0.1:{told['port']}"
        assert httpx.get(f"{told['internal_url']}/readyz").status_code == 200
        assert told["internal_url"].endswith(f":{told['internal_port']}")
        check_uris(told["url"])


@pytest.mark.parametrize("role", ["gateway", "worker", "notifier"])
def test_each_service_tells_its_ports(tmp_path: Path, rabbitmq: RabbitMq, redis_url: str, role: str) -> None:
    settings = {
        "CALLTAG_AMQP__URL": rabbitmq.url,
        "CALLTAG_REDIS__URL": redis_url,
        "CALLTAG_AMQP__PREFIX": "calltag_none",
        "CALLTAG_PARTITIONS": "1",
    }
    arguments = [role, "--ready-json"] + (["--port", "0"] if role != "worker" else [])
    assert calltag("topology", "apply", cwd=tmp_path, **settings).returncode == 0
    with running(tmp_path, '{"event":"ready"', *arguments, **settings) as program:
        told = ready_line(program)
        assert told["service"] == role
        assert httpx.get(f"http://127.0.0.1:{told['internal_port']}/livez").status_code == 200
        if role == "worker":
            assert (told["port"], told["url"]) == (None, None)
        else:
            assert httpx.get(f"http://127.0.0.1:{told['port']}/").status_code in {200, 404}
        if role == "gateway":
            check_uris(told["url"])


def test_a_public_url_that_is_set_stays(tmp_path: Path) -> None:
    public = "https://calltag.example.com"
    arguments = ["serve", "--embedded", "--port", str(free_port()), "--ready-json"]
    with running(tmp_path, '{"event":"ready"', *arguments, CALLTAG_PUBLIC_URL=public) as program:
        assert ready_line(program)["url"] == public
