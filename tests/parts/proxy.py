"""A TCP proxy that misbehaves on demand: it stalls like a network that swallows packets, dribbles like a bad line, lets
a peer vanish without a word, loses single frames, or cuts connections."""

import asyncio
from dataclasses import dataclass, field

from parts.amqp_frames import FrameFilter, Method
from parts.threaded_server import ThreadedServer

_CHUNK = 65_536
_ARRIVES_S = 0.1
_BURST_S = 0.05


@dataclass(slots=True)
class _Line:
    """One direction of all connections."""

    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    lost: set[Method] = field(default_factory=set)
    """Methods of AMQP that do not arrive."""
    trap: bytes = b""
    """What is waited for to come by."""
    breaks: bool = False
    """Whether connections break when it has arrived; otherwise nothing flows any more from there on."""
    bytes_per_s: int = 0
    """What all connections together carry; 0 is no limit."""
    free_at_s: float = 0.0
    """When all that was taken so far has gone through."""
    carried: int = 0
    """How many bytes it has taken."""

    async def carry(self, count: int) -> None:
        """Wait until so many bytes have gone through, after those that were taken before."""
        self.carried += count
        if self.bytes_per_s:
            now_s = asyncio.get_running_loop().time()
            # Who wakes late has not lost what the line could have carried meanwhile.
            self.free_at_s = max(self.free_at_s, now_s - _BURST_S) + count / self.bytes_per_s
            await asyncio.sleep(self.free_at_s - now_s)


class Proxy(ThreadedServer):
    """Forwards to one address from a port of its own."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self._target = (host, port)
        self._there, self._back = _Line(), _Line()
        for line in (self._there, self._back):
            line.flowing.set()
        self._bytes_per_s = 0
        self._late_s = 0.0
        self._vanished: set[asyncio.Event] = set()
        """Of each connection, what is set once its ends do not reach each other any more."""
        self._closes_after: int | None = None
        self.taken = 0
        """How many connections it has taken."""

    def stall(self, *, there: bool = True, back: bool = True) -> None:
        """Connections stay, new ones are taken, and not a byte goes through any more, one way or both."""
        for line, stalls in ((self._there, there), (self._back, back)):
            if stalls:
                self.soon(line.flowing, is_set=False)

    def stall_at(self, text: bytes) -> None:
        """Stall the way there as soon as somebody sends this text, which is held back, too."""
        self._there.trap, self._there.breaks = text, False

    def lose_answer_to(self, text: bytes) -> None:
        """As soon as somebody has sent this text, let it arrive, and reset all connections before an answer is back."""
        self._there.trap, self._there.breaks = text, True

    @property
    def waits_for_text(self) -> bool:
        """Whether the text that it was told of has not come by yet."""
        return bool(self._there.trap)

    @property
    def stalls(self) -> bool:
        """Whether nothing goes through any more on the way there."""
        return not self._there.flowing.is_set()

    def heal(self) -> None:
        """Everything flows again, what was held back too; nothing more is lost or slow."""
        for line in (self._there, self._back):
            line.trap = b""
            line.lost.clear()
            self.soon(line.flowing, is_set=True)
            line.bytes_per_s = 0
        self._bytes_per_s = 0
        self._late_s = 0.0

    @property
    def carried(self) -> tuple[int, int]:
        """How many bytes went there and back."""
        return self._there.carried, self._back.carried

    def share(self, bytes_per_s: int) -> None:
        """All connections together carry so many bytes a second, each way: what one sends, the others wait for."""
        self._there.bytes_per_s = self._back.bytes_per_s = bytes_per_s

    def slow(self, bytes_per_s: int) -> None:
        """So many bytes a second go through each way of each connection."""
        self._bytes_per_s = bytes_per_s

    def be_late(self, seconds: float) -> None:
        """Each piece comes so much later, in order."""
        self._late_s = seconds

    def lose(self, *methods: Method) -> None:
        """These AMQP methods of the broker do not arrive any more; all else does."""
        self._back.lost.update(methods)

    def close_after(self, count: int | None) -> None:
        """Close each new connection when so many bytes of the server have gone through (0: at once); None: never."""
        self._closes_after = count

    def vanish(self) -> None:
        """Every connection there is goes dead for good, both ways and without a sign; new ones are served."""
        self.do(self._part())

    def cut(self) -> None:
        """Reset every connection there is; new ones are served."""
        self.do(self.reset())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken += 1
        await asyncio.gather(self._there.flowing.wait(), self._back.flowing.wait())
        if self._closes_after == 0:
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            return
        self.writers.add(back)
        if self._closes_after is not None:
            await self._begin(reader, writer, there, back, self._closes_after)
            return
        vanished = asyncio.Event()
        self._vanished.add(vanished)
        await asyncio.gather(
            self._pump(reader, back, self._there, vanished), self._pump(there, writer, self._back, vanished)
        )
        self._vanished.discard(vanished)

    async def _begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
        count: int,
    ) -> None:
        """Forward until so many bytes have come back, and close both ends."""
        forwarding = asyncio.ensure_future(self._pump(reader, back, self._there, asyncio.Event()))
        try:
            writer.write(await there.readexactly(count))
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            forwarding.cancel()
            self.close(back)

    async def _part(self) -> None:
        for vanished in self._vanished:
            vanished.set()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: _Line, vanished: asyncio.Event
    ) -> None:
        frames = FrameFilter(line.lost)
        try:
            while chunk := await reader.read(self._bytes_per_s // 20 or line.bytes_per_s // 50 or _CHUNK):
                if self._late_s:
                    await asyncio.sleep(self._late_s)
                trapped = bool(line.trap) and line.trap in chunk
                if trapped:
                    line.trap = b""
                    (self._back if line.breaks else line).flowing.clear()
                await line.flowing.wait()
                if self._bytes_per_s:
                    await asyncio.sleep(len(chunk) / self._bytes_per_s)
                await line.carry(len(chunk))
                if vanished.is_set():
                    continue
                writer.write(frames.passed(chunk))
                await writer.drain()
                if trapped and line.breaks:
                    await asyncio.sleep(_ARRIVES_S)
                    await self.reset()
                    self._back.flowing.set()
        except OSError:
            pass
        finally:
            if not vanished.is_set():
                self.close(writer)
