"""Many sessions whose node dies, in a process of their own: `python -m bench.load.resuming`.

The first line of standard input is a Plan as JSON, and a port where the sessions go on when their connections are lost.
{"ready": sessions} says that all are connected, {"resumed": sessions, "seconds": s, "slowest": s} that all are again
with what they were: how long that took since the first was lost, and the longest that one alone had to wait.
"""

import asyncio
import contextlib
import json
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

from bench.load.subscribers import Failed, Plan, SocketSession, Tally, connect, encoded, tell
from calltag.core.runtime.descriptors import raise_descriptor_limit


@dataclass(slots=True)
class Resuming:
    """Sessions that were lost, and how many are here again."""

    port: int
    lost: asyncio.Queue["ResumingSession"] = field(default_factory=asyncio.Queue)
    first_lost_s: float = 0.0
    waits_s: list[float] = field(default_factory=list)

    def add(self, session: "ResumingSession") -> None:
        self.first_lost_s = self.first_lost_s or time.monotonic()
        self.lost.put_nowait(session)


class ResumingSession(SocketSession):
    """Goes on elsewhere."""

    def __init__(self, index: int, plan: Plan, tally: Tally, resuming: Resuming) -> None:
        super().__init__(index, plan, tally)
        self._resuming = resuming
        self._lost_s = 0.0

    def lost(self, reason: str) -> None:
        if not self.runs:
            super().lost(reason)
            return
        self.runs, self._lost_s = False, time.monotonic()
        self._resuming.add(self)

    async def resume(self) -> None:
        """Connect to the other node, and have the session. Raises Failed."""
        self.plan = replace(self.plan, port=self._resuming.port)
        await self.open()
        client_id = json.loads(self._connect)[0]["clientId"]
        replies = json.loads(await self._ask(encoded(connect(client_id, self.plan.transport, first=True))))
        if not all(reply.get("successful") for reply in replies):
            raise Failed(f"not resumed: {replies}")
        self.runs = True
        self.reconnect()
        self._resuming.waits_s.append(time.monotonic() - self._lost_s)


async def _main() -> int:
    given: dict[str, Any] = json.loads(await asyncio.to_thread(sys.stdin.readline))
    resuming, plan = Resuming(given["port"]), Plan(**given["plan"])
    tally = Tally(len(plan.sessions))
    sessions = [ResumingSession(index, plan, tally, resuming) for index in range(len(plan.sessions))]
    waiting = iter(sessions)

    async def begin() -> None:
        for session in waiting:
            await session.begin()

    async def resume() -> None:
        while True:
            session = await resuming.lost.get()
            await session.resume()

    async with asyncio.TaskGroup() as group:
        for _ in range(plan.at_once):
            group.create_task(begin())
    tell({"ready": len(sessions)})
    resumers = [asyncio.ensure_future(resume()) for _ in range(plan.at_once)]
    while len(resuming.waits_s) < len(sessions):
        failed = [each.exception() for each in resumers if each.done()]
        if failed or tally.failure:
            tell({"failed": repr(failed or tally.failure)})
            return 1
        await asyncio.sleep(0.05)
    seconds = time.monotonic() - resuming.first_lost_s
    tell({"resumed": len(sessions), "seconds": seconds, "slowest": max(resuming.waits_s)})
    for each in resumers:
        each.cancel()
    await asyncio.gather(*resumers, return_exceptions=True)
    return 0


def main() -> int:
    """Carry out the plan on standard input."""
    import uvloop

    raise_descriptor_limit()
    with contextlib.suppress(KeyboardInterrupt):
        return uvloop.run(_main())
    return 1


if __name__ == "__main__":
    sys.exit(main())
