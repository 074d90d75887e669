"""Structured logs on standard error: readable on a terminal, JSON lines elsewhere."""

import json
import logging
import sys
from typing import Final, Literal

import orjson
import structlog
from structlog.processors import ExceptionRenderer
from structlog.typing import EventDict, Processor, WrappedLogger

from calltag.core import VERSION
from calltag.core.telemetry.redaction import hide_messages, redact, without_arguments
from calltag.core.telemetry.tracebacks import show_crash, traceback_of, write_traceback

Form = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error", "critical"]
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_LIBRARIES: Final = ("websockets", "asyncio")
_BROKER_LIBRARIES: Final = ("aio_pika", "aiormq")
"""Logged at level debug only: they log each attempt to connect, which calltag itself reports once."""


def configure_logging(service: str, *, form: Form = "auto", level: Level = "info") -> None:
    """Configure logging of this process; libraries log in the same form, from level warning on.

    `auto` is console on a terminal, else json. A JSON line has `time`, `level`, `event`, `service` and `version`.
    `critical` is for commands that report errors themselves: neither calltag nor a library logs anything.
    """
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    common = _common_processors(service, console=console)
    structlog.configure(
        processors=[*common, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(console=console)],
            foreign_pre_chain=[structlog.stdlib.add_logger_name, without_arguments, *common],
        )
    )
    handler.addFilter(hide_messages)
    sys.excepthook = show_crash
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(max(_LEVELS[level], logging.WARNING))
    for library in _BROKER_LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING if level == "debug" else logging.CRITICAL)


def _common_processors(service: str, *, console: bool) -> list[Processor]:
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console, key="time"),
        redact,
    ]
    return processors if console else [*processors, _named(service), ExceptionRenderer(traceback_of)]


def _renderer(*, console: bool) -> Processor:
    if not console:
        return structlog.processors.JSONRenderer(serializer=_encoded)
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(),
        pad_event_to=24,
        timestamp_key="time",
        exception_formatter=write_traceback,
    )


def _named(service: str) -> Processor:
    def name(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {**event, "service": service, "version": VERSION}

    return name


def _encoded(event: EventDict, **_: object) -> str:
    """Encode as JSON without ever raising: a log line must not end a service."""
    try:
        return orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return json.dumps(event, default=str, skipkeys=True)
