"""Callback-polling (JSONP): messages in the query of a GET; the response is a script that calls a function of the page.

Source: Bayeux protocol 1.0, section 7.2; requests as CometD's and Faye's clients make them.

A page of any site can load such a script, and browsers may add the user's cookies. So the credentials that a browser
adds count only for requests known to come from a page that may use CometD here; other requests are authenticated only
by credentials in their messages.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from calltag.core.bayeux.messages import CodecError
from calltag.notifier.origins import Origins

WRONG_NAME: Final = (
    "the callback (jsonp) must be one name of JavaScript, or names with dots between, 64 characters at most"
)
SCRIPT_FIELDS: Final = (
    (b"content-type", b"text/javascript;charset=UTF-8"),
    (b"cache-control", b"no-store"),
    (b"content-disposition", b"attachment; filename=f.txt"),
)
_PARAMETER: Final = "jsonp"
_USUAL_NAME: Final = "jsonpcallback"
_MAX_NAME: Final = 64
_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(?:\.[A-Za-z_$][A-Za-z0-9_$]*)*")
_ESCAPED: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TO_ESCAPE: Final = re.compile("|".join(_ESCAPED).encode())


class WrongCallback(CodecError):
    """The callback is not a plain function name."""


def callback_of(query: bytes) -> bytes:
    """Return the function that the script calls. Raises WrongCallback."""
    parameters = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    names = [value for name, value in parameters if name == _PARAMETER] or [_USUAL_NAME]
    name = names[0] if len(names) == 1 else ""
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise WrongCallback(WRONG_NAME)
    return name.encode()


def script_bytes(event: bytes) -> int:
    """Return the size of an event in a script."""
    return len(_escaped(event))


def script(name: bytes, replies: bytes) -> bytes:
    """Return the script, in which no content can end the script or be sniffed as another type."""
    return b"/**/%b(%b);" % (name, _escaped(replies))


def _escaped(text: bytes) -> bytes:
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found[0].decode()].encode(), text)


def page_is_known(headers: Sequence[tuple[bytes, bytes]], origins: Origins) -> bool:
    """Return whether a request comes from a page of this server or of an allowed origin, or certainly from no page.

    Browsers send it in Sec-Fetch-Site or Referer. A request with neither may come from an old browser and a page that
    suppresses Referer: a cookie alone does not authenticate it.
    """
    first = {name: value.decode("latin-1") for name, value in reversed(headers)}
    site, referer = first.get(b"sec-fetch-site"), first.get(b"referer")
    if b"origin" in first:
        return origins.pass_headers(headers)
    if site in ("same-origin", "none"):
        return True
    if referer is not None:
        return origins.allow(_origin(referer), first.get(b"host", ""))
    return site is None and (b"authorization" in first or b"cookie" not in first)


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"
