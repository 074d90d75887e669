"""Events for subscribers of a channel, with their position in the user's stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NewType

from calltag.core.bayeux.messages import encode_event

Position = NewType("Position", int)
"""Strictly increasing within a stream, with gaps; greater than 0, and exact as a JavaScript number."""

BEGINNING: Final = Position(0)
LARGEST: Final = 2**53
"""Upper bound of positions from clients; JavaScript numbers are exact below it."""


@dataclass(slots=True)
class Event:
    """One message to clients, encoded once for all sessions."""

    channel: str
    data: Mapping[str, object]
    ext: Mapping[str, object] = field(default_factory=dict)
    created: str = ""
    """Time at which the operation was accepted, in ISO 8601; "" if unknown."""
    _plain: bytes = b""
    _numbered: bytes = b""

    def plain(self) -> bytes:
        """Return the encoded message for clients without the replay extension."""
        if not self._plain:
            self._plain = encode_event(self.channel, self.data, self.ext)
        return self._plain

    def numbered(self, position: Position) -> bytes:
        """Return the encoded message with `data.event` for the replay extension: `replayId` and `createdDate`."""
        if not self._numbered:
            event: dict[str, object] = {"replayId": position}
            if self.created:
                event["createdDate"] = self.created
            data = {**self.data, "event": event}
            self._numbered = encode_event(self.channel, data, self.ext)
        return self._numbered


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """An entry of a user's stream as messages to the user's sessions; `previous` is the position of the entry before.

    `accepted_at_ms` is the time at which its operation was accepted, in Unix milliseconds; 0 if unknown.
    """

    position: Position
    previous: Position
    events: Sequence[Event] = ()
    accepted_at_ms: int = 0


class Queued(NamedTuple):
    """A queued message: position in the user's stream, JSON text, and time of acceptance in Unix milliseconds."""

    position: Position
    body: bytes
    accepted_at_ms: int
