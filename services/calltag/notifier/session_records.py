"""Conversion between stored sessions and residents."""

from calltag.core.bayeux.extensions import CONNECTS_ONLY, REPLAYS
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import QueueMemory, Session, SessionPhase
from calltag.core.store.client_ids import is_bearer
from calltag.core.store.sessions import Cursor, SessionRecord, SessionState
from calltag.notifier.channel_policy import watched_on_all
from calltag.notifier.session_registry import NEVER, Resident

_LATE_SAVE_MS = 1_000


def resident_of(record: SessionRecord, memory: QueueMemory, *, is_streaming: bool) -> Resident:
    """Return the resident for the record of a claimed session; `is_streaming` if its connect came by WebSocket."""
    cursor = record.cursor
    session = Session(
        record.client_id, record.user, record.cycle, cursor.confirmed, cursor.sent,
        # Events pushed to a WebSocket since its last connect may be in flight.
        position=cursor.sent, answered=cursor.confirmed if is_streaming else cursor.sent,
        acknowledges=record.acknowledges, state=SessionPhase.CLAIMING, batch=cursor.batch, batches=list(cursor.batches),
        memory=memory, services_active=record.services_active, has_connected=record.has_connected,
        highest=cursor.sent, wishes_connects_only=_wish(record),
    )  # fmt: skip
    session.take_over(record.subscriptions, record.backfills, record.changes)
    resident = Resident(
        session, record.login, is_bearer=is_bearer(record.client_id), was_hurried=record.was_hurried,
        last_connection=NEVER,
    )  # fmt: skip
    note_options(resident, record)
    return resident


def resubscribe(resident: Resident, record: SessionRecord) -> None:
    """Take the subscriptions from the record, if they changed."""
    if record.changes > resident.session.changes:
        note_options(resident, record)
        resident.session.resubscribe(record.subscriptions, record.backfills, record.changes)


def note_options(resident: Resident, record: SessionRecord) -> None:
    """Apply the options of handshake and subscriptions."""
    resident.watches = bool(watched_on_all(record.subscriptions))
    if record.options.get(REPLAYS) == "1":
        resident.session.number_messages()


def _wish(record: SessionRecord) -> bool | None:
    wished = record.options.get(CONNECTS_ONLY)
    return None if wished is None else wished == "1"


def state_of(
    resident: Resident, limits: BayeuxLimits, now_ms: int, *, is_exact: bool = False, verify: bool = False
) -> SessionState:
    """Return the state to save; `is_exact` if the session is saved before its next answer, or released."""
    session = resident.session
    is_lost = resident.is_answer_lost and not session.acknowledges
    resident.saves += 1
    lives_ms = max(resident.due_ms - now_ms, 0)
    if resident.suspended is not None:
        lives_ms += resident.interval_ms + limits.max_interval_ms
    return SessionState(
        session.client_id,
        session.cycle,
        resident.saves,
        Cursor(
            session.confirmed, session.confirmed if is_lost else session.sent, session.batch, tuple(session.batches)
        ),
        lifetime_ms=lives_ms + _LATE_SAVE_MS,
        login=resident.login,
        changes=session.changes,
        backfills={name: each._replace(sent=each.confirmed) for name, each in session.replays.progress.items()}
        if is_lost
        else session.replays.progress,
        filled=tuple(session.replays.finished),
        has_connected=session.has_connected,
        was_hurried=resident.was_hurried,
        services_active=session.services_notified,
        is_exact=is_exact,
        delivered_ago_ms=None if resident.delivered_at_ms is None else now_ms - resident.delivered_at_ms,
        alone_ms=alone_ms(limits, resident.interval_ms),
        verify=verify,
    )


def alone_ms(limits: BayeuxLimits, before_ms: int) -> int | None:
    """Return the time for which other messages may keep a session alive; its next connect is due in `before_ms`."""
    most = limits.max_server_interval_ms
    return None if most is None else before_ms + most
