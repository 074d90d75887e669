"""Addresses of a RabbitMQ node or cluster."""

import re
from typing import Final

# A comma may be part of a password, unless another address follows.
_BETWEEN: Final = re.compile(r"\s*,\s*(?=amqps?://)")


def addresses(url: str) -> tuple[str, ...]:
    """Split a setting with one or several addresses, separated by commas."""
    return tuple(_BETWEEN.split(url.strip(" ,\t\n")))
