"""Just enough of AMQP 0-9-1's framing to lose single methods on their way from the broker."""

import struct
from enum import Enum

_HEAD = struct.Struct(">BHL")
_METHOD_FRAME = 1


class Method(Enum):
    """Methods by class and number; none of them is followed by a content."""

    CHANNEL_CLOSE = (20, 40)
    BASIC_CANCEL = (60, 30)
    BASIC_ACK = (60, 80)


class FrameFilter:
    """Passes a stream of frames on, without the methods in `lost`, which may change meanwhile."""

    def __init__(self, lost: set[Method]) -> None:
        self._lost = lost
        self._rest = b""
        self._framed = True

    def passed(self, chunk: bytes) -> bytes:
        """What of the stream so far goes on now: whole frames."""
        if not self._framed:
            return chunk
        data = self._rest + chunk
        if data[:1] not in (b"", b"\x01", b"\x02", b"\x03", b"\x08"):
            # Another protocol, or a client's protocol header: nothing is looked at.
            self._framed, self._rest = False, b""
            return data
        out, place = [], 0
        while len(data) >= place + _HEAD.size:
            kind, _, size = _HEAD.unpack_from(data, place)
            ends = place + _HEAD.size + size + 1
            if len(data) < ends:
                break
            if not (kind == _METHOD_FRAME and self._is_lost(data[place + _HEAD.size : ends])):
                out.append(data[place:ends])
            place = ends
        self._rest = data[place:]
        return b"".join(out)

    def _is_lost(self, payload: bytes) -> bool:
        return any(struct.pack(">HH", *method.value) == payload[:4] for method in self._lost)
