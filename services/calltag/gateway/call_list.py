"""The list of calls that a user may see, page by page: one's own, those of one's agents, or all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

import orjson

from calltag.core.domain.call import Call, Leg, LegState
from calltag.core.domain.ids import CallId, DeviceId, UserId
from calltag.core.domain.resource_view import call_resource
from calltag.core.identity.directory import Role, User
from calltag.gateway.call_service import CallService
from calltag.gateway.errors import NoPermission, NotFound, OutOfRange
from calltag.gateway.requests import whole_number
from calltag.gateway.resources import names, selected

_USERS_AT_ONCE: Final = 200
_LARGEST_AGE_S: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class CallFilter:
    """The calls that a request asks for; ages are in seconds."""

    user: UserId | None = None
    device: DeviceId | None = None
    state: LegState | None = None
    min_age_s: int = 0
    max_age_s: int = _LARGEST_AGE_S

    @classmethod
    def of(
        cls, user: str | None, device: str | None, state: str | None, min_age: str | None, max_age: str | None
    ) -> "CallFilter":
        """Parse the parameters of a request. Raises OutOfRange."""
        if state is not None and state not in tuple(LegState):
            raise OutOfRange(f"state is not known; known are {', '.join(LegState)}")
        return cls(
            None if user is None else UserId(user),
            None if device is None else DeviceId(device),
            None if state is None else LegState(state),
            whole_number("minAge", min_age, 0, least=0, most=_LARGEST_AGE_S),
            whole_number("maxAge", max_age, _LARGEST_AGE_S, least=0, most=_LARGEST_AGE_S),
        )

    def parameters(self) -> Mapping[str, str]:
        """Return the parameters of a request."""
        given = {
            "user": self.user,
            "device": self.device,
            "state": self.state,
            "minAge": str(self.min_age_s) if self.min_age_s else None,
            "maxAge": str(self.max_age_s) if self.max_age_s != _LARGEST_AGE_S else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def admits(self, call: Call, leg: Leg, now_ms: int) -> bool:
        """Return whether the call, seen from the leg, is asked for."""
        age_s = max(0, now_ms - call.began_at_ms) // 1000
        return (
            (self.device is None or leg.device == self.device)
            and (self.state is None or leg.state is self.state)
            and self.min_age_s <= age_s <= self.max_age_s
        )


@dataclass(frozen=True, slots=True)
class CallList:
    """Lists calls. Each is listed once, as the first of its users sees it whose calls the caller may see.

    Pages go by user and call id, so that a call that lasts is on exactly one of them. Raises ApiError,
    StoreUnavailable.
    """

    service: CallService

    async def page(
        self, caller: User, wanted: CallFilter, fields: Sequence[str] | None, after: str | None, count: int
    ) -> Mapping[str, object]:
        """Return the response with the next `count` calls after a place, or fewer if they are large."""
        asked, user, call = self._asked(wanted, self._seen_by(caller)), *_place(after)
        all_asked = frozenset(asked)
        encoded, taken, last = list[orjson.Fragment](), 0, after
        with_user_data = fields is not None and not names(fields).isdisjoint({"*", "userData"})
        for begin in range(0, len(asked), _USERS_AT_ONCE):
            some = [each for each in asked[begin : begin + _USERS_AT_ONCE] if each >= user]
            for each in await self.service.reader.with_calls(some):
                calls = await self.service.reader.calls_of(each, with_user_data=with_user_data)
                for one in sorted(calls, key=lambda call: call.id):
                    if (each, one.id) <= (user, call) or _first(one, all_asked) != each:
                        continue
                    resource = self._resource(one, each, wanted)
                    if resource is None:
                        continue
                    raw = orjson.dumps(resource["uri"] if fields is None else selected(resource, fields))
                    if encoded and (len(encoded) == count or taken + len(raw) > self.service.bounds.max_calls_bytes):
                        return self._answer(encoded, fields, self._next(wanted, fields, str(last), count))
                    encoded.append(orjson.Fragment(raw))
                    taken, last = taken + len(raw) + 1, f"{each}:{one.id}"
        return self._answer(encoded, fields, None)

    def _seen_by(self, caller: User) -> frozenset[UserId]:
        """Return the users whose calls the caller may see."""
        directory = self.service.directory
        if caller.is_administrator:
            return frozenset(directory.users)
        overseen = directory.overseen_by(caller.id) if Role.SUPERVISOR in caller.roles else frozenset()
        return overseen | {caller.id}

    def _asked(self, wanted: CallFilter, seen: frozenset[UserId]) -> Sequence[UserId]:
        """Return the users whose calls are asked for, in the order of the pages. Raises NotFound, NoPermission."""
        asked = seen if wanted.user is None else frozenset({wanted.user})
        if wanted.user is not None and wanted.user not in self.service.directory.users:
            raise NotFound(f"there is no user {wanted.user}")
        if wanted.device is not None:
            owner = self.service.directory.by_device.get(wanted.device)
            if owner is None:
                raise NotFound(f"there is no device {wanted.device}")
            asked = asked & {owner.user.id} if wanted.user is not None else frozenset({owner.user.id})
        if not asked <= seen:
            raise NoPermission(f"user {next(iter(asked))} is not a user that you oversee")
        return sorted(asked)

    def _resource(self, call: Call, user: UserId, wanted: CallFilter) -> Mapping[str, object] | None:
        now_ms = self.service.clock_ms()
        leg = next((each for each in call.legs_of(user) if wanted.admits(call, each, now_ms)), None)
        return None if leg is None else call_resource(call, leg, now_ms, self.service.base_url)

    def _next(self, wanted: CallFilter, fields: Sequence[str] | None, after: str, count: int) -> str:
        parameters = {**wanted.parameters(), "limit": str(count), "after": after}
        if fields is not None:
            parameters["fields"] = ",".join(fields)
        return f"{self.service.base_url}/api/v2/calls?{urlencode(parameters)}"

    def _answer(
        self, encoded: Sequence[orjson.Fragment], fields: Sequence[str] | None, following: str | None
    ) -> Mapping[str, object]:
        more = {} if following is None else {"nextUri": following}
        return {"statusCode": 0, "uris" if fields is None else "calls": encoded, **more}


def _first(call: Call, users: frozenset[UserId]) -> UserId:
    """Return the first of these users who is on the call."""
    return min(user for user in users.intersection(call.users()) if call.is_open_to(user))


def _place(after: str | None) -> tuple[UserId, CallId]:
    """Return the user and the call after which the page begins. Raises OutOfRange."""
    user, colon, call = (after or ":").partition(":")
    if not colon:
        raise OutOfRange("after has to be taken from nextUri")
    return UserId(user), CallId(call)
