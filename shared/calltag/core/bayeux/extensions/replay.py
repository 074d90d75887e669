"""Replay: a subscription may begin in the past, even in a new session.

Source: the streaming API of Salesforce, whose clients send `ext.replay` with /meta/subscribe: a map of channel to the
`replayId` of the last event seen, -1 for new ones only, -2 for all that is kept.
"""

from collections.abc import Mapping
from typing import Final

from calltag.core.bayeux.extensions.interface import Beginning, Extension, Refused, SubscribeWish
from calltag.core.bayeux.position import BEGINNING, LARGEST, Position

NEW_ONLY: Final = -1
ALL: Final = -2


class Replay(Extension):
    """`ext.replay`."""

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:  # noqa: ARG002 - the interface's
        reply_ext["replay"] = True

    def subscribe(self, ext: Mapping[str, object], wish: SubscribeWish) -> None:
        asked = ext.get("replay")
        if not isinstance(asked, Mapping):
            return
        for channel, replay_id in asked.items():
            if channel in wish.channels:
                wish.channels[channel] = _position(replay_id)


def _position(replay_id: object) -> Position | None:
    """Where to begin; NEW_ONLY stays as it is, so that the store knows that replay was asked for."""
    if type(replay_id) is not int:
        raise Refused(invalid("of another type"))
    if not ALL <= replay_id < LARGEST:
        raise Refused(invalid("out of range"))
    return BEGINNING if replay_id == ALL else Position(replay_id)


def invalid(replay_id: object) -> str:
    """The error for an id of which the successors are not kept (any more), in the words that clients know."""
    return (
        f"400::The replayId {{{replay_id}}} you provided was invalid. Please provide a valid ID, "
        "-2 to replay all events, or -1 to replay only new events."
    )
