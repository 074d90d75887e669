"""A TCP proxy that misbehaves on demand: it stalls like a network that swallows packets, or cuts connections."""

import asyncio

from parts.threaded_server import ThreadedServer

_CHUNK = 65_536


class Proxy(ThreadedServer):
    """Forwards to one address from a port of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.taken = 0
        """How many connections it has taken."""

    def stall(self) -> None:
        """Connections stay, new ones are taken, and not a byte goes through any more."""
        self.soon(self._flowing, is_set=False)

    def heal(self) -> None:
        """Everything flows again, what was held back too."""
        self.soon(self._flowing, is_set=True)

    def cut(self) -> None:
        """Reset every connection there is; new ones are served."""
        self.do(self.reset())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        await self._flowing.wait()
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            return
        self.writers.add(back)
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.close(writer)
