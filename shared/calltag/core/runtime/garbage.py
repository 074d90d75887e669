"""The garbage collector of a service: nearly all that it makes is gone by itself, and what it keeps, it keeps long."""

import gc
from typing import Final

_YOUNG: Final = 25_000
"""How many objects more than before are made between two looks at the young ones (usually 700). Every such look is in
vain, or nearly so, and after some of them everything that is kept is looked at."""


def collect_less_often() -> None:
    """Look for garbage in cycles less often: before imports, as nearly all that they make stays."""
    _, middle, old = gc.get_threshold()
    gc.set_threshold(_YOUNG, middle, old)


def spare_garbage_collection() -> None:
    """Look for garbage in cycles less often, and never at what is there now: to be called when all is set up."""
    gc.collect()
    gc.freeze()
    collect_less_often()
