"""How a service collects its garbage."""

import gc
from typing import Final

_YOUNG: Final = 20_000
_MIDDLE: Final = 20
_OLD: Final = 20


def spare_what_stays() -> None:
    """Call once, when a service has started: what is there by then stays, and is not looked through again.

    The interpreter's own thresholds are for programs that allocate little: with them, a service that answers a thousand
    requests a second looks through all of its modules several times a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
