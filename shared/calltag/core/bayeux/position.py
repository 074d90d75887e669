"""Positions in a user's stream of events, which clients see as numbers."""

from typing import Final, NewType

Position = NewType("Position", int)
"""Strictly increasing within a stream, with gaps; greater than 0, and exact as a JavaScript number."""

BEGINNING: Final = Position(0)
LARGEST: Final = 2**53
"""Upper bound of positions from clients; JavaScript numbers are exact below it."""
