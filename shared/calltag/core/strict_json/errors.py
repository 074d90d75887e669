"""Errors of the parser, with the location in the text."""

import json
import re
from collections.abc import Sequence
from typing import Final

Place = Sequence[str | int]
"""Member names and list positions, from the outermost inwards."""

_PLAIN_NAME: Final = re.compile(r"[\w-]{1,64}")
_MAX_SHOWN: Final = 64


class JsonRefused(ValueError):
    """The text is refused; the message has the problem, the location and the limit, never a value.

    `path` is the location, such as `userData.Account[0]`; empty for the whole text.
    """

    def __init__(self, reason: str, place: Place = ()) -> None:
        self.reason = reason
        self.path = path_of(place)
        super().__init__(f"{self.path or 'the text'} {reason}")


class TextTooLarge(JsonRefused):
    """The text has more bytes than the limit."""


class TooDeep(JsonRefused):
    """Lists and objects are nested deeper than the limit."""


class TooManyValues(JsonRefused):
    """The text has more values than the limit."""


class NotJson(JsonRefused):
    """The text is not UTF-8, or not JSON by RFC 8259."""


class ValueNotKept(JsonRefused):
    """A value is valid JSON, but cannot be stored and returned unchanged."""


def path_of(place: Place) -> str:
    """Return the location as text, safe to show: unusual names are escaped in brackets, long ones cut."""
    text = ""
    for step in place:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_NAME.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{shown(step)}]"
    return text


def shown(name: str) -> str:
    """Return any name quoted and cut for a message."""
    return json.dumps(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")
