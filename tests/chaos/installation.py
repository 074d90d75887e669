"""The services of a run, each on links of its own to broker and store, and what can be done to them."""

import asyncio
import contextlib
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika

from chaos.schedule import BROKER, GUEST, STORE, Step
from parts.command import calltag
from parts.ports import free_port
from parts.processes import Program
from parts.proxy import Proxy
from parts.rabbitmq import RabbitMq
from parts.redis_server import RedisServer
from parts.system import calltag_program, is_ready

SETTINGS = {
    "CALLTAG_PARTITIONS": "4",
    "CALLTAG_WORKER__LEASE_S": "2",
    # The machine may be busy; how long store and broker take proves nothing.
    "CALLTAG_REDIS__DEADLINE_S": "2.5",
    "CALLTAG_AMQP__PUBLISH_DEADLINE_S": "2.5",
    # A dead link is to be noticed within the run.
    "CALLTAG_AMQP__HEARTBEAT_S": "2",
    "CALLTAG_NOTIFIER__TIMEOUT_S": "3",
    "CALLTAG_NOTIFIER__MAX_SESSIONS_PER_BROWSER": "-1",
    "CALLTAG_NOTIFIER__DRAIN_SPREAD_MS": "500",
    # The promise about events ends with what is kept of them.
    "CALLTAG_EVENTS__PER_USER": "20000",
    "CALLTAG_EVENTS__PER_USER_BYTES": "200000000",
}
_FROZEN_FOR_DEAD_S = 0.3
_LATE_S = 0.15
_NORMAL_WATERMARK = "0.6"


@dataclass(slots=True)
class Service:
    """One process, its links, and how to start it (again)."""

    name: str
    make: Callable[[], Program]
    internal_port: int
    links: dict[str, Proxy]
    program: Program = field(init=False)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        self.program = self.make()
        self.program.start(lambda: is_ready(self.internal_port), within_s=90)


class Installation:
    """All services on private servers. `notes` says what was not as it should be."""

    def __init__(self, folder: Path, broker: RabbitMq, store: RedisServer, prefix: str, names: Sequence[str]) -> None:
        self.folder = folder
        self.broker = broker
        self.store = store
        self.prefix = prefix
        self._names = names
        self.services: dict[str, Service] = {}
        self.notes: list[str] = []
        self._stack = contextlib.ExitStack()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def urls(self, command: str) -> list[str]:
        """Where clients reach the services of one kind."""
        found = (self.services[name].links["clients"] for name in self._names if name.startswith(command))
        return [f"http://127.0.0.1:{link.port}" for link in found]

    def add(self, name: str) -> Service:
        """A service that is not started yet; it is called after its command."""
        command = "worker" if name == GUEST else name.partition("-")[0]
        port, internal = free_port(), free_port()
        ends = {BROKER: self.broker.port, STORE: self.store.port}
        settings = {"CALLTAG_INTERNAL__PORT": str(internal)}
        if command != "worker":
            ends["clients"] = port
            settings[f"CALLTAG_{command.upper()}__PORT"] = str(port)
        links = {end: self._stack.enter_context(Proxy("127.0.0.1", at)) for end, at in ends.items()}
        settings["CALLTAG_AMQP__URL"] = f"amqp://guest:guest@127.0.0.1:{links[BROKER].port}/"
        settings["CALLTAG_REDIS__URL"] = f"redis://127.0.0.1:{links[STORE].port}/0"

        def make() -> Program:
            environment = {**SETTINGS, **settings, "CALLTAG_AMQP__PREFIX": self.prefix}
            return calltag_program(self.folder / name, environment, command)

        service = self.services[name] = Service(name, make, internal, links)
        return service

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Everything runs while the context is open."""
        with self._stack:
            try:
                settings = {**SETTINGS, "CALLTAG_AMQP__URL": self.broker.url, "CALLTAG_AMQP__PREFIX": self.prefix}
                settings["CALLTAG_REDIS__URL"] = self.store.url
                applied = await asyncio.to_thread(calltag, "topology", "apply", cwd=self.folder, **settings)
                assert applied.returncode == 0, applied.stderr
                for name in self._names:
                    self.add(name)
                await asyncio.gather(*(asyncio.to_thread(each.start) for each in self.services.values()))
                yield
            finally:
                for each in self.services.values():
                    if hasattr(each, "program"):
                        each.program.kill()

    async def stop(self) -> None:
        """Ask all services to end, and note those that do not do so cleanly."""
        await asyncio.gather(*(self._end(each) for each in self.services.values() if each.program.running))

    async def _end(self, service: Service) -> None:
        try:
            code = await asyncio.to_thread(service.program.stop, 30)
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the record
            self.notes.append(f"{service.name} did not end: {type(error).__name__}")
        else:
            if code != 0:
                self.notes.append(f"{service.name} ended with {code}")

    # -- faults --------------------------------------------------------------------------------------------------

    async def play(self, steps: list[Step]) -> None:
        """Let every fault happen at its time; returns when all are healed."""
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(self._at(step), name=str(step))

    async def _at(self, step: Step) -> None:
        await asyncio.sleep(step.at_s)
        # What has befallen somebody ends before the next thing does.
        async with self._locks[step.target]:
            await getattr(self, f"_{step.kind}")(step.target, step.lasts_s)

    async def _kill(self, target: str, lasts_s: float) -> None:
        service = self.services[target]
        await asyncio.to_thread(service.program.kill)
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(service.start)

    async def _terminate(self, target: str, lasts_s: float) -> None:
        service = self.services[target]
        await self._end(service)
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(service.start)

    async def _freeze(self, target: str, lasts_s: float) -> None:
        service = self.services[target]
        service.program.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(_FROZEN_FOR_DEAD_S)
            service.links[BROKER].cut()
            await asyncio.sleep(lasts_s)
        finally:
            service.program.signal(signal.SIGCONT)

    async def _join(self, target: str, lasts_s: float) -> None:
        service = self.services.get(target) or self.add(target)
        await asyncio.to_thread(service.start)
        await asyncio.sleep(lasts_s)
        await self._end(service)

    async def _kill_broker(self, _: str, lasts_s: float) -> None:
        await asyncio.to_thread(self.broker.process.kill)
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(self.broker.start)

    async def _kill_store(self, _: str, lasts_s: float) -> None:
        await asyncio.to_thread(self.store.process.kill)
        await asyncio.sleep(lasts_s)
        await asyncio.to_thread(self.store.start)

    async def _alarm(self, _: str, lasts_s: float) -> None:
        await asyncio.to_thread(self.broker.control, "set_vm_memory_high_watermark", "0.000001")
        try:
            await asyncio.sleep(lasts_s)
        finally:
            await asyncio.to_thread(self.broker.control, "set_vm_memory_high_watermark", _NORMAL_WATERMARK)

    async def _forget(self, target: str, _: float) -> None:
        async with self._locks[BROKER]:
            connection = await aio_pika.connect(self.broker.url)
            async with connection:
                channel = await connection.channel()
                for name in await self._inboxes(target):
                    await channel.queue_delete(name)

    async def _inboxes(self, target: str) -> list[str]:
        """The inboxes of nodes whose name begins as the target's does."""
        listed = await asyncio.to_thread(self.broker.control, "list_queues", "name")
        return [name for name in listed.split() if name.startswith(f"{self.prefix}.events.{target.partition('-')[0]}")]

    async def _cut(self, target: str, _: float) -> None:
        self._link(target).cut()

    async def _stall(self, target: str, lasts_s: float) -> None:
        link = self._link(target)
        link.stall()
        try:
            await asyncio.sleep(lasts_s)
        finally:
            link.heal()

    async def _slow(self, target: str, lasts_s: float) -> None:
        link = self._link(target)
        link.be_late(_LATE_S)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            link.be_late(0)

    def _link(self, target: str) -> Proxy:
        name, _, end = target.partition(":")
        return self.services[name].links[end]
