"""What headers say about how an operation is to be carried out."""

import re
from typing import Final

from calltag.gateway.errors import OutOfRange

_WAIT: Final = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([^\s\",;]*)\"?", re.IGNORECASE)


def wait_s(prefer: str | None, most_s: int) -> int | None:
    """The seconds of `Prefer: wait=N` (RFC 7240, section 4.3), no more than `most_s`; None if it is not asked for.

    Raises OutOfRange if N is not a whole number.
    """
    found = _WAIT.search(prefer) if prefer else None
    if found is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", found[1]):
        raise OutOfRange("Prefer: wait must be a whole number of seconds")
    return min(int(found[1]), most_s)
