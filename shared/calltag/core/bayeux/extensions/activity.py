"""Activity: a session that sends nothing but connects for too long is ended.

Source: CometD's `ActivityExtension`, which looks when a connect comes, at the client alone or at both sides.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from calltag.core.bayeux.extensions.interface import ConnectWish, Extension


@dataclass(frozen=True, slots=True)
class Activity(Extension):
    """`longest_ms` without activity; with `both_sides`, events that go to the client are activity too."""

    longest_ms: int
    both_sides: bool = False

    def connect(self, ext: Mapping[str, object], wish: ConnectWish) -> None:  # noqa: ARG002 - the interface's
        wish.longest_inactivity_ms = self.longest_ms
        wish.deliveries_are_activity = self.both_sides
