"""One parser under fuzz: what it is given, and what must hold whatever that is."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import structlog

DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """`one_input` raises only where an invariant is broken.

    `seeds` are whole inputs, `words` what inputs are made of.
    """

    name: str
    one_input: Callable[[bytes], None]
    seeds: Sequence[bytes]
    words: Sequence[bytes]
    max_bytes: int = 4_096
    slow: bool = False
    """Whether an input takes milliseconds, so that fewer are tried."""


@dataclass(slots=True)
class Loop:
    """An event loop that is made when the first input asks for it, and kept for all that follow.

    So is what inputs put on the `stack`.
    """

    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _loop: asyncio.AbstractEventLoop | None = None

    def run(self, work: Coroutine[object, object, None]) -> None:
        """Carry out one input; what takes longer than DEADLINE_S hangs, which breaks an invariant."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        self._loop.run_until_complete(asyncio.wait_for(work, DEADLINE_S))

    def close(self) -> None:
        """End what is on the stack, and give the loop back."""
        if self._loop is not None:
            self._loop.run_until_complete(self.stack.aclose())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()
            self._loop = None


LOOP = Loop()


def log_nothing() -> None:
    """What cannot be read is logged, and here that is nearly everything. For this process, until it is reset."""
    structlog.configure(processors=[lambda *_: ""], logger_factory=structlog.ReturnLoggerFactory())


def depth_of(value: object) -> int:
    """How deep lists and objects are nested, found without recursion; what is neither is 0 deep."""
    deepest, waiting = 0, [(value, 0)]
    while waiting:
        each, above = waiting.pop()
        if isinstance(each, dict | list):
            deepest = max(deepest, above + 1)
            waiting += [(inner, above + 1) for inner in (each.values() if isinstance(each, dict) else each)]
    return deepest
