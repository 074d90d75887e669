"""Garbage collector tuning: nearly all objects are freed by reference counting, and the others live long."""

import gc
from typing import Final

_YOUNG: Final = 25_000
"""Net allocations between two young collections (default 700). These find next to nothing, and every few
of them trigger a collection of the older generations."""


def collect_less_often() -> None:
    """Collect cycles less often; call it before imports, as nearly all objects that they create stay."""
    _, middle, old = gc.get_threshold()
    gc.set_threshold(_YOUNG, middle, old)


def spare_garbage_collection() -> None:
    """Collect cycles less often, and exempt all present objects; call it after start-up."""
    gc.collect()
    gc.freeze()
    collect_less_often()
