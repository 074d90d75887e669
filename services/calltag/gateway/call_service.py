"""Calls and devices as one user may see them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from calltag.core.domain.agent import AgentDevice
from calltag.core.domain.call import Call, Leg
from calltag.core.domain.ids import CallId, DeviceId, UserId
from calltag.core.domain.resource_view import (
    BlockingOperation,
    CallResource,
    DeviceResource,
    ShownCall,
    call_resource,
    device_resource,
)
from calltag.core.identity.directory import Device, Directory, User
from calltag.core.store.ports import CallReader, PendingCall, TooMuch
from calltag.gateway.errors import InvalidState, NoPermission, NotFound, OutOfRange
from calltag.gateway.metrics import GatewayLimit, GatewayMetrics
from calltag.gateway.resources import (
    TooLong,
    UserResource,
    agent_device,
    bounded_collection,
    channel_resource,
    feature_resource,
    names,
    user_resource,
)


def now_ms() -> int:
    """Return the Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class CallBounds:
    """Maximum live calls of a user, beyond which Dial is refused, and maximum bytes of a list of calls."""

    max_live_calls: int = 1_000
    max_calls_bytes: int = 8_388_608


@dataclass(frozen=True, slots=True)
class CallService:
    """Calls and devices as one user may see them. Raises ApiError, StoreUnavailable."""

    reader: CallReader
    metrics: GatewayMetrics
    directory: Directory
    base_url: str
    bounds: CallBounds = CallBounds()
    clock_ms: Callable[[], int] = now_ms

    def begin_call(self, call_id: CallId) -> PendingCall:
        """Begin to read the call of an operation, while its caller is authenticated."""
        return self.reader.begin_call(call_id)

    async def call(self, user: User, call_id: CallId) -> ShownCall:
        """Return a call as the user sees it, or as a party that the user oversees sees it.

        On a blocked call, `ext.calltag.parked` names the parked operation. Raises NotFound, NoPermission.
        """
        call, block = await asyncio.gather(self.reader.call(call_id), self.reader.block(call_id))
        if call is None:
            raise NotFound(f"there is no call {call_id}")
        overseen = (party for party in call.users() if self._oversees(user, party, call))
        viewer = user.id if call.is_open_to(user.id) or user.is_administrator else next(overseen, None)
        if viewer is None:
            raise self.not_yours(call)
        shown = cast("ShownCall", self._view(call, viewer))
        if block is not None:
            parked: BlockingOperation = {"operationId": block.operation_id, "reason": block.reason, "at": block.at_ms}
            shown["ext"] = {"calltag": {"parked": parked}}
        return shown

    def _oversees(self, user: User, party: UserId, call: Call) -> bool:
        return call.is_open_to(party) and self.directory.oversees(user.id, party)

    async def call_if_visible(self, user: User, call_id: CallId) -> Mapping[str, object]:
        """Return the field `call` of a response; no field if it does not exist or is not visible to the user."""
        try:
            return {"call": await self.call(user, call_id)}
        except (NotFound, NoPermission):
            return {}

    def shown(self, call: Call | None, user: User) -> Mapping[str, object]:
        """Return the field `call` of a response, if there is a call."""
        return {} if call is None else {"call": self._view(call, user.id)}

    def not_yours(self, call: Call) -> NoPermission:
        """Return the refusal of a call of others."""
        return NoPermission(f"call {call.id} is not a call of yours")

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
            raise self._too_long() from None

    def _too_long(self) -> OutOfRange:
        self.metrics.limited(GatewayLimit.CALLS_BYTES)
        return OutOfRange(
            f"your calls take more than {self.bounds.max_calls_bytes} bytes (CALLTAG_GATEWAY__MAX_CALLS_BYTES): ask "
            "for fewer fields, without userData, or for no fields and then for each call by its uri"
        )

    async def user(self, user: User, subresources: Sequence[str] | None) -> UserResource:
        """Return the user; the subresources named (`*`: all) are whole resources inside."""
        resource = user_resource(user, self.base_url)
        wanted = names(subresources or ())
        is_all = "*" in wanted
        if is_all or not wanted.isdisjoint({"devices", "channels", "channelStates"}):
            agent = await self.reader.agent(user.id)
            if is_all or "devices" in wanted:
                devices = (agent_device(each, agent) for each in user.devices)
                resource["devices"] = [self.device_view(each, user.id) for each in devices]
            if is_all or not wanted.isdisjoint({"channels", "channelStates"}):
                resource["channels"] = resource["channelStates"] = [channel_resource(agent, self.base_url)]
        if is_all or "features" in wanted:
            resource["features"] = [feature_resource(each, self.base_url) for each in sorted(user.features)]
        if is_all or "calls" in wanted:
            resource["calls"] = await self.calls_of(user)
        if is_all or "settings" in wanted:
            resource["settings"] = {}
        return resource

    async def calls_of(self, user: User) -> list[CallResource]:
        """Return the user's calls with their user data, oldest first. Raises OutOfRange if they are too long."""
        try:
            calls = await self.reader.calls_of(user.id, max_bytes=self.bounds.max_calls_bytes)
        except TooMuch:
            raise self._too_long() from None
        return [self._view(each, user.id) for each in calls]

    def device_view(self, device: AgentDevice, user: UserId) -> DeviceResource:
        """Return a device as its user sees it."""
        return device_resource(device, self.base_url, monitors=self.directory.is_monitor(user))

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

    async def check_live_calls(self, parties: Sequence[UserId | None]) -> None:
        """Raise InvalidState if a party has the maximum of live calls; the first one is the caller."""
        most = self.bounds.max_live_calls
        crowded = await asyncio.gather(*(self._is_crowded(party) for party in parties))
        if not any(crowded):
            return
        self.metrics.limited(GatewayLimit.LIVE_CALLS)
        who = f"user {parties[0]}" if crowded[0] else "the destination"
        raise InvalidState(
            f"{who} has {most} live calls or more (CALLTAG_GATEWAY__MAX_LIVE_CALLS): no other begins before some end"
        )

    async def _is_crowded(self, user: UserId | None) -> bool:
        return user is not None and await self.reader.is_on(user, self.bounds.max_live_calls)

    def _view(self, call: Call, viewer: UserId) -> CallResource:
        return call_resource(call, _leg(call, viewer), self.clock_ms(), self.base_url)


def _leg(call: Call, user: UserId) -> Leg:
    """Return the user's own leg; for an administrator, that of the first device."""
    return call.leg_of(user) or next((leg for leg in call.legs if leg.device is not None), call.legs[0])
