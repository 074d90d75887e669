"""The operating system's limits and the interpreter's garbage collection, set for a server."""

import ctypes
import gc
import resource
import signal
import sys
from collections.abc import Callable
from typing import Final

_YOUNG: Final = 25_000
"""Net allocations between two young collections (default 700). These find next to nothing, and every few
of them trigger a collection of the older generations."""
_PR_SET_PDEATHSIG: Final = 1


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard limit; return the limit in effect."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):
        return soft
    return hard


def collect_less_often() -> None:
    """Collect cycles less often; call it before imports, as nearly all objects that they create stay."""
    _, middle, old = gc.get_threshold()
    gc.set_threshold(_YOUNG, middle, old)


def spare_garbage_collection() -> None:
    """Collect cycles less often, and exempt all present objects; call it after start-up."""
    gc.collect()
    gc.freeze()
    collect_less_often()


def exit_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` that makes the Linux kernel send SIGTERM to the child when this process ends; else None."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask
