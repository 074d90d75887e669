"""Delivery: with connect replies only, or with the reply to whatever the client sends; as the session wishes.

Source: CometD's option `metaConnectDeliverOnly`, here for one session: `ext.calltag.metaConnectDeliveryOnly` in the
handshake, true or false. Where a session has no wish, its transport decides. Who acknowledges gets events with connect
replies in any case: the number that goes with them is in those alone.
"""

from collections.abc import Mapping
from typing import Final

from calltag.core.bayeux.extensions.interface import Beginning, Extension

OPTION: Final = "connects_only"
_ASKED: Final = "metaConnectDeliveryOnly"


class Delivery(Extension):
    """`ext.calltag.metaConnectDeliveryOnly`."""

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        asked = ext.get("calltag")
        wish = asked.get(_ASKED) if isinstance(asked, Mapping) else None
        if isinstance(wish, bool):
            beginning.options[OPTION] = str(int(wish))

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        if OPTION in beginning.options:
            agreed = beginning.acknowledges or beginning.options[OPTION] == "1"
            # Nothing else answers under this name at a handshake.
            reply_ext["calltag"] = {_ASKED: agreed}


def delivers_with_connects_only(options: Mapping[str, str], *, usual: bool) -> bool:
    """Whether a session with these options gets its events so; `usual` is what its transport does."""
    return options[OPTION] == "1" if OPTION in options else usual
