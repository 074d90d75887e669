"""Places in a user's stream of events, and the numbers in which clients know them."""

from typing import Final, NewType

Position = NewType("Position", int)
"""Rises from event to event, with gaps; all of a stream come after 0. It fits what JavaScript keeps exactly."""

BEGINNING: Final = Position(0)
LARGEST: Final = 2**53
"""Upper bound of positions from clients: JavaScript numbers are exact below it."""
