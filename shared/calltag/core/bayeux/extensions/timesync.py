"""Time synchronisation: the client learns the difference between its clock and the server's.

Source: CometD's documentation of its timesync extension: in `{tc, l, o}`, out `{tc, ts, p, a}`; all in milliseconds.
"""

from collections.abc import Mapping
from typing import Final

from calltag.core.bayeux.codec import Message, Reply
from calltag.core.bayeux.extensions.interface import Extension, ext_of
from calltag.core.bayeux.position import LARGEST

_ACCURACY_MS: Final = 25
_NUMBERS: Final = ("tc", "l", "o")


class Timesync(Extension):
    """`ext.timesync`."""

    def kept(self, ext: Mapping[str, object]) -> dict[str, object]:
        asked = ext.get("timesync")
        numbers = (
            {name: asked[name] for name in _NUMBERS if _is_number(asked.get(name))} if isinstance(asked, dict) else {}
        )
        return {"timesync": numbers} if numbers else {}

    def reply(self, message: Message, reply: Reply, arrived_ms: int, now_ms: int) -> None:
        asked = ext_of(message).get("timesync")
        if not isinstance(asked, dict) or not _is_number(asked.get("tc")):
            return
        told = {"tc": asked["tc"], "ts": arrived_ms, "p": now_ms - arrived_ms}
        lag, offset = asked.get("l"), asked.get("o")
        if _is_number(lag) and _is_number(offset):
            told["a"] = asked["tc"] + offset + lag - arrived_ms
            if lag != 0 and abs(told["a"]) < _ACCURACY_MS:
                return
        ext = reply.setdefault("ext", {})
        if isinstance(ext, dict):
            ext["timesync"] = told


def _is_number(value: object) -> bool:
    """Whether it is a number to reckon with: not NaN, and small enough for sums to stay within 64 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST
