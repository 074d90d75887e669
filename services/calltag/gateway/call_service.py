"""Calls, devices and agents for one user: rejects requests that can never become valid, and submits the rest.

The worker judges state that queued operations may still change: capabilities, keys, the amount of user data.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import uuid4

from calltag.core.broker.ports import NodeId
from calltag.core.domain.call import Call, Leg
from calltag.core.domain.ids import CallId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import (
    AgentOperation,
    CallOperation,
    ClientAction,
    Dial,
    EndContactCenterSession,
    StartContactCenterSession,
)
from calltag.core.domain.resource_view import call_resource
from calltag.core.identity.directory import VOICE_FEATURE, Device, Directory, User
from calltag.core.store.ports import CallReader, PendingCall, TooMuch
from calltag.gateway.errors import FeatureMissing, InvalidState, NoPermission, NotFound, OutOfRange
from calltag.gateway.metrics import GatewayLimit
from calltag.gateway.operation_publisher import OperationPublisher
from calltag.gateway.operations import new_call_id, new_conn_id
from calltag.gateway.resources import Resource, TooLong, bounded_collection, names
from calltag.gateway.switch_events import SwitchEvent, check_outcomes


def now_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class SubmitOptions:
    """Options of a submission: the operation id, and the time to wait for the outcome.

    `begin` is called after all checks, before the operation is published. `repeated`: it was published before, and may
    have taken effect.
    """

    operation_id: OperationId
    wait_s: int | None = None
    repeated: bool = False
    begin: Callable[[], Awaitable[None]] = _nothing


@dataclass(frozen=True, slots=True)
class CallBounds:
    """Maximum live calls of a user, beyond which Dial is refused, and maximum bytes of a list of calls."""

    max_live_calls: int = 1_000
    max_calls_bytes: int = 8_388_608


def new_operation_id() -> OperationId:
    """Return an id for an operation without an idempotency key."""
    return OperationId(uuid4().hex)


@dataclass(frozen=True, slots=True)
class CallService:
    """Calls, devices and agents as one user may see and change them. Raises ApiError, StoreUnavailable."""

    reader: CallReader
    publisher: OperationPublisher
    directory: Directory
    base_url: str
    bounds: CallBounds = CallBounds()
    clock_ms: Callable[[], int] = now_ms

    def begin_call(self, call_id: CallId) -> PendingCall:
        """Begin to read the call of an operation, while its caller is authenticated."""
        return self.reader.begin_call(call_id)

    async def operate(
        self,
        user: User,
        call_id: CallId,
        action: ClientAction,
        options: SubmitOptions,
        pending_call: PendingCall | None = None,
    ) -> Resource | None:
        """Submit an operation on a call; return the call after it, if the client waits for the outcome.

        `pending_call` is a read that was begun before. The worker judges changes of the call since that read.
        """
        _require_voice(user)
        pending_call = self.begin_call(call_id) if pending_call is None else pending_call
        if options.repeated:
            _check_repeated(user, await pending_call)
        else:
            _check(user, call_id, await pending_call)
        return await self._submit(
            CallOperation(
                id=options.operation_id,
                call_id=call_id,
                action=action,
                accepted_at_ms=self.clock_ms(),
                sender=user.id,
                as_administrator=user.is_administrator,
            ),
            user,
            options,
        )

    async def dial(self, user: User, action: Dial, options: SubmitOptions) -> Resource | None:
        """Submit a Dial; return the new call, if the client waits for the outcome."""
        _require_voice(user)
        if not options.repeated:
            await self._check_room(action)
        operation = CallOperation(
            id=options.operation_id,
            call_id=new_call_id(options.operation_id),
            action=replace(action, conn_id=new_conn_id(options.operation_id)),
            accepted_at_ms=self.clock_ms(),
            sender=user.id,
        )
        return await self._submit(operation, user, options)

    async def change_session(
        self, user: User, action: StartContactCenterSession | EndContactCenterSession, options: SubmitOptions
    ) -> None:
        """Submit the start or the end of a contact-centre session."""
        _require_voice(user)
        operation = AgentOperation(options.operation_id, user.id, action, self.clock_ms())
        await options.begin()
        if options.wait_s is None:
            await self.publisher.publish([operation])
        else:
            await self.publisher.outcome(operation, options.wait_s)

    async def submit_events(self, events: Sequence[SwitchEvent], options: SubmitOptions) -> None:
        """Submit events of the switch, each under its own id; if the client waits, return when all took effect."""
        accepted_at_ms = self.clock_ms()
        operations = [
            CallOperation(event.operation_id, event.call_id, event.action, accepted_at_ms) for event in events
        ]
        await options.begin()
        if options.wait_s is None:
            await self.publisher.publish(operations)
        else:
            check_outcomes(events, await self.publisher.outcomes(operations, options.wait_s))

    async def call(self, user: User, call_id: CallId) -> Resource:
        """Return a call as the user sees it, or as a party that the user oversees sees it.

        On a blocked call, `ext.calltag.parked` names the parked operation. Raises NotFound, NoPermission.
        """
        call, block = await asyncio.gather(self._existing(call_id), self.reader.block(call_id))
        overseen = (party for party in call.users() if self._oversees(user, party, call))
        viewer = user.id if call.is_open_to(user.id) or user.is_administrator else next(overseen, None)
        if viewer is None:
            raise _not_yours(call)
        pending_call = self._view(call, viewer)
        if block is None:
            return pending_call
        parked = {"operationId": block.operation_id, "reason": block.reason, "at": block.at_ms}
        return {**pending_call, "ext": {"calltag": {"parked": parked}}}

    def _oversees(self, user: User, party: UserId, call: Call) -> bool:
        return call.is_open_to(party) and self.directory.oversees(user.id, party)

    async def call_if_visible(self, user: User, call_id: CallId) -> Resource | None:
        """Return the call as `call` does; None if it does not exist or is not visible to the user."""
        try:
            return await self.call(user, call_id)
        except (NotFound, NoPermission):
            return None

    async def calls(self, user: User, fields: Sequence[str] | None) -> Mapping[str, object]:
        """Return the response with the user's calls, oldest first; `fields` as in `collection`.

        User data is read only if it is requested. Raises OutOfRange if the response would be too long.
        """
        most = self.bounds.max_calls_bytes
        with_user_data = fields is not None and not names(fields).isdisjoint({"*", "userData"})
        try:
            calls = await self.reader.calls_of(user.id, with_user_data=with_user_data, max_bytes=most)
            return bounded_collection((self._view(each, user.id) for each in calls), "calls", fields, most)
        except (TooMuch, TooLong):
            self.publisher.metrics.limited(GatewayLimit.CALLS_BYTES)
            raise OutOfRange(
                f"your calls take more than {most} bytes (CALLTAG_GATEWAY__MAX_CALLS_BYTES): ask for fewer fields, "
                "without userData, or for no fields and then for each call by its uri"
            ) from None

    def device(self, user: User, device_id: DeviceId) -> Device:
        """Return a device of the user; for an administrator, any device. Raises NotFound, NoPermission."""
        own = user.device(device_id)
        if own is not None:
            return own
        owner = self.directory.by_device.get(device_id)
        if owner is None:
            raise NotFound(f"there is no device {device_id}")
        if not user.is_administrator:
            raise NoPermission(f"device {device_id} is not a device of yours")
        return owner.device

    async def _check_room(self, action: Dial) -> None:
        """Raise InvalidState if a user on one of the legs has the maximum of live calls."""
        most = self.bounds.max_live_calls
        parties = [leg.user for leg in action.legs]
        crowded = await asyncio.gather(*(self._is_crowded(party) for party in parties))
        if not any(crowded):
            return
        self.publisher.metrics.limited(GatewayLimit.LIVE_CALLS)
        who = f"user {parties[0]}" if crowded[0] else "the destination"
        raise InvalidState(
            f"{who} has {most} live calls or more (CALLTAG_GATEWAY__MAX_LIVE_CALLS): no other begins before some end"
        )

    async def _is_crowded(self, user: UserId | None) -> bool:
        return user is not None and await self.reader.is_on(user, self.bounds.max_live_calls)

    async def _existing(self, call_id: CallId) -> Call:
        return _found(call_id, await self.reader.call(call_id))

    async def _submit(self, operation: CallOperation, user: User, options: SubmitOptions) -> Resource | None:
        await options.begin()
        if options.wait_s is None:
            await self.publisher.publish([operation])
            return None
        outcome = await self.publisher.outcome(operation, options.wait_s)
        return self._view(outcome.call, user.id) if outcome.call is not None else None

    def _view(self, call: Call, viewer: UserId) -> Resource:
        return call_resource(call, _leg(call, viewer), self.clock_ms(), self.base_url)


def _found(call_id: CallId, call: Call | None) -> Call:
    if call is None:
        raise NotFound(f"there is no call {call_id}")
    return call


def _check(user: User, call_id: CallId, pending_call: Call | None) -> None:
    call = _found(call_id, pending_call)
    if not call.is_open_to(user.id) and not user.is_administrator:
        raise _not_yours(call)
    if call.released:
        raise InvalidState(f"call {call.id} is already released")


def _check_repeated(user: User, call: Call | None) -> None:
    """Accept possible effects of the first attempt: the user left, the call was released or is no longer stored.

    The worker recognises the operation by its id; otherwise it judges it.
    """
    if call is not None and user.id not in call.users() and not user.is_administrator:
        raise _not_yours(call)


def _not_yours(call: Call) -> NoPermission:
    return NoPermission(f"call {call.id} is not a call of yours")


def _leg(call: Call, user: UserId) -> Leg:
    """Return the user's own leg; for an administrator, that of the first device."""
    return call.leg_of(user) or next((leg for leg in call.legs if leg.device is not None), call.legs[0])


def _require_voice(user: User) -> None:
    if VOICE_FEATURE not in user.features:
        raise FeatureMissing(f"this requires the feature {VOICE_FEATURE}, which user {user.id} does not have")


def gateway_node() -> NodeId:
    """Return a name for this gateway's inbox, new with every start."""
    return NodeId(f"gateway-{uuid4().hex}")
