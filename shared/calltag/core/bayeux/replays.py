"""Replays: channels whose subscription begins before the session's position.

Their past messages are read once, and sent before queued ones. Each channel has its own progress, because
subscriptions begin at different positions.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from calltag.core.bayeux.channels import matches
from calltag.core.bayeux.events import BEGINNING, Position, Queued


class Progress(NamedTuple):
    """Progress of the replay of a channel: the last `confirmed` and the last `sent` position.

    `sent` is None if no home has begun to send; the replay begins after `confirmed`.
    """

    confirmed: Position
    sent: Position | None = None


@dataclass(slots=True)
class Replay:
    """The replay of one channel; it ends when the client has all messages up to the session's position.

    `confirmed`, `sent` and `answered` have the same meaning as in a Session.
    """

    wanted_after: Position | None
    """Position in the subscription; None if another home began to send."""
    confirmed: Position
    sent: Position
    answered: Position


@dataclass(slots=True)
class Replays:
    """The replays of a session."""

    running: dict[str, Replay] = field(default_factory=dict)
    """Channels with unconfirmed past messages."""
    finished: dict[str, Position | None] = field(default_factory=dict)
    """Channels confirmed since the last save, each with its `wanted_after`."""
    queue: list[Queued] = field(default_factory=list)
    """Unsent messages."""
    read_to: Position = BEGINNING
    is_read: bool = True
    """The past was read to its end; before that, the stream is not read."""

    @property
    def is_active(self) -> bool:
        """Return whether messages are to be sent in order with those of the stream."""
        return bool(self.running or self.queue) or not self.is_read

    @property
    def progress(self) -> Mapping[str, Progress]:
        """Return the progress of each channel."""
        return {channel: Progress(each.confirmed, each.sent) for channel, each in self.running.items()}

    # -- subscriptions -------------------------------------------------------------------------------------------

    def replace(self, channels: Iterable[str], wishes: Mapping[str, Position]) -> bool:
        """Keep the replays of subscribed channels, and begin those in `wishes`. Return whether any changed."""
        ended = {*self.running, *self.finished}.difference(channels)
        for channel in (*ended, *wishes):
            self.running.pop(channel, None)
            self.finished.pop(channel, None)
        self.running |= {channel: Replay(since, since, since, since) for channel, since in wishes.items()}
        return bool(wishes or ended)

    def unknown(self, stored: Mapping[str, Progress]) -> Mapping[str, Position]:
        """Return the stored replays that are not known here, as wishes."""
        known = self.finished | {channel: each.wanted_after for channel, each in self.running.items()}
        return {
            channel: each.confirmed
            for channel, each in stored.items()
            if each.sent is None and known.get(channel) != each.confirmed
        }

    def adopt(self, stored: Mapping[str, Progress]) -> None:
        """Continue the replays of a former home."""
        for channel, each in stored.items():
            if each.sent is None:
                self.running[channel] = Replay(each.confirmed, each.confirmed, each.confirmed, each.confirmed)
            else:
                self.running[channel] = Replay(None, each.confirmed, each.sent, each.sent)

    # -- reading -------------------------------------------------------------------------------------------------

    def first_unsent(self, default: Position) -> Position:
        """Return the earliest `sent` position, `default` if there is no replay."""
        return min((each.sent for each in self.running.values()), default=default)

    def begin_reading(self, after: Position, until: Position) -> None:
        """Begin to read the past between two positions, with an empty queue."""
        self.queue.clear()
        self.read_to = min(after, until)
        self.is_read = self.read_to == until
        self._finish()

    def reached(self, position: Position) -> None:
        """Note that the past was read up to a position."""
        self.read_to = position

    def end_reading(self, through: Position, until: Position) -> None:
        """Note that the past was read up to a position, and whether that is the end."""
        self.read_to = min(through, until)
        self.is_read = self.read_to == until

    def lacks(self, subscriptions: Mapping[str, Position], channel: str, position: Position) -> bool:
        """Return whether a past message belongs to replays only, and was sent by none of them."""
        wanted = [name for name, since in subscriptions.items() if since < position and matches(name, channel)]
        running = self.running
        return bool(wanted) and all(name in running and running[name].sent < position for name in wanted)

    # -- sending -------------------------------------------------------------------------------------------------

    def note_sent(self, position: Position) -> None:
        """Note that the past was sent up to a position."""
        for each in self.running.values():
            each.sent = max(each.sent, position)

    def follow(self, sent: Position) -> None:
        """Advance to the session's `sent`, once all of the past was sent."""
        if self.running and self.is_read and not self.queue:
            for each in self.running.values():
                each.sent = sent

    def note_answer(self) -> None:
        """Note that a connect is answered with all sent messages."""
        for each in self.running.values():
            each.answered = each.sent

    def confirm(self) -> None:
        """Confirm the past up to the last answer."""
        for each in self.running.values():
            each.confirmed = max(each.confirmed, each.answered)
        self._finish()

    def rewind(self) -> None:
        """Send unconfirmed messages again."""
        for each in self.running.values():
            each.sent = each.answered = each.confirmed

    def note_saved(self, finished: Iterable[str]) -> None:
        """Note that Redis has saved the end of these replays."""
        for channel in finished:
            self.finished.pop(channel, None)

    def _finish(self) -> None:
        if self.is_read and not self.queue:
            for channel, each in list(self.running.items()):
                if each.confirmed >= self.read_to:
                    self.finished[channel] = each.wanted_after
                    del self.running[channel]
