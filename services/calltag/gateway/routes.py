"""Routes for users (me, devices, calls) and for the switch.

Source of paths, parameters and responses: Web Services API v2, Voice. The `{id}` of a call or device is a string.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.ids import CallId, DeviceId
from calltag.core.domain.operations import SetCallDisposition, StartMonitoring
from calltag.core.domain.resource_view import CALL_EXAMPLE
from calltag.core.identity.authentication import COOKIE
from calltag.core.identity.directory import Role
from calltag.gateway import documentation
from calltag.gateway.authentication import ApiAuthentication
from calltag.gateway.call_service import CallService
from calltag.gateway.commands import CallCommand, DialCommand, MonitorCommand, SessionCommand, SwitchCommand
from calltag.gateway.errors import ParameterMissing
from calltag.gateway.operation_pipeline import OperationPipeline
from calltag.gateway.operations import (
    CALL_OPERATIONS,
    CHANNEL_OPERATIONS,
    DEVICE_OPERATIONS,
    DIAL_OPERATIONS,
    SESSION_OPERATIONS,
    Operations,
    Parser,
    named_call,
    unserved_channels,
)
from calltag.gateway.requests import Body, UserDataLimits
from calltag.gateway.resources import agent_device, answer, channel_resource, collection, selected
from calltag.gateway.switch_events import SwitchLimits, ignored_members, switch_events

Fields = Annotated[
    list[str] | None,
    Query(
        description="`*` for whole resources, or names of properties, separated by commas.",
        json_schema_extra={"type": "array", "items": {"type": "string"}, "anyOf": None, "title": None},
    ),
]
Subresources = Annotated[
    list[str] | None,
    Query(
        description="Subresources to return as whole objects inside the user, separated by commas: `devices`, "
        "`features`, `calls`, `channels`, `settings`, or `*` for all. Unknown ones are ignored.",
        json_schema_extra={"type": "array", "items": {"type": "string"}, "anyOf": None, "title": None},
    ),
]


@dataclass(frozen=True, slots=True)
class Api:
    """The dependencies of the routes."""

    authentication: ApiAuthentication
    service: CallService
    operations: OperationPipeline
    limits: UserDataLimits


def _parser(request: Request, operations: Operations[Parser], body: Body) -> Parser:
    """Return the parser of the operation that the body names, and note members that it ignores. Raises ApiError."""
    request.state.ignored = operations.ignored(body)
    return operations.parser_of(body)


def user_routes(api: Api) -> APIRouter:
    """Return the routes under `/api/v2`."""
    router = APIRouter(prefix="/api/v2")
    _add_me(router, api)
    _add_devices(router, api)
    _add_calls(router, api)
    return router


def _add_me(router: APIRouter, api: Api) -> None:
    service = api.service

    @router.get(
        "/me",
        tags=["me"],
        operation_id="getMe",
        summary="The user of the session",
        responses=documentation.answers(documentation.UserAnswer),
    )
    async def me(request: Request, fields: Fields = None, subresources: Subresources = None) -> Response:
        user = await api.authentication.user(request)
        return answer({"statusCode": 0, "user": selected(await service.user(user, subresources), fields)})

    @router.post(
        "/me",
        tags=["me"],
        operation_id="operateMe",
        summary="Start or end a contact-centre session, or set the state of the agent",
        responses=documentation.operation_answers(documentation.SessionAnswer),
        openapi_extra=documentation.ME,
    )
    async def operate_me(request: Request) -> Response:
        received = await api.operations.receive(request)
        given = received.body.as_object()
        action = _parser(request, SESSION_OPERATIONS, given)(given, received.user, service.directory)
        command = SessionCommand(service, received.user, action, unserved_channels(given))
        return await api.operations.perform(received, command)

    @router.get(
        "/me/channels",
        tags=["me"],
        operation_id="getChannels",
        summary="The channels on which the user works",
        responses=documentation.answers(documentation.ChannelsAnswer, 500),
    )
    async def channels(request: Request, fields: Fields = None) -> Response:
        user = await api.authentication.user(request)
        resource = channel_resource(await service.reader.agent(user.id), service.base_url)
        return answer(collection([resource], "channels", fields))

    @router.get(
        "/me/channels/voice",
        tags=["me"],
        operation_id="getVoiceChannel",
        summary="The state of the agent",
        responses=documentation.answers(documentation.ChannelAnswer, 500),
    )
    async def channel(request: Request) -> Response:
        user = await api.authentication.user(request)
        resource = channel_resource(await service.reader.agent(user.id), service.base_url)
        return answer({"statusCode": 0, "channel": resource})

    @router.post(
        "/me/channels/voice",
        tags=["me"],
        operation_id="operateVoiceChannel",
        summary="Set the state of the agent",
        responses=documentation.operation_answers(documentation.AcceptedAnswer),
        openapi_extra=documentation.CHANNEL,
    )
    async def operate_channel(request: Request) -> Response:
        received = await api.operations.receive(request)
        given = received.body.as_object()
        action = _parser(request, CHANNEL_OPERATIONS, given)(given, received.user, service.directory)
        return await api.operations.perform(received, SessionCommand(service, received.user, action))


def _add_devices(router: APIRouter, api: Api) -> None:
    service = api.service

    @router.get(
        "/me/devices",
        tags=["devices"],
        operation_id="getDevices",
        summary="The user's devices",
        responses=documentation.answers(documentation.DevicesAnswer),
    )
    async def devices(request: Request, fields: Fields = None) -> Response:
        user = await api.authentication.user(request)
        agent = await service.reader.agent(user.id)
        resources = [service.device_view(agent_device(each, agent), user.id) for each in user.devices]
        return answer(collection(resources, "devices", fields))

    @router.get(
        "/me/devices/{device_id}",
        tags=["devices"],
        operation_id="getDevice",
        summary="One device",
        responses=documentation.answers(documentation.DeviceAnswer, 403, 404),
    )
    @router.get(
        "/devices/{device_id}",
        tags=["devices"],
        operation_id="getDeviceByUri",
        summary="One device, by its deviceUri",
        responses=documentation.answers(documentation.DeviceAnswer, 403, 404),
    )
    async def device(request: Request, device_id: str, fields: Fields = None) -> Response:
        user = await api.authentication.user(request)
        found = service.device(user, DeviceId(device_id))
        owner = service.directory.by_device[found.id].user
        resource = service.device_view(agent_device(found, await service.reader.agent(owner.id)), owner.id)
        return answer({"statusCode": 0, "device": selected(resource, fields)})

    @router.post(
        "/me/devices/{device_id}",
        tags=["devices"],
        operation_id="operateDevice",
        summary="An operation on a device",
        responses=documentation.operation_answers(documentation.AcceptedAnswer, 404),
        openapi_extra=documentation.DEVICE,
    )
    @router.post("/devices/{device_id}", tags=["devices"], include_in_schema=False)
    async def operate_device(request: Request, device_id: str) -> Response:
        received = await api.operations.receive(request)
        given = received.body.as_object()
        device = service.device(received.user, DeviceId(device_id))
        action = _parser(request, DEVICE_OPERATIONS, given)(given, device.id, service.directory, api.limits)
        if isinstance(action, SetCallDisposition):
            call = named_call(given, "callUri") or named_call(given, "callUuid")
            if call is None:
                raise ParameterMissing("callUri is missing")
            return await api.operations.perform(received, CallCommand(service, received.user, call, action))
        owner = service.directory.by_device[device.id].user
        if isinstance(action, StartMonitoring):
            return await api.operations.perform(received, MonitorCommand(service, owner, action))
        return await api.operations.perform(received, SessionCommand(service, owner, action))

    @router.post(
        "/me/devices/{device_id}/calls",
        tags=["devices"],
        operation_id="dial",
        summary="Dial",
        responses=documentation.operation_answers(documentation.OperationAnswer, 404),
        openapi_extra=documentation.DEVICE_CALLS,
    )
    @router.post(
        "/devices/{device_id}/calls", tags=["devices"], summary="Dial, by the deviceUri", include_in_schema=False
    )
    async def dial_call(request: Request, device_id: str) -> Response:
        received = await api.operations.receive(request)
        given = received.body.as_object()
        parse = _parser(request, DIAL_OPERATIONS, given)
        action = parse(given, service.device(received.user, DeviceId(device_id)), service.directory, api.limits)
        return await api.operations.perform(received, DialCommand(service, received.user, action))


def _add_calls(router: APIRouter, api: Api) -> None:
    service = api.service

    @router.get(
        "/me/calls",
        tags=["calls"],
        operation_id="getCalls",
        summary="The user's calls",
        responses=documentation.answers(documentation.CallsAnswer, 400),
    )
    async def calls(request: Request, fields: Fields = None) -> Response:
        user = await api.authentication.user(request)
        return answer(await service.calls(user, fields))

    @router.get(
        "/me/calls/{call_id}",
        tags=["calls"],
        operation_id="getCall",
        summary="One call",
        responses=documentation.answers(
            documentation.CallAnswer, 403, 404, example={"statusCode": 0, "call": CALL_EXAMPLE}
        ),
    )
    async def call(request: Request, call_id: str, fields: Fields = None) -> Response:
        user = await api.authentication.user(request)
        return answer({"statusCode": 0, "call": selected(await service.call(user, CallId(call_id)), fields)})

    router.post(
        "/me/calls/{call_id}",
        tags=["calls"],
        operation_id="operateCall",
        summary="An operation on a call",
        responses=documentation.operation_answers(documentation.OperationAnswer, 404),
        openapi_extra=documentation.CALL,
    )(operate_call(api))


def operate_call(api: Api) -> Callable[[Request, str], Awaitable[Response]]:
    """Return the endpoint of operations on a call."""
    service = api.service

    async def operate_call(request: Request, call_id: str) -> Response:
        structlog.contextvars.bind_contextvars(call_id=call_id[:64])
        # One round trip reads both the session of the cookie and the call.
        pending_call = service.begin_call(CallId(call_id)) if COOKIE in request.cookies else None
        try:
            received = await api.operations.receive(request)
            given = received.body.as_object()
            action = _parser(request, CALL_OPERATIONS, given)(given, api.limits, service.directory)
            command = CallCommand(service, received.user, CallId(call_id), action, pending_call)
            return await api.operations.perform(received, command)
        finally:
            if pending_call is not None:
                pending_call.drop()

    return operate_call


def switch_routes(api: Api, limits: SwitchLimits) -> APIRouter:
    """Return `POST /api/v2/switch/events`, for users with the role `switch`."""
    router = APIRouter(tags=["switch"])

    @router.post(
        documentation.SWITCH_PATH,
        operation_id="sendSwitchEvents",
        summary="Events of the switch, one or a list",
        responses=documentation.operation_answers(documentation.AcceptedAnswer, 207, 404),
        openapi_extra=documentation.SWITCH,
    )
    async def events(request: Request) -> Response:
        received = await api.operations.receive(request, role=Role.SWITCH)
        request.state.ignored = ignored_members(received.body.json)
        command = SwitchCommand(api.service, switch_events(received.body.json, api.service.directory, limits))
        return await api.operations.perform(received, command, names_operation=False)

    return router
