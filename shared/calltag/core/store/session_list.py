"""List of the CometD sessions of an installation, for operators."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final, cast

from calltag.core.bayeux.events import Position
from calltag.core.broker.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.client_ids import HANDLE_LENGTH
from calltag.core.store.event_log import stream_id
from calltag.core.store.keys import Keys

_PAGE: Final = 500
_MOST_UNSENT: Final = 1_000


@dataclass(frozen=True, slots=True)
class ListedSession:
    """A session as stored in Redis.

    `ends_in_ms` is its remaining lifetime if its client stays silent; `unsent` is the number of the user's events not
    yet sent to it in reply to a connect, at most 1,000.
    """

    digest: str
    """Digest of the session's id; the id itself is not stored."""
    user: UserId
    holder: NodeId
    acknowledges: bool
    subscriptions: Sequence[str]
    connects: int
    ends_in_ms: int
    unsent: int

    @property
    def handle(self) -> str:
        """Return the short name of the session for operators."""
        return self.digest[:HANDLE_LENGTH]


class SessionList:
    """Reads the sessions. Every method may raise StoreUnavailable."""

    def __init__(self, client: RedisClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys
        self._live = client.script("sessions_live")

    async def users(self) -> AsyncIterator[UserId]:
        """Yield the users who have, or recently had, sessions; users who begin one during the scan may be omitted."""
        before, after = self._keys.cometd_sessions(UserId("*")).split("*")
        seen = set()
        async for name in self._client.scan(f"{before}*{after}", "zset", _PAGE):
            user = UserId(name.decode().removeprefix(before).removesuffix(after))
            if user not in seen:
                seen.add(user)
                yield user

    async def of_user(self, user: UserId) -> Sequence[ListedSession]:
        """Return the user's sessions, ordered by the end of their lifetime."""
        answer = cast("list[bytes]", await self._live([self._keys.cometd_sessions(user)], []))
        found = [
            await self._session(user, raw.decode(), int(left_ms))
            for raw, left_ms in zip(answer[::2], answer[1::2], strict=True)
        ]
        return [each for each in found if each is not None]

    async def _session(self, user: UserId, digest: str, ends_in_ms: int) -> ListedSession | None:
        raw = fields_of(await self._client.execute("HGETALL", self._keys.cometd_session(user, digest)))
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        if "home" not in fields:
            return None
        sent = stream_id(Position(int(fields["sent"])))
        unsent = await self._client.execute(
            "XRANGE", self._keys.stream_of(user), f"({sent}", "+", "COUNT", _MOST_UNSENT
        )
        return ListedSession(
            digest=digest,
            user=user,
            holder=NodeId(fields["home"]),
            acknowledges=fields.get("ack") == "1",
            subscriptions=sorted(name.removeprefix("s:") for name in fields if name.startswith("s:")),
            connects=int(fields["cycle"]),
            ends_in_ms=ends_in_ms,
            unsent=len(cast("list[object]", unsent)),
        )
