"""What the CometD side of a notifier observes."""

from typing import Protocol


class HubMetrics(Protocol):
    """Counts; labels are channels that calltag publishes on and codes of errors."""

    def sessions(self, count: int) -> None:
        """How many sessions this node holds."""
        ...

    def received(self, messages: int) -> None:
        """Bayeux messages came in."""
        ...

    def refused(self, error: str) -> None:
        """A message was refused, with an error in the form `code:arguments:text`."""
        ...

    def delivered(self, channel: str, sessions: int) -> None:
        """A message was handed to sessions."""
        ...

    def resumed(self) -> None:
        """A session came here from another node."""
        ...

    def swept(self) -> None:
        """A silent session was forgotten."""
        ...

    def gap(self) -> None:
        """An event did not come over the bus, and was read from the stream."""
        ...
