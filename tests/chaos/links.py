"""A link between two parties that can also be slow."""

import asyncio

from parts.proxy import Proxy

_CHUNK = 65_536


class Link(Proxy):
    """A proxy in which everything can be made to come late, in order."""

    _late_s = 0.0

    def be_late(self, seconds: float) -> None:
        """From now on each piece comes so much later; 0 ends that."""
        self._late_s = seconds

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(_CHUNK):
                await asyncio.sleep(self._late_s)
                await self._flowing.wait()
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            self.close(writer)
