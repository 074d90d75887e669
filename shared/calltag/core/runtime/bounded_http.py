"""HTTP as uvicorn's httptools protocol speaks it, with a bound on the head of a request, which that one has not."""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 65_536


class BoundedHttp(HttpToolsProtocol):
    """Refuses a request with HTTP 400 once its request line and headers have taken more than MAX_HEAD_BYTES.

    What the first read brought is not counted, as it may hold the end of the request before; a read is bounded itself.
    """

    _head_bytes: int | None = None
    """Bytes of the head that is under way; None while there is none."""
    _began_in_this_read = False

    def data_received(self, data: bytes) -> None:
        self._began_in_this_read = False
        super().data_received(data)
        if self._head_bytes is None or self._began_in_this_read:
            return
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of the request is larger than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._began_in_this_read = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()
