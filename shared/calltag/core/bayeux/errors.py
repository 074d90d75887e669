"""Values of the `error` field of a reply: `code:arguments:text`.

Source: Bayeux protocol 1.0, section 2.2.6. The codes are those of CometD's server; the text for an unknown session is
that of CometD 3.1, which clients of Web Services know.
"""

from typing import Final

UNKNOWN_CLIENT: Final = "402::Unknown client"
UNAUTHORIZED: Final = "401::Unauthorized"
SESSION_OVER: Final = "401::The session is over, sign in again"
UNAVAILABLE: Final = "503::Service unavailable"
MESSAGE_INVALID: Final = "400::message_invalid"
MESSAGE_ID_INVALID: Final = "405::message_id_invalid"
CHANNEL_MISSING: Final = "400::channel_missing"
CONNECTION_TYPE_MISSING: Final = "400::connection_type_missing"
CONNECTION_TYPE_UNKNOWN: Final = "400::connection_type_unknown"
CONNECTION_TYPES_MISSING: Final = "400::supported_connection_types_missing"
CONNECT_REPLACED: Final = "408::connect_replaced"
VERSION_MISSING: Final = "400::version_missing"
SUBSCRIPTION_MISSING: Final = "403::subscription_missing"


def version_unsupported(version: str) -> str:
    """Return the error for a client with another version of the protocol."""
    return f"300:{_argument(version)}:version_unsupported"


def connection_types_unsupported(supported: tuple[str, ...]) -> str:
    """Return the error for a client that supports none of the server's connection types."""
    return f"301:{','.join(supported)}:connection_types_unsupported"


def channel_invalid(channel: str) -> str:
    """Return the error for a message on an invalid channel."""
    return f"405:{_argument(channel)}:channel_invalid"


def subscription_invalid(channel: str) -> str:
    """Return the error for a subscription to neither a channel nor a pattern."""
    return f"403:{_argument(channel)}:subscription_invalid"


def subscribe_denied(channel: str) -> str:
    """Return the error for a subscription without permission."""
    return f"403:{_argument(channel)}:subscribe_denied"


def publish_denied(channel: str) -> str:
    """Return the error for a message without permission to publish."""
    return f"403:{_argument(channel)}:publish_denied"


def too_many_sessions(most: int) -> str:
    """Return the error for a session beyond a limit."""
    return f"429:{most}:too_many_sessions"


def too_many_handshakes(per_s: float) -> str:
    """Return the error for a handshake beyond the rate limit."""
    return f"429:{per_s:g}:too_many_handshakes"


def too_many_tabs(most: int) -> str:
    """Return the error for a session beyond the limit of its browser."""
    return f"429:{most}:too_many_sessions_of_browser"


def too_many_subscriptions(most: int) -> str:
    """Return the error for a subscription beyond the limit of its session."""
    return f"429:{most}:too_many_subscriptions"


def _argument(text: str) -> str:
    """Return the text without separators, as valid Unicode, cut to 256 characters."""
    return text[:256].replace(":", "").replace(",", "").encode(errors="replace").decode()
