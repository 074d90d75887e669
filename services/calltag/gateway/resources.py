"""Resources and responses in JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, NotRequired

import orjson
from starlette.responses import Response
from typing_extensions import TypedDict

from calltag.core.domain.agent import OFFLINE, Agent, AgentDevice, AgentState, UserState
from calltag.core.domain.resource_view import (
    VOICE_ENVIRONMENT,
    CallResource,
    DeviceResource,
    UserStateResource,
    user_state_resource,
)
from calltag.core.identity.directory import MONITORING_FEATURE, VOICE_FEATURE, Device, User


def answer(body: Mapping[str, object], http_status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response that no cache stores."""
    return Response(
        orjson.dumps(body),
        http_status,
        {"Cache-Control": "no-store", **(headers or {})},
        media_type="application/json;charset=UTF-8",
    )


Resource = Mapping[str, object]


class UserResource(TypedDict):
    """A user of the contact centre. The members from `calls` on are present if the request has `subresources`."""

    id: str
    userName: str
    firstName: str
    lastName: str
    roles: list[str]
    features: list[str] | list["FeatureResource"]
    """Names of the features that the user has, such as `api-voice`; whole resources as a subresource."""
    devices: list[str] | list[DeviceResource]
    """Ids of the user's devices; whole resources as a subresource."""
    uri: str
    path: str
    calls: NotRequired[list[CallResource]]
    channels: NotRequired[list["ChannelResource"]]
    channelStates: NotRequired[list["ChannelResource"]]
    """The same as `channels`."""
    settings: NotRequired[dict[str, object]]
    """Empty: calltag keeps no settings of desktops."""


class FeatureResource(TypedDict):
    """A feature that a user may have."""

    id: str
    displayName: str
    description: str
    autoAssignOnContactCenterCreate: bool
    uri: str
    path: str


class ChannelResource(TypedDict):
    """A channel on which the user works, and the user's state there."""

    channel: Literal["voice"]
    userState: UserStateResource
    uri: str
    path: str


class AgentStateResource(TypedDict):
    """A state that an agent can choose."""

    id: str
    operationName: str
    """Name of the operation that sets it."""
    displayName: str
    state: Literal["Ready", "NotReady", "Logout"]
    workMode: NotRequired[Literal["AfterCallWork", "AuxWork"]]
    reason: NotRequired[str]


class ServiceResource(TypedDict):
    """A service of the installation."""

    id: str
    name: str
    type: Literal["Provisioning", "Voice"]
    state: Literal["Active", "Inactive"]
    uri: str
    path: str


class PhoneNumberResource(TypedDict):
    """A number of a contact."""

    phoneNumber: str
    description: str
    switchName: str


class ContactResource(TypedDict):
    """A user in the directory of the contact centre."""

    id: str
    name: str
    type: Literal["User"]
    userName: str
    firstName: str
    lastName: str
    employeeId: str
    phoneNumbers: list[PhoneNumberResource]
    uri: str
    path: str


class VoiceEnvironmentResource(TypedDict):
    """The telephony environment of the devices."""

    id: str
    name: str
    uri: str
    path: str


FEATURES: Final = {
    VOICE_FEATURE: ("Voice API", "Operations on calls and devices."),
    MONITORING_FEATURE: ("Supervisor Monitoring API", "Monitoring of the calls of one's agents."),
}
"""Name and description of each feature that calltag knows."""


def user_resource(user: User, base_url: str) -> UserResource:
    """Return the user as `GET /api/v2/me` shows it."""
    return {
        "id": user.id,
        "userName": user.id,
        "firstName": user.first_name,
        "lastName": user.last_name,
        "roles": sorted(role.value for role in user.roles),
        "features": sorted(user.features),
        "devices": [str(device.id) for device in user.devices],
        "uri": f"{base_url}/api/v2/users/{user.id}",
        "path": f"/users/{user.id}",
    }


def feature_resource(feature: str, base_url: str) -> FeatureResource:
    """Return a feature."""
    name, description = FEATURES.get(feature, (feature, ""))
    return {
        "id": feature,
        "displayName": name,
        "description": description,
        "autoAssignOnContactCenterCreate": False,
        **_address("features", feature, base_url),
    }


def channel_resource(agent: Agent | None, base_url: str) -> ChannelResource:
    """Return the voice channel: its state is that of the first device in the contact-centre session."""
    active = [each for each in agent.devices if each.active] if agent is not None else []
    state = active[0].state if active else OFFLINE
    return {
        "channel": "voice",
        "userState": user_state_resource(state),
        "uri": f"{base_url}/api/v2/me/channels/voice",
        "path": "/me/channels/voice",
    }


def agent_state_resource(state: AgentState) -> AgentStateResource:
    """Return a state that an agent can choose."""
    resource: AgentStateResource = {
        "id": state.id,
        "operationName": state.name,
        "displayName": state.display_name,
        "state": _SETTINGS_STATE[state.state],
    }
    if state.work_mode is not None:
        resource["workMode"] = state.work_mode.value
    if state.reason is not None:
        resource["reason"] = state.reason
    return resource


_SETTINGS_STATE: Final[Mapping[UserState, Literal["Ready", "NotReady", "Logout"]]] = {
    UserState.READY: "Ready",
    UserState.NOT_READY: "NotReady",
    UserState.LOGGED_OUT: "Logout",
}
"""Names of states in the list of settings; that of `LoggedOut` differs there."""


def service_resource(name: Literal["Provisioning", "Voice"], base_url: str, *, is_active: bool) -> ServiceResource:
    """Return a service."""
    return {
        "id": name.lower(),
        "name": name,
        "type": name,
        "state": "Active" if is_active else "Inactive",
        **_address("services", name.lower(), base_url),
    }


def contact_resource(user: User, base_url: str) -> ContactResource:
    """Return a user in the directory of the contact centre."""
    return {
        "id": user.id,
        "name": f"{user.first_name} {user.last_name}".strip() or user.id,
        "type": "User",
        "userName": user.id,
        "firstName": user.first_name,
        "lastName": user.last_name,
        "employeeId": user.id,
        "phoneNumbers": [
            {"phoneNumber": device.number, "description": "Office", "switchName": ""} for device in user.devices
        ],
        **_address("contacts", user.id, base_url),
    }


def voice_environment_resource(base_url: str) -> VoiceEnvironmentResource:
    """Return the voice environment."""
    return {
        "id": VOICE_ENVIRONMENT,
        "name": "calltag",
        **_address("voice-environments", VOICE_ENVIRONMENT, base_url),
    }


class _Address(TypedDict):
    uri: str
    path: str


def _address(collection: str, name: str, base_url: str) -> _Address:
    return {"uri": f"{base_url}/api/v2/{collection}/{name}", "path": f"/{collection}/{name}"}


def agent_device(device: Device, agent: Agent | None) -> AgentDevice:
    """Return a device of the directory, in its state in the contact-centre session."""
    known = agent.device(device.id) if agent is not None else None
    return AgentDevice(device.id, device.number) if known is None else replace(known, number=device.number)


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
