"""Timestamps: a message that has one is answered with one.

Source: Bayeux protocol 1.0, section 5.10: `YYYY-MM-DDThh:mm:ss.ss`, in GMT.
"""

from datetime import UTC, datetime

from calltag.core.bayeux.codec import Message, Reply
from calltag.core.bayeux.extensions.interface import Extension


class Timestamp(Extension):
    """`timestamp`."""

    def reply(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> None:  # noqa: ARG002 - the interface's
        if "timestamp" in message:
            reply["timestamp"] = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-4]
