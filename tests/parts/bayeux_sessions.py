"""Sessions and stream entries for tests of the Bayeux engine."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from calltag.core.bayeux.events import BEGINNING, Event, Position, StreamedEvent
from calltag.core.bayeux.session import Session

TO_ALL: Mapping[str, Position] = {"/**": BEGINNING}


def session_at(position: int = 0, client_id: str = "c1", **more: Any) -> Session:
    """A session whose client has all up to a position, unless `more` says something else."""
    places = dict.fromkeys(("confirmed", "sent", "position", "answered"), Position(position))
    return Session(client_id, "alice", 1, **(places | more))


def entry(position: int, previous: int | None = None, *events: Event) -> StreamedEvent:
    """An entry with one event on /a that tells its position, or with the events given."""
    before = position - 1 if previous is None else previous
    return StreamedEvent(Position(position), Position(before), events or (Event("/a", {"n": position}),))


def numbers(bodies: Sequence[bytes]) -> list[int]:
    """What the events say."""
    return [orjson.loads(body)["data"]["n"] for body in bodies]
