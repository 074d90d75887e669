"""The addresses of a broker that is one node or several."""

import re
from typing import Final

# A comma may stand in a password; one that another address follows does not.
_BETWEEN: Final = re.compile(r"\s*,\s*(?=amqps?://)")


def addresses(url: str) -> tuple[str, ...]:
    """The addresses in a setting that holds one or several, with commas between."""
    return tuple(_BETWEEN.split(url.strip(" ,\t\n")))
