"""Message acknowledgment: what the client did not get is sent again, by whichever node it comes to.

Source: CometD's documentation of its acknowledgment extension, and the clients' `AckExtension`. The batch number is
the position up to which was sent, with the session's generation; so the number says all, and no node has to remember
which messages were in which batch.
"""

from collections.abc import Mapping

from calltag.core.bayeux.extensions.interface import Beginning, ConnectWish, Extension
from calltag.core.bayeux.position import LARGEST, batch_of, of_batch
from calltag.core.bayeux.session import Session


class Acknowledgment(Extension):
    """`ext.ack`."""

    def handshake(self, ext: Mapping[str, object], beginning: Beginning) -> None:
        beginning.acknowledges = ext.get("ack") is True

    def begun(self, beginning: Beginning, reply_ext: dict[str, object]) -> None:
        if beginning.acknowledges:
            reply_ext["ack"] = True

    def connect(self, ext: Mapping[str, object], wish: ConnectWish) -> None:
        batch = ext.get("ack")
        if type(batch) is int and 0 < batch < LARGEST:
            wish.acknowledged = of_batch(batch)

    def connected(self, session: Session, reply_ext: dict[str, object]) -> None:
        if session.acknowledges:
            reply_ext["ack"] = batch_of(session.sent, session.generation)
