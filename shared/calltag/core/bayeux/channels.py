"""Channel names and patterns.

Source: Bayeux protocol 1.0, section 2.1, with the larger character set of CometD's own server.
"""

import re
from typing import Final

HANDSHAKE: Final = "/meta/handshake"
CONNECT: Final = "/meta/connect"
SUBSCRIBE: Final = "/meta/subscribe"
UNSUBSCRIBE: Final = "/meta/unsubscribe"
DISCONNECT: Final = "/meta/disconnect"

_MAX_LENGTH: Final = 256
_NAME: Final = re.compile(r"(?:/[A-Za-z0-9\-_!~()$@ #+.{}]+)+")
_PATTERN: Final = re.compile(r"(?:/[A-Za-z0-9\-_!~()$@ #+.{}]+)*/\*{1,2}")


def is_name(text: str) -> bool:
    """Return whether the text is a valid channel name."""
    return len(text) <= _MAX_LENGTH and _NAME.fullmatch(text) is not None


def is_pattern(text: str) -> bool:
    """Return whether the text is a pattern: it ends in `/*` (one more segment) or `/**` (one or more)."""
    return len(text) <= _MAX_LENGTH and _PATTERN.fullmatch(text) is not None


def is_meta(channel: str) -> bool:
    """Return whether the channel is part of the protocol between client and server."""
    return channel.startswith("/meta/")


def is_service(channel: str) -> bool:
    """Return whether messages on the channel go to the server only."""
    return channel.startswith("/service/")


def matches(pattern: str, channel: str) -> bool:
    """Return whether a subscription (a name or a pattern) covers the channel."""
    if pattern.endswith("/**"):
        return channel.startswith(pattern[:-2])
    if pattern.endswith("/*"):
        return channel.startswith(pattern[:-1]) and "/" not in channel[len(pattern) - 1 :]
    return pattern == channel
