"""The stream of one user, as received by a node that is home to sessions of the user."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from calltag.core.bayeux.events import Position, StreamedEvent
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import Session


class Gap(Exception):
    """Entries between the feed's head and this one are missing, and have to be read from the stream first."""


@dataclass(slots=True)
class Feed:
    """All entries up to `head` were given to the sessions here.

    While it is `repairing`, missing entries are being read; `look_again` is set when more arrive meanwhile.
    """

    user: str
    head: Position
    sessions: dict[str, Session] = field(default_factory=dict)
    latest: StreamedEvent | None = None
    """The entry at the head, cached if several sessions may need it."""
    repairing: bool = False
    look_again: bool = False

    def begin_repair(self) -> bool:
        """Demand that the stream is read on; return whether nobody reads it yet."""
        self.look_again, was_repairing, self.repairing = True, self.repairing, True
        return not was_repairing

    def looked(self, *, has_more: bool) -> None:
        """Note that the stream was read, and whether there is more, unless more was demanded meanwhile."""
        self.look_again = self.look_again or has_more

    def look(self) -> None:
        """Note that the stream is read now."""
        self.look_again = False

    def end_repair(self) -> None:
        """Note that the stream was read to its end."""
        self.repairing = False

    def follow(self, entries: Iterable[StreamedEvent]) -> bool:
        """Return whether the entries follow the head without a gap."""
        head = self.head
        for published in entries:
            if not published.previous <= head < published.position:
                return False
            head = published.position
        return True

    def accept(self, published: StreamedEvent, limits: BayeuxLimits) -> list[Session]:
        """Give the next entry to the sessions; return those that have something new to send. Raises Gap.

        A repeated entry has no effect.
        """
        if published.position <= self.head:
            return []
        if published.previous > self.head:
            raise Gap
        return self.accept_next(published, limits)

    def accept_next(self, published: StreamedEvent, limits: BayeuxLimits) -> list[Session]:
        """Do the same for an entry that is known to be the next one: those before it were removed by retention."""
        if published.position <= self.head:
            return []
        return self.advance(published, self.sessions.values(), limits)

    def advance(self, published: StreamedEvent, sessions: Iterable[Session], limits: BayeuxLimits) -> list[Session]:
        """Do the same for the next entry, which only these sessions lack."""
        self.head = published.position
        self.latest = published if len(self.sessions) > 1 else None
        return [session for session in sessions if session.offer(published, limits)]
