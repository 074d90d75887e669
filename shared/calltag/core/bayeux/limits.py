"""Limits of a Bayeux server; each is a setting."""

from dataclasses import dataclass
from enum import StrEnum


class BayeuxLimit(StrEnum):
    """Limits that can be exceeded, by the name of the setting in `CALLTAG_NOTIFIER__`."""

    SESSIONS = "max_sessions"
    SESSIONS_OF_USER = "max_sessions_per_user"
    SESSIONS_OF_ADDRESS = "max_sessions_per_address"
    HANDSHAKES = "handshakes_per_s"
    HANDSHAKES_OF_ADDRESS = "handshakes_per_s_per_address"
    REFUSED_HANDSHAKES = "max_refused_handshakes"
    SUBSCRIPTIONS = "max_subscriptions"
    MESSAGES = "max_messages"
    BODY_BYTES = "max_body_bytes"
    DEPTH = "max_depth"
    QUEUED_EVENTS = "max_queued_events"
    QUEUED_BYTES = "max_queued_bytes"
    QUEUED_BYTES_TOTAL = "max_queued_bytes_total"


@dataclass(frozen=True, slots=True)
class BayeuxLimits:
    """Values of the limits; times are in milliseconds, sizes in bytes."""

    timeout_ms: int = 30_000
    interval_ms: int = 0
    max_interval_ms: int = 10_000
    max_server_interval_ms: int | None = None
    max_sessions: int = 20_000
    max_sessions_per_user: int = 50
    max_sessions_per_address: int = 0
    """0 means no limit."""
    handshakes_per_s: float = 500.0
    handshake_burst: int = 1_000
    handshakes_per_s_per_address: float = 250.0
    """0 means no limit."""
    handshake_burst_per_address: int = 500
    max_handshake_addresses: int = 10_000
    max_refused_handshakes: int = 5
    max_subscriptions: int = 64
    max_queued_events: int = 1_000
    max_queued_bytes: int = 4_194_304
    max_queued_bytes_total: int = 268_435_456
    max_answer_bytes: int = 524_288
    max_frame_bytes: int = 65_536
    max_messages: int = 64
    max_body_bytes: int = 65_536
    max_depth: int = 32
    drain_spread_ms: int = 5_000
