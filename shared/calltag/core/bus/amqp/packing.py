"""Several operations of one partition in one message, where they wait anyway.

The body is then a list of what would be the bodies of single messages, and two headers say how long each part is and
what it is called, so that nobody has to parse the list to take it apart.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aio_pika.abc import HeadersType
from pamqp.common import FieldValue

from calltag.core.bus.ports import BusRefused, BusUnavailable, PublishedCounts

MOST: Final = 64
MOST_BYTES: Final = 65_536
"""A message with more than one part is no longer than this, so that what is taken ahead stays bounded."""
_LENGTHS: Final = "calltag-lengths"
_NAMES: Final = "calltag-names"
Publish = Callable[[bytes, str, HeadersType | None], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Part:
    """One operation: its body, and its id."""

    body: bytes
    name: str


def packed(parts: Sequence[Part]) -> tuple[bytes, str, HeadersType | None]:
    """Body, name and headers of the message with these parts; one alone is a message like any other."""
    [first, *others] = parts
    if not others:
        return first.body, first.name, None
    headers: HeadersType = {
        _LENGTHS: ",".join(str(len(each.body)) for each in parts),
        _NAMES: ",".join(each.name for each in parts),
    }
    return b"[%b]" % b",".join(each.body for each in parts), first.name, headers


def unpacked(body: bytes, name: str, headers: Mapping[str, FieldValue]) -> Sequence[Part]:
    """The parts of a message. One whose headers do not fit its body is one part: it is for others to say what it is."""
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
    """How many parts a message has, if its headers are right."""
    lengths = headers.get(_LENGTHS)
    return lengths.count(",") + 1 if isinstance(lengths, str) else 1


@dataclass(slots=True)
class _Waiting:
    part: Part
    taken: asyncio.Future[None]
    since_s: float


@dataclass(slots=True)
class Packing:
    """Publishes the operations of one partition. What comes while a message is under way goes together in the next one,
    so that nothing waits where nothing is under way, and nothing waits for much longer than `patience_s`.
    """

    publish: Publish
    patience_s: float = 1.5
    published: PublishedCounts = field(default_factory=PublishedCounts)
    _waiting: deque[_Waiting] = field(default_factory=deque)
    _sending: asyncio.Task[None] | None = None

    async def add(self, part: Part) -> None:
        """Returns once the broker has confirmed the message that the operation went in.

        Raises what `publish` raises. Where the message before it was not taken, or not confirmed in time, this one was
        not sent.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(part, loop.create_future(), loop.time())
        self._waiting.append(waiting)
        if self._sending is None:
            self._sending = asyncio.create_task(self._send(), name="packing")
        await waiting.taken

    async def _send(self) -> None:
        try:
            while together := self._together():
                self.published = PublishedCounts(self.published.messages + 1, self.published.operations + len(together))
                try:
                    await self.publish(*packed([each.part for each in together]))
                except (BusUnavailable, BusRefused) as error:
                    # Those behind would wait as long again, each for its own deadline; and none that is of the same
                    # call is to be taken where one before it was not.
                    _settle(together, error)
                    self._give_up(error)
                except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it is
                    _settle(together, error)
                else:
                    _settle(together, None)
        finally:
            # In the same step as the last look at what waits: whoever comes next begins anew.
            self._sending = None
            self._give_up(BusUnavailable("the connection to RabbitMQ was closed"))

    def _give_up(self, error: Exception) -> None:
        """Nothing of what waits is sent."""
        _settle(self._waiting, error)
        self._waiting.clear()

    def _together(self) -> list[_Waiting]:
        """What goes in the next message."""
        together: list[_Waiting] = []
        # Two brackets, and a comma between two parts.
        size = 1
        now_s = asyncio.get_running_loop().time()
        while self._waiting and len(together) < MOST:
            if self._waiting[0].taken.done():
                # Nobody waits for it any more.
                self._waiting.popleft()
                continue
            if now_s - self._waiting[0].since_s > self.patience_s:
                # All of them: what came with it a moment later may be of the same call.
                self._give_up(BusUnavailable(f"what was before it was not confirmed within {self.patience_s:g} s"))
                break
            size += len(self._waiting[0].part.body) + 1
            if together and size > MOST_BYTES:
                break
            together.append(self._waiting.popleft())
        return together


def _settle(those: Iterable[_Waiting], error: BaseException | None) -> None:
    for each in those:
        if each.taken.done():
            continue
        if error is None:
            each.taken.set_result(None)
        else:
            each.taken.set_exception(error)
