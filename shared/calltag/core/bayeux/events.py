"""Messages to the subscribers of a channel, with their place in the user's stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from calltag.core.bayeux.codec import encode_event
from calltag.core.bayeux.position import Position


@dataclass(slots=True)
class Event:
    """One message to clients; it is encoded once, however many sessions it goes to."""

    channel: str
    data: Mapping[str, object]
    ext: Mapping[str, object] = field(default_factory=dict)
    created: str = ""
    """When that of which it tells was accepted, in ISO 8601."""
    _plain: bytes = b""
    _numbered: bytes = b""

    def plain(self) -> bytes:
        """The message as clients know it that do not ask for replay."""
        if not self._plain:
            self._plain = encode_event(self.channel, self.data, self.ext)
        return self._plain

    def numbered(self, position: Position) -> bytes:
        """The message with `data.event`, as clients of the replay extension want it: `replayId` and `createdDate`."""
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

    `accepted_at_ms` is when that which it tells of was accepted, in Unix time; 0 if that is not known.
    """

    position: Position
    previous: Position
    events: Sequence[Event] = ()
    accepted_at_ms: int = 0


class Queued(NamedTuple):
    """A queued message: its position in the user's stream, its JSON text, and its acceptance in Unix milliseconds."""

    position: Position
    body: bytes
    accepted_at_ms: int
