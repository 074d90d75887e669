"""CometD sessions in Redis, which survive a crash of their home.

A session has a *home*, the node whose memory answers its connects. A connect that comes to another node claims the
session, which raises its cycle and so fences off later saves of the former home.
"""

import asyncio
import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

import orjson

from calltag.core.bayeux.events import Position
from calltag.core.bayeux.replays import Progress
from calltag.core.bayeux.session import Ending
from calltag.core.broker.ports import NodeId
from calltag.core.domain.ids import UserId
from calltag.core.process.limits import MAX_BATCH_BYTES
from calltag.core.store.client import RedisClient, fields_of
from calltag.core.store.client_ids import digest_of, user_of
from calltag.core.store.event_log import Entry, position_of
from calltag.core.store.keys import Keys
from calltag.core.store.scripts import ScriptBatcher

_END_KNOWN_MS: Final = 5_000
"""TTL of the tombstone of a session: longer than a last connect or a repeated request is in flight."""
_REQUEST_BYTES: Final = 8
_REGISTERED_MS: Final = 24 * 3_600_000
_SAVED_AT_ONCE: Final = 200
Argument: TypeAlias = dict[str, object]


class TooManySessions(Exception):
    """The user has the maximum number of sessions."""


class TooManySubscriptions(Exception):
    """The session has the maximum number of subscriptions."""


class NotProven(Exception):
    """The caller has not proven to be the user of the session."""


class HasLeft(Exception):
    """The client has just disconnected; the message was in flight then."""


class HasEnded(Exception):
    """The session had expired, and was removed when the message arrived."""

    def __init__(self, ending: Ending, former: NodeId) -> None:
        super().__init__(ending)
        self.ending = ending
        self.former = former
        """Home of the session before its end."""


class NotKept(Exception):
    """A replay begins before the retained part of the stream."""

    def __init__(self, position: Position) -> None:
        super().__init__(f"what followed {position} is not kept")
        self.position = position


@dataclass(frozen=True, slots=True)
class Cursor:
    """Delivery progress of a client: it has acknowledged events up to `confirmed`, and was sent those up to `sent`.

    `batch` is the last acknowledgement number sent to it, `batches` the numbers that it has not acknowledged, each with
    its position.
    """

    confirmed: Position
    sent: Position
    batch: int = 0
    batches: Sequence[tuple[int, Position]] = ()


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A stored session.

    `subscriptions` map channels to the position after which messages are delivered; `backfills` are the progress of
    those for which the client may lack messages before the cursor; `changes` counts changes of the subscriptions.
    """

    client_id: str
    user: UserId
    home: NodeId
    cycle: int
    saved: int
    """The number of the last save in this cycle."""
    cursor: Cursor
    acknowledges: bool = False
    options: Mapping[str, str] = field(default_factory=dict)
    subscriptions: Mapping[str, Position] = field(default_factory=dict)
    backfills: Mapping[str, Progress] = field(default_factory=dict)
    changes: int = 0
    login: str = ""
    services_active: bool = True
    """State of the services as last sent to the client."""
    has_connected: bool = False
    was_hurried: bool = False
    """Its last connect requested an immediate reply."""
    is_exact: bool = False
    """The cursor is exact: its home saves before it replies, or has released the session."""
    moved_ago_ms: int = 0
    """Milliseconds since another node became its home."""
    ends_in_ms: int | None = None
    """Milliseconds until the hard end of its lifetime."""
    active_ago_ms: int = 0
    """Milliseconds since its last message other than a connect."""


@dataclass(frozen=True, slots=True)
class NewSession:
    """Parameters of a handshake. The session ends after `ends_in_ms` in any case.

    `credential` is the user's current one, where the id alone proves the user afterwards; the other methods compare
    theirs with it, if given.
    """

    acknowledges: bool
    lifetime_ms: int
    most_of_user: int
    options: Mapping[str, str] = field(default_factory=dict)
    login: str = ""
    ends_in_ms: int | None = None
    credential: str = ""


@dataclass(frozen=True, slots=True)
class ConnectCaller:
    """The caller of a connect: `proven` to be the session's user, or with a `login` that may be the session's.

    `credential` is the user's current one, where the id alone proves the user. A client that sends only connects for
    `silent_ms` is inactive; with `deliveries_count`, events sent to it count as activity.
    """

    proven: bool = True
    login: str = ""
    credential: str = ""
    silent_ms: int | None = None
    deliveries_count: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """A session as it was read, and the entries `after` a position that its client may lack."""

    record: SessionRecord
    after: Position
    entries: Sequence[Entry]
    has_more: bool


@dataclass(frozen=True, slots=True)
class SessionState:
    """The state of a session that its home saves; the session lives for `lifetime_ms` from now.

    `backfills` are the channels for which the client may lack messages before the cursor, `filled` those that are
    complete by now; both are ignored unless `changes` is current in Redis. `delivered_ago_ms` and `active_ago_ms` are
    the ages of the last event sent to the client and of its last message other than a connect.
    """

    client_id: str
    cycle: int
    number: int
    """Rising number of the save: a save that arrives after a later one has no effect."""
    cursor: Cursor
    lifetime_ms: int
    login: str = ""
    changes: int = 0
    backfills: Mapping[str, Progress] = field(default_factory=dict)
    filled: Sequence[str] = ()
    has_connected: bool = True
    was_hurried: bool = False
    services_active: bool = True
    is_exact: bool = False
    delivered_ago_ms: int | None = None
    active_ago_ms: int | None = None
    alone_ms: int | None = None
    verify: bool = False
    """The lease has lapsed since the last save: pending take-overs by other nodes are refused."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A session that was saved: number of subscription changes, end of its user's stream, and cycle."""

    changes: int
    head: Position
    cycle: int


@dataclass(frozen=True, slots=True)
class Changed:
    """Subscriptions that changed: the session's home, the number of changes so far, and the new subscriptions."""

    home: NodeId
    changes: int
    subscriptions: Mapping[str, Position]


class SessionStore:
    """The sessions of an installation, accessed by one node. Every method may raise StoreUnavailable."""

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
        self._is_cluster = client.has_slots
        # The client retries a request whose reply is lost; the scripts recognise the repeat by its id.
        self._request = f"{secrets.token_hex(_REQUEST_BYTES)}-"
        self._numbers = itertools.count()
        self._create = batcher.script("session_create")
        self._read = batcher.script("session_read")
        self._take_over = batcher.script("session_take_over")
        self._save = batcher.script("session_save")
        self._change = batcher.script("session_change")
        self._touch = batcher.script("session_touch")
        self._end = batcher.script("session_end")

    async def create(self, client_id: str, new: NewSession) -> None:
        """Begin a session at the end of its user's stream; its first connect claims it. Raises TooManySessions."""
        user, digest = _owner(client_id)
        fields = {
            "ack": str(int(new.acknowledges)),
            "login": new.login,
            **({"credential": new.credential} if new.credential else {}),
            **{f"o:{name}": value for name, value in new.options.items()},
        }
        keys = self._keys
        answer = await self._create(
            [keys.cometd_session(user, digest), keys.stream_of(user), keys.cometd_sessions(user)],
            [
                _json(
                    digest=digest,
                    node=self._node,
                    lifetime_ms=new.lifetime_ms,
                    most=new.most_of_user,
                    ends_in_ms=new.ends_in_ms,
                    fields=[part for pair in fields.items() for part in pair],
                )
            ],
        )
        verdict, *_ = cast("list[bytes]", answer)
        if verdict == b"full":
            raise TooManySessions(f"user {user} has {new.most_of_user} sessions")

    async def read(self, client_id: str, caller: ConnectCaller, *, most: int) -> Found | None:
        """Read a session for a connect, with `most` entries; None if there is no such session.

        Raises NotProven, HasEnded, HasLeft.
        """
        user, digest = _owner(client_id)
        keys = self._keys
        answer = await self._read(
            [
                keys.cometd_session(user, digest), keys.stream_of(user), keys.cometd_sessions(user),
                keys.cometd_session_end(user, digest),
            ],
            [
                _json(
                    digest=digest,
                    request=self._new_request(),
                    known_ms=_END_KNOWN_MS,
                    proven=caller.proven,
                    login=caller.login,
                    credential=caller.credential or None,
                    silent_ms=caller.silent_ms,
                    events_count=caller.deliveries_count or None,
                    most=most,
                    most_bytes=self._max_batch_bytes,
                )
            ],
        )  # fmt: skip
        verdict, *rest = cast("list[object]", answer)
        match verdict:
            case b"unproven":
                raise NotProven
            case b"left":
                raise HasLeft
            case b"ended":
                why, home = cast("list[bytes]", rest)
                raise HasEnded(Ending(why.decode()), NodeId(home.decode()))
            case b"ok":
                return _found(client_id, user, rest)
            case _:
                return None

    async def take_over(self, state: SessionState, *, saved: int | None, has_moved: bool) -> Saved | None:
        """Make this node the home of a session that was read in the cycle of the state, and save it.

        None if it has since been taken over, ended, or, with `saved` (the number of the save that was read), saved.
        """
        user, digest = _owner(state.client_id)
        keys = self._keys
        more = {"request": self._new_request(), "saved": saved if saved is None else str(saved), "has_moved": has_moved}
        answer = await self._take_over(
            [
                keys.cometd_session(user, digest), keys.cometd_sessions(user), keys.nodes_of(user),
                keys.stream_of(user),
            ],
            [self._common(), _json(**_state_fields(digest, state), **more)],
        )  # fmt: skip
        verdict, *rest = cast("list[bytes]", answer)
        return Saved(int(rest[0]), Position(int(rest[1])), state.cycle + 1) if verdict else None

    async def save(self, states: Sequence[SessionState]) -> Sequence[Saved | Ending | None]:
        """Save sessions of this home; return None for each that has moved, the reason for each that has ended."""
        groups: dict[object, list[int]] = {}
        for number, state in enumerate(states):
            # In a cluster the keys of each user have their own slot, and a script may access one slot only.
            group: object = user_of(state.client_id) if self._is_cluster else number // _SAVED_AT_ONCE
            groups.setdefault(group, []).append(number)
        saved: list[Saved | Ending | None] = [None] * len(states)
        asked = [self._save(*self._saving([states[number] for number in numbers])) for numbers in groups.values()]
        for numbers, answer in zip(groups.values(), await asyncio.gather(*asked), strict=True):
            for number, each in zip(numbers, cast("list[list[bytes]]", answer), strict=True):
                saved[number] = _saved(each)
        return saved

    def _saving(self, states: Sequence[SessionState]) -> tuple[list[str], list[str | bytes | int]]:
        keys: list[str] = []
        arguments: list[str | bytes | int] = [self._common()]
        for state in states:
            user, digest = _owner(state.client_id)
            keys += [
                self._keys.cometd_session(user, digest), self._keys.cometd_sessions(user),
                self._keys.nodes_of(user), self._keys.stream_of(user), self._keys.cometd_session_end(user, digest),
            ]  # fmt: skip
            arguments.append(_json(**_state_fields(digest, state)))
        return keys, arguments

    def _common(self) -> bytes:
        return _json(node=self._node, registered_ms=_REGISTERED_MS)

    async def load(self, client_id: str) -> SessionRecord | None:
        """Return the stored session; None if there is none."""
        user, digest = _owner(client_id)
        raw = fields_of(await self._client.execute("HGETALL", self._keys.cometd_session(user, digest)))
        fields = {name.decode(): value.decode() for name, value in raw.items()}
        return _record(client_id, user, fields) if "home" in fields else None

    async def subscribe(
        self,
        client_id: str,
        channels: Mapping[str, Position | None],
        *,
        lifetime_ms: int,
        most: int,
        replays: bool = False,
        credential: str = "",
    ) -> Changed | None:
        """Subscribe to channels, after a position or (None) from now on; return None if there is no such session.

        `replays`: messages carry their positions. Raises TooManySubscriptions, NotKept, HasEnded.
        """
        added = [(name, "" if since is None else str(since)) for name, since in channels.items()]
        verdict, *rest = await self._changed(
            client_id, lifetime_ms=lifetime_ms, most=most, credential=credential, add=added, replays=replays
        )
        if verdict == b"full":
            raise TooManySubscriptions(f"a session may have {most} subscriptions")
        if verdict == b"expired":
            raise NotKept(Position(int(rest[0])))
        return _change(rest) if verdict == b"ok" else None

    async def unsubscribe(
        self, client_id: str, channels: Sequence[str], *, lifetime_ms: int, credential: str = ""
    ) -> Changed | None:
        """End subscriptions; return None if there is no such session. Raises HasEnded."""
        verdict, *rest = await self._changed(
            client_id, lifetime_ms=lifetime_ms, credential=credential, remove=list(channels)
        )
        return _change(rest) if verdict == b"ok" else None

    async def _changed(
        self,
        client_id: str,
        *,
        lifetime_ms: int,
        credential: str,
        most: int = 2**31,
        add: Sequence[tuple[str, str]] = (),
        remove: Sequence[str] = (),
        replays: bool = False,
    ) -> list[bytes]:
        user, digest = _owner(client_id)
        keys = self._keys
        answer = await self._change(
            [
                keys.cometd_session(user, digest), keys.stream_of(user), keys.cometd_sessions(user),
                keys.cometd_session_end(user, digest),
            ],
            [
                _json(
                    digest=digest,
                    lifetime_ms=lifetime_ms,
                    most=most,
                    retention_ms=self._retention_ms,
                    credential=credential or None,
                    request=self._new_request(),
                    known_ms=_END_KNOWN_MS,
                    add=add,
                    remove=remove,
                    replays=replays or None,
                )
            ],
        )  # fmt: skip
        return _not_ended(answer)

    async def touch(self, client_id: str, *, lifetime_ms: int, credential: str = "") -> bool:
        """Extend the TTL of a session after a message; return False if there is no such session. Raises HasEnded."""
        user, digest = _owner(client_id)
        argument = _json(
            digest=digest,
            lifetime_ms=lifetime_ms,
            credential=credential or None,
            request=self._new_request(),
            known_ms=_END_KNOWN_MS,
        )
        return _not_ended(await self._touch(self._ending_keys(user, digest), [argument])) == [b"ok"]

    async def remove(self, client_id: str, ending: Ending) -> NodeId | None:
        """End a session; return its home, None if there was no such session."""
        return await self.end(*_owner(client_id), ending)

    async def end(self, user: UserId, digest: str, ending: Ending) -> NodeId | None:
        """End the session whose id has this digest; return its home, None if there was no such session."""
        return await self._ended(user, digest, why=ending)

    async def expire(self, client_id: str, *, cycle: int, within_ms: int) -> bool:
        """End a silent session unless it has moved or its TTL exceeds `within_ms`; return whether it ended."""
        owner = _owner(client_id)
        return await self._ended(*owner, why=Ending.EXPIRED, cycle=str(cycle), within_ms=within_ms) is not None

    async def _ended(self, user: UserId, digest: str, **more: str | int) -> NodeId | None:
        argument = _json(digest=digest, request=self._new_request(), known_ms=_END_KNOWN_MS, **more)
        home = cast("bytes | None", await self._end(self._ending_keys(user, digest), [argument]))
        return NodeId(home.decode()) if home else None

    async def register(self, users: Sequence[UserId]) -> None:
        """Route the events of users to this node."""
        names = map(self._keys.nodes_of, users)
        await self._client.execute_all(
            command for name in names for command in (("SADD", name, self._node), ("PEXPIRE", name, _REGISTERED_MS))
        )

    async def unregister(self, user: UserId) -> None:
        """Stop routing the events of a user to this node."""
        await self._client.execute("SREM", self._keys.nodes_of(user), self._node)

    async def renew_lease(self, lease_ms: int) -> None:
        """Renew the lease of this node."""
        await self._client.execute("SET", self._keys.notifier(self._node), "", "PX", lease_ms)

    async def is_alive(self, node: NodeId) -> bool:
        """Return whether the lease of a node is valid."""
        return bool(await self._client.execute("EXISTS", self._keys.notifier(node)))

    async def end_lease(self) -> None:
        """Delete the lease of this node."""
        await self._client.execute("DEL", self._keys.notifier(self._node))

    def _new_request(self) -> str:
        return f"{self._request}{next(self._numbers):x}"

    def _ending_keys(self, user: UserId, digest: str) -> list[str]:
        keys = self._keys
        return [
            keys.cometd_session(user, digest), keys.cometd_sessions(user), keys.cometd_session_end(user, digest),
        ]  # fmt: skip


def _owner(client_id: str) -> tuple[UserId, str]:
    return user_of(client_id) or UserId(""), digest_of(client_id)


def _json(**fields: object) -> bytes:
    """Encode the argument of a script; fields that are None are omitted."""
    return orjson.dumps({name: value for name, value in fields.items() if value is not None})


def _state_fields(digest: str, state: SessionState) -> dict[str, object]:
    cursor = state.cursor
    ages = {"delivered": state.delivered_ago_ms, "active": state.active_ago_ms}
    times = {name: -ms for name, ms in ages.items() if ms is not None}
    if state.alone_ms is not None:
        times["until"] = state.alone_ms
    return {
        "digest": digest,
        "cycle": str(state.cycle),
        "number": state.number,
        "verify": state.verify or None,
        "lifetime_ms": state.lifetime_ms,
        "fields": [
            "confirmed", str(cursor.confirmed), "sent", str(cursor.sent), "batch", str(cursor.batch),
            "batches", " ".join(f"{number}:{position}" for number, position in cursor.batches),
            "services", str(int(state.services_active)), "exact", str(int(state.is_exact)),
            "connected", str(int(state.has_connected)), "hurried", str(int(state.was_hurried)),
            "login", state.login,
        ],
        "times": times,
        "changes": str(state.changes),
        "backfills": {name: f"{each.confirmed} {each.sent}" for name, each in state.backfills.items()},
        "filled": state.filled,
    }  # fmt: skip


def _not_ended(answer: object) -> list[bytes]:
    """Return the reply of a script. Raises HasEnded if the script ended the session because its login was over."""
    verdict, *rest = cast("list[bytes]", answer)
    if verdict == b"ended":
        raise HasEnded(Ending.LOGIN_ENDED, NodeId(rest[0].decode()))
    return [verdict, *rest]


def _saved(answer: Sequence[bytes]) -> Saved | Ending | None:
    is_here, *rest = answer
    if is_here:
        changes, head, cycle = map(int, rest)
        return Saved(changes, Position(head), cycle)
    return Ending(rest[0].decode()) if rest[0] else None


def _change(answer: Sequence[bytes]) -> Changed:
    home, changes, *pairs = answer
    subscriptions = {name.decode(): Position(int(since)) for name, since in zip(pairs[::2], pairs[1::2], strict=True)}
    return Changed(NodeId(home.decode()), int(changes), subscriptions)


def _found(client_id: str, user: UserId, answer: Sequence[object]) -> Found:
    raw, after, entries, has_more = answer
    flat = [each.decode() for each in cast("list[bytes]", raw)]
    return Found(
        _record(client_id, user, dict(zip(flat[::2], flat[1::2], strict=True))),
        Position(int(cast("bytes", after))),
        [_entry(each) for each in cast("list[tuple[bytes, list[bytes]]]", entries)],
        bool(has_more),
    )


def _record(client_id: str, user: UserId, fields: Mapping[str, str]) -> SessionRecord:
    batches = [each.partition(":") for each in fields.get("batches", "").split()]
    return SessionRecord(
        client_id,
        user,
        NodeId(fields["home"]),
        int(fields["cycle"]),
        int(fields["saved"]),
        Cursor(
            Position(int(fields["confirmed"])),
            Position(int(fields["sent"])),
            int(fields["batch"]),
            [(int(number), Position(int(position))) for number, _, position in batches],
        ),
        fields["ack"] == "1",
        {name[2:]: value for name, value in fields.items() if name.startswith("o:")},
        {name[2:]: Position(int(value)) for name, value in fields.items() if name.startswith("s:")},
        {name[2:]: Progress(*map(_position, value.split())) for name, value in fields.items() if name.startswith("b:")},
        changes=int(fields["changes"]),
        login=fields.get("login", ""),
        services_active=fields.get("services", "1") == "1",
        has_connected=fields.get("connected") == "1",
        was_hurried=fields.get("hurried") == "1",
        is_exact=fields.get("exact") == "1",
        ends_in_ms=int(fields["ends_in"]) if "ends_in" in fields else None,
        active_ago_ms=int(fields.get("active_ago", 0)),
        moved_ago_ms=int(fields.get("moved_ago", 0)),
    )


def _position(text: str) -> Position:
    return Position(int(text))


def _entry(raw: tuple[bytes, Sequence[bytes]]) -> Entry:
    entry_id, (_, previous, _, event) = raw
    return Entry(position_of(entry_id), Position(int(previous)), event)
