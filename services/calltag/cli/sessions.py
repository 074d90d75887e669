"""Work of `calltag sessions`: list CometD sessions, and end them."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Final, cast
from uuid import uuid4

from rich.table import Table

from calltag.core.backends import amqp_settings, open_client
from calltag.core.bayeux.events import Position
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import Broker, BrokerUnavailable, NodeId
from calltag.core.broker.rabbitmq import open_rabbitmq
from calltag.core.contracts.operations import NODE, NodeMessage, NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.process.waiting import backoff_s
from calltag.core.settings import Settings
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.client_ids import HANDLE_LENGTH
from calltag.core.store.event_log import stream_id
from calltag.core.store.keys import Keys
from calltag.core.store.scripts import ScriptBatcher
from calltag.core.store.sessions import SessionStore

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


_HOLDER_DEADLINE_S: Final = 3.0
_BUS_DEADLINE_S: Final = 5.0


class NoSuchSession(Exception):
    """No session of the installation has the handle; the message says how to find one."""


@dataclass(frozen=True, slots=True)
class Sessions:
    """The sessions of the installation that the settings name. Every method may raise StoreUnavailable."""

    listed: SessionList
    store: SessionStore

    async def all(self, user: str | None) -> AsyncIterator[ListedSession]:
        """Yield the sessions of one user, or of all."""
        if user is not None:
            for session in await self.listed.of_user(UserId(user)):
                yield session
            return
        async for each in self.listed.users():
            for session in await self.listed.of_user(each):
                yield session

    async def one(self, handle: str) -> ListedSession:
        """Return the session with that handle. Raises NoSuchSession."""
        async for session in self.all(None):
            if session.handle == handle:
                return session
        raise NoSuchSession(f"there is no session {handle}; calltag sessions ls lists the sessions")

    async def close(self, session: ListedSession, broker: Broker) -> None:
        """End a session; its holder notifies the client, if the holder still runs.

        Raises BrokerUnavailable.
        """
        notice = SessionNotice(kind=NoticeKind.CLOSED, user=session.user, digest=session.digest)
        message = NODE.encode(NodeMessage(notices=(notice,)))
        if await broker.send(session.holder, message, uuid4().hex):
            await self._until_gone(session)
        await self.store.end(session.user, session.digest, Ending.CLOSED)

    async def _until_gone(self, session: ListedSession) -> None:
        try:
            async with asyncio.timeout(_HOLDER_DEADLINE_S):
                for delay_s in backoff_s(0.02, 0.2):
                    left = await self.listed.of_user(session.user)
                    if all(each.digest != session.digest for each in left):
                        return
                    await asyncio.sleep(delay_s)
        except TimeoutError:
            return


@asynccontextmanager
async def sessions(settings: Settings) -> AsyncIterator[Sessions]:
    """Open the sessions in the Redis of the settings."""
    client = open_client(settings, max_connections=2)
    keys = Keys(settings.redis.key_prefix)
    try:
        store = SessionStore(client, ScriptBatcher(client), keys, NodeId("operator"))
        yield Sessions(SessionList(client, keys), store)
    finally:
        await client.close()


async def close_sessions(settings: Settings, handle: str | None, user: str | None) -> Sequence[ListedSession]:
    """End one session, or all of a user; return them. Raises NoSuchSession, StoreUnavailable, BrokerUnavailable."""
    async with sessions(settings) as found:
        wanted = [await found.one(handle)] if handle else [each async for each in found.all(user)]
        if wanted:
            async with open_rabbitmq(amqp_settings(settings)) as broker:
                await connected(broker)
                for session in wanted:
                    await found.close(session, broker)
    return wanted


async def connected(broker: Broker) -> None:
    """Return once RabbitMQ is reached. Raises BrokerUnavailable."""
    try:
        async with asyncio.timeout(_BUS_DEADLINE_S):
            for delay_s in backoff_s(0.02, 0.2):
                if broker.connected():
                    return
                await asyncio.sleep(delay_s)
    except TimeoutError:
        raise BrokerUnavailable(f"RabbitMQ was not reached within {_BUS_DEADLINE_S:g} s; see calltag doctor") from None


def table_of(found: Sequence[ListedSession]) -> Table:
    """Return the sessions as a table for a terminal."""
    table = Table("session", "user", "held by", "connects", "ack", "subscriptions", "ends in", "unsent", box=None)
    for each in found:
        table.add_row(
            each.handle, each.user, each.holder, str(each.connects), "yes" if each.acknowledges else "no",
            " ".join(each.subscriptions), f"{each.ends_in_ms / 1000:.0f} s", str(each.unsent),
        )  # fmt: skip
    return table


def lines_of(session: ListedSession) -> Iterator[str]:
    """Return the lines that describe one session."""
    return (f"{name}: {value}" for name, value in public(session).items())


def public(session: ListedSession) -> dict[str, object]:
    """Return the fields to show, with the handle in place of the digest."""
    fields = asdict(session)
    del fields["digest"]
    return {"session": session.handle, **fields}
