"""The rules of the protocol, one test each."""

from typing import Any

import pytest

from calltag.core.bayeux import errors
from calltag.core.bayeux.codec import encode_event
from calltag.core.bayeux.engine import Caller, Engine, Turn
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.session import Session

ALICE = Caller("alice")
LIMITS = BayeuxLimits(
    timeout_ms=1_000, max_interval_ms=100, max_sessions=3, max_sessions_per_user=2, max_subscriptions=3,
    max_queued_events=2, max_queued_bytes=1_000,
)  # fmt: skip
HELLO = {"channel": "/meta/handshake", "id": "1", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
CALLS = "/v2/me/calls"


@pytest.fixture
def engine() -> Engine:
    return Engine(LIMITS, lambda _, channel: channel.startswith("/v2/"))


def one(turn: Turn) -> dict[str, Any]:
    assert len(turn.replies) == 1
    return turn.replies[0]


def shake(engine: Engine, caller: Caller = ALICE, now_ms: int = 0) -> Session:
    created = engine.handle([HELLO], caller, now_ms).created
    assert created is not None
    return created


def connect(engine: Engine, session: Session, now_ms: int = 0, caller: Caller = ALICE, **more: Any) -> Turn:
    message = {"channel": "/meta/connect", "clientId": session.client_id, "connectionType": "long-polling", "id": "7"}
    return engine.handle([message | more], caller, now_ms)


def ask(engine: Engine, session: Session, channel: str, caller: Caller = ALICE, **more: Any) -> dict[str, Any]:
    return one(engine.handle([{"channel": channel, "clientId": session.client_id, **more}], caller, 0))


def subscribe(engine: Engine, session: Session, subscription: object) -> dict[str, Any]:
    return ask(engine, session, "/meta/subscribe", subscription=subscription)


def connected(engine: Engine, *channels: str, caller: Caller = ALICE) -> Session:
    session = shake(engine, caller)
    for channel in channels:
        assert subscribe(engine, session, channel)["successful"]
    connect(engine, session, caller=caller)
    return session


def test_a_handshake_makes_a_session(engine: Engine) -> None:
    turn = engine.handle([HELLO], ALICE, 0)
    reply = one(turn)
    assert reply["successful"]
    assert (reply["id"], reply["channel"], reply["version"]) == ("1", "/meta/handshake", "1.0")
    assert len(reply["clientId"]) == 40
    assert reply["advice"] == {"reconnect": "retry", "interval": 0, "timeout": 1_000}
    assert (engine.count, engine.users(), engine.has_sessions("alice")) == (1, ["alice"], True)
    assert engine.sessions() == [turn.created]


def test_a_handshake_goes_alone(engine: Engine) -> None:
    turn = engine.handle([{"channel": "/meta/connect"}, HELLO, {"channel": "/x"}], ALICE, 0)
    assert one(turn)["channel"] == "/meta/handshake"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"version": None}, errors.VERSION_MISSING),
        ({"supportedConnectionTypes": None}, errors.CONNECTION_TYPES_MISSING),
        (
            {"supportedConnectionTypes": ["callback-polling", 3]},
            "301:websocket,long-polling:connection_types_unsupported",
        ),
    ],
)
def test_a_handshake_that_is_not_right_fails(engine: Engine, change: dict[str, Any], error: str) -> None:
    reply = one(engine.handle([HELLO | change], ALICE, 0))
    assert (reply["successful"], reply["error"], reply["advice"]["reconnect"]) == (False, error, "none")
    assert engine.count == 0


def test_a_handshake_of_nobody_fails(engine: Engine) -> None:
    reply = one(engine.handle([HELLO], Caller(None), 0))
    assert (reply["error"], reply["advice"]["reconnect"]) == (errors.UNAUTHORIZED, "none")


def test_sessions_are_bounded_for_a_user_and_in_all(engine: Engine) -> None:
    shake(engine)
    shake(engine)
    reply = one(engine.handle([HELLO], ALICE, 0))
    assert reply["error"] == "429:2:too_many_sessions"
    assert reply["advice"] == {"reconnect": "handshake", "interval": 5_000, "timeout": 1_000}
    shake(engine, Caller("bob"))
    assert one(engine.handle([HELLO], Caller("carol"), 0))["error"] == "429:3:too_many_sessions"


def test_while_the_server_is_not_available_clients_come_back(engine: Engine) -> None:
    reply = one(engine.unavailable(HELLO))
    assert (reply["error"], reply["advice"]["reconnect"]) == (errors.UNAVAILABLE, "handshake")


def test_the_first_connect_returns_at_once(engine: Engine) -> None:
    turn = connect(engine, shake(engine))
    assert turn.held is None
    assert one(turn) == {
        "id": "7",
        "channel": "/meta/connect",
        "successful": True,
        "clientId": one(turn)["clientId"],
        "advice": {"reconnect": "retry", "interval": 0, "timeout": 1_000},
    }


def test_a_later_connect_is_held(engine: Engine) -> None:
    session = connected(engine)
    turn = connect(engine, session, 50)
    assert turn.replies == []
    assert turn.held is not None
    held = turn.held[1]
    assert held.deadline_ms == 1_050
    reply = engine.finish(session, held)
    assert reply is not None
    assert (reply["id"], reply["successful"]) == ("7", True)
    assert session.held is None


def test_a_connect_is_not_held_when_there_is_something_to_tell(engine: Engine) -> None:
    session = connected(engine, CALLS)
    assert engine.publish("alice", CALLS, b"{}") == [session]
    turn = connect(engine, session)
    assert turn.events_of is session
    assert session.take() == [b"{}"]
    assert session.take() == []


def test_a_streaming_connect_is_held_all_the_same(engine: Engine) -> None:
    session = connected(engine, CALLS)
    engine.publish("alice", CALLS, b"{}")
    assert connect(engine, session, caller=Caller("alice", streaming=True)).held is not None


@pytest.mark.parametrize(
    ("advice", "deadline_ms"),
    [({"timeout": 300}, 300), ({"timeout": 9_999}, 1_000), ({"timeout": -1}, 1_000), (7, 1_000)],
)
def test_the_clients_timeout_counts_for_one_cycle(engine: Engine, advice: object, deadline_ms: int) -> None:
    held = connect(engine, connected(engine), advice=advice).held
    assert held is not None
    assert held[1].deadline_ms == deadline_ms


def test_a_connect_in_a_hurry_returns_at_once(engine: Engine) -> None:
    assert connect(engine, connected(engine), advice={"timeout": 0, "interval": 5}).held is None


def test_a_connect_among_others_returns_at_once(engine: Engine) -> None:
    session = connected(engine)
    message = {"channel": "/meta/connect", "clientId": session.client_id, "connectionType": "long-polling"}
    more = {"channel": "/meta/subscribe", "clientId": session.client_id, "subscription": CALLS}
    turn = engine.handle([more, message], ALICE, 0)
    assert [reply["channel"] for reply in turn.replies] == ["/meta/subscribe", "/meta/connect"]
    assert turn.held is None


def test_a_newer_connect_ends_the_older(engine: Engine) -> None:
    session = connected(engine)
    first = connect(engine, session).held
    second = connect(engine, session)
    assert second.ended == [session]
    assert first is not None
    assert second.held is not None
    assert engine.finish(*first) is None
    assert engine.finish(*second.held) is not None


def test_a_connect_without_its_type_fails(engine: Engine) -> None:
    reply = one(connect(engine, connected(engine), connectionType=None))
    assert reply["error"] == errors.CONNECTION_TYPE_MISSING


def test_an_unknown_client_is_told_to_shake_hands(engine: Engine) -> None:
    session = connected(engine)
    for client_id in ("nobody", 7, None):
        message = {"channel": "/meta/connect", "clientId": client_id, "connectionType": "long-polling"}
        reply = one(engine.handle([message], ALICE, 0))
        assert (reply["error"], reply["advice"]["reconnect"]) == ("402::Unknown client", "handshake")
    reply = ask(engine, session, "/meta/subscribe", Caller("bob"), subscription=CALLS)
    assert reply["error"] == "402::Unknown client"
    assert "advice" not in reply
    assert not ask(engine, session, "/meta/subscribe", Caller(None), subscription=CALLS)["successful"]


def test_a_session_made_by_the_message_itself_needs_its_id_alone(engine: Engine) -> None:
    session = shake(engine, Caller("alice", by_ext=True))
    assert ask(engine, session, "/meta/subscribe", Caller(None), subscription=CALLS)["successful"]
    assert not ask(engine, session, "/meta/subscribe", Caller("bob"), subscription=CALLS)["successful"]


@pytest.mark.parametrize("subscription", [CALLS, [CALLS], ["/v2/me/*", "/v2/**"]])
def test_a_subscription_is_echoed_as_it_was_sent(engine: Engine, subscription: object) -> None:
    reply = subscribe(engine, shake(engine), subscription)
    assert (reply["successful"], reply["subscription"]) == (True, subscription)


def test_subscribing_twice_is_a_success(engine: Engine) -> None:
    session = shake(engine)
    assert subscribe(engine, session, CALLS)["successful"]
    assert subscribe(engine, session, CALLS)["successful"]
    assert list(session.subscriptions) == [CALLS]


@pytest.mark.parametrize(
    ("subscription", "error"),
    [
        (None, "403::subscription_missing"),
        ([], "403::subscription_missing"),
        ([CALLS, 3], "403::subscription_missing"),
        ("", "403::subscription_missing"),
        ("no:slash,", "403:noslash:subscription_invalid"),
        ([CALLS, "/other"], "403:/other:subscribe_denied"),
        ("/meta/connect", "403:/meta/connect:subscribe_denied"),
        (["/v2/1", "/v2/2", "/v2/3", "/v2/4"], "429:3:too_many_subscriptions"),
    ],
)
def test_a_subscription_that_is_refused_changes_nothing(engine: Engine, subscription: object, error: str) -> None:
    session = shake(engine)
    assert subscribe(engine, session, subscription)["error"] == error
    assert not session.subscriptions


def test_service_channels_are_not_recorded(engine: Engine) -> None:
    session = shake(engine)
    assert subscribe(engine, session, "/service/x")["successful"]
    assert not session.subscriptions


def test_unsubscribing(engine: Engine) -> None:
    session = connected(engine, CALLS)
    reply = ask(engine, session, "/meta/unsubscribe", subscription=CALLS)
    assert (reply["successful"], reply["subscription"]) == (True, CALLS)
    assert engine.publish("alice", CALLS, b"{}") == []
    assert not ask(engine, session, "/meta/unsubscribe")["successful"]


def test_disconnecting_frees_the_held_connect(engine: Engine) -> None:
    session = connected(engine)
    held = connect(engine, session).held
    assert held is not None
    turn = engine.handle([{"channel": "/meta/disconnect", "clientId": session.client_id}], ALICE, 0)
    assert one(turn)["successful"]
    assert turn.ended == [session]
    reply = engine.finish(*held)
    assert reply is not None
    assert reply["advice"] == {"reconnect": "none", "interval": 0, "timeout": 1_000}
    assert not engine.has_sessions("alice")
    engine.remove(session)
    assert engine.count == 0


def test_one_session_of_two_leaves(engine: Engine) -> None:
    first, second = connected(engine), connected(engine)
    engine.remove(first)
    assert engine.has_sessions("alice")
    assert engine.sessions() == [second]


@pytest.mark.parametrize(
    ("channel", "error"),
    [
        ("/v2/me/calls", "403:/v2/me/calls:publish_denied"),
        ("/meta/odd", "405:/meta/odd:channel_invalid"),
        ("odd", "405:odd:channel_invalid"),
        ("/service/x", None),
    ],
)
def test_publishing_is_for_the_server(engine: Engine, channel: str, error: str | None) -> None:
    assert ask(engine, connected(engine), channel, data={}).get("error") == error


def test_a_message_that_is_wrong_spoils_no_neighbour(engine: Engine) -> None:
    session = connected(engine)
    good = {"channel": "/meta/subscribe", "clientId": session.client_id, "subscription": CALLS, "id": 5}
    turn = engine.handle([3, {"id": "x"}, {"channel": 3}, good], ALICE, 0)
    assert [reply.get("error") for reply in turn.replies] == [
        errors.MESSAGE_INVALID, errors.CHANNEL_MISSING, errors.CHANNEL_MISSING, None,
    ]  # fmt: skip
    assert turn.replies[-1]["id"] == 5


def test_an_event_is_delivered_once_to_a_session(engine: Engine) -> None:
    session = connected(engine, CALLS, "/v2/me/*", "/v2/**")
    event = encode_event(CALLS, {"a": 1})
    assert engine.publish("alice", CALLS, event) == [session]
    assert session.take() == [event]
    assert b"clientId" not in event
    assert engine.publish("bob", CALLS, event) == []
    assert engine.broadcast("/v2/any/depth", event) == [session]
    assert engine.broadcast("/other", event) == []


def test_a_queue_is_bounded_and_its_loss_is_told(engine: Engine) -> None:
    session = connected(engine, CALLS)
    for number in range(4):
        engine.publish("alice", CALLS, b"%d" % number)
    assert list(session.queue) == [b"2", b"3"]
    turn = connect(engine, session)
    assert one(turn)["ext"] == {"calltag": {"dropped": 2}}
    session.take()
    engine.publish("alice", CALLS, b"x" * 600)
    engine.publish("alice", CALLS, b"y" * 600)
    assert session.take() == [b"y" * 600]


def test_a_silent_session_ends(engine: Engine) -> None:
    session = connected(engine)
    engine.answered(session, session.cycle, 0)
    assert engine.expire(99) == []
    assert engine.expire(100) == [session]
    assert engine.expire(10_000) == []


def test_a_session_that_shows_up_lives_on(engine: Engine) -> None:
    session = connected(engine)
    engine.answered(session, session.cycle, 0)
    held = connect(engine, session, 90).held
    assert held is not None
    assert engine.expire(500) == []
    engine.answered(session, session.cycle, 500)
    assert engine.expire(600) == [], "a connect that is held keeps its session"
    engine.finish(*held)
    engine.answered(session, held[1].cycle - 1, 600)
    engine.answered(session, held[1].cycle, 600)
    ask_at = {"channel": "/meta/unsubscribe", "clientId": session.client_id, "subscription": CALLS}
    engine.handle([ask_at], ALICE, 690)
    assert engine.expire(700) == []
    assert engine.expire(790) == [session]


def test_a_session_that_left_is_not_swept_again(engine: Engine) -> None:
    session = connected(engine)
    engine.remove(session)
    assert engine.expire(1_000_000) == []
