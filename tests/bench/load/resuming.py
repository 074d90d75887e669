"""Many sessions whose node dies, in a process of their own: `python -m bench.load.resuming`.

The first line of standard input is a Plan as JSON, and a port where the sessions go on when their connections are lost.
{"ready": sessions} says that all are connected, {"resumed": sessions, "seconds": s, "slowest": s} that all are again
with what they were: how long that took since the first was lost, and the longest that one alone had to wait.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Any

from bench.load.subscribers import Failed, Plan, SocketSession, Tally, begin_all, carry_out, connect, encoded, tell


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
    free = asyncio.Semaphore(plan.at_once)

    async def resume(session: ResumingSession) -> None:
        async with free:
            await session.resume()

    try:
        await begin_all(sessions, plan.at_once)
        async with asyncio.TaskGroup() as group:
            for _ in sessions:
                group.create_task(resume(await resuming.lost.get()))
    except ExceptionGroup as failed:
        tell({"failed": repr(failed.exceptions[0])})
        return 1
    seconds = time.monotonic() - resuming.first_lost_s
    tell({"resumed": len(sessions), "seconds": seconds, "slowest": max(resuming.waits_s)})
    return 0


if __name__ == "__main__":
    sys.exit(carry_out(_main()))
