"""Structured logs on standard error: readable on a terminal, JSON lines elsewhere."""

import json
import logging
import sys
import traceback
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Literal, TextIO

import orjson
import structlog
from structlog.processors import ExceptionRenderer
from structlog.typing import EventDict, Processor, WrappedLogger

from calltag.core import VERSION

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
_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
_INDENT: Final = "  | "
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]
Form = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error", "critical"]
_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_LIBRARIES: Final = ("websockets", "asyncio")
_BROKER_LIBRARIES: Final = ("aio_pika", "aiormq")
"""Logged at level debug only: they log each attempt to connect, which calltag itself reports once."""


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


def traceback_of(exc_info: ExcInfo) -> str:
    """Return frames and type names of an exception, of its causes, and of the members of groups."""
    return "".join(_lines(exc_info[1], set())).rstrip("\n")


def write_traceback(output: TextIO, exc_info: ExcInfo) -> None:
    """Write the traceback after a line break, as structlog's console renderer expects."""
    output.write("\n" + traceback_of(exc_info))


def show_crash(kind: type[BaseException], error: BaseException, frames: TracebackType | None) -> None:
    """Implement `sys.excepthook` without exception messages."""
    sys.stderr.write(traceback_of((kind, error, frames)) + "\n")


def summary_of(error: BaseException) -> str:
    """Return an exception in one line; with its text only if it is calltag's own or the operating system's."""
    return f"{type(error).__name__}: {error}" if _is_own(error) else _error_name(error)


def reason_of(error: BaseException) -> str:
    """Return the text of calltag's own exceptions, written for operators; for others the same as `summary_of`."""
    return (str(error) if _is_own(error) else "") or _error_name(error)


def _is_own(error: BaseException) -> bool:
    return type(error).__module__.startswith("calltag.")


def _lines(error: BaseException, shown: set[int]) -> Iterator[str]:
    shown.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in shown:
        yield from _lines(before, shown)
        yield _CAUSE if error.__cause__ is not None else _CONTEXT
    if error.__traceback__ is not None:
        yield "Traceback (most recent call last):\n"
        yield from traceback.format_tb(error.__traceback__)
    yield f"{_error_name(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, 1):
            yield f"{_INDENT}{number} of {len(error.exceptions)}:\n"
            text = "".join(_lines(member, shown))
            yield from (f"{_INDENT}{line}\n" for line in text.splitlines())


def _error_name(error: BaseException) -> str:
    name = type(error).__name__
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.errno and error.strerror else name


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
