"""The `error` of a refusal. Source: Bayeux protocol 1.0, section 2.2.6; codes of CometD's server."""

import re
from typing import Any

import pytest

from calltag.core.bayeux import errors
from parts.hubs import Client, Installation

GRAMMAR = re.compile(r"[0-9]{3}:([^:,]+(,[^:,]+)*)?:[^:]+")
AWKWARD = "/v2:a,b:\ud800c,"


@pytest.mark.parametrize("name", [name for name in vars(errors) if name.isupper()])
def test_an_error_is_code_arguments_and_text(name: str) -> None:
    assert GRAMMAR.fullmatch(getattr(errors, name))


@pytest.mark.parametrize(
    "error",
    [
        errors.version_unsupported(AWKWARD),
        errors.connection_types_unsupported(("a", "b")),
        errors.channel_invalid(AWKWARD),
        errors.subscription_invalid(AWKWARD),
        errors.subscribe_denied(AWKWARD),
        errors.publish_denied(AWKWARD),
        errors.too_many_sessions(5),
        errors.too_many_subscriptions(5),
    ],
)
def test_arguments_do_not_break_an_error_apart(error: str) -> None:
    assert GRAMMAR.fullmatch(error)
    assert error.encode()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (7, "400"),
        ({}, "400"),
        ({"channel": "/meta/connect"}, "400"),
        ({"channel": "/meta/connect", "connectionType": "x"}, "400"),
        ({"channel": "/meta/subscribe"}, "403"),
        ({"channel": "/meta/subscribe", "subscription": "x"}, "403"),
        ({"channel": "/meta/subscribe", "subscription": "/other"}, "403"),
        ({"channel": "/meta/unsubscribe"}, "403"),
        ({"channel": "/meta/unsubscribe", "subscription": "x"}, "403"),
        ({"channel": "/v2/me/calls", "data": {}}, "403"),
        ({"channel": "/meta/unheard", "data": {}}, "405"),
        ({"channel": "x", "data": {}}, "405"),
        ({"channel": "/service/x", "data": {}, "id": ["7"]}, "405"),
        ({"channel": "/meta/disconnect", "clientId": "x"}, "402"),
    ],
)
async def test_a_situation_has_its_code(system: Installation, message: Any, code: str) -> None:
    alice = await Client().begin(system.one)
    known = {"clientId": alice.client_id} | message if isinstance(message, dict) else message
    [reply] = (await alice.send(system.one, known)).replies
    error = str(reply["error"])
    assert (reply["successful"], error[:3]) == (False, code)
    assert GRAMMAR.fullmatch(error)


async def test_a_refused_message_leaves_the_session_as_it_was(system: Installation) -> None:
    alice = await Client().begin(system.one)
    turn = await alice.connect(system.one)
    await alice.send(
        system.one, 7, {"channel": "/meta/connect", "clientId": alice.client_id}, alice.connecting(channel=7)
    )
    await system.publish(1)
    assert (await alice.finish(system.one, turn))[0] == [1]
