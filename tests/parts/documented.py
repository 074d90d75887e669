"""The AsyncAPI document of CometD as a check: a message that it does not promise is a fault."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from calltag.core.bayeux.channels import CONNECT, DISCONNECT, HANDSHAKE, SUBSCRIBE, UNSUBSCRIBE

_META = (HANDSHAKE, CONNECT, SUBSCRIBE, UNSUBSCRIBE, DISCONNECT)
DOCUMENT = Path(__file__).parents[2] / "docs" / "asyncapi.json"


@cache
def document() -> dict[str, Any]:
    """The committed document."""
    found: dict[str, Any] = json.loads(DOCUMENT.read_text())
    return found


@cache
def channels() -> list[tuple[re.Pattern[str], tuple[str, ...]]]:
    """By the pattern of its address, the messages that a channel may bring."""
    return [
        (
            re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(channel["address"]))),
            tuple(name for name in channel["messages"] if not name.endswith("Request")),
        )
        for channel in document()["channels"].values()
    ]


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    return jsonschema.Draft202012Validator(schema)


def kind_of(message: dict[str, Any]) -> str:
    """The name of the documented message that this one is; AssertionError if it is none."""
    channel = message.get("channel", "")
    names = [name for address, known in channels() if address.fullmatch(channel) for name in known]
    for name in names:
        if _validator(name).is_valid(message):
            return name
    told = [error.message for name in names for error in _validator(name).iter_errors(message)]
    raise AssertionError(f"{message} is not documented: {told[:3]}")


def check(message: dict[str, Any]) -> None:
    """Check a message that came from the server; the answer to one that a client publishes has the channel of that."""
    if "data" in message or message.get("channel") in _META:
        kind_of(message)
