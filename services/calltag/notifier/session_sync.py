"""Sync between the sessions at home here and Redis: write-behind, and changes of subscriptions."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from calltag.core.bayeux.events import Position
from calltag.core.bayeux.extensions import CONNECTS_ONLY, REPLAYS
from calltag.core.bayeux.messages import BayeuxLimits
from calltag.core.bayeux.session import QueueMemory, Session, SessionPhase
from calltag.core.broker.ports import NodeId
from calltag.core.contracts.operations import NoticeKind, SessionNotice
from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import is_bearer
from calltag.core.store.ports import StoreUnavailable
from calltag.core.store.sessions import Changed, Cursor, Saved, SessionRecord, SessionState, SessionStore
from calltag.core.telemetry.conditions import Condition
from calltag.notifier.channel_policy import watched_on_all
from calltag.notifier.event_dispatcher import EventDispatcher
from calltag.notifier.node_presence import Background, NodeLease
from calltag.notifier.session_endings import SessionEndings
from calltag.notifier.session_registry import NEVER, Resident, SessionRegistry

_LATE_SAVE_MS = 1_000
_NOT_SAVED: Final = Condition("sessions_not_saved", over="sessions_saved_again", level="warning")


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
    number = resident.next_save()
    lives_ms = max(resident.due_ms - now_ms, 0)
    if resident.suspended is not None:
        lives_ms += resident.interval_ms + limits.max_interval_ms
    return SessionState(
        session.client_id,
        session.cycle,
        number,
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


@dataclass(slots=True)
class SessionSync:
    """Saves changed sessions, verifies that this is still their home, and reloads changed subscriptions.

    Changed sessions are saved together every `save_interval_s`. A saved session is verified: Redis has confirmed its
    home in the present period of the lease.
    """

    node: NodeId
    limits: BayeuxLimits
    store: SessionStore
    registry: SessionRegistry
    dispatcher: EventDispatcher
    endings: SessionEndings
    lease: NodeLease
    background: Background
    save_interval_s: float = 0.25
    _verified_period: int = 0

    async def save_marked(self) -> None:
        """Save changed sessions, and verify that this is still their home. Raises StoreUnavailable."""
        residents = self.registry.take_marked()
        if not residents:
            return
        try:
            await self.save(residents)
        except StoreUnavailable as error:
            _NOT_SAVED.fails(error)
            self.background.failed()
            for resident in residents:
                self.registry.mark(resident)
        else:
            _NOT_SAVED.holds()

    async def save(self, residents: Sequence[Resident], *, is_exact: bool | None = None) -> bool:
        """Save sessions; release those that have ended or have another home. Return whether all are still here.

        A session whose cycle this node has raised meanwhile, by another save or by a claim, is saved again.
        """
        period = self.lease.period
        states = [self.state(each, is_exact=each.is_roaming if is_exact is None else is_exact) for each in residents]
        all_here, again = True, list[Resident]()
        for resident, state, saved in zip(residents, states, await self.store.save(states), strict=True):
            session = resident.session
            if not isinstance(saved, Saved):
                if session.state is SessionPhase.CLAIMING:
                    # The claim finds out.
                    self.registry.mark(resident)
                elif saved is not None:
                    # The notice of its end may be in flight.
                    self.endings.end(session.client_id, saved)
                elif session.cycle == state.cycle:
                    self.endings.release(resident)
                elif self.registry.has(resident):
                    again.append(resident)
                    continue
                all_here = False
            elif session.cycle == state.cycle:
                was_verified = self.lease.covers(resident.verified(period))
                session.verified(saved.cycle)
                self.note_saved(resident, state, saved)
                if not was_verified and self.registry.has(resident):
                    self.dispatcher.due(resident)
        return (not again or await self.save(again, is_exact=is_exact)) and all_here

    def note_saved(self, resident: Resident, state: SessionState, saved: Saved) -> None:
        session = resident.session
        if saved.changes == state.changes == session.changes:
            session.replays.note_saved(state.filled)
        if saved.changes > session.changes:
            self.background.begin(self.reload(session.client_id))
        feed = self.registry.feeds.get(session.user)
        if feed is not None and saved.head > feed.head:
            self.dispatcher.look_at(UserId(session.user))

    async def give_up(self, resident: Resident, *, has_moved: bool) -> None:
        """Release a session that another node claims, and save it unless it `has_moved` already."""
        if not self.registry.has(resident):
            return
        state = self.state(resident, is_exact=True)
        self.endings.release(resident)
        if has_moved:
            return
        try:
            await self.store.save([state])
        except StoreUnavailable as error:
            _NOT_SAVED.fails(error)
            self.background.failed()

    def state(self, resident: Resident, *, is_exact: bool) -> SessionState:
        verify = resident.verified_in != self.lease.period or not self.lease.is_valid
        return state_of(resident, self.limits, self.registry.clock_ms(), is_exact=is_exact, verify=verify)

    async def keep_saving(self) -> None:
        """Save changed sessions periodically, and all sessions after a lapse of the lease."""
        while True:
            await asyncio.sleep(self.save_interval_s)
            self.mark_unverified()
            await self.save_marked()

    def mark_unverified(self) -> None:
        """Mark all sessions to be saved, and so verified, after a lapse of the lease."""
        if self.lease.is_valid and self._verified_period != self.lease.period:
            self._verified_period = self.lease.period
            for resident in self.registry.residents.values():
                self.registry.mark(resident)

    async def changed(
        self,
        client_id: str,
        changed: Changed,
        *,
        removed: Iterable[str] = (),
        past: Mapping[str, Position] | None = None,
        replays: bool = False,
    ) -> None:
        """Apply a change of subscriptions at the session's home, here or by notice."""
        if changed.home != self.node:
            notice = SessionNotice(kind=NoticeKind.CHANGED, client_id=client_id)
            self.endings.notify(changed.home, notice)
            return
        resident = self.registry.residents.get(client_id)
        if resident is None or resident.session.changes >= changed.changes:
            return
        session = resident.session
        if session.changes + 1 < changed.changes:
            await self.reload(client_id)
            return
        subscriptions = {**session.subscriptions, **changed.subscriptions}
        for channel in removed:
            subscriptions.pop(channel, None)
        if replays:
            session.number_messages()
        wishes = {
            channel: since
            for channel, since in changed.subscriptions.items()
            if channel in (past or ()) or channel not in session.subscriptions
        }
        session.subscribe(subscriptions, wishes, changed.changes)
        resident.watches = bool(watched_on_all(subscriptions))
        await self._catch_up(resident)

    async def reload(self, client_id: str) -> None:
        """Reload the subscriptions of a session at home here. Raises StoreUnavailable."""
        resident = self.registry.residents.get(client_id)
        if resident is None:
            return
        record = await self.store.load(client_id)
        if record is None or record.cycle != resident.session.cycle or not self.registry.has(resident):
            self.registry.mark(resident)
            return
        resubscribe(resident, record)
        await self._catch_up(resident)

    async def _catch_up(self, resident: Resident) -> None:
        if resident.session.needs_reading:
            await self.dispatcher.catch_up(resident)
        if self.registry.has(resident):
            self.dispatcher.due(resident)
