"""What each extension takes from messages and adds to replies."""

from typing import Any

import pytest

from calltag.core.bayeux.engine import BayeuxError, Engine
from calltag.core.bayeux.extensions import (
    REPLAYS,
    Acknowledgment,
    Activity,
    DeliveryExtension,
    Extension,
    ReplayExtension,
    Timestamp,
    Timesync,
    overriding,
)
from calltag.core.bayeux.messages import BayeuxLimits
from parts.bayeux_sessions import session_at

ENGINE = Engine(
    BayeuxLimits(), lambda *_: True, lambda *_: True, (Acknowledgment(), ReplayExtension(), Timesync(), Timestamp())
)
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


def test_answers_are_numbered_from_1_and_their_numbers_come_back() -> None:
    session = session_at(acknowledges=True)
    replies: list[Any] = [ENGINE.answered(session, CONNECT) for _ in range(2)]
    assert [reply["ext"] for reply in replies] == [{"ack": 1}, {"ack": 2}]
    assert [ENGINE.connect(CONNECT | {"ext": reply["ext"]}).acknowledged for reply in replies] == [1, 2]


def test_answers_to_a_client_that_does_not_acknowledge_have_no_number() -> None:
    assert "ext" not in ENGINE.answered(session_at(), CONNECT)


@pytest.mark.parametrize(("number", "read"), [(0, 0), (7, 7), (7.0, 7), (2**31 - 1, 2**31 - 1)])
def test_a_number_is_read_in_whatever_form_it_comes(number: object, read: int) -> None:
    assert ENGINE.connect(CONNECT | {"ext": {"ack": number}}).acknowledged == read


NONE = [-1, True, 1.5, "1", None, [1], 2**31, 2**64, 2**9999, float("nan"), float("inf"), -0.5]


@pytest.mark.parametrize("number", NONE)
def test_what_is_no_number_acknowledges_nothing(number: object) -> None:
    assert ENGINE.connect(CONNECT | {"ext": {"ack": number}}).acknowledged is None


# -- replay ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "options"), [(True, {REPLAYS: "1"}), (False, {}), (1, {}), ({"/a": 5}, {}), (None, {})]
)
def test_a_handshake_may_want_positions_in_all_messages(asked: object, options: dict[str, str]) -> None:
    assert ENGINE.handshake(HELLO | {"ext": {"replay": asked}}, "alice").options == options


def test_a_subscription_may_begin_in_the_past() -> None:
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": 17, "/other": 5}}}, "c1", "alice")
    assert (wish.channels, wish.replays) == ({"/a": 17, "/b": None}, True)


def test_all_that_is_kept_and_only_what_is_new_can_be_asked_for() -> None:
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": -2, "/b": -1}}}, "c1", "alice")
    assert (wish.channels, wish.replays) == ({"/a": 0, "/b": None}, True)


LATEST = 2**53 - 1


@pytest.mark.parametrize(
    ("replay_id", "since"),
    [(None, None), ("17", 17), ("-1", None), ("-2", 0), (17.0, 17), (0, 0), (LATEST, LATEST), (str(LATEST), LATEST)],
)
def test_an_id_is_read_as_clients_write_it(replay_id: object, since: int | None) -> None:
    """Some have none yet, and some keep it as a string."""
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": replay_id}}}, "c1", "alice")
    assert (wish.channels, wish.replays) == ({"/a": since, "/b": None}, True)


@pytest.mark.parametrize("asked", [None, 17, "/a", ["/a"], True])
def test_what_is_no_map_of_channels_asks_for_nothing(asked: object) -> None:
    wish = ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": asked}}, "c1", "alice")
    assert (wish.channels, wish.replays) == ({"/a": None, "/b": None}, False)


OUT_OF_RANGE = [-3, 2**53, 1e300, 10**4_000, "-3", str(2**53), "9" * 19]
OF_ANOTHER_TYPE = [True, 1.5, "", "1.0", "x", " 7", "1" * 20, "\u0661", "7\n", [7], {}, float("nan"), float("inf")]


@pytest.mark.parametrize(
    ("replay_id", "shown"),
    [*((each, "out of range") for each in OUT_OF_RANGE), *((each, "of another type") for each in OF_ANOTHER_TYPE)],
)
def test_an_id_that_is_none_refuses_the_subscription(replay_id: object, shown: str) -> None:
    with pytest.raises(BayeuxError) as refused:
        ENGINE.subscribe(SUBSCRIBE | {"ext": {"replay": {"/a": replay_id}}}, "c1", "alice")
    error = refused.value.reply["error"]
    assert isinstance(error, str)
    assert error.startswith(f"400::The replayId {{{shown}}} you provided was invalid.")


# -- delivery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ext", "agreed"),
    [
        ({"calltag": {"metaConnectDeliveryOnly": True}}, True),
        ({"calltag": {"metaConnectDeliveryOnly": False}}, False),
        ({"calltag": {"metaConnectDeliveryOnly": False}, "ack": True}, True),
        ({"calltag": {"metaConnectDeliveryOnly": 1}}, None),
        ({"calltag": {}}, None),
        ({"calltag": True}, None),
        ({}, None),
    ],
)
def test_how_events_are_delivered_is_agreed_upon_in_the_handshake(ext: dict[str, object], agreed: bool | None) -> None:
    """A client that acknowledges gets them with connect replies in any case."""
    engine = Engine(BayeuxLimits(), lambda *_: True, lambda *_: True, (Acknowledgment(), DeliveryExtension()))
    reply_ext: Any = engine.begun(HELLO, "c1", engine.handshake(HELLO | {"ext": ext}, "alice")).get("ext", {})
    assert reply_ext.get("calltag") == (None if agreed is None else {"metaConnectDeliveryOnly": agreed})


# -- activity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("both_sides", [False, True])
def test_each_connect_brings_the_time_after_which_a_client_is_inactive(both_sides: bool) -> None:
    engine = Engine(BayeuxLimits(), lambda *_: True, lambda *_: True, (Activity(60_000, both_sides=both_sides),))
    wish = engine.connect(CONNECT)
    assert (wish.silent_ms, wish.deliveries_count) == (60_000, both_sides)
    assert ENGINE.connect(CONNECT).silent_ms is None


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


# -- all ---------------------------------------------------------------------------------------------------------------


def test_only_extensions_that_override_a_hook_are_called_there() -> None:
    replay, timestamp = ReplayExtension(), Timestamp()
    assert overriding((Extension(), replay, timestamp), "reply") == [timestamp]
    assert overriding((replay, timestamp), "subscribe") == [replay]
