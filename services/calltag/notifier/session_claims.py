"""Claims: a node becomes the home of a session whose connect it has received and cannot answer from memory.

A claim reads the session, and asks the former home to flush it: to save and release it. Until then that remains the
home. Then the claimant takes over, unless another node was first.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, Protocol

from calltag.core.bayeux.engine import Engine
from calltag.core.bayeux.messages import Message
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import is_bearer, user_of
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import ConnectCaller, Found, HasEnded, NotProven, SessionRecord, SessionStore
from calltag.notifier.authentication import CallerClaim
from calltag.notifier.metrics import NotifierMetrics
from calltag.notifier.session_registry import ConnectRequest

_LOOKED_S: Final = 0.1
_LOOKS_A_QUESTION: Final = 10
_GATHERED_S: Final = 0.005
"""Seconds that a lease check waits for other claims to share it."""
_PATIENCE_S: Final = 20.0
"""Seconds that a connect waits for a home that does not answer while its lease is valid."""


class Flush(Enum):
    """Outcomes of a flush request to the former home of a session."""

    SAVED = auto()
    """The home has saved and released the session."""
    NOT_SAVED = auto()
    """The home did not answer and is not needed: it has no inbox or lease, or the client acknowledges."""
    REFUSED = auto()
    """The home did not answer, and may still serve the session."""


class Post(Protocol):
    """Sends notices to other nodes."""

    async def send_notice(self, node: NodeId, notice: SessionNotice) -> bool:
        """Send a notice; return False if there is no such node. Delivery is best-effort."""
        ...


@dataclass(slots=True)
class Claims:
    """Claims of one node; `credential_of` returns the current credential of a user, as sessions keep it."""

    node: NodeId
    engine: Engine
    store: SessionStore
    post: Post
    metrics: NotifierMetrics
    credential_of: Callable[[UserId], str]
    flush_timeout_s: float = 0.1
    """Seconds that a claim waits for the former home if the client acknowledges."""
    _flushes: dict[str, tuple[int, asyncio.Future[None]]] = field(default_factory=dict)
    _looks: dict[NodeId, asyncio.Task[bool]] = field(default_factory=dict)
    """Lease checks of other nodes that have not started yet."""

    def credential(self, client_id: str) -> str:
        """Return the credential that a bearer session must have begun with; "" for other sessions."""
        user = user_of(client_id)
        return self.credential_of(user) if user is not None and is_bearer(client_id) else ""

    async def check(self, message: Message, client_id: str, claim: CallerClaim) -> None:
        """Raises BayeuxError if the caller is not the session's user."""
        caller = await claim.caller()
        if caller.user != user_of(client_id) and not (caller.user is None and is_bearer(client_id)):
            raise self.engine.unknown(message)

    async def read(self, request: ConnectRequest, claim: CallerClaim) -> Found:
        """Read the session of a connect. Raises BayeuxError, HasEnded, HasLeft."""
        client_id, message = request.client_id, request.message
        if not claim.shown.login:
            await self.check(message, client_id, claim)
            found = await self._read(request, "", proven=True)
        else:
            # If the login is the session's own, one round trip checks both.
            looking = claim.caller()
            try:
                found = await self._read(request, claim.shown.login, proven=False)
            except NotProven:
                await self.check(message, client_id, claim)
                found = await self._read(request, claim.shown.login, proven=True)
            else:
                if found is not None and (await looking).user is None:
                    # The session's own login has ended.
                    await self.store.remove(client_id, Ending.LOGIN_ENDED)
                    raise HasEnded(Ending.LOGIN_ENDED, found.record.home)
                await self.check(message, client_id, claim)
        if found is None:
            raise self.engine.unknown(message)
        return found

    async def _read(self, request: ConnectRequest, login: str, *, proven: bool) -> Found | None:
        wish = request.wish
        caller = ConnectCaller(proven, login, self.credential(request.client_id), wish.silent_ms, wish.deliveries_count)
        return await self.store.read(request.client_id, caller, most=self.engine.limits.max_queued_events)

    # -- the former home ---------------------------------------------------------------------------------------------

    async def flush(self, record: SessionRecord) -> Flush:
        """Ask the home of a session to save and release it.

        If the client acknowledges, a home that does not answer in time can be ignored. Else only a home with a lapsed
        lease can: a valid one may still answer a connect that the client has given up, and would take the next connect
        for the confirmation of that answer.
        """
        flushed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._flushes[record.client_id] = record.cycle, flushed
        try:
            if record.acknowledges:
                async with asyncio.timeout(self.flush_timeout_s):
                    if await self._ask(record):
                        await flushed
                        return Flush.SAVED
                return Flush.NOT_SAVED
            async with asyncio.timeout(_PATIENCE_S):
                looks = 0
                while not flushed.done():
                    # Before the look: a home that is alive although its lease has lapsed still saves, and only it knows
                    # of an answer that was lost.
                    if looks % _LOOKS_A_QUESTION == 0:
                        await self._ask(record)
                    looks += 1
                    if not await asyncio.shield(self._look(record.home)):
                        return Flush.NOT_SAVED
                    await asyncio.wait([flushed], timeout=_LOOKED_S)
                return Flush.SAVED
        except TimeoutError:
            return Flush.NOT_SAVED if record.acknowledges else Flush.REFUSED
        finally:
            if flushed.done() and not flushed.cancelled():
                self.metrics.flushes.labels("answered").inc()
            del self._flushes[record.client_id]

    def is_flushing(self, client_id: str) -> bool:
        """Return whether a claim of this node waits for the flush of the session."""
        return client_id in self._flushes

    def flushed(self, notice: SessionNotice) -> None:
        """End the wait for the flush of a session; a late answer has no effect."""
        cycle, waiting = self._flushes.get(notice.client_id, (0, None))
        if waiting is not None and cycle == notice.cycle and not waiting.done():
            waiting.set_result(None)

    async def _ask(self, record: SessionRecord) -> bool:
        self.metrics.flushes.labels("asked").inc()
        notice = SessionNotice(
            kind=NoticeKind.FLUSH, client_id=record.client_id, cycle=record.cycle, node=self.node
        )  # fmt: skip
        return await self.post.send_notice(record.home, notice)

    def _look(self, home: NodeId) -> asyncio.Task[bool]:
        """Return a check, shared by concurrent claims, whether the lease of a node is valid; it starts after this call.

        An earlier check proves nothing: the home may have renewed its lease since, and verified the session.
        """
        look = self._looks.get(home)
        if look is None:
            look = self._looks[home] = asyncio.create_task(self._looked(home), name="lease-look")
        return look

    async def _looked(self, home: NodeId) -> bool:
        await asyncio.sleep(_GATHERED_S)
        del self._looks[home]
        try:
            return await self.store.is_alive(home)
        except StoreUnavailable:
            return True
