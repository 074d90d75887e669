"""Logs: structured, to standard error, readable on a terminal and JSON elsewhere."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final, Literal

import orjson
import structlog
from structlog.typing import Processor

from calltag.core import VERSION

_NEVER_LOGGED: Final = frozenset(
    {"user_data", "userData", "userdata", "pairs", "password", "authorization", "body", "cookie", "token"}
)
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logging(service: str, *, form: Literal["auto", "json", "console"] = "auto", level: str = "info") -> None:
    """Set logging up for this process; what libraries log comes out in the same form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    before: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info if not console else _keep,
        _drop_contents,
    ]
    if not console:
        before.append(_named(service))
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=24,
            # Other formatters print local variables, and with them user data.
            exception_formatter=structlog.dev.plain_traceback,
        )
        if console
        else structlog.processors.JSONRenderer(serializer=lambda event, **_: orjson.dumps(event, default=str).decode())
    )
    structlog.configure(
        processors=[*before, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
            foreign_pre_chain=before,
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    for library in ("aio_pika", "aiormq", "uvicorn", "uvicorn.error", "websockets", "asyncio"):
        logging.getLogger(library).setLevel(max(_LEVELS[level], logging.WARNING))


def _keep(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return event


def _drop_contents(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """The last guard: names under which contents or secrets might come never reach an output."""
    for name in _NEVER_LOGGED & event.keys():
        event[name] = "(not logged)"
    return event


def _named(service: str) -> Processor:
    def name(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["service"] = service
        event["version"] = VERSION
        return event

    return name
