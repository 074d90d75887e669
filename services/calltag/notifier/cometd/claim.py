"""What a request claims about who sent it, and the proof, which may take a look into the store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request: the user that it is proven to be of (None: nobody). `session_over` says that the request
    showed a session cookie, whose session has ended, and nothing else.

    `bearer` says that the proof came with the handshake message itself; `set_cookie` is the Set-Cookie value to answer
    with, if there is one.
    """

    user: str | None
    bearer: bool = False
    set_cookie: str | None = None
    session_over: bool = False


@dataclass(slots=True)
class Claim:
    """`login` stands for the login that the request shows ("" for none); `look` finds out whose it is.

    `address` is where the request comes from, "" if that is not known. Without `shows_credentials` there is nothing to
    look at: it proves nobody.
    """

    look: Callable[[], Awaitable[Caller]]
    login: str = ""
    address: str = ""
    shows_credentials: bool = True
    _looking: asyncio.Future[Caller] | None = field(default=None)

    def caller(self) -> asyncio.Future[Caller]:
        """The caller; looked for once, from the first call on."""
        if self._looking is None:
            self._looking = asyncio.ensure_future(self.look())
        return self._looking

    @property
    def set_cookie(self) -> str | None:
        """The Set-Cookie value to answer with, now that the caller was looked for."""
        found = self._looking is not None and self._looking.done() and not self._looking.cancelled()
        return self.caller().result().set_cookie if found else None

    def drop(self) -> None:
        """Nobody wants to know (any more)."""
        if self._looking is not None:
            self._looking.cancel()
            if self._looking.done() and not self._looking.cancelled():
                self._looking.exception()
