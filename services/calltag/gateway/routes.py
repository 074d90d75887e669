"""Routes for users: me, devices, calls.

Source of paths, parameters and responses: Web Services API v2, Voice. The `{id}` of a call or device is a string.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.ids import CallId, DeviceId, OperationId
from calltag.core.domain.operations import EndContactCenterSession, StartContactCenterSession
from calltag.core.identity.authentication import COOKIE
from calltag.core.identity.directory import User
from calltag.gateway import documentation
from calltag.gateway.call_service import CallService, SubmitOptions
from calltag.gateway.errors import OutOfRange
from calltag.gateway.operation_pipeline import OperationPipeline, ParsedRequest
from calltag.gateway.operations import call_action, dial, new_call_id, operation_name
from calltag.gateway.requests import ReadBody, UserDataLimits, required_list
from calltag.gateway.resources import (
    Resource,
    answer,
    collection,
    device_resource,
    device_state,
    selected,
    user_resource,
)

Identify = Callable[[Request], Awaitable[User]]
Fields = Annotated[
    list[str] | None, Query(description="`*` for whole resources, or names of properties, separated by commas.")
]


@dataclass(frozen=True, slots=True)
class Api:
    """The dependencies of the routes. `identify` raises NotAuthenticated."""

    identify: Identify
    service: CallService
    operations: OperationPipeline
    limits: UserDataLimits


def user_routes(api: Api) -> APIRouter:
    """Return the routes under `/api/v2`."""
    router = APIRouter(prefix="/api/v2", responses=documentation.REFUSALS)
    _add_me(router, api)
    _add_devices(router, api)
    _add_calls(router, api)
    return router


def _add_me(router: APIRouter, api: Api) -> None:
    service = api.service

    @router.get("/me", tags=["me"], summary="The user of the session")
    async def me(request: Request, fields: Fields = None) -> Response:
        user = await api.identify(request)
        return answer({"statusCode": 0, "user": selected(user_resource(user, service.base_url), fields)})

    @router.post("/me", tags=["me"], summary="Start or end a contact-centre session", openapi_extra=documentation.ME)
    async def operate_me(request: Request) -> Response:
        def parse(user: User, body: ReadBody) -> ParsedRequest:
            action = _session_action(user, body)

            async def submit(options: SubmitOptions) -> Mapping[str, object]:
                await service.change_session(user, action, options)
                return {}

            return ParsedRequest(submit)

        return await api.operations.perform(request, await api.identify(request), parse)


def _session_action(user: User, body: ReadBody) -> StartContactCenterSession | EndContactCenterSession:
    given = body.as_object()
    devices = tuple((device.id, device.number) for device in user.devices)
    if operation_name(given, ("StartContactCenterSession", "EndContactCenterSession")) == "EndContactCenterSession":
        return EndContactCenterSession(devices)
    channels = required_list(given, "channels", max_items=8)
    if channels != ["voice"]:
        raise OutOfRange('channels must be ["voice"]; calltag serves no other')
    return StartContactCenterSession(devices, ("voice",))


def _add_devices(router: APIRouter, api: Api) -> None:
    service = api.service

    @router.get("/me/devices", tags=["devices"], summary="The user's devices")
    async def devices(request: Request, fields: Fields = None) -> Response:
        user = await api.identify(request)
        agent = await service.reader.agent(user.id)
        resources = [device_resource(device, device_state(device, agent), service.base_url) for device in user.devices]
        return answer(collection(resources, "devices", fields))

    @router.get("/me/devices/{device_id}", tags=["devices"], summary="One device")
    @router.get("/devices/{device_id}", tags=["devices"], summary="One device, by its deviceUri")
    async def device(request: Request, device_id: str, fields: Fields = None) -> Response:
        user = await api.identify(request)
        found = service.device(user, DeviceId(device_id))
        owner = service.directory.by_device[found.id].user
        state = device_state(found, await service.reader.agent(owner.id))
        return answer({"statusCode": 0, "device": selected(device_resource(found, state, service.base_url), fields)})

    @router.post(
        "/me/devices/{device_id}/calls", tags=["devices"], summary="Dial", openapi_extra=documentation.DEVICE_CALLS
    )
    @router.post(
        "/devices/{device_id}/calls", tags=["devices"], summary="Dial, by the deviceUri", include_in_schema=False
    )
    async def dial_call(request: Request, device_id: str) -> Response:
        def parse(user: User, body: ReadBody) -> ParsedRequest:
            given = body.as_object()
            operation_name(given, ("Dial",))
            from_device = service.device(user, DeviceId(device_id))
            action = dial(given, from_device, service.directory, api.limits)

            async def submit(options: SubmitOptions) -> Mapping[str, object]:
                return _held(await service.dial(user, action, options))

            async def look(operation_id: OperationId) -> Mapping[str, object]:
                return _held(await service.call_if_visible(user, new_call_id(operation_id)))

            return ParsedRequest(submit, look)

        return await api.operations.perform(request, await api.identify(request), parse)


def _held(call: Resource | None) -> Mapping[str, object]:
    """Return the fields of a response that show a call, if there is one to show."""
    return {} if call is None else {"call": call}


def _add_calls(router: APIRouter, api: Api) -> None:
    service = api.service

    @router.get("/me/calls", tags=["calls"], summary="The user's calls")
    async def calls(request: Request, fields: Fields = None) -> Response:
        user = await api.identify(request)
        return answer(await service.calls(user, fields))

    @router.get("/me/calls/{call_id}", tags=["calls"], summary="One call", responses=documentation.CALL_ANSWER)
    async def call(request: Request, call_id: str, fields: Fields = None) -> Response:
        user = await api.identify(request)
        return answer({"statusCode": 0, "call": selected(await service.call(user, CallId(call_id)), fields)})

    router.post(
        "/me/calls/{call_id}", tags=["calls"], summary="An operation on a call", openapi_extra=documentation.CALL
    )(operate_call(api))


def operate_call(api: Api) -> Callable[[Request, str], Awaitable[Response]]:
    """Return the endpoint of operations on a call."""
    service = api.service

    async def operate_call(request: Request, call_id: str) -> Response:
        structlog.contextvars.bind_contextvars(call_id=call_id[:64])
        # One round trip reads both the session of the cookie and the call.
        pending_call = service.begin_call(CallId(call_id)) if COOKIE in request.cookies else None

        def parse(user: User, body: ReadBody) -> ParsedRequest:
            action = call_action(body.as_object(), api.limits)

            async def submit(options: SubmitOptions) -> Mapping[str, object]:
                return _held(await service.operate(user, CallId(call_id), action, options, pending_call))

            async def look(_: OperationId) -> Mapping[str, object]:
                return _held(await service.call_if_visible(user, CallId(call_id)))

            return ParsedRequest(submit, look)

        try:
            return await api.operations.perform(request, await api.identify(request), parse)
        finally:
            if pending_call is not None:
                pending_call.drop()

    return operate_call
