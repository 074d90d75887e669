"""A whole calltag: the services as processes of their own, or all in one."""

import asyncio
import http.client
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any, ClassVar

from calltag.core.backends import amqp_settings
from calltag.core.broker.rabbitmq import apply_topology
from calltag.core.http.scope import COMETD_PATHS
from calltag.core.settings import load_settings
from parts.command import CALLTAG, UNMEASURED, calltag
from parts.forked import ForkedCommand
from parts.haproxy import HaProxy, Upstream
from parts.ports import free_port
from parts.processes import Process, Program
from parts.round_robin import RoundRobin

BEHIND_A_PROXY = ("gateway", "notifier")


class CalltagProgram(Program):
    """A command of calltag, forked from a prepared process in tests; benchmarks start it as a user does."""

    forks: ClassVar[bool] = False

    def begin(self) -> Process:
        if not self.forks:
            return super().begin()
        return ForkedCommand(self.command[len(CALLTAG) :], self.folder, self.environment, self.output)


@dataclass
class System:
    """Where gateway and notifier are, and the processes."""

    folder: Path
    environment: Mapping[str, str]
    gateway_url: str = ""
    cometd_url: str = ""
    programs: dict[str, Program] = field(default_factory=dict)
    upstreams: dict[str, Upstream] = field(default_factory=dict)
    """The ports of notifiers, or of gateways too, by name, where there are several."""
    sources: dict[str, Path] = field(default_factory=dict)
    """By name, the source of another version that a process runs from."""

    def run_from(self, name: str, source: Path | None) -> None:
        """Have a process run from the source of another version, or from this one, when it starts again."""
        self.sources.pop(name, None)
        if source is not None:
            self.sources[name] = source

    def start_notifier(self, name: str) -> Program:
        """Start one of the notifiers, or start it again, on its own ports."""
        place = self.upstreams[name]
        return self.start(name, "notifier", port_of="NOTIFIER", port=place.port, internal=place.internal)

    def start_again(self, name: str) -> Program:
        """Start the service that the name begins with, on its own ports if it has any."""
        kind = name.partition("-")[0]
        place = self.upstreams.get(name)
        if place is None:
            return self.start(name, kind)
        return self.start(name, kind, port_of=kind.upper(), port=place.port, internal=place.internal)

    def start(self, name: str, *command: str, port_of: str = "", port: int = 0, internal: int = 0) -> Program:
        """Start one service and wait until it is ready."""
        internal = internal or free_port()
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        more = {"CALLTAG_INTERNAL__PORT": str(internal)}
        if port_of:
            more[f"CALLTAG_{port_of}__PORT"] = str(port)
        environment = {**self.environment, **more}
        program: Program = CalltagProgram([*CALLTAG, *command], folder, environment)
        if name in self.sources:
            older = {"PYTHONPATH": os.pathsep.join(str(self.sources[name] / each) for each in ("services", "shared"))}
            program = Program([*CALLTAG, *command], folder, {**environment, **UNMEASURED, **older})
        program.start(lambda: is_ready(internal))
        self.programs[name] = program
        return program

    def logs(self) -> str:
        """What all processes wrote."""
        return "\n".join(program.text() for program in self.programs.values())

    def stop(self) -> None:
        """Ask everything that runs to end; it does, cleanly."""
        running = {name: program for name, program in self.programs.items() if program.running}
        for program in running.values():
            program.signal(signal.SIGTERM)
        for name, program in running.items():
            assert program.wait() == 0, f"{name} did not end cleanly:\n{program.text()[-3000:]}"

    def kill(self) -> None:
        """End whatever is left."""
        for program in self.programs.values():
            program.kill()


def is_ready(port: int) -> bool:
    """Whether the process with this internal port says that it is ready."""
    # It is asked many times a second: a client of httpx, which reads all authorities' certificates, costs too much.
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _environment(public_url: str, more: Mapping[str, str]) -> dict[str, str]:
    return {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "CALLTAG_DIRECTORY__DEMO": "true",
        "CALLTAG_PUBLIC_URL": public_url,
        "CALLTAG_WORKER__LEASE_S": "2",
        "CALLTAG_LOG__FORMAT": "json",
        # Tests share users, and many leave their sessions behind, or try wrong passwords.
        "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_USER": "10000",
        "CALLTAG_LOGIN__FAILURES_PER_USER": "0",
        "CALLTAG_LOGIN__FAILURES_PER_ADDRESS": "0",
        **more,
    }


def calltag_program(folder: Path, environment: Mapping[str, str], *arguments: str) -> Program:
    """A command of calltag that was not started yet; `environment` has more settings than tests usually have."""
    folder.mkdir(parents=True, exist_ok=True)
    return CalltagProgram([*CALLTAG, *arguments], folder, _environment("http://127.0.0.1:8080", environment))


@contextmanager
def embedded_system(folder: Path, **settings: str) -> Iterator[System]:
    """All in one process, with broker and store inside; `settings` are variables."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    system = System(folder, _environment(url, {"CALLTAG_EMBEDDED__FOLDER": str(folder / "data"), **settings}), url, url)
    try:
        system.start("serve", "serve", "--embedded", port_of="GATEWAY", port=port)
        yield system
        system.stop()
    finally:
        system.kill()


@contextmanager
def three_processes(folder: Path, amqp_url: str, redis_url: str, prefix: str, **settings: str) -> Iterator[System]:
    """Gateway, worker and notifier on RabbitMQ and Redis."""
    gateway, notifier = free_port(), free_port()
    url = f"http://127.0.0.1:{gateway}"
    environment = _environment(url, _backends(amqp_url, redis_url, prefix) | settings)
    system = System(folder, environment, url, f"http://127.0.0.1:{notifier}")
    with _running(system):
        _at_once(
            partial(system.start, "worker", "worker"),
            partial(system.start, "notifier", "notifier", port_of="NOTIFIER", port=notifier),
            partial(system.start, "gateway", "gateway", port_of="GATEWAY", port=gateway),
        )
        yield system
        system.stop()


@contextmanager
def six_processes(folder: Path, amqp_url: str, redis_url: str, prefix: str, **settings: str) -> Iterator[System]:
    """Two of each on RabbitMQ and Redis, behind a proxy that sends each request to the next one."""
    gateways, notifiers = [free_port(), free_port()], [free_port(), free_port()]
    with RoundRobin({"": gateways, **dict.fromkeys(COMETD_PATHS, notifiers)}) as front:
        url = f"http://127.0.0.1:{front.port}"
        # Six processes keep a small machine busy; how long the store takes proves nothing.
        slow = {"CALLTAG_REDIS__DEADLINE_S": "5"}
        more = _backends(amqp_url, redis_url, prefix) | slow | settings
        system = System(folder, _environment(url, more), url, url)
        with _running(system):
            for number in range(2):
                _at_once(
                    partial(system.start, f"worker-{number}", "worker"),
                    partial(system.start, f"notifier-{number}", "notifier", port_of="NOTIFIER", port=notifiers[number]),
                    partial(system.start, f"gateway-{number}", "gateway", port_of="GATEWAY", port=gateways[number]),
                )
            yield system
            system.stop()


@contextmanager
def behind_haproxy(folder: Path, amqp_url: str, redis_url: str, prefix: str, **settings: str) -> Iterator[System]:
    """Gateway, worker and three notifiers, behind an HAProxy without stickiness; `settings` are variables."""
    gateway = Upstream(free_port(), free_port())
    notifiers = {f"notifier-{number}": Upstream(free_port(), free_port()) for number in range(3)}
    front = HaProxy(folder / "haproxy", COMETD_PATHS, {"gateway": gateway}, notifiers)
    url = f"http://127.0.0.1:{front.port}"
    environment = _environment(url, _backends(amqp_url, redis_url, prefix) | settings)
    system = System(folder, environment, url, url, upstreams=notifiers)
    with _running(system):
        _at_once(
            partial(system.start, "worker", "worker"),
            partial(
                system.start, "gateway", "gateway", port_of="GATEWAY", port=gateway.port, internal=gateway.internal
            ),
            *(partial(system.start_notifier, name) for name in notifiers),
        )
        try:
            front.start()
            yield system
            system.stop()
        finally:
            front.process.kill()


@contextmanager
def two_of_each_behind_haproxy(
    folder: Path, amqp_url: str, redis_url: str, prefix: str, **settings: str
) -> Iterator[System]:
    """Two gateways, two workers and two notifiers, behind an HAProxy without stickiness; `settings` are variables.

    `system.upstreams` has gateways and notifiers.
    """
    with two_of_each_of(None, folder, _backends(amqp_url, redis_url, prefix) | settings) as system:
        yield system


@contextmanager
def two_of_each_of(source: Path | None, folder: Path, variables: Mapping[str, str]) -> Iterator[System]:
    """The same, from the source of another version if there is one."""
    places = {f"{kind}-{number}": Upstream(free_port(), free_port()) for kind in BEHIND_A_PROXY for number in range(2)}
    gateways, notifiers = (
        {name: each for name, each in places.items() if name.startswith(kind)} for kind in BEHIND_A_PROXY
    )
    front = HaProxy(folder / "haproxy", COMETD_PATHS, gateways, notifiers)
    url = f"http://127.0.0.1:{front.port}"
    system = System(folder, _environment(url, variables), url, url, upstreams=places)
    for name in ("worker-0", "worker-1", *places):
        system.run_from(name, source)
    with _running(system):
        _at_once(*(partial(system.start_again, name) for name in ("worker-0", "worker-1", *places)))
        try:
            front.start()
            yield system
            system.stop()
        finally:
            front.process.kill()


def _backends(amqp_url: str, redis_url: str, prefix: str) -> dict[str, str]:
    return {
        "CALLTAG_AMQP__URL": amqp_url,
        "CALLTAG_AMQP__PREFIX": prefix,
        "CALLTAG_REDIS__URL": redis_url,
        "CALLTAG_PARTITIONS": "8",
    }


@contextmanager
def _running(system: System) -> Iterator[None]:
    """The queues are there before, and nothing runs afterwards."""
    try:
        if "CALLTAG_SECRETS_DIR" in system.environment:
            applied = calltag("topology", "apply", cwd=system.folder, **system.environment)
            assert applied.returncode == 0, applied.stderr
        else:
            _apply_topology(system.environment)
        yield
    finally:
        system.kill()


def _apply_topology(environment: Mapping[str, str]) -> None:
    """As `calltag topology apply` does with these variables, without the second that a process takes to start.

    Only variables are looked at, no files with secrets.
    """
    given: dict[str, Any] = {}
    for name, value in environment.items():
        if name == "CALLTAG_PARTITIONS" or name.startswith("CALLTAG_AMQP__"):
            *sections, last = name.removeprefix("CALLTAG_").lower().split("__")
            reduce(lambda inside, section: inside.setdefault(section, {}), sections, given)[last] = value
    settings = amqp_settings(load_settings(**given))
    # The caller may be on an event loop.
    with ThreadPoolExecutor(1) as apart:
        apart.submit(asyncio.run, apply_topology(settings)).result()


def _at_once(*starts: Callable[[], object]) -> None:
    """Start all at the same time; returns when the last one is ready."""
    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(start) for start in starts]:
            each.result()
