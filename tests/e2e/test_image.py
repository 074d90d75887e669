"""The image: its build, and its processes as an unprivileged user who can write nothing but temporary files."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from calltag.core import VERSION
from parts.agent import agent
from parts.image import Image, argument, build
from parts.ports import free_port
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import System, is_ready

DEMO = {"CALLTAG_DIRECTORY__DEMO": "true", "CALLTAG_DIRECTORY__DEMO_ON_NETWORK": "true"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(tmp_path_factory.mktemp("image"))


@contextmanager
def running(image: Image, folder: Path, *arguments: str, **environment: str) -> Iterator[int]:
    """Run a service of the image until the block ends, cleanly; yield its internal port."""
    internal = free_port()
    program = image.program(folder, *arguments, CALLTAG_INTERNAL__PORT=str(internal), **environment)
    program.start(lambda: is_ready(internal))
    try:
        yield internal
        program.signal(signal.SIGTERM)
        assert program.wait() == 0, program.text()
    finally:
        program.kill()


def healthcheck(image: Image, folder: Path, internal: int) -> int:
    """Run the health check of the image, at another port than its own; return the exit code."""
    kind, _, command = argument("HEALTHCHECK").partition("CMD ")
    assert "--interval" in kind
    program, *arguments = json.loads(command.replace(":9090/", f":{internal}/"))
    folder.mkdir()
    inside = image.command(folder, str(image.prefix / "bin" / program), *arguments)
    return subprocess.run(inside, check=False, capture_output=True, timeout=30).returncode


def test_nothing_but_temporary_files_can_be_written(image: Image, tmp_path: Path) -> None:
    data = argument("WORKDIR")
    tried = ["/", "/etc", "/opt", str(image.prefix), str(image.prefix / "bin"), "/tmp", data]
    script = "id -u; for each; do (touch $each/probe) 2>/dev/null && echo $each; done; exit 0"
    done = subprocess.run(
        image.command(tmp_path, "sh", "-c", script, "sh", *tried), capture_output=True, text=True, check=True
    )
    user, *written = done.stdout.split()
    assert user in {argument("USER"), "0"}
    assert written == ["/tmp", data]


def test_the_image_has_no_tools_of_its_build(image: Image) -> None:
    names = {each.name for each in (image.prefix / "bin").iterdir()}
    assert "calltag" in names
    assert not {name for name in names if name.startswith(("pip", "hatch"))}
    done = subprocess.run([image.prefix / "bin" / "calltag", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == VERSION


def test_the_embedded_form_needs_nothing_but_its_volume(image: Image, tmp_path: Path) -> None:
    port = free_port()
    settings = {"CALLTAG_GATEWAY__PORT": str(port), **DEMO}
    with running(image, tmp_path / "serve", "serve", "--embedded", **settings) as internal:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v2/me", auth=("alice", "demo"))
        assert answer.json()["user"]["userName"] == "alice"
        assert healthcheck(image, tmp_path / "healthy", internal) == 0
    assert healthcheck(image, tmp_path / "gone", internal) == 1


async def test_the_services_write_nothing(image: Image, tmp_path: Path, rabbitmq: RabbitMq) -> None:
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    redis.start()
    gateway, notifier = free_port(), free_port()
    settings = {
        "CALLTAG_AMQP__URL": rabbitmq.url,
        "CALLTAG_AMQP__PREFIX": f"image{uuid4().hex[:8]}",
        "CALLTAG_REDIS__URL": redis.url,
        "CALLTAG_PARTITIONS": "2",
        "CALLTAG_GATEWAY__PORT": str(gateway),
        "CALLTAG_NOTIFIER__PORT": str(notifier),
        **DEMO,
    }
    try:
        applied = image.program(tmp_path / "topology", "topology", "apply", **settings)
        applied.start(lambda: not applied.running and "queues" in applied.text())
        assert applied.wait() == 0, applied.text()
        with ExitStack() as services:
            for name in ("worker", "notifier", "gateway"):
                services.enter_context(running(image, tmp_path / name, name, **settings))
            await attach_data(System(tmp_path, {}, f"http://127.0.0.1:{gateway}", f"http://127.0.0.1:{notifier}"))
    finally:
        redis.process.kill()


async def attach_data(system: System) -> None:
    """Attach data to a call, and wait for the message about it."""
    party = {"phoneNumber": "15000", "state": "Established"}
    started = {"eventId": "1", "eventType": "CallStarted", "id": "1", "parties": [party]}
    async with agent(system, "switch") as switch, agent(system, "alice", "/v2/me/calls") as alice:
        assert (await switch.post("/switch/events", started, Prefer="wait=10")).status_code == 200
        answer = await alice.operate("1", "AttachUserData", userData={"Reason": "billing"})
        assert answer["statusCode"] == 0, answer
        while (message := await alice.next_message())["data"]["notificationType"] != "AttachedDataChanged":
            continue
        assert message["data"]["call"]["userData"] == {"Reason": "billing"}
