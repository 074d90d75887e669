"""The services of a run, each on links of its own to broker and store, and what can be done to them."""

import asyncio
import contextlib
import re
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aio_pika
import redis.asyncio
from redis.asyncio.client import PubSub

from chaos.schedule import BROKER, GUEST, STORE, Step
from parts.command import calltag
from parts.eventually import eventually
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
_NUMBER = re.compile(r"-\d+")
_AT_ANY_TIME = ("cut", "vanish")
_FROZEN_FOR_DEAD_S = 0.3
_TAKEN_OVER_S = 8
_COMMITS = b":live"
"""What is in a commit, and in nothing else that a worker sends often."""
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
    """All services on private servers.

    `notes` says what was not as it should be, `hit` and `failed` how often a fault of which kind took place, or found
    nobody whom it could befall.
    """

    def __init__(self, folder: Path, broker: RabbitMq, store: RedisServer, prefix: str, names: Sequence[str]) -> None:
        self.folder = folder
        self.broker = broker
        self.store = store
        self.prefix = prefix
        self._names = names
        self.services: dict[str, Service] = {}
        self.notes: list[str] = []
        self.hit: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
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
        # What has befallen somebody ends before the next thing does; but a slow or stalled link may break, too: then
        # what is on its way is lost.
        async with contextlib.nullcontext() if step.kind in _AT_ANY_TIME else self._locks[step.target]:
            hits = await getattr(self, f"_{step.kind}")(step)
        (self.failed if hits is False else self.hit)[f"{step.kind} {_NUMBER.sub('', step.target)}"] += 1

    async def _kill(self, step: Step) -> None:
        service = self.services[step.target]
        await asyncio.to_thread(service.program.kill)
        await asyncio.sleep(step.lasts_s)
        await asyncio.to_thread(service.start)

    async def _terminate(self, step: Step) -> None:
        service = self.services[step.target]
        await self._end(service)
        await asyncio.sleep(step.lasts_s)
        await asyncio.to_thread(service.start)

    async def _freeze(self, step: Step) -> None:
        service = self.services[step.target]
        service.program.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(_FROZEN_FOR_DEAD_S)
            service.links[BROKER].cut()
            await asyncio.sleep(step.lasts_s)
        finally:
            service.program.signal(signal.SIGCONT)

    async def _belated(self, step: Step) -> bool:
        """Whether a commit was on the way, and its partition was taken over meanwhile."""
        own = f"{step.target}:{STORE}"
        others = [f"{each.name}:{STORE}" for each in self.services.values() if "clients" not in each.links]
        async with contextlib.AsyncExitStack() as held:
            for lock in ("belated", *sorted({own, *others})):
                await held.enter_async_context(self._locks[lock])
            for each in others:
                self._link(each).be_late(step.late_s)
            try:
                return await self._overtake(self.services[step.target], self._link(own), step)
            except redis.RedisError:
                return False
            finally:
                for each in others:
                    self._link(each).heal()
                if not self.services[step.target].program.running:
                    await asyncio.to_thread(self.services[step.target].start)

    async def _overtake(self, service: Service, link: Proxy, step: Step) -> bool:
        link.stall_at(_COMMITS)
        async with self._take_overs() as take_overs:
            if not await _comes_true(lambda: link.stalls, step.lasts_s):
                return False
            await asyncio.to_thread(service.program.kill)
            told = await take_overs.get_message(ignore_subscribe_messages=True, timeout=_TAKEN_OVER_S)
        link.heal()
        await asyncio.sleep(4 * step.late_s)
        return told is not None

    async def _unanswered(self, step: Step) -> bool:
        """Whether there was a commit."""
        async with self._locks[f"{step.target}:{STORE}"]:
            link = self._link(f"{step.target}:{STORE}")
            link.lose_answer_to(_COMMITS)
            is_lost = await _comes_true(lambda: not link.waits_for_text, step.lasts_s)
            link.heal()
            return is_lost

    @asynccontextmanager
    async def _take_overs(self) -> AsyncIterator[PubSub]:
        """Tells whenever a worker takes a partition over."""
        async with redis.asyncio.Redis(port=self.store.port) as client, client.pubsub() as pubsub:
            await pubsub.psubscribe("__keyspace@0__:*:epoch")
            await pubsub.get_message(timeout=1)
            yield pubsub

    async def _pause(self, step: Step) -> None:
        servers = {BROKER: self.broker.process, STORE: self.store.process}
        program = servers[step.target] if step.target in servers else self.services[step.target].program
        program.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(step.lasts_s)
        finally:
            program.signal(signal.SIGCONT)

    async def _join(self, step: Step) -> None:
        service = self.services.get(step.target) or self.add(step.target)
        await asyncio.to_thread(service.start)
        await asyncio.sleep(step.lasts_s)
        await self._end(service)

    async def _kill_broker(self, step: Step) -> None:
        await asyncio.to_thread(self.broker.process.kill)
        await asyncio.sleep(step.lasts_s)
        await asyncio.to_thread(self.broker.start)

    async def _kill_store(self, step: Step) -> None:
        await asyncio.to_thread(self.store.process.kill)
        await asyncio.sleep(step.lasts_s)
        await asyncio.to_thread(self.store.start)

    async def _alarm(self, step: Step) -> None:
        await asyncio.to_thread(self.broker.control, "set_vm_memory_high_watermark", "0.000001")
        try:
            await asyncio.sleep(step.lasts_s)
        finally:
            await asyncio.to_thread(self.broker.control, "set_vm_memory_high_watermark", _NORMAL_WATERMARK)

    async def _forget(self, step: Step) -> bool:
        async with self._locks[BROKER]:
            connection = await aio_pika.connect(self.broker.url)
            async with connection:
                channel = await connection.channel()
                names = await self._inboxes(step.target)
                for name in names:
                    await channel.queue_delete(name)
                return bool(names)

    async def _inboxes(self, target: str) -> list[str]:
        """The inboxes of nodes whose name begins as the target's does."""
        listed = await asyncio.to_thread(self.broker.control, "list_queues", "name")
        return [name for name in listed.split() if name.startswith(f"{self.prefix}.events.{target.partition('-')[0]}")]

    async def _cut(self, step: Step) -> None:
        self._link(step.target).cut()

    async def _vanish(self, step: Step) -> None:
        self._link(step.target).vanish()

    async def _stall(self, step: Step) -> None:
        link = self._link(step.target)
        link.stall()
        try:
            await asyncio.sleep(step.lasts_s)
        finally:
            link.heal()

    async def _slow(self, step: Step) -> None:
        link = self._link(step.target)
        link.be_late(step.late_s)
        try:
            await asyncio.sleep(step.lasts_s)
        finally:
            link.be_late(0)

    def _link(self, target: str) -> Proxy:
        name, _, end = target.partition(":")
        return self.services[name].links[end]


async def _comes_true(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether that comes true in time."""
    with contextlib.suppress(AssertionError):
        await eventually(condition, within_s)
    return condition()
