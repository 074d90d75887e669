"""Redaction before output: fields whose names may hold user data or secrets are never logged.

Nor are the messages and call arguments that libraries include in their errors.
"""

import logging
from collections.abc import Mapping
from typing import Final

from structlog.typing import EventDict, WrappedLogger

SHOWN_INSTEAD: Final = "(not logged)"
_ASYNCIO: Final = "asyncio"
_NEVER_LOGGED: Final = frozenset(
    {
        "userdata",
        "pairs",
        "value",
        "values",
        "payload",
        "body",
        "password",
        "passwordhash",
        "authorization",
        "cookie",
        "setcookie",
        "token",
        "csrftoken",
        "xcsrftoken",
    }
)


def redact(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor that redacts fields, also inside mappings and lists."""
    for name, value in event.items():
        event[name] = SHOWN_INSTEAD if _is_hidden(name) else _redacted(value)
    return event


def hide_messages(record: logging.LogRecord) -> bool:
    """A logging filter: shows only the type of an AMQP message among the arguments, not its body."""
    if isinstance(record.args, tuple):
        record.args = tuple(type(each).__name__ if hasattr(each, "body") else each for each in record.args)
    return True


def without_arguments(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """A structlog processor: cuts asyncio's messages on failed calls before the arguments and the exception, which is
    shown separately."""
    if event.get("logger") == _ASYNCIO:
        event["event"] = str(event["event"]).partition("\n")[0].partition("(")[0]
    return event


def _redacted(value: object) -> object:
    if isinstance(value, Mapping):
        return {name: SHOWN_INSTEAD if _is_hidden(name) else _redacted(member) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(member) for member in value]
    return value


def _is_hidden(name: object) -> bool:
    """Return whether a field is redacted; `user_data`, `userData` and `User-Data` are one name."""
    return isinstance(name, str) and name.replace("_", "").replace("-", "").lower() in _NEVER_LOGGED
