"""Packing: operations of one partition that wait for a confirm share the next message.

Its body is a JSON list of the single bodies; two headers hold the length and the name of each part, so that unpacking
needs no parsing."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aio_pika.abc import HeadersType
from pamqp.common import FieldValue

from calltag.core.broker.ports import BrokerUnavailable, PublishedCounts

MOST: Final = 64
MOST_BYTES: Final = 65_536
"""Maximum size of a message with several parts, which bounds the memory of prefetched messages."""
_LENGTHS: Final = "calltag-lengths"
_NAMES: Final = "calltag-names"
Publish = Callable[[bytes, str, HeadersType | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Part:
    """One operation; `name` is its id."""

    body: bytes
    name: str


def packed(parts: Sequence[Part]) -> tuple[bytes, str, HeadersType | None]:
    """Return body, name and headers of the message with these parts; a single part is an ordinary message."""
    [first, *others] = parts
    if not others:
        return first.body, first.name, None
    headers: HeadersType = {
        _LENGTHS: ",".join(str(len(each.body)) for each in parts),
        _NAMES: ",".join(each.name for each in parts),
    }
    return b"[%b]" % b",".join(each.body for each in parts), first.name, headers


def unpacked(body: bytes, name: str, headers: Mapping[str, FieldValue]) -> Sequence[Part]:
    """Return the parts of a message. If its headers do not match its body, it is a single part, left to the decoder."""
    lengths, names = headers.get(_LENGTHS), headers.get(_NAMES)
    if not isinstance(lengths, str) or not isinstance(names, str):
        return [Part(body, name)]
    try:
        sizes = [int(each) for each in lengths.split(",")]
    except ValueError:
        return [Part(body, name)]
    called = names.split(",")
    if min(sizes) < 0 or len(called) != len(sizes) or sum(sizes) + len(sizes) + 1 != len(body):
        return [Part(body, name)]
    parts, at = [], 1
    for size, each in zip(sizes, called, strict=True):
        parts.append(Part(body[at : at + size], each))
        at += size + 1
    return parts


def number_of_parts(headers: Mapping[str, FieldValue]) -> int:
    """Return the number of parts of a message, as its headers claim."""
    lengths = headers.get(_LENGTHS)
    return lengths.count(",") + 1 if isinstance(lengths, str) else 1


@dataclass(slots=True)
class _Waiting:
    part: Part
    taken: asyncio.Future[None]
    since_s: float


class MessageWindow:
    """Limit of the messages in flight of all partitions together, first in, first out.

    While it is full, the operations of a partition gather for its next message: many partitions make larger messages,
    not more of them. A message that is not confirmed within `patience_s` leaves its place to others, so that a
    partition without a leader delays no other.
    """

    def __init__(self, most: int = 4, patience_s: float = 0.05) -> None:
        self._places = asyncio.Semaphore(most)
        self._patience_s = patience_s

    @asynccontextmanager
    async def message(self) -> AsyncIterator[None]:
        """Publish one message in the context, once there is a place."""
        await self._places.acquire()
        # It is left once: by the timer, or at the end.
        place = ExitStack()
        place.callback(self._places.release)
        timer = asyncio.get_running_loop().call_later(self._patience_s, place.close)
        try:
            yield
        finally:
            timer.cancel()
            place.close()


@dataclass(slots=True)
class Packing:
    """Publishes the operations of one partition. Those that come while a message is in flight, or the window is full,
    share the next one; none waits for much longer than `patience_s`.
    """

    publish: Publish
    patience_s: float = 1.5
    window: MessageWindow = field(default_factory=MessageWindow)
    published: PublishedCounts = field(default_factory=PublishedCounts)
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _sending: asyncio.Task[None] | None = None

    async def add(self, part: Part) -> None:
        """Publish an operation; return once RabbitMQ has confirmed its message.

        Raises what `publish` raises. If the message before it was refused, or not confirmed by the deadline, this one
        was not sent.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(part, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="packing")
        await waiting.taken

    async def _send(self) -> None:
        try:
            while self._waiting:
                async with self.window.message():
                    if together := self._together():
                        await self._publish(together)
        finally:
            # No await since the last check of the queue: the next `add` starts a new task.
            self._sending = None
            self._give_up(BrokerUnavailable("the connection to RabbitMQ was closed"))

    async def _publish(self, together: Sequence[_Waiting]) -> None:
        self.published = PublishedCounts(self.published.messages + 1, self.published.operations + len(together))
        try:
            await self.publish(*packed([each.part for each in together]))
        except Exception as error:  # noqa: BLE001 - every error must reach the callers
            # Those behind would each wait for another deadline, and no operation may be accepted after an earlier one
            # of the same call was not.
            _resolve(together, error)
            self._give_up(error)
        except asyncio.CancelledError:
            _resolve(together, BrokerUnavailable("the connection to RabbitMQ was closed"))
            raise
        else:
            _resolve(together, None)

    def _give_up(self, error: Exception) -> None:
        """Fail all waiting operations; none of them is sent."""
        _resolve(self._waiting, error)
        self._waiting.clear()

    def _together(self) -> list[_Waiting]:
        """Take the operations of the next message."""
        together: list[_Waiting] = []
        # Two brackets, and a comma between each two parts.
        size = 1
        now_s = asyncio.get_running_loop().time()
        while self._waiting and len(together) < MOST:
            if self._waiting[0].taken.done():
                # The caller was cancelled.
                self._waiting.popleft()
                continue
            if now_s - self._waiting[0].since_s > self.patience_s:
                # All of them: an operation a moment younger may be of the same call.
                self._give_up(BrokerUnavailable(f"earlier messages were not confirmed within {self.patience_s:g} s"))
                break
            size += len(self._waiting[0].part.body) + 1
            if together and size > MOST_BYTES:
                break
            together.append(self._waiting.popleft())
        return together


def _resolve(those: Iterable[_Waiting], error: BaseException | None) -> None:
    for each in those:
        if each.taken.done():
            continue
        if error is None:
            each.taken.set_result(None)
        else:
            each.taken.set_exception(error)
