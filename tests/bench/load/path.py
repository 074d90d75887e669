"""The whole path, from the POST to the WebSocket message, in one process and by one clock.

Reads a plan as JSON from standard input. With a rate, operations are sent at their times, whether or not others were
answered (open loop), and the latency of each counts from the time at which it was due; without one, each connection
sends its next operation when the last one was answered. Prints percentiles of the latency in milliseconds, and how long
it took until the last message had come.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Final

from hdrh.histogram import HdrHistogram
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

from bench.load.posts import Connection as Posting
from bench.load.posts import Load, Outcome, Plan

_LONGEST_US: Final = 60_000_000


@dataclass(frozen=True, slots=True)
class PathPlan:
    """What to send, and where what comes of it is received: `kind` is calltag or naive."""

    kind: str
    plan: Plan
    notifier_port: int
    token: str
    rate: float | None


@dataclass(slots=True)
class Arrivals:
    """When each operation was due, and what came of it."""

    count: int
    due_s: dict[int, float] = field(default_factory=dict)
    histogram: Any = field(default_factory=lambda: HdrHistogram(1, _LONGEST_US, 3))
    came: set[int] = field(default_factory=set)
    last_s: float = 0.0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    all_there: asyncio.Event = field(default_factory=asyncio.Event)

    def arrived(self, number: int) -> None:
        """The message about the operation with this number is here."""
        if number in self.came or number not in self.due_s:
            return
        self.last_s = time.monotonic()
        self.came.add(number)
        self.histogram.record_value(max(1, round((self.last_s - self.due_s[number]) * 1_000_000)))
        if len(self.came) == self.count:
            self.all_there.set()


class NaiveSocket(WSListener):
    """Messages of the naive notifier."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.arrivals.ready.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            told = json.loads(frame.get_payload_as_bytes())
            self.arrivals.arrived(int(told["call"]["userData"]["AccountNumber"][0]))


class BayeuxSocket(WSListener):
    """A CometD session over a WebSocket."""

    def __init__(self, arrivals: Arrivals) -> None:
        self.arrivals = arrivals
        self._client_id = ""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self._send(transport, channel="/meta/handshake", version="1.0", supportedConnectionTypes=["websocket"])

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.TEXT:
            for message in json.loads(frame.get_payload_as_bytes()):
                self._take(transport, message)

    def _take(self, transport: WSTransport, message: dict[str, Any]) -> None:
        match message["channel"]:
            case "/v2/me/calls":
                number = message["data"]["call"]["userData"].get("AccountNumber")
                if number is not None:
                    self.arrivals.arrived(int(number))
            case "/meta/handshake":
                self._client_id = message["clientId"]
                self._send(transport, channel="/meta/subscribe", subscription="/v2/me/calls")
            case "/meta/subscribe":
                self._connect(transport, timeout=0)
            case "/meta/connect":
                self.arrivals.ready.set()
                self._connect(transport)

    def _connect(self, transport: WSTransport, **advice: int) -> None:
        more = {"advice": advice} if advice else {}
        self._send(transport, channel="/meta/connect", connectionType="websocket", **more)

    def _send(self, transport: WSTransport, **message: object) -> None:
        whose = {"clientId": self._client_id} if self._client_id else {}
        transport.send(WSMsgType.TEXT, json.dumps([{**message, **whose}]).encode())


class TimedLoad(Load):
    """Sends at their times, and notes when each operation was due."""

    def __init__(self, plan: Plan, arrivals: Arrivals, rate: float | None) -> None:
        super().__init__(plan)
        self._arrivals = arrivals
        self._rate = rate
        self._idle: asyncio.Queue[Posting] = asyncio.Queue()

    async def sending(self, connections: list[Posting]) -> None:
        if self._rate is None:
            await super().sending(connections)
            return
        for connection in connections:
            self._idle.put_nowait(connection)
        began = time.monotonic()
        while self._sent < self._plan.count:
            now = time.monotonic()
            while self._sent < self._plan.count and began + self._sent / self._rate <= now:
                self._arrivals.due_s[self._sent] = began + self._sent / self._rate
                # Where none is idle, the next one that is answered is: the delay counts, from when it was due.
                super().next(await self._idle.get())
            await asyncio.sleep(max(0.0, began + self._sent / self._rate - time.monotonic()))

    def next(self, connection: Posting) -> None:
        if self._rate is None:
            self._arrivals.due_s[self._sent] = time.monotonic()
            super().next(connection)
        else:
            self._idle.put_nowait(connection)


async def _carry_out(given: PathPlan) -> dict[str, Any]:
    arrivals = Arrivals(given.plan.count)
    if given.kind == "naive":
        url = f"ws://127.0.0.1:{given.notifier_port}/ws?token={given.token}"
        transport, _ = await ws_connect(lambda: NaiveSocket(arrivals), url)
    else:
        url = f"ws://127.0.0.1:{given.notifier_port}/genesys/cometd"
        headers = {"Cookie": f"JSESSIONID={given.token}"}
        transport, _ = await ws_connect(lambda: BayeuxSocket(arrivals), url, extra_headers=headers)
    async with asyncio.timeout(20):
        await arrivals.ready.wait()
    began = time.monotonic()
    outcome: Outcome = await TimedLoad(given.plan, arrivals, given.rate).run()
    try:
        async with asyncio.timeout(120):
            await arrivals.all_there.wait()
    except TimeoutError:
        pass
    transport.disconnect()
    percentiles = {f"p{each:g}": arrivals.histogram.get_value_at_percentile(each) / 1000 for each in (50, 99)}
    return {
        "statuses": outcome.statuses, "missing": given.plan.count - len(arrivals.came),
        "seconds": arrivals.last_s - began, **percentiles,
    }  # fmt: skip


def main() -> None:
    """Carry out the plan on standard input."""
    import uvloop

    given: dict[str, Any] = json.load(sys.stdin)
    plan = PathPlan(**{**given, "plan": Plan(**given["plan"])})
    json.dump(uvloop.run(_carry_out(plan)), sys.stdout)


if __name__ == "__main__":
    main()
