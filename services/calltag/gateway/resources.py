"""Resources and responses in JSON."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict

from calltag.core.domain.agent import Agent, UserState
from calltag.core.identity.directory import Device, User


def answer(body: Mapping[str, object], http_status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response that no cache stores."""
    return Response(
        orjson.dumps(body),
        http_status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json;charset=UTF-8",
    )


Resource = Mapping[str, object]
_CAPABILITIES: Final = {
    UserState.LOGGED_OUT: ("StartContactCenterSession",),
    UserState.NOT_READY: ("EndContactCenterSession", "Dial"),
}


class UserResource(TypedDict):
    """A user of the contact centre."""

    id: str
    userName: str
    firstName: str
    lastName: str
    roles: list[str]
    features: list[str]
    """Names of the features that the user has, such as `api-voice`."""
    devices: list[str]
    """Ids of the user's devices."""
    uri: str
    path: str


class UserStateResource(TypedDict):
    """State of the user on a device."""

    state: Literal["LoggedOut", "NotReady"]


class DeviceResource(TypedDict):
    """A device of a user."""

    id: str
    deviceState: Literal["Active"]
    userState: UserStateResource
    phoneNumber: str
    e164Number: str
    """Empty: calltag does not convert numbers."""
    capabilities: list[str]
    """Names of the operations that the state of the user allows."""
    uri: str
    path: str


def user_resource(user: User, base_url: str) -> UserResource:
    """Return the user as `GET /api/v2/me` shows it."""
    return {
        "id": user.id,
        "userName": user.id,
        "firstName": user.first_name,
        "lastName": user.last_name,
        "roles": sorted(role.value for role in user.roles),
        "features": sorted(user.features),
        "devices": [device.id for device in user.devices],
        "uri": f"{base_url}/api/v2/users/{user.id}",
        "path": f"/users/{user.id}",
    }


def device_resource(device: Device, state: UserState, base_url: str) -> DeviceResource:
    """Return a device as its user sees it."""
    return {
        "id": device.id,
        "deviceState": "Active",
        "userState": {"state": state.value},
        "phoneNumber": device.number,
        "e164Number": "",
        "capabilities": list(_CAPABILITIES[state]),
        "uri": f"{base_url}/api/v2/devices/{device.id}",
        "path": f"/devices/{device.id}",
    }


def device_state(device: Device, agent: Agent | None) -> UserState:
    """Return the agent's state on a device; logged out if no session was ever started."""
    known = agent.devices if agent is not None else ()
    return next((each.state for each in known if each.id == device.id), UserState.LOGGED_OUT)


def collection(resources: Sequence[Resource], name: str, fields: Sequence[str] | None) -> dict[str, object]:
    """Return a collection: whole resources (`fields=*`), some of their properties (`fields=a,b`), or `uris`."""
    if fields is None:
        return {"statusCode": 0, "uris": [resource["uri"] for resource in resources]}
    return {"statusCode": 0, name: [selected(resource, fields) for resource in resources]}


class TooLong(Exception):
    """A collection exceeds the maximum bytes of a response."""


def bounded_collection(
    resources: Iterable[Resource], name: str, fields: Sequence[str] | None, most_bytes: int
) -> dict[str, object]:
    """Return a collection of resources made one by one. Raises TooLong as soon as they exceed `most_bytes`."""
    encoded, taken = [], 0
    for resource in resources:
        encoded.append(orjson.dumps(resource["uri"] if fields is None else selected(resource, fields)))
        taken += len(encoded[-1]) + 1
        if taken > most_bytes:
            raise TooLong
    return {"statusCode": 0, "uris" if fields is None else name: [orjson.Fragment(each) for each in encoded]}


def names(fields: Sequence[str]) -> frozenset[str]:
    """Return the properties that the parameters `fields` name together."""
    return frozenset(name.strip() for each in fields for name in each.split(","))


def selected(resource: Resource, fields: Sequence[str] | None) -> Resource:
    """Return the properties that the parameters `fields` name together; unknown ones are ignored."""
    if fields is None:
        return resource
    wanted = names(fields)
    return resource if "*" in wanted else {name: value for name, value in resource.items() if name in wanted}
