"""A TCP server in a thread of its own, beside tests that block."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")
_LIMIT = 65_536


class ThreadedServer(ABC):
    """Listens while its context is open; port 0 takes a free one."""

    def __init__(self, port: int = 0) -> None:
        self.port = port
        self.writers: set[asyncio.StreamWriter] = set()
        """Every connection that is not closed yet, those that the server opened itself included."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    @abstractmethod
    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""

    def __enter__(self) -> Self:
        self._thread.start()
        self.do(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, work: Coroutine[object, object, T]) -> T:
        """Run something in the server's thread."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def soon(self, change: "asyncio.Event", *, is_set: bool) -> None:
        """Set or clear an event that the server waits for."""
        self._loop.call_soon_threadsafe(change.set if is_set else change.clear)

    async def reset(self) -> None:
        """Reset every connection there is."""
        for writer in list(self.writers):
            self.writers.discard(writer)
            writer.transport.abort()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=_LIMIT)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        task = asyncio.ensure_future(self.serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self.close(writer))

    def close(self, writer: asyncio.StreamWriter) -> None:
        """Close one connection."""
        self.writers.discard(writer)
        writer.close()

    async def _close(self) -> None:
        self._server.close()
        # What was accepted is served when the loop has come round, and what is closed is gone.
        await self._come_round()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.reset()
        await self._come_round()

    async def _come_round(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
