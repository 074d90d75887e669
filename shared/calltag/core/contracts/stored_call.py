"""Format of state in Redis: the hash fields of a call or an agent, and the arguments of a commit."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final

import orjson

from calltag.core.contracts.operations import AGENT, CALL, WireError
from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.ids import OperationId, is_agent_key
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import UserData
from calltag.core.store.ports import CallBlock, CallBlocks, Change, Done, State, StateUnreadable

STATE_FIELDS: Final = ("version", "doc", "keys")
_REMEMBERED: Final = 4_000
_NO_STATE: Final = "-"
_AS_IT_WAS: Final = ""
_NO_CALL: Final = ("", _AS_IT_WAS)

Argument = str | bytes | int


@dataclass(frozen=True, slots=True)
class Lifetimes:
    """TTLs in milliseconds: of state after its last change, and the minimum for operations after the last one."""

    live_ms: int = 24 * 3600 * 1000
    released_ms: int = 1_800 * 1000
    operations_ms: int = 3600 * 1000

    def of(self, state: State | None) -> int:
        """Return the TTL of a state; released calls, and operations on calls that never existed, have the short one."""
        return self.released_ms if state is None or (isinstance(state, Call) and state.released) else self.live_ms


def decode_state(key: str, fields: Sequence[bytes | None], data: Mapping[bytes, bytes]) -> State | None:
    """Decode the state from its hash fields (STATE_FIELDS) and its user data; return None if there is none.

    Raises StateUnreadable.
    """
    version, doc, keys = fields
    if version is None or doc is None:
        return None
    with _readable(key):
        return _decoded(key, version, doc, keys, data)


def _decoded(key: str, version: bytes, doc: bytes, keys: bytes | None, data: Mapping[bytes, bytes]) -> State:
    if is_agent_key(key):
        return replace(AGENT.decode(doc), version=int(version))
    order: list[str] = orjson.loads(keys) if keys else []
    values = {name: tuple(orjson.loads(data[name.encode()])) for name in order}
    return replace(_call(doc), version=int(version), user_data=UserData(values))


@lru_cache(maxsize=_REMEMBERED)
def _call(doc: bytes) -> Call:
    """Decode a call, cached: calls are read often, while their documents (parties, states) change seldom."""
    return CALL.decode(doc)


def encode_done(done: Done) -> bytes:
    """Encode an outcome as JSON: code, version, text."""
    return orjson.dumps([int(done.code), done.version, done.text])


def decode_done(raw: bytes) -> Done:
    """Decode an outcome."""
    code, version, text = orjson.loads(raw)
    return Done(StatusCode(code), version, text)


def encode_block(block: CallBlock) -> bytes:
    """Encode a block as JSON."""
    return orjson.dumps(block)


def decode_block(raw: bytes) -> CallBlock:
    """Decode a block; an unreadable one still blocks, with the reason `unknown`."""
    try:
        fields = orjson.loads(raw)
        block = CallBlock(OperationId(fields["operation_id"]), fields["reason"], fields["at_ms"])
    except (ValueError, TypeError, KeyError):
        block = None
    return block if block and isinstance(block.operation_id, str) else CallBlock(OperationId(""), "unknown", 0)


def block_arguments(blocks: CallBlocks) -> Iterator[Argument]:
    """Yield blocks as arguments of the commit script."""
    for key, block in blocks.items():
        yield key
        yield "" if block is None else encode_block(block)


def commit_arguments(change: Change, lifetimes: Lifetimes) -> Iterator[Argument]:
    """Yield one change as arguments of the commit script."""
    before, after = change.before, change.after
    yield _NO_STATE if before is None else before.version
    if after is before or after is None:
        yield from (_AS_IT_WAS, lifetimes.of(after), *_NO_CALL, _AS_IT_WAS, _AS_IT_WAS, 0, 0)
    else:
        yield from (after.version, lifetimes.of(after))
        yield from (change.key, int(not after.released)) if isinstance(after, Call) else _NO_CALL
        yield from _state_arguments(before, after)
    yield len(change.done)
    for operation_id, done in change.done:
        yield operation_id
        yield encode_done(done)


def _state_arguments(before: State | None, after: State) -> Iterator[Argument]:
    if isinstance(after, Agent):
        yield from (AGENT.encode(after), _AS_IT_WAS, 0, 0)
        return
    was = before if isinstance(before, Call) else None
    # Most operations change only the user data, so the document need not be written again.
    same = was is not None and replace(was, user_data=after.user_data, version=after.version) == after
    yield _AS_IT_WAS if same else CALL.encode(replace(after, user_data=UserData(), version=0))
    yield from _data_arguments(was.user_data.values if was is not None else {}, after.user_data.values)


def _data_arguments(
    before: Mapping[str, tuple[object, ...]], after: Mapping[str, tuple[object, ...]]
) -> Iterator[Argument]:
    """Yield the differences. Values are compared by identity, as 1, 1.0 and True are equal but encoded differently."""
    yield _AS_IT_WAS if list(before) == list(after) else orjson.dumps(list(after))
    if before and not after:
        yield from (-1, 0)
        return
    dropped = [key for key in before if key not in after]
    changed = [(key, values) for key, values in after.items() if before.get(key) is not values]
    yield len(dropped)
    yield from dropped
    yield len(changed)
    for key, values in changed:
        yield key
        yield orjson.dumps(values)


def decode_dones(key: str, ids: Sequence[OperationId], raw: Sequence[bytes | None]) -> dict[OperationId, Done]:
    """Return the outcomes of those operations that are done. Raises StateUnreadable."""
    with _readable(key):
        return {each: decode_done(found) for each, found in zip(ids, raw, strict=True) if found is not None}


@contextmanager
def _readable(key: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError) as error:
        # Only the message of WireError is known to contain no user data.
        reason = str(error) if isinstance(error, WireError) else type(error).__name__
        raise StateUnreadable(f"the record of {key} is not of a form that this version reads: {reason}") from None
