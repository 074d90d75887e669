"""Places in a user's stream of events, and the numbers in which clients know them."""

from typing import Final, NewType

Position = NewType("Position", int)
"""Rises from event to event, with gaps; all of a stream come after 0. It fits what JavaScript keeps exactly."""

BEGINNING: Final = Position(0)
LARGEST: Final = 2**53
"""What comes from clients is below this: beyond it JavaScript does not tell numbers apart."""
GENERATIONS: Final = 16


def batch_of(position: Position, generation: int) -> int:
    """The batch number of the acknowledgment extension for what was sent up to the position.

    It holds all that is to be known when the client sends it back, to whichever node. The generation changes when a
    session goes back in its stream: a number from before is then told from one that comes after.
    """
    return position * GENERATIONS + generation


def of_batch(batch: int) -> tuple[Position, int]:
    """Position and generation of a batch number."""
    position, generation = divmod(batch, GENERATIONS)
    return Position(position), generation
