"""Child processes that do not outlive their parent."""

import ctypes
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def exit_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` that makes the Linux kernel send SIGTERM to the child when this process ends; else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
