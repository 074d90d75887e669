"""The rules of the protocol that a message alone can keep or break, one test each."""

from collections.abc import Callable
from typing import Any

import pytest

from calltag.core.bayeux import errors
from calltag.core.bayeux.engine import BayeuxError, Engine, handshake_in
from calltag.core.bayeux.extensions import Beginning, ConnectWish, Extension, Refused, SubscribeWish
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import Session, SessionPhase
from parts.bayeux_sessions import session_at

LIMITS = BayeuxLimits(timeout_ms=1_000, interval_ms=5, max_interval_ms=100)
ENGINE = Engine(
    LIMITS,
    lambda user, channel: user == "alice" and channel.startswith("/v2/"),
    lambda user, channel: user == "alice" and channel.startswith("/service/"),
)
HELLO = {"channel": "/meta/handshake", "id": "1", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
CONNECT = {"channel": "/meta/connect", "id": "2", "clientId": "c1", "connectionType": "long-polling"}
SUBSCRIBE = {"channel": "/meta/subscribe", "id": "3", "clientId": "c1", "subscription": "/v2/me/calls"}
CALLS = "/v2/me/calls"


def fault(call: Callable[[], object]) -> dict[str, Any]:
    """The reply of a message that is refused."""
    with pytest.raises(BayeuxError) as refused:
        call()
    assert refused.value.reply["successful"] is False
    return refused.value.reply


# -- handshake ---------------------------------------------------------------------------------------------------------


def test_the_handshake_is_found_among_the_messages() -> None:
    assert handshake_in([3, {"channel": "/meta/connect"}, HELLO, HELLO | {"id": "9"}]) is HELLO
    assert handshake_in([3, {"channel": "/meta/connect"}, "/meta/handshake"]) is None


def test_a_handshake_is_answered_with_all_that_a_session_needs() -> None:
    beginning = ENGINE.handshake(HELLO, "alice")
    assert ENGINE.begun(HELLO, "c1", beginning) == {
        "channel": "/meta/handshake",
        "id": "1",
        "successful": True,
        "version": "1.0",
        "minimumVersion": "1.0",
        "supportedConnectionTypes": ["websocket", "long-polling"],
        "clientId": "c1",
        "advice": {"reconnect": "retry", "interval": 5, "timeout": 1_000},
    }


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": None}, "400::version_missing"),
        ({"version": 1.0}, "400::version_missing"),
        ({"version": ""}, "300::version_unsupported"),
        ({"version": "2.0"}, "300:2.0:version_unsupported"),
        ({"version": "10.0"}, "300:10.0:version_unsupported"),
        ({"version": "0.8"}, "300:0.8:version_unsupported"),
        ({"version": "2:0,\ud800"}, "300:20?:version_unsupported"),
        ({"supportedConnectionTypes": None}, "400::supported_connection_types_missing"),
        ({"supportedConnectionTypes": "long-polling"}, "400::supported_connection_types_missing"),
        ({"supportedConnectionTypes": []}, "301:websocket,long-polling:connection_types_unsupported"),
        ({"supportedConnectionTypes": ["iframe", 1]}, "301:websocket,long-polling:connection_types_unsupported"),
    ],
)
def test_a_handshake_that_lacks_something_is_refused_for_good(change: dict[str, object], error: str) -> None:
    reply = fault(lambda: ENGINE.handshake(HELLO | change, "alice"))
    assert reply["error"] == error
    assert reply["advice"] == {"reconnect": "none", "interval": 0, "timeout": 1_000}
    assert (reply["id"], reply["version"]) == ("1", "1.0")
    assert reply["supportedConnectionTypes"] == ["websocket", "long-polling"]
    assert "clientId" not in reply


@pytest.mark.parametrize("version", ["1.0", "1.0beta", "1.1", "0.9", "0.9.5"])
def test_older_and_newer_versions_of_the_same_protocol_are_taken(version: str) -> None:
    assert ENGINE.handshake(HELLO | {"version": version}, "alice") == Beginning()


@pytest.mark.parametrize("least", ["0.9", "1.0beta", "7", 7, None, ["x"]])
def test_the_least_version_of_a_client_is_taken_as_anything(least: object) -> None:
    assert ENGINE.handshake(HELLO | {"minimumVersion": least}, "alice") == Beginning()


def test_one_connection_type_in_common_suffices() -> None:
    types = ["iframe", "callback-polling", "websocket"]
    assert ENGINE.handshake(HELLO | {"supportedConnectionTypes": types}, "alice") == Beginning()


def test_nobody_begins_no_session() -> None:
    reply = fault(lambda: ENGINE.handshake(HELLO, None))
    assert (reply["error"], reply["advice"]["reconnect"]) == (errors.UNAUTHORIZED, "none")


def test_a_busy_server_asks_to_come_back() -> None:
    reply = ENGINE.busy(HELLO, errors.UNAVAILABLE, 5_000).reply
    assert reply["error"] == errors.UNAVAILABLE
    assert reply["advice"] == {"reconnect": "handshake", "interval": 5_000, "timeout": 1_000}


def test_a_session_that_is_behind_is_asked_to_come_at_once() -> None:
    engine = Engine(BayeuxLimits(interval_ms=700), lambda *_: True, lambda *_: True)
    here = session_at(state=SessionPhase.BEHIND, has_missed=True)
    reply = engine.answered(here, CONNECT)
    assert reply["ext"] == {"calltag": {"missed": True, "behind": True}}
    assert reply["advice"] == {"reconnect": "retry", "interval": 0, "timeout": 30_000}
    here.begin_reading()
    reply = engine.answered(here, CONNECT)
    assert ("ext" in reply, reply["advice"]) == (False, {"reconnect": "retry", "interval": 700, "timeout": 30_000})


# -- any message -------------------------------------------------------------------------------------------------------


def test_a_message_without_a_channel_spoils_no_neighbour() -> None:
    assert fault(lambda: ENGINE.channel_of(3)) == {"successful": False, "error": errors.MESSAGE_INVALID}
    for channel in (None, "", 7, [CALLS]):
        reply = fault(lambda channel=channel: ENGINE.channel_of({"id": "4", "channel": channel}))  # type: ignore[misc]
        assert (reply["id"], reply["error"]) == ("4", errors.CHANNEL_MISSING)
    assert ENGINE.channel_of(CONNECT) == ("/meta/connect", CONNECT)


@pytest.mark.parametrize("message_id", ["7", 7, "ä", 2**64 - 1, -(2**63)])
def test_an_id_is_repeated_as_it_was_sent(message_id: object) -> None:
    reply = ENGINE.done({"channel": "/meta/disconnect", "id": message_id}, "c1")
    assert reply == {"channel": "/meta/disconnect", "id": message_id, "successful": True, "clientId": "c1"}


@pytest.mark.parametrize("message_id", [None, 1.5, ["7"], {}, 2**64, "\ud800"])
def test_an_id_that_no_reply_can_have_is_left_out(message_id: object) -> None:
    assert "id" not in ENGINE.done({"channel": "/meta/disconnect", "id": message_id}, "c1")


@pytest.mark.parametrize("message_id", [1.5, ["7"], [], {}, {"a": "7"}, 2**64, "\ud800"])
@pytest.mark.parametrize("message", [HELLO, CONNECT, SUBSCRIBE])
def test_a_message_whose_id_no_reply_can_have_is_refused(message: dict[str, object], message_id: object) -> None:
    refused = fault(lambda: ENGINE.channel_of(message | {"id": message_id}))
    assert refused == {"channel": message["channel"], "successful": False, "error": "405::message_id_invalid"}


@pytest.mark.parametrize("message_id", ["7", 7, "", "a-b", True, None])
def test_any_other_id_is_taken(message_id: object) -> None:
    message = CONNECT | {"id": message_id}
    assert ENGINE.channel_of(message) == ("/meta/connect", message)


def test_an_unknown_session_is_told_to_shake_hands_again_in_answer_to_a_connect_only() -> None:
    reply = fault(lambda: raise_(ENGINE.unknown(CONNECT)))
    assert (reply["error"], reply["id"]) == ("402::Unknown client", "2")
    assert reply["advice"] == {"reconnect": "handshake", "interval": 0, "timeout": 1_000}
    assert "advice" not in ENGINE.unknown(SUBSCRIBE).reply


def raise_(error: Exception) -> None:
    raise error


# -- connect -----------------------------------------------------------------------------------------------------------


def test_a_connect_is_held_as_long_as_the_server_says() -> None:
    assert ENGINE.connect(CONNECT) == ConnectWish(1_000, 5, is_hurried=False, transport="long-polling")


def test_a_client_may_name_other_times_for_one_connect() -> None:
    wish = ENGINE.connect(CONNECT | {"advice": {"timeout": 10, "interval": 20}})
    assert wish == ConnectWish(10, 20, is_hurried=False, transport="long-polling")


def test_a_client_holds_no_connect_and_rests_no_longer_than_the_server_allows() -> None:
    wish = ENGINE.connect(CONNECT | {"advice": {"timeout": 2**70, "interval": 2**70}})
    assert (wish.timeout_ms, wish.interval_ms) == (1_000, 10_000)


@pytest.mark.parametrize("time", [-1, True, 0.5, "0", None, [0]])
def test_times_that_are_none_count_as_unsaid(time: object) -> None:
    wish = ENGINE.connect(CONNECT | {"advice": {"timeout": time, "interval": time}})
    assert (wish.timeout_ms, wish.interval_ms, wish.is_hurried) == (1_000, 5, False)
    assert ENGINE.connect(CONNECT | {"advice": time}).timeout_ms == 1_000


def test_a_client_may_want_an_answer_at_once() -> None:
    wish = ENGINE.connect(CONNECT | {"advice": {"timeout": 0}})
    assert (wish.timeout_ms, wish.is_hurried) == (0, True)


def test_a_server_that_suspends_nothing_makes_no_client_hurry() -> None:
    engine = Engine(BayeuxLimits(timeout_ms=0), lambda *_: True, lambda *_: True)
    wish = engine.connect(CONNECT | {"advice": {"timeout": 10}})
    assert (wish.timeout_ms, wish.is_hurried) == (0, False)


def test_a_connection_type_is_offered_and_taken_where_it_is_on() -> None:
    types = ("long-polling", "callback-polling")
    engine = Engine(LIMITS, lambda *_: True, lambda *_: True, connection_types=types)
    hello = HELLO | {"supportedConnectionTypes": ["callback-polling"]}
    reply = engine.begun(hello, "c1", engine.handshake(hello, "alice"))
    assert reply["supportedConnectionTypes"] == ["long-polling", "callback-polling"]
    assert engine.connect(CONNECT | {"connectionType": "callback-polling"}).transport == "callback-polling"


@pytest.mark.parametrize("kind", ["websocket", "long-polling"])
def test_known_connection_types_are_taken(kind: str) -> None:
    assert ENGINE.connect(CONNECT | {"connectionType": kind}).transport == kind


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (None, "400::connection_type_missing"),
        (["long-polling"], "400::connection_type_missing"),
        ("", "400::connection_type_unknown"),
        ("Long-Polling", "400::connection_type_unknown"),
        ("long-pollingx", "400::connection_type_unknown"),
        ("iframe", "400::connection_type_unknown"),
        ("callback-polling", "400::connection_type_unknown"),
    ],
)
def test_other_connection_types_are_refused(kind: object, error: str) -> None:
    reply = fault(lambda: ENGINE.connect(CONNECT | {"connectionType": kind}))
    assert (reply["error"], reply["id"], reply["channel"]) == (error, "2", "/meta/connect")


def test_every_advice_is_whole() -> None:
    assert ENGINE.connected(CONNECT, "c1") == {
        "channel": "/meta/connect",
        "id": "2",
        "successful": True,
        "clientId": "c1",
        "advice": {"reconnect": "retry", "interval": 5, "timeout": 1_000},
    }


def test_the_end_of_a_session_ends_its_connects_for_good() -> None:
    reply = ENGINE.ended(CONNECT, "c1")
    assert reply["advice"] == {"reconnect": "none", "interval": 0, "timeout": 1_000}
    assert reply["successful"] is True


def test_a_connect_that_another_took_the_place_of_has_failed() -> None:
    """Its client, if it waits for it at all, connects again."""
    assert ENGINE.replaced(CONNECT) == {
        "channel": "/meta/connect",
        "id": "2",
        "successful": False,
        "error": "408::connect_replaced",
        "advice": {"reconnect": "retry", "interval": 5, "timeout": 1_000},
    }


def test_a_client_whose_session_was_ended_is_not_to_come_back() -> None:
    assert ENGINE.disconnected() == {
        "channel": "/meta/disconnect",
        "successful": True,
        "advice": {"reconnect": "none", "interval": 0, "timeout": 1_000},
    }


def test_a_client_is_told_once_that_it_missed_something() -> None:
    told = session_at(has_missed=True)
    first = ENGINE.answered(told, CONNECT)
    assert first["ext"] == {"calltag": {"missed": True}}
    assert "ext" not in ENGINE.answered(told, CONNECT)


def test_what_is_kept_of_a_suspended_connect_is_small() -> None:
    large = "x" * 10_000
    message = CONNECT | {"advice": {"timeout": 1, "x": large}, "timestamp": large, "ext": {"x": large}, large: large}
    assert ENGINE.kept(message) == {"channel": "/meta/connect", "id": "2", "timestamp": ""}


def test_clients_are_told_when_to_shake_hands_by_themselves_where_that_is_on() -> None:
    engine = Engine(LIMITS, lambda *_: True, lambda *_: True, handshake_reconnect=True)
    assert [advice["maxInterval"] for advice in (engine.advice(), engine.advice("none", 0))] == [100, 100]
    assert "maxInterval" not in ENGINE.advice()


# -- subscribe, unsubscribe --------------------------------------------------------------------------------------------


def test_a_subscription_is_one_name_or_several() -> None:
    assert ENGINE.subscribe(SUBSCRIBE, "c1", "alice") == SubscribeWish({CALLS: None})
    both = SUBSCRIBE | {"subscription": [CALLS, "/v2/me/**"]}
    assert ENGINE.subscribe(both, "c1", "alice").channels == {CALLS: None, "/v2/me/**": None}
    assert ENGINE.unsubscribe(SUBSCRIBE, "c1") == [CALLS]
    assert ENGINE.unsubscribe(both, "c1") == [CALLS, "/v2/me/**"]


@pytest.mark.parametrize("subscription", [None, 7, "", [], [CALLS, 7], [CALLS, ""], {"a": CALLS}])
def test_a_subscription_to_nothing_is_refused(subscription: object) -> None:
    message = SUBSCRIBE | {"subscription": subscription}
    for call in (lambda: ENGINE.subscribe(message, "c1", "alice"), lambda: ENGINE.unsubscribe(message, "c1")):
        reply = fault(call)
        assert (reply["error"], reply["id"]) == (errors.SUBSCRIPTION_MISSING, "3")
    missing = {name: value for name, value in SUBSCRIBE.items() if name != "subscription"}
    assert fault(lambda: ENGINE.subscribe(missing, "c1", "alice"))["error"] == errors.SUBSCRIPTION_MISSING


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("v2", "403:v2:subscription_invalid"),
        ("/v2/*/calls", "403:/v2/*/calls:subscription_invalid"),
        ("/v2/a:b,c", "403:/v2/abc:subscription_invalid"),
        ("/v2/" + "x" * 300, f"403:/v2/{'x' * 252}:subscription_invalid"),
        ("/v2/\ud800", "403:/v2/?:subscription_invalid"),
        ("/other", "403:/other:subscribe_denied"),
        ("/**", "403:/**:subscribe_denied"),
        ("/meta/connect", "403:/meta/connect:subscribe_denied"),
        ("/meta/*", "403:/meta/*:subscribe_denied"),
    ],
)
def test_one_name_that_is_refused_refuses_all(name: str, error: str) -> None:
    reply = fault(lambda: ENGINE.subscribe(SUBSCRIBE | {"subscription": [CALLS, name]}, "c1", "alice"))
    assert (reply["error"], reply["id"], reply["clientId"]) == (error, "3", "c1")
    assert reply.get("subscription") == ([CALLS, name] if "\ud800" not in name else None)


@pytest.mark.parametrize(
    ("name", "argument"),
    [("v2", "v2"), ("/v2/*/calls", "/v2/*/calls"), ("/v2/a:b,c", "/v2/abc"), ("/v2/\ud800", "/v2/?"), ("/", "/")],
)
def test_a_name_that_is_none_refuses_an_unsubscribe_whole(name: str, argument: str) -> None:
    message = SUBSCRIBE | {"channel": "/meta/unsubscribe", "subscription": [CALLS, name]}
    reply = fault(lambda: ENGINE.unsubscribe(message, "c1"))
    assert (reply["error"], reply["id"], reply["clientId"]) == (f"403:{argument}:subscription_invalid", "3", "c1")
    assert reply.get("subscription") == ([CALLS, name] if "\ud800" not in name else None)


@pytest.mark.parametrize("name", ["/other", "/**", "/meta/connect", "/service/x"])
def test_anybody_may_unsubscribe_from_whatever_has_a_name(name: str) -> None:
    assert ENGINE.unsubscribe(SUBSCRIBE | {"subscription": name}, "c1") == [name]


def test_the_user_decides_what_may_be_subscribed_to() -> None:
    assert fault(lambda: ENGINE.subscribe(SUBSCRIBE, "c1", "bob"))["error"] == errors.subscribe_denied(CALLS)


def test_subscriptions_to_service_channels_succeed_and_are_not_kept() -> None:
    assert ENGINE.subscribe(SUBSCRIBE | {"subscription": ["/service/x", CALLS]}, "c1", "alice").channels == {
        CALLS: None
    }


@pytest.mark.parametrize("subscription", [CALLS, [CALLS], [CALLS, CALLS]])
def test_a_subscription_is_repeated_as_it_was_sent(subscription: object) -> None:
    message = SUBSCRIBE | {"subscription": subscription}
    assert ENGINE.done(message, "c1") == {
        "channel": "/meta/subscribe",
        "id": "3",
        "successful": True,
        "clientId": "c1",
        "subscription": subscription,
    }
    assert ENGINE.not_subscribed(message, "c1", "429:1:x").reply["subscription"] == subscription


def test_a_refusal_repeats_no_subscription_where_there_was_none() -> None:
    reply = ENGINE.not_subscribed({"channel": "/meta/subscribe"}, "c1", errors.too_many_subscriptions(3)).reply
    assert reply == {
        "channel": "/meta/subscribe",
        "successful": False,
        "error": "429:3:too_many_subscriptions",
        "clientId": "c1",
    }
    assert errors.too_many_sessions(7) == "429:7:too_many_sessions"


# -- publish -----------------------------------------------------------------------------------------------------------


def test_a_message_to_the_server_is_taken() -> None:
    message = {"channel": "/service/x", "id": "9", "data": {"a": 1}}
    assert ENGINE.publish("/service/x", message, "alice") == {"channel": "/service/x", "id": "9", "successful": True}


@pytest.mark.parametrize(
    ("channel", "error"),
    [
        ("/meta/other", "405:/meta/other:channel_invalid"),
        ("calls", "405:calls:channel_invalid"),
        ("/v2/*", "405:/v2/*:channel_invalid"),
        ("/v2/me/calls", "403:/v2/me/calls:publish_denied"),
    ],
)
def test_clients_publish_to_the_server_alone(channel: str, error: str) -> None:
    assert fault(lambda: ENGINE.publish(channel, {"channel": channel}, "alice"))["error"] == error


def test_the_user_decides_what_may_be_published_on() -> None:
    refused = fault(lambda: ENGINE.publish("/service/x", {"channel": "/service/x"}, "bob"))
    assert refused["error"] == errors.publish_denied("/service/x")


@pytest.mark.parametrize("channel", ["/meta/other", "calls", "/v2/*"])
def test_nobody_publishes_on_what_is_no_channel_for_it(channel: str) -> None:
    engine = Engine(LIMITS, lambda *_: True, lambda *_: True)
    assert fault(lambda: engine.publish(channel, {"channel": channel}, "alice"))["error"] == (
        errors.channel_invalid(channel)
    )


# -- extensions --------------------------------------------------------------------------------------------------------


class Recorder(Extension):
    """Overrides everything and says what it saw."""

    def handshake(self, ext: Any, beginning: Beginning) -> None:
        beginning.options["seen"] = str(ext.get("x"))

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        reply_ext["x"] = beginning.options["seen"]

    def connect(self, ext: Any, wish: ConnectWish) -> None:
        wish.timeout_ms = int(ext.get("x", 0))

    def subscribe(self, ext: Any, wish: SubscribeWish) -> None:
        if "x" in ext:
            raise Refused(f"400:{','.join(wish.channels)}:x")

    def connected(self, session: Session, reply_ext: dict[str, object]) -> None:
        reply_ext["x"] = session.client_id

    def kept(self, ext: Any, kept: dict[str, object]) -> None:
        kept["x"] = ext.get("x")

    def reply(self, message: Any, reply: dict[str, object], arrived_ms: int, now_ms: int) -> None:
        reply["took"] = [message["id"], now_ms - arrived_ms]


def test_extensions_see_and_change_what_is_theirs() -> None:
    engine = Engine(LIMITS, lambda *_: True, lambda *_: True, (Extension(), Recorder()))
    beginning = engine.handshake(HELLO | {"ext": {"x": 5}}, "alice")
    assert engine.begun(HELLO, "c1", beginning)["ext"] == {"x": "5"}
    assert engine.connect(CONNECT | {"ext": {"x": 5}}).timeout_ms == 5
    assert engine.connect(CONNECT | {"ext": "x"}).timeout_ms == 0
    assert engine.kept(CONNECT | {"ext": {"x": 5, "y": 6}})["ext"] == {"x": 5}
    assert engine.answered(session_at(), {})["ext"] == {"x": "c1"}
    assert engine.extend(CONNECT, {}, 3, 10) == {"took": ["2", 7]}
    assert engine.subscribe(SUBSCRIBE, "c1", "alice").channels == {CALLS: None}


def test_an_extension_may_refuse_a_subscription() -> None:
    engine = Engine(LIMITS, lambda *_: True, lambda *_: True, (Recorder(),))
    reply = fault(lambda: engine.subscribe(SUBSCRIBE | {"ext": {"x": 1}}, "c1", "alice"))
    assert (reply["error"], reply["subscription"]) == (f"400:{CALLS}:x", CALLS)
