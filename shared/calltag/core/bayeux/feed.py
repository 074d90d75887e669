"""The stream of one user as it comes in at a node that holds sessions of the user."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from calltag.core.bayeux.events import StreamedEvent
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.core.bayeux.position import Position
from calltag.core.bayeux.session import Session


class Gap(Exception):
    """Entries between the feed's head and this one did not come: they are to be read from the store first."""


@dataclass(slots=True)
class Feed:
    """All entries up to `head` were given to the sessions here.

    While it is `repairing`, what is missing is being read; `look_again` says that more has come meanwhile.
    """

    user: str
    head: Position
    sessions: dict[str, Session] = field(default_factory=dict)
    latest: StreamedEvent | None = None
    """The entry at the head, where several sessions may come for it."""
    repairing: bool = False
    look_again: bool = False

    def follow(self, entries: Iterable[StreamedEvent]) -> bool:
        """Whether the entries follow what was given before, with nothing between."""
        head = self.head
        for published in entries:
            if not published.previous <= head < published.position:
                return False
            head = published.position
        return True

    def accept(self, published: StreamedEvent, limits: BayeuxLimits) -> list[Session]:
        """Give the next entry to the sessions; returns those that have something new to send. Raises Gap.

        An entry that came before changes nothing.
        """
        if published.position <= self.head:
            return []
        if published.previous > self.head:
            raise Gap
        return self.accept_next(published, limits)

    def accept_next(self, published: StreamedEvent, limits: BayeuxLimits) -> list[Session]:
        """The same for an entry that is known to be the next one: those between were removed by retention."""
        if published.position <= self.head:
            return []
        return self.advance(published, self.sessions.values(), limits)

    def advance(self, published: StreamedEvent, sessions: Iterable[Session], limits: BayeuxLimits) -> list[Session]:
        """The same for an entry that follows, and that all but these sessions have had."""
        self.head = published.position
        self.latest = published if len(self.sessions) > 1 else None
        return [session for session in sessions if session.offer(published, limits)]
