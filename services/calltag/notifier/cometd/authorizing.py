"""Who may subscribe to what."""

from typing import Final

_CHANNELS: Final = ("/v2/me/calls", "/v2/me/devices", "/notifications/services")
_PATTERNS: Final = ("/v2/me/*", "/v2/me/**", "/notifications/*", "/notifications/**")


def may_subscribe(user: str, channel: str) -> bool:  # noqa: ARG001 - "me" is whoever asks
    """The channels that calltag serves; each user sees the user's own messages on them."""
    return channel in _CHANNELS or channel in _PATTERNS
