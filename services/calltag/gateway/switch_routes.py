"""The route for the telephony switch."""

from collections.abc import Mapping

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.identity.directory import Role, User
from calltag.gateway import documentation
from calltag.gateway.call_service import SubmitOptions
from calltag.gateway.errors import FeatureMissing
from calltag.gateway.operation_pipeline import ParsedRequest
from calltag.gateway.requests import ReadBody
from calltag.gateway.routes import Api
from calltag.gateway.switch_events import switch_events


def switch_routes(api: Api, *, max_events: int) -> APIRouter:
    """Return `POST /api/v2/switch/events`, for users with the role `switch`."""
    router = APIRouter(prefix="/api/v2/switch", tags=["switch"], responses=documentation.REFUSALS)

    @router.post("/events", summary="Events of the switch, one or a list", openapi_extra=documentation.SWITCH)
    async def events(request: Request) -> Response:
        def parse(user: User, body: ReadBody) -> ParsedRequest:
            if Role.SWITCH not in user.roles:
                raise FeatureMissing(f"this requires the role switch, which user {user.id} does not have")
            events = switch_events(body.json, api.service.directory, api.limits, max_events=max_events)

            async def submit(options: SubmitOptions) -> Mapping[str, object]:
                await api.service.submit_events(events, options)
                return {}

            return ParsedRequest(submit, names_operation=False)

        return await api.operations.perform(request, await api.identify(request), parse)

    return router
