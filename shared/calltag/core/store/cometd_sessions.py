"""CometD sessions in Redis: they belong to no node, and every request may come to any.

Of the nodes, one *holds* a session: the one that its last /meta/connect came to. The cycle, which rises with every
connect, keeps a node that lost the session from writing what it no longer knows.
"""

import itertools
import secrets
from collections.abc import Mapping, Sequence
from typing import Final, cast

from calltag.core.bayeux.endings import Ending
from calltag.core.bayeux.position import Position
from calltag.core.bus.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.runtime.byte_limits import MAX_BATCH_BYTES
from calltag.core.store.batching import ScriptBatcher
from calltag.core.store.client import RedisClient
from calltag.core.store.client_ids import digest_of, user_of
from calltag.core.store.keys import Keys
from calltag.core.store.session_records import (
    Activity,
    Attached,
    HasEnded,
    HasLeft,
    Have,
    NotKept,
    NotProven,
    Proof,
    SessionRecord,
    TooManySessions,
    TooManySubscriptions,
)
from calltag.core.store.user_streams import Entry, position_of

_END_KNOWN_MS: Final = 5_000
"""How long the end of a session is known: longer than the client's last connect, or a repeated request, takes."""
_REQUEST_BYTES: Final = 8
_NODE_REGISTERED_MS: Final = 24 * 3_600_000


class RedisCometdSessions:
    """The sessions of an installation, as one node sees them. Every method may raise StoreUnavailable."""

    def __init__(
        self,
        client: RedisClient,
        batcher: ScriptBatcher,
        keys: Keys,
        node: NodeId,
        *,
        retention_ms: int = 3_600_000,
        max_batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        self._client = client
        self._keys = keys
        self._node = node
        self._retention_ms = retention_ms
        self._max_batch_bytes = max_batch_bytes
        # An exchange whose answer is lost is sent again: the scripts recognise the request.
        self._request = f"{secrets.token_hex(_REQUEST_BYTES)}-"
        self._numbers = itertools.count()
        self._create = batcher.script("session_create")
        self._attach = batcher.script("session_attach")
        self._change = batcher.script("session_change")
        self._save = batcher.script("session_save")
        self._remove = batcher.script("session_remove")
        self._touch = batcher.script("session_touch")
        self._services = batcher.script("session_services")
        self._expire = batcher.script("session_expire")

    async def create(
        self,
        client_id: str,
        *,
        acknowledges: bool,
        options: Mapping[str, str],
        login: str,
        lifetime_ms: int,
        most_of_user: int,
        ends_in_ms: int | None = None,
        credential: str = "",
    ) -> SessionRecord:
        """Begin a session, at the end of the user's stream. It ends after `ends_in_ms` whatever is done with it.

        `credential` is the user's as it is now, where the id alone will prove the user afterwards; it is compared where
        one is given to the other methods.

        Raises TooManySessions.
        """
        user, digest = user_of(client_id) or UserId(""), digest_of(client_id)
        fields = {
            "ack": str(int(acknowledges)),
            "login": login,
            **({"credential": credential} if credential else {}),
            **{f"o:{name}": value for name, value in options.items()},
        }
        answer = await self._create(
            [
                self._keys.cometd_session(user, digest),
                self._keys.stream_of(user),
                self._keys.cometd_sessions(user),
            ],
            [
                digest,
                self._node,
                lifetime_ms,
                most_of_user,
                _NODE_REGISTERED_MS,
                _or_nothing(ends_in_ms),
                *_flat(fields),
            ],
        )
        verdict, *rest = cast("list[bytes]", answer)
        if verdict == b"full":
            raise TooManySessions(f"user {user} has {most_of_user} sessions")
        begins = Position(int(rest[0]))
        return SessionRecord(client_id, user, begins, begins, acknowledges=acknowledges, options=dict(options))

    async def attach(
        self,
        client_id: str,
        proof: Proof,
        *,
        lifetime_ms: int,
        most: int,
        acknowledged: tuple[Position, int] | None = None,
        again: bool = False,
        have: Have | None = None,
        activity: Activity | None = None,
        alone_ms: int | None = None,
        credential: str = "",
    ) -> Attached | None:
        """A connect came: hold the session. None if there is no such session.

        `acknowledged` is position and generation of the client's acknowledgment; `again` says that the client may lack
        what was sent last, so that it is sent once more. `alone_ms` bounds for how long other messages keep the session
        alive until the next connect. Where a `credential` is given and the session began with another one, or with
        none, it ends. Raises NotProven, HasEnded, HasLeft.
        """
        return await self._attached(
            client_id, proof, lifetime_ms, most, acknowledged,
            again=again, have=have, connect=True, activity=activity, alone_ms=alone_ms,
            credential=credential,
        )  # fmt: skip

    async def look_again(self, client_id: str, *, most: int, have: Have) -> Attached | None:
        """Subscriptions changed: see which, and what they want. None if this node does not hold the session.

        Raises HasEnded.
        """
        return await self._attached(client_id, Proof(True), 0, most, None, again=False, have=have, connect=False)

    async def _attached(
        self,
        client_id: str,
        proof: Proof,
        lifetime_ms: int,
        most: int,
        acknowledged: tuple[Position, int] | None,
        *,
        again: bool,
        have: Have | None,
        connect: bool,
        activity: Activity | None = None,
        alone_ms: int | None = None,
        credential: str = "",
    ) -> Attached | None:
        user = user_of(client_id)
        if user is None:
            return None
        cycle, position, sent = (have.cycle, have.position, have.sent) if have else ("", 0, 0)
        answer = await self._attach(
            self._all_keys(user, digest_of(client_id)),
            [
                digest_of(client_id), self._node, lifetime_ms, _NODE_REGISTERED_MS, most,
                *(acknowledged or ("", "")), int(again), cycle, position, int(connect), int(proof.known), proof.login,
                sent,
                _or_nothing(activity.longest_ms if activity else None), _or_nothing(have.told_ago_ms if have else None),
                int(activity is not None and activity.both_sides), _or_nothing(alone_ms), credential,
                have.generation if have else "", have.answered if have else 0, self._new_request(), _END_KNOWN_MS,
                self._max_batch_bytes,
            ],
        )  # fmt: skip
        verdict, *rest = cast("list[object]", answer)
        if verdict == b"unproven":
            raise NotProven
        if verdict == b"left":
            raise HasLeft
        if verdict == b"ended":
            why, holder = cast("list[bytes]", rest)
            raise HasEnded(Ending(why.decode()), NodeId(holder.decode()))
        if verdict != b"ok":
            return None
        fields, after, entries, former, has_more = rest
        return Attached(
            _record(client_id, user, cast("list[bytes]", fields)),
            Position(int(cast("bytes", after))),
            [_entry(each) for each in cast("list[tuple[bytes, list[bytes]]]", entries)],
            NodeId(cast("bytes", former).decode()),
            has_more == b"1",
        )

    async def subscribe(
        self,
        client_id: str,
        channels: Mapping[str, Position | None],
        *,
        lifetime_ms: int,
        most: int,
        credential: str = "",
    ) -> NodeId | None:
        """Subscribe to channels, from a position on or (None) from now on; returns who holds the session.

        None if there is no such session. `credential` as in `attach`. Raises TooManySubscriptions, NotKept, HasEnded.
        """
        wanted = {name: "" if since is None else str(since) for name, since in channels.items()}
        verdict, *rest = await self._changed(client_id, lifetime_ms, most, credential, ["add", *_flat(wanted)])
        if verdict == b"full":
            raise TooManySubscriptions(f"a session may have {most} subscriptions")
        if verdict == b"expired":
            raise NotKept(Position(int(rest[0])))
        return NodeId(rest[0].decode()) if verdict == b"ok" else None

    async def unsubscribe(
        self, client_id: str, channels: Sequence[str], *, lifetime_ms: int, credential: str = ""
    ) -> NodeId | None:
        """End subscriptions; returns who holds the session, None if there is no such session.

        `credential` as in `attach`. Raises HasEnded.
        """
        verdict, *rest = await self._changed(client_id, lifetime_ms, 0, credential, ["remove", *channels])
        return NodeId(rest[0].decode()) if verdict == b"ok" else None

    async def _changed(
        self, client_id: str, lifetime_ms: int, most: int, credential: str, change: Sequence[str]
    ) -> list[bytes]:
        """`change` is "add" or "remove", and what. Raises HasEnded."""
        user = user_of(client_id)
        if user is None:
            return [b"unknown"]
        digest = digest_of(client_id)
        keys = [
            self._keys.cometd_session(user, digest), self._keys.stream_of(user), self._keys.cometd_sessions(user),
            self._keys.cometd_session_end(user, digest),
        ]  # fmt: skip
        terms: list[str | int] = [
            digest, lifetime_ms, most, self._retention_ms, credential, self._new_request(), _END_KNOWN_MS,
        ]  # fmt: skip
        return _not_ended(await self._change(keys, [*terms, *change]))

    async def save(
        self,
        client_id: str,
        *,
        cycle: int,
        generation: int,
        sent: Position,
        lifetime_ms: int,
        prolong: bool = False,
        told_ago_ms: int | None = None,
        alone_ms: int | None = None,
    ) -> bool:
        """Remember what was sent in answer to the connect of that cycle; False if the session has moved on.

        The session lives for `lifetime_ms` from now; with `prolong`, at least so long: a connect may be held meanwhile.
        `told_ago_ms` is how long ago an event was sent, `alone_ms` as in `attach`.
        """
        user, digest = user_of(client_id) or UserId(""), digest_of(client_id)
        keys = [self._keys.cometd_session(user, digest), self._keys.cometd_sessions(user)]
        return bool(
            await self._save(
                keys,
                [
                    digest,
                    cycle,
                    generation,
                    sent,
                    lifetime_ms,
                    int(prolong),
                    *map(_or_nothing, (told_ago_ms, alone_ms)),
                ],
            )
        )

    async def touch(self, client_id: str, *, lifetime_ms: int, credential: str = "") -> bool:
        """The client did something that changes nothing else; False if there is no such session.

        `credential` as in `attach`. Raises HasEnded.
        """
        user, digest = user_of(client_id) or UserId(""), digest_of(client_id)
        keys = self._ending_keys(user, digest)
        asked = self._touch(keys, [digest, lifetime_ms, credential, self._new_request(), _END_KNOWN_MS])
        return _not_ended(await asked) == [b"ok"]

    async def note_services(self, client_id: str, *, active: bool) -> None:
        """Remember the state of the services that the client is told, if this node holds the session."""
        user, digest = user_of(client_id) or UserId(""), digest_of(client_id)
        await self._services([self._keys.cometd_session(user, digest)], [self._node, int(active)])

    async def expire(self, client_id: str, *, cycle: int, within_ms: int) -> bool:
        """End a session of which nothing was heard, unless it has more than `within_ms` to live, or moved on.

        Returns whether it has ended.
        """
        user, digest = user_of(client_id) or UserId(""), digest_of(client_id)
        keys = [self._keys.cometd_session(user, digest), self._keys.cometd_sessions(user)]
        return bool(await self._expire(keys, [digest, cycle, within_ms]))

    async def remove(self, client_id: str, *, left: bool = False) -> NodeId | None:
        """End a session; returns who held it, None if there was no such session. `left` says that its client did so."""
        return await self.end(user_of(client_id) or UserId(""), digest_of(client_id), left=left)

    async def end(self, user: UserId, digest: str, *, left: bool = False) -> NodeId | None:
        """The same for the session whose id has this digest."""
        arguments = [digest, self._new_request(), "left" if left else "removed", _END_KNOWN_MS]
        holder = cast("bytes | None", await self._remove(self._ending_keys(user, digest), arguments))
        return NodeId(holder.decode()) if holder else None

    async def stay(self, users: Sequence[UserId]) -> None:
        """Sessions of these users are held here: their events are to come to this node (again)."""
        pipeline = self._client.pipeline()
        for user in users:
            pipeline.sadd(self._keys.nodes_of(user), self._node)
            pipeline.pexpire(self._keys.nodes_of(user), _NODE_REGISTERED_MS)
        await self._client.run(pipeline)

    async def leave(self, user: UserId) -> None:
        """No session of the user is held here (any more): the user's events need not come to this node."""
        async with self._client.exchange() as connection:
            await connection.srem(self._keys.nodes_of(user), self._node)

    def _new_request(self) -> str:
        return f"{self._request}{next(self._numbers):x}"

    def _ending_keys(self, user: UserId, digest: str) -> list[str]:
        keys = self._keys
        return [
            keys.cometd_session(user, digest), keys.cometd_sessions(user), keys.cometd_session_end(user, digest),
        ]  # fmt: skip

    def _all_keys(self, user: UserId, digest: str) -> list[str]:
        return [
            self._keys.cometd_session(user, digest),
            self._keys.stream_of(user),
            self._keys.nodes_of(user),
            self._keys.cometd_sessions(user),
            self._keys.cometd_session_end(user, digest),
        ]


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [part for pair in fields.items() for part in pair]


def _or_nothing(number: int | None) -> int | str:
    return "" if number is None else number


def _not_ended(answer: object) -> list[bytes]:
    """What a script answered. Raises HasEnded where it ended the session, whose login is over."""
    verdict, *rest = cast("list[bytes]", answer)
    if verdict == b"ended":
        raise HasEnded(Ending.LOGIN_ENDED, NodeId(rest[0].decode()))
    return [verdict, *rest]


def _record(client_id: str, user: UserId, flat: Sequence[bytes]) -> SessionRecord:
    fields = {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return SessionRecord(
        client_id,
        user,
        Position(int(fields["confirmed"])),
        Position(int(fields["sent"])),
        int(fields["cycle"]),
        int(fields["generation"]),
        fields["ack"] == "1",
        {name[2:]: value for name, value in fields.items() if name.startswith("o:")},
        {name[2:]: Position(int(value)) for name, value in fields.items() if name.startswith("s:")},
        fields.get("services", "1") == "1",
    )


def _entry(raw: tuple[bytes, Sequence[bytes]]) -> Entry:
    entry_id, (_, previous, _, event) = raw
    return Entry(position_of(entry_id), Position(int(previous)), event)
