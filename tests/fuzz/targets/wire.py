"""Messages of the broker and of the store, read by the notifier: another version may have written them."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import orjson

from calltag.core.bayeux.events import Position
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.contracts.operations import AGENT, CALL, EVENT, NODE, OPERATION, REPLY, WireError
from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import demo_directory
from calltag.core.store.embedded import embedded_store
from calltag.core.store.event_log import Entry
from calltag.core.telemetry.metrics import Metrics
from calltag.notifier.event_views import EventViews
from calltag.notifier.inbox import NotifierInbox
from calltag.notifier.metrics import NotifierMetrics
from fuzz.cometd import LEASE_MS
from fuzz.target import LOOP, Target
from fuzz.targets.strict_json import WORDS as JSON_WORDS
from parts.hubs import Client, Installation

FORMS: Sequence[Any] = (OPERATION, NODE, EVENT, CALL, AGENT, REPLY)
LEG = {"number": "1", "state": "Ringing", "user": "alice", "device": "d", "muted": False}
CALLED = {
    "id": "c1", "conn_id": "1", "type": "Internal", "dnis": "1", "began_at_ms": 1, "legs": [LEG], "version": 1,
    "user_data": {"values": {"A": ["x", 1, None]}},
}  # fmt: skip
CHANGED = {
    "id": "o1", "notification": "StatusChange", "call": CALLED, "recipients": ["alice"], "accepted_at_ms": 1,
    "kind": "call",
}  # fmt: skip
REFUSED = {
    "id": "o1", "user": "alice", "operation_name": "Hold", "call_id": "c1", "code": 2, "text": "x",
    "accepted_at_ms": 1, "kind": "refused",
}  # fmt: skip
DEVICES = {
    "id": "o1", "user": "alice", "devices": [{"id": "d", "number": "1", "state": "Ready"}], "version": 1,
    "accepted_at_ms": 1, "kind": "devices",
}  # fmt: skip
PLACE = {"user": "alice", "event": 0, "position": 170_000_000_000_100, "previous": 0}
SEEDS = [
    orjson.dumps({"v": 1, "events": [CHANGED], "places": [PLACE]}),
    orjson.dumps({"v": 1, "notices": [{"kind": "flush", "client_id": "c1", "cycle": 1}]}),
    orjson.dumps({"v": 1, "notices": [{"kind": "flushed", "client_id": "c1", "cycle": 1}]}),
    orjson.dumps({"v": 1, "notices": [{"kind": "closed", "user": "alice", "digest": "0"}]}),
    orjson.dumps({"v": 1, "notices": [{"kind": "login_ended", "user": "alice", "digest": "0"}]}),
    orjson.dumps(CHANGED),
    orjson.dumps(DEVICES),
    orjson.dumps(REFUSED),
    orjson.dumps({"operation_id": "o1", "code": 0, "call": CALLED}),
    orjson.dumps(CHANGED | {"accepted_at_ms": 10**18}),
    orjson.dumps({"v": 1, "events": [CHANGED], "places": [PLACE | {"event": -2}, PLACE | {"position": -5}]}),
    orjson.dumps({"v": 1, "events": [CHANGED], "places": [PLACE | {"event": -2}]}),
    orjson.dumps({"v": 1, "events": [CHANGED | {"accepted_at_ms": 0}], "places": [PLACE]}).replace(
        b'"accepted_at_ms":0', b'"accepted_at_ms":1' + b"0" * 400
    ),
    orjson.dumps(CHANGED).replace(b'"x"', b"1" + b"0" * 40),
    b'{"operation":{"id":"o1","call_id":"c1","subject":"call","accepted_at_ms":1,"action":{"name":"Hold"}}}',
]
WORDS = [
    *JSON_WORDS, b'"v":1', b'"events":', b'"places":', b'"notices":', b'"replies":', b'"kind":', b'"call"',
    b'"devices"', b'"refused"', b'"flush"', b'"flushed"',
    b'"ended"', b'"changed"', b'"closed"', b'"login_ended"', b'"digest":', b'"cycle":', b'"user_data":', b'"values":',
    b'"accepted_at_ms":', b'"position":', b'"previous":', b"99999999999999999999",
]  # fmt: skip


def one_input(data: bytes) -> None:
    """A message comes again as it is written, or a WireError; the notifier outlives both."""
    for form in FORMS:
        with contextlib.suppress(WireError):
            written = form.encode(form.decode(data))
            assert form.encode(form.decode(written)) == written
    LOOP.run(_consumed(data))


async def _consumed(data: bytes) -> None:
    translator = EventViews("http://calltag.example", demo_directory())
    position = Position(170_000_000_000_000)
    for told in translator.entry(UserId("alice"), Entry(position, Position(0), data)).events:
        assert orjson.loads(told.plain())["channel"] == told.channel
    async with embedded_store(None, deadline_s=30) as store:
        installation = Installation(store.client, BayeuxLimits(), lease_ms=LEASE_MS)
        await installation.begin()
        if data.startswith(b'{"v"'):
            await Client().begin(installation.one)
        inbox = NotifierInbox(installation.one.server, translator, NotifierMetrics(Metrics()))
        inbox.handle(data)
        while inbox._notices:
            await asyncio.wait(inbox._notices.values())
        await installation.settle()


TARGET = Target("wire", one_input, SEEDS, WORDS, slow=True)
