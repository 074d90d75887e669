"""Frames that are written as they are: what a client's library reads out of them."""

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from calltag.core.http.websocket import FRAME_WRITER, frame_writer_of, text_frame


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_frame_is_a_whole_text_message(size: int) -> None:
    text = b"x" * size
    reader = StreamReader()
    reader.feed_data(text_frame(text))
    parsing = Frame.parse(reader.read_exact, mask=False)
    with pytest.raises(StopIteration) as parsed:
        next(parsing)
    frame = parsed.value.value
    assert (frame.opcode, frame.fin, frame.data, frame.rsv1) == (Opcode.TEXT, True, text, False)


def test_a_connection_may_have_no_writer() -> None:
    assert frame_writer_of({"type": "websocket"}) is None
    assert frame_writer_of({"type": "websocket", "state": {FRAME_WRITER: bool}}) is bool
