"""Tracebacks without exception messages, which may contain user data or parsed input.

Only errors of the operating system are shown with their text, which contains no values, not even a file name.
"""

import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Final, TextIO

_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n\n"
_INDENT: Final = "  | "
ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


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
    return f"{type(error).__name__}: {error}" if _is_own(error) else _named(error)


def reason_of(error: BaseException) -> str:
    """Return the text of calltag's own exceptions, written for operators; for others the same as `summary_of`."""
    return (str(error) if _is_own(error) else "") or _named(error)


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
    yield f"{_named(error)}\n"
    if isinstance(error, BaseExceptionGroup):
        for number, member in enumerate(error.exceptions, 1):
            yield f"{_INDENT}{number} of {len(error.exceptions)}:\n"
            text = "".join(_lines(member, shown))
            yield from (f"{_INDENT}{line}\n" for line in text.splitlines())


def _named(error: BaseException) -> str:
    name = type(error).__name__
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.errno and error.strerror else name
