"""Why a text is refused, and at which place in it."""

import json
import re
from collections.abc import Sequence
from typing import Final

Place = Sequence[str | int]
"""Names of members and positions in lists, from the outside in."""

_PLAIN_NAME: Final = re.compile(r"[\w-]{1,64}")
_MAX_SHOWN: Final = 64


class JsonRefused(ValueError):
    """The text is refused; the message says what, where and which limit, and never a value.

    `path` is the place as in `userData.Account[0]`, empty where the whole text is meant.
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
    """The text is not UTF-8, or not JSON as in RFC 8259."""


class ValueNotKept(JsonRefused):
    """A value is JSON, but could not be kept and given back as it came."""


def path_of(place: Place) -> str:
    """The place as text. Odd names stand escaped in brackets, long ones are cut, so that it can be shown anywhere."""
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
    """A name of any characters, quoted and cut for a message."""
    return json.dumps(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}...")
