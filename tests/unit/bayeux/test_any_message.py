"""Whatever a client sends: a result, or a refusal that can be sent, and never anything else."""

import contextlib
from collections.abc import Callable, Sequence

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from calltag.core.bayeux.engine import BayeuxError, Engine, handshake_in
from calltag.core.bayeux.extensions import (
    Acknowledgment,
    Activity,
    Beginning,
    DeliveryExtension,
    ReplayExtension,
    Timestamp,
    Timesync,
)
from calltag.core.bayeux.messages import BayeuxLimits, CodecError, Message, Reply, decode, encode
from calltag.core.bayeux.session import Session
from parts.bayeux_sessions import session_at

ENGINE = Engine(
    BayeuxLimits(),
    lambda _, channel: channel.startswith("/v2/"),
    lambda _, channel: channel.startswith("/service/"),
    (Acknowledgment(), ReplayExtension(), DeliveryExtension(), Timesync(), Timestamp(), Activity(60_000)),
)
WORDS = [
    "", "/v2/me/calls", "/v2/*", "/service/x", "/meta/connect", "/meta/handshake", "/meta/subscribe", "/meta/x",
    "1.0", "2.0", "long-polling", "iframe", "\ud800", "/v2/\udfff", ":,", "ä\0\n",
]  # fmt: skip
NUMBERS = st.integers() | st.integers(-(2**66), 2**66) | st.floats() | st.sampled_from([2**53, 2**64, -(2**63) - 1, 0])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.sampled_from(WORDS) | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*WORDS, "tc", "l", "o", "timeout", "interval"]), inner, max_size=3)
    ),
    max_leaves=6,
)
TIMES = st.fixed_dictionaries({}, optional={"tc": NUMBERS | VALUES, "l": NUMBERS | VALUES, "o": NUMBERS | VALUES})
EXTS = st.fixed_dictionaries(
    {},
    optional={
        "ack": st.booleans() | NUMBERS | VALUES,
        "calltag": st.dictionaries(st.just("metaConnectDeliveryOnly"), st.booleans() | VALUES, max_size=1) | VALUES,
        "replay": st.dictionaries(st.sampled_from(WORDS), NUMBERS | VALUES, max_size=3) | VALUES,
        "timesync": TIMES | VALUES,
    },
)
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "channel": st.sampled_from(WORDS) | VALUES,
        "id": VALUES,
        "version": st.just("1.0") | VALUES,
        "minimumVersion": VALUES,
        "supportedConnectionTypes": st.just(["long-polling"]) | VALUES,
        "connectionType": st.just("long-polling") | VALUES,
        "subscription": st.sampled_from(WORDS) | st.lists(st.sampled_from(WORDS), max_size=3) | VALUES,
        "advice": st.fixed_dictionaries({}, optional={"timeout": VALUES, "interval": VALUES}) | VALUES,
        "ext": EXTS | VALUES,
        "timestamp": VALUES,
    },
)


def session() -> Session:
    return session_at(5, acknowledges=True, has_missed=True)


METHODS: dict[str, Callable[[Message], object]] = {
    "handshake": lambda message: ENGINE.handshake(message, "alice"),
    "begun": lambda message: ENGINE.begun(message, "c1", Beginning(acknowledges=True)),
    "begun_as_asked": lambda message: ENGINE.begun(message, "c1", ENGINE.handshake(message, "alice")),
    "busy": lambda message: ENGINE.busy(message, "503::x", 1_000).reply,
    "channel_of": ENGINE.channel_of,
    "unknown": lambda message: ENGINE.unknown(message).reply,
    "connect": ENGINE.connect,
    "connected": lambda message: ENGINE.connected(message, "c1"),
    "answered": lambda message: ENGINE.answered(session(), message),
    "answered_later": lambda message: ENGINE.answered(session(), ENGINE.kept(message)),
    "replaced": ENGINE.replaced,
    "ended": lambda message: ENGINE.ended(message, "c1"),
    "subscribe": lambda message: ENGINE.subscribe(message, "c1", "alice"),
    "not_subscribed": lambda message: ENGINE.not_subscribed(message, "c1", "429:1:x").reply,
    "unsubscribe": lambda message: ENGINE.unsubscribe(message, "c1"),
    "done": lambda message: ENGINE.done(message, "c1"),
    "publish": lambda message: ENGINE.publish(str(message.get("channel")), message, "alice"),
}
REFUSALS = ("busy", "unknown", "not_subscribed", "replaced")
ANSWERED = ("connected", "answered", "answered_later", "ended")
REPLIES = (*REFUSALS, *ANSWERED, "begun", "begun_as_asked", "done", "publish")


@pytest.mark.parametrize("method", METHODS)
@given(message=MESSAGES)
@example(message={"id": 2**64, "channel": "\ud800", "subscription": ["\ud800"]})
@example(message={"ext": {"timesync": {"tc": 2**64 - 1, "l": 0, "o": 2**64 - 1}}})
@example(message={"ext": {"timesync": {"tc": 1e308, "l": 10**400, "o": float("nan")}}})
@example(message={"subscription": "/v2/a", "ext": {"replay": {"/v2/a": 10**4_000}}})
def test_every_message_has_a_result_or_a_refusal_that_can_be_sent(method: str, message: Message) -> None:
    refusal, result = carry_out(method, message)
    for reply in [refusal] if refusal else [result] if method in REPLIES else []:
        assert isinstance(reply, dict)
        assert reply.get("successful") is (not refusal and method not in REFUSALS)
        assert orjson.loads(encode([], [ENGINE.extend(message, reply, 1_000, 1_007)]))


@given(message=MESSAGES)
def test_a_connect_that_is_suspended_is_answered_as_one_that_is_not(message: Message) -> None:
    """Its reply needs nothing but the parts of the message that are kept."""
    replies = [
        ENGINE.extend(each, ENGINE.answered(session(), each), 1_000, 1_007) for each in (message, ENGINE.kept(message))
    ]
    assert encode([], replies[:1]) == encode([], replies[1:])


def carry_out(method: str, message: Message) -> tuple[Reply | None, object]:
    """The refusal, or else the result."""
    try:
        return None, METHODS[method](message)
    except BayeuxError as fault:
        return fault.reply, None


@given(
    text=st.binary(max_size=200)
    | st.text(alphabet='[]{}",:\\u0d8\n 1eE-.truefalsn', max_size=100).map(str.encode)
    | st.lists(MESSAGES | VALUES, max_size=5).map(lambda each: orjson.dumps(each, default=str) if _plain(each) else b"")
)
def test_bytes_are_messages_or_an_error(text: bytes) -> None:
    limits = BayeuxLimits(max_body_bytes=150, max_messages=3, max_depth=4)
    messages: Sequence[object] = ()
    with contextlib.suppress(CodecError):
        messages = decode(text, limits)
        assert 0 <= len(messages) <= 3
    handshake_in(messages)
    for each in messages:
        with contextlib.suppress(BayeuxError):
            ENGINE.channel_of(each)


def _plain(value: object) -> bool:
    try:
        orjson.dumps(value)
    except TypeError:
        return False
    return True
