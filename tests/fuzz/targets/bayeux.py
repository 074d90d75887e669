"""Whole requests: from bytes, through codec, engine, sessions and store, to the bytes of an answer.

An input is lines. A line that begins with `!` publishes an event, with `~` goes to the other node, with `>` streams;
`@` stands for the id of a session that is there from the beginning.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from calltag.core.bayeux.channels import HANDSHAKE
from calltag.core.bayeux.messages import BayeuxLimits, CodecError, can_encode, decode, encode
from calltag.core.bayeux.session import MOST_BATCHES
from calltag.core.store.embedded import embedded_store
from fuzz.cometd import LEASE_MS
from fuzz.target import LOOP, Target
from fuzz.targets.codec import WORDS as JSON_WORDS
from parts.hubs import Client, Installation, Node, Turn

LIMITS = BayeuxLimits(max_sessions=4, max_sessions_per_user=4, max_subscriptions=4, max_queued_events=4, max_messages=8)
MOST_LINES = 12
CONNECT = b'[{"channel":"/meta/connect","id":"1","clientId":"@","connectionType":"long-polling"}]'
HELLO = b'{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["websocket"],"ext":{"ack":true}}'
ACKNOWLEDGED = [CONNECT.replace(b'"id"', b'"ext":{"ack":%d},"id"' % number) for number in range(1, 5)]
"""Connects of a client that acknowledges, one after another."""
SEEDS = [
    b"!\n" * 7 + b'{"channel":"/service/x","clientId":"@"}\n' + CONNECT + b"\n" + CONNECT,
    CONNECT + b"\n!\n" + CONNECT,
    b">" + CONNECT + b"\n!\n~" + CONNECT,
    HELLO + b"\n[" + HELLO + b",{}]",
    b'{"channel":"/meta/subscribe","clientId":"@","subscription":["/v2/*","/v2/me/calls"],"ext":{"replay":{"/v2/*":-2}}}',
    b'{"channel":"/meta/unsubscribe","clientId":"@","subscription":"/v2/me/calls"}\n!\n' + CONNECT,
    b'[{"channel":"/meta/disconnect","clientId":"@"},{"channel":"/service/x","clientId":"@","data":1},7,{}]',
    b'{"channel":"/meta/connect","clientId":"@","connectionType":"x","advice":{"timeout":0,"interval":5}}',
    b'{"channel":"/meta/connect","clientId":"c' + b"a" * 32 + b'\xc3\xa4","connectionType":"websocket","id":[]}',
]
WORDS = [
    *JSON_WORDS, b"\n", b"\n!\n", b"\n~", b"\n>", b'"@"', b'"clientId":"@"', b'"connectionType":"long-polling"',
    b'"id":', b'"subscription":', b'"/v2/me/calls"', b'"/v2/**"', b'"/meta/subscribe"', b'"/meta/unsubscribe"',
    b'"/meta/disconnect"', b'"/meta/handshake"', b'"/service/x"', b'"ext":', b'"ack":', b'"replay":', b'"advice":',
    b'"timeout":0', b'"interval":', b'"version":"1.0"', b'"supportedConnectionTypes":', b'"data":', b"-2", CONNECT,
]  # fmt: skip


def one_input(data: bytes) -> None:
    """Every message of a request has one reply that says what became of it, and the node stays within its limits."""
    LOOP.run(_talk(data))


async def _talk(data: bytes) -> None:
    async with embedded_store(None, deadline_s=30) as store:
        installation = Installation(store.client, LIMITS, lease_ms=LEASE_MS)
        await installation.begin()
        client = await Client().begin(installation.one)
        try:
            for number, line in enumerate(data.split(b"\n")[:MOST_LINES]):
                if line.startswith(b"!"):
                    await installation.publish(number, by_broker=number % 3 != 0)
                else:
                    await _request(installation, client, line)
        finally:
            await installation.settle()


async def _request(installation: Installation, client: Client, line: bytes) -> None:
    node = installation.two if line.startswith(b"~") else installation.one
    body = line.removeprefix(b"~").removeprefix(b">").replace(b"@", client.client_id.encode())
    try:
        messages = decode(body, LIMITS)
    except CodecError:
        return
    turn = await client.send(node, *messages, streaming=line.startswith((b">", b"~>")))
    events, replies = turn.events, list(turn.replies)
    held = turn.held
    if held is not None:
        if held.resident.suspended is held:
            node.sessions.answer(held)
        await turn.line.answered.wait()
        assert turn.line.reply is not None
        events, replies = [*events, *turn.line.events], [*replies, turn.line.reply]
    _check_replies(messages, turn, replies)
    answered = encode(events, replies)
    assert isinstance(orjson.loads(answered), list)
    assert len(answered) <= 8 * len(body) + 1_024 * (len(messages) + len(events))
    for event in events:
        assert {"channel", "data"} <= set(orjson.loads(event)) <= {"channel", "data", "ext"}
    check_bounds(node)


def _check_replies(messages: Sequence[object], turn: Turn, replies: Sequence[Mapping[str, Any]]) -> None:
    shaking = [each for each in messages if isinstance(each, dict) and each.get("channel") == HANDSHAKE]
    if shaking:
        assert len(replies) == 1
    elif not turn.replaced:
        assert len(replies) == len(messages)
    for reply in replies:
        assert isinstance(reply["successful"], bool)
        if not reply["successful"]:
            code, _, text = str(reply["error"]).partition(":")
            assert code.isdigit() and len(code) == 3 and ":" in text
        assert set(reply.get("advice", {})) in ({"reconnect", "interval", "timeout"}, set())
    if not shaking and not turn.replaced and turn.held is None:
        for message, reply in zip(messages, replies, strict=True):
            _check_echo(message, reply)


def _check_echo(message: object, reply: Mapping[str, Any]) -> None:
    for name in ("id", "channel"):
        given = message.get(name) if isinstance(message, dict) else None
        if isinstance(given, str | int) and can_encode(given):
            assert reply[name] == given
        else:
            assert name not in reply


def check_bounds(node: Node) -> None:
    """The node holds no more than its limits admit."""
    assert len(node.registry.residents) <= LIMITS.max_sessions
    for resident in node.registry.residents.values():
        session = resident.session
        assert len(session.queue) + len(session.replays.queue) <= LIMITS.max_queued_events
        assert len(session.batches) <= MOST_BATCHES
        assert len(session.subscriptions) <= LIMITS.max_subscriptions


TARGET = Target("bayeux", one_input, SEEDS, WORDS, slow=True)
