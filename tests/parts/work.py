"""Work, counted in lines of Python: unlike time, that is the same on a busy machine."""

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

TraceFunction = Callable[[FrameType, str, Any], Any]


def lines_run(work: Callable[[], object]) -> int:
    """How many lines the work runs, in all the functions that it calls."""
    lines = 0

    def trace(_: FrameType, event: str, __: object) -> TraceFunction:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines
