"""What each extension takes from messages and adds to replies."""

from typing import Any

import pytest

from calltag.core.bayeux.engine import Engine, Fault
from calltag.core.bayeux.extensions.acknowledgment import Acknowledgment
from calltag.core.bayeux.extensions.replay import Replay
from calltag.core.bayeux.extensions.timestamp import Timestamp
from calltag.core.bayeux.extensions.timesync import Timesync
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import GENERATIONS, Position, batch_of, of_batch
from calltag.core.bayeux.session import Session

ENGINE = Engine(BayeuxLimits(), lambda *_: True, lambda *_: True, (Acknowledgment(), Replay(), Timesync(), Timestamp()))
HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}
CONNECT = {"channel": "/meta/connect", "clientId": "c1", "connectionType": "long-polling"}
SUBSCRIBE = {"channel": "/meta/subscribe", "clientId": "c1", "subscription": ["/a", "/b"]}


# -- acknowledgment ----------------------------------------------------------------------------------------------------


def test_acknowledgment_is_agreed_upon_in_the_handshake() -> None:
    beginning = ENGINE.handshake(HELLO | {"ext": {"ack": True}}, "alice")
    assert beginning.acknowledges
    assert ENGINE.begun(HELLO, "c1", beginning)["ext"] == {"ack": True, "replay": True}


@pytest.mark.parametrize("asked", [False, 1, "true", None, {}])
def test_a_client_that_does_not_ask_for_acknowledgment_gets_none(asked: object) -> None:
    beginning = ENGINE.handshake(HELLO | {"ext": {"ack": asked}}, "alice")
    assert not beginning.acknowledges
    assert ENGINE.begun(HELLO, "c1", beginning)["ext"] == {"replay": True}


def test_a_batch_number_says_how_far_was_sent() -> None:
    session = Session("c1", "alice", 1, 3, Position(0), Position(1_700), acknowledges=True)
    reply = ENGINE.answered(session, {})
    wish = ENGINE.connect(CONNECT | {"ext": reply["ext"]}, "c1")
    assert wish.acknowledged == (1_700, 3)
    session.acknowledges = False
    assert "ext" not in ENGINE.answered(session, {})


@pytest.mark.parametrize("batch", [0, -1, True, 1.0, "1", None, [1], 2**53, 2**64, 2**9999])
def test_what_is_no_batch_number_acknowledges_nothing(batch: object) -> None:
    assert ENGINE.connect(CONNECT | {"ext": {"ack": batch}}, "c1").acknowledged is None


def test_positions_and_generations_are_told_apart() -> None:
    for generation in range(GENERATIONS):
        assert of_batch(batch_of(Position(123_456), generation)) == (123_456, generation)
    assert batch_of(Position(1), 0) > batch_of(Position(0), GENERATIONS - 1)


# -- replay ------------------------------------------------------------------------------------------------------------


def test_a_subscription_may_begin_in_the_past() -> None:
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": 17, "/other": 5}}}, "c1", "alice")
    assert wish.channels == {"/a": 17, "/b": None}


def test_all_that_is_kept_and_only_what_is_new_can_be_asked_for() -> None:
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": -2, "/b": -1}}}, "c1", "alice")
    assert wish.channels == {"/a": 0, "/b": -1}


@pytest.mark.parametrize("asked", [None, 17, "/a", ["/a"]])
def test_what_is_no_map_of_channels_asks_for_nothing(asked: object) -> None:
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": asked}}, "c1", "alice")
    assert wish.channels == {"/a": None, "/b": None}


@pytest.mark.parametrize(
    ("replay_id", "shown"),
    [
        (-3, "out of range"),
        (2**53, "out of range"),
        (10**4_000, "out of range"),
        (True, "of another type"),
        (1.0, "of another type"),
        ("17", "of another type"),
        (None, "of another type"),
    ],
)
def test_an_id_that_is_none_refuses_the_subscription(replay_id: object, shown: str) -> None:
    with pytest.raises(Fault) as refused:
        ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": replay_id}}}, "c1", "alice")
    error = refused.value.reply["error"]
    assert isinstance(error, str)
    assert error.startswith(f"400::The replayId {{{shown}}} you provided was invalid.")


# -- timesync ----------------------------------------------------------------------------------------------------------


def timesync(asked: object, arrived_ms: int = 1_000, now_ms: int = 1_007) -> Any:
    reply = ENGINE.extend(CONNECT | {"ext": {"timesync": asked}}, {}, arrived_ms, now_ms)
    ext: Any = reply.get("ext", {})
    return ext.get("timesync")


def test_a_client_learns_the_time_of_the_server() -> None:
    assert timesync({"tc": 900}) == {"tc": 900, "ts": 1_000, "p": 7}
    assert timesync({"tc": 900.5, "l": "x", "o": 0}) == {"tc": 900.5, "ts": 1_000, "p": 7}


def test_a_client_learns_how_far_it_is_off() -> None:
    assert timesync({"tc": 900, "l": 10, "o": 50}) == {"tc": 900, "ts": 1_000, "p": 7, "a": -40}
    assert timesync({"tc": 900, "l": 10, "o": 65})["a"] == -25


def test_a_client_that_is_right_is_told_nothing_but_the_first_time() -> None:
    assert timesync({"tc": 900, "l": 10, "o": 66}) is None
    assert timesync({"tc": 900, "l": 10, "o": 114}) is None
    assert timesync({"tc": 1_000, "l": 0, "o": 0})["a"] == 0


@pytest.mark.parametrize(
    "asked", [None, 5, [], {}, *({"tc": tc} for tc in ("1", True, None, 2**53, 1e300, float("nan"), float("inf")))]
)
def test_what_is_no_time_is_not_answered(asked: object) -> None:
    assert timesync(asked) is None


def test_sums_stay_within_what_a_reply_can_have() -> None:
    large = 2**64 - 1
    assert timesync({"tc": 900, "l": large, "o": large}) == {"tc": 900, "ts": 1_000, "p": 7}


def test_the_time_goes_beside_what_others_have_said() -> None:
    message = CONNECT | {"ext": {"timesync": {"tc": 900}}}
    reply = ENGINE.extend(message, {"ext": {"ack": 5}}, 1_000, 1_000)
    assert reply["ext"] == {"ack": 5, "timesync": {"tc": 900, "ts": 1_000, "p": 0}}
    assert ENGINE.extend(message, {"ext": 5}, 1_000, 1_000) == {"ext": 5}


# -- timestamp ---------------------------------------------------------------------------------------------------------


def test_a_message_with_a_timestamp_is_answered_with_one_in_gmt() -> None:
    reply = ENGINE.extend(CONNECT | {"timestamp": None}, {}, 0, 1_700_000_000_129)
    assert reply == {"timestamp": "2023-11-14T22:13:20.12"}
    assert ENGINE.extend(CONNECT, {}, 0, 1_700_000_000_129) == {}
