"""Callback-polling (JSONP): messages in the query of a GET, answered with a script that calls a function of the page.

Source: Bayeux protocol 1.0, section 7.2; requests as CometD's and Faye's clients make them.

A page of any site can load such a script, and browsers may send the user's cookies along. So a request counts as its
user's only where it is known to come from a page that may use CometD here; a request of another page proves nobody by
what the browser adds, and is served only what its own messages prove.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from calltag.core.bayeux.codec import CodecError
from calltag.notifier.cometd.forms import messages_of_form
from calltag.notifier.cometd.origins import Origins

OFF: Final = "callback-polling is off here (CALLTAG_NOTIFIER__CALLBACK_POLLING); send messages by POST"
WRONG_NAME: Final = (
    "the callback (jsonp) must be one name of JavaScript, or names with dots between, 64 characters at most"
)
_PARAMETER: Final = "jsonp"
_USUAL_NAME: Final = "jsonpcallback"
_MAX_NAME: Final = 64
_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_$]*(?:\.[A-Za-z_$][A-Za-z0-9_$]*)*")
_JAVASCRIPT: Final = "text/javascript;charset=UTF-8"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Disposition": "attachment; filename=f.txt",
}
_ESCAPED: Final = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_TO_ESCAPE: Final = re.compile("|".join(_ESCAPED).encode())


class WrongCallback(CodecError):
    """The name of the callback could be more than a name."""


def callback_of(request: Request) -> str:
    """The function that the answer calls. Raises WrongCallback."""
    names = request.query_params.getlist(_PARAMETER) or [_USUAL_NAME]
    name = names[0] if len(names) == 1 else ""
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise WrongCallback(WRONG_NAME)
    return name


def messages_of_query(request: Request) -> bytes:
    """The JSON array of all messages in the query. Raises CodecError."""
    query: bytes = request.scope["query_string"]
    return messages_of_form(query, "query")


def script_bytes(event: bytes) -> int:
    """The size of an event in a script."""
    return len(_escaped(event))


def script(name: str, replies: bytes) -> Response:
    """The answer: nothing in it can end the script or be taken for another type."""
    content = b"/**/" + name.encode() + b"(" + _escaped(replies) + b");"
    return Response(content, headers=_HEADERS, media_type=_JAVASCRIPT)


def _escaped(text: bytes) -> bytes:
    return _TO_ESCAPE.sub(lambda found: _ESCAPED[found[0].decode()].encode(), text)


@dataclass(frozen=True, slots=True)
class Pages:
    """Which pages a request for a script may come from so that it counts as its user's."""

    origins: Origins

    def are_known(self, request: Request) -> bool:
        """Whether the request comes from a page of this server or of an allowed origin, or plainly from no page.

        Browsers say it in Sec-Fetch-Site or Referer. What says neither may be an old browser whose page hides itself:
        a cookie alone proves nobody then.
        """
        headers = request.headers
        site, referer = headers.get("sec-fetch-site"), headers.get("referer")
        if "origin" in headers:
            return self.origins.pass_(request)
        if site in ("same-origin", "none"):
            return True
        if referer is not None:
            return self.origins.allow(_origin(referer), request)
        return site is None and ("authorization" in headers or "cookie" not in headers)


def _origin(address: str) -> str:
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"
