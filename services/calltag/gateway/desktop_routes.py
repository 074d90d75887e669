"""Routes that agent desktops read when they start, users, lists of calls, and the end of a login.

Source: recorded traffic of the desktop of Web Services, and clients' code. calltag has nothing to say about groups,
settings of desktops, workbins and other channels: these collections are empty, which desktops accept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from calltag.core.domain.ids import CallId, DeviceId, UserId
from calltag.core.domain.resource_view import VOICE_ENVIRONMENT
from calltag.core.identity.directory import User
from calltag.gateway import documentation
from calltag.gateway.call_list import CallFilter, CallList
from calltag.gateway.errors import NoPermission, NotFound
from calltag.gateway.logout import Logout
from calltag.gateway.requests import whole_number
from calltag.gateway.resources import (
    FEATURES,
    Resource,
    agent_state_resource,
    answer,
    collection,
    contact_resource,
    feature_resource,
    selected,
    service_resource,
    user_resource,
    voice_environment_resource,
)
from calltag.gateway.routes import Api, Fields

_EMPTY: Final[Mapping[str, str]] = {
    "/groups": "groups",
    "/me/groups": "groups",
    "/me/interactions": "interactions",
    "/me/chats": "chats",
    "/me/emails": "emails",
    "/me/workitems": "workitems",
    "/me/workbins": "workbins",
    "/workbins": "workbins",
    "/me/skills": "skills",
}
"""Collections that are always empty, by path."""
_COUNT: Final = 100
_MOST: Final = 200


class CallQuery(BaseModel):
    """Parameters of the list of calls. Texts, so that a wrong one is refused like any other parameter."""

    fields: Fields = None
    user: str | None = Field(None, description="Only calls of this user.")
    device: str | None = Field(None, description="Only calls of the device with this id.")
    state: str | None = Field(None, description="Only calls in this state.")
    min_age: str | None = Field(None, alias="minAge", description="Least seconds since the call began.")
    max_age: str | None = Field(None, alias="maxAge", description="Most seconds since the call began.")
    limit: str | None = Field(None, description=f"Calls on a page: {_COUNT}, at most {_MOST}.")
    after: str | None = Field(None, description="Where the page begins, as in `nextUri`.")


@dataclass(frozen=True, slots=True)
class Desktop:
    """The dependencies of these routes, beside those of the API."""

    api: Api
    calls: CallList
    logout: Logout

    def services(self) -> list[Resource]:
        """Return the services; Voice is active while operations are accepted."""
        base_url, is_active = self.api.service.base_url, self.api.operations.publisher.broker.connected()
        return [
            service_resource("Provisioning", base_url, is_active=True),
            service_resource("Voice", base_url, is_active=is_active),
        ]

    def overseen(self, user: User, other: str) -> User:
        """Return another user whom this one may see. Raises NotFound, NoPermission."""
        directory = self.api.service.directory
        found = directory.users.get(UserId(other))
        if found is None:
            raise NotFound(f"there is no user {other}")
        if found.id != user.id and not directory.oversees(user.id, found.id):
            raise NoPermission(f"user {other} is not a user that you oversee")
        return found


def desktop_routes(desktop: Desktop) -> APIRouter:
    """Return the routes under `/api/v2`."""
    router = APIRouter(prefix="/api/v2")
    _add_users(router, desktop)
    _add_calls(router, desktop)
    _add_installation(router, desktop)
    _add_empty(router, desktop)
    return router


def _add_users(router: APIRouter, desktop: Desktop) -> None:
    api, service = desktop.api, desktop.api.service

    @router.get(
        "/users/{user_id}",
        tags=["users"],
        operation_id="getUser",
        summary="A user: oneself, or one that the user oversees",
        responses=documentation.answers(documentation.UserAnswer, 403, 404),
    )
    async def user(request: Request, user_id: str, fields: Fields = None) -> Response:
        found = desktop.overseen(await api.authentication.user(request), user_id)
        return answer({"statusCode": 0, "user": selected(user_resource(found, service.base_url), fields)})

    @router.get(
        "/users/{user_id}/calls",
        tags=["users"],
        operation_id="getCallsOfUser",
        summary="The calls of a user, as that user sees them",
        responses=documentation.answers(documentation.CallsAnswer, 400, 403, 404, 500),
    )
    async def calls_of_user(request: Request, user_id: str, fields: Fields = None) -> Response:
        found = desktop.overseen(await api.authentication.user(request), user_id)
        return answer(await service.calls(found, fields))

    @router.get(
        "/contacts",
        tags=["users"],
        operation_id="getContacts",
        summary="The users of the contact centre, with their numbers",
        responses=documentation.answers(documentation.ContactsAnswer),
    )
    async def contacts(request: Request, fields: Fields = None) -> Response:
        await api.authentication.user(request)
        resources = [contact_resource(each, service.base_url) for each in service.directory.users.values()]
        return answer(collection(resources, "contacts", fields))

    @router.get(
        "/contacts/{user_id}",
        tags=["users"],
        operation_id="getContact",
        summary="A user of the contact centre, with the numbers",
        responses=documentation.answers(documentation.ContactAnswer, 404),
    )
    async def contact(request: Request, user_id: str, fields: Fields = None) -> Response:
        await api.authentication.user(request)
        found = service.directory.users.get(UserId(user_id))
        if found is None:
            raise NotFound(f"there is no contact {user_id}")
        return answer({"statusCode": 0, "contact": selected(contact_resource(found, service.base_url), fields)})

    @router.post(
        "/logout",
        tags=["me"],
        operation_id="logOut",
        summary="End the login: its cookie, and its CometD sessions",
        responses=documentation.answers(documentation.AcceptedAnswer, 403),
    )
    async def log_out(request: Request) -> Response:
        known = await api.authentication.identify(request)
        request.state.set_cookie = await desktop.logout.log_out(known)
        return answer({"statusCode": 0})


def _add_calls(router: APIRouter, desktop: Desktop) -> None:
    api = desktop.api

    @router.get(
        "/calls",
        tags=["calls"],
        operation_id="listCalls",
        summary="The calls that the user may see, page by page",
        description="One's own; for supervisors also those of their agents, for administrators those of all users.",
        responses=documentation.answers(documentation.CallListAnswer, 400, 403, 404, 500),
    )
    async def list_calls(request: Request, query: Annotated[CallQuery, Query()]) -> Response:
        caller = await api.authentication.user(request)
        wanted = CallFilter.of(query.user, query.device, query.state, query.min_age, query.max_age)
        count = whole_number("limit", query.limit, _COUNT, least=1, most=_MOST)
        return answer(await desktop.calls.page(caller, wanted, query.fields, query.after, count))

    @router.get("/calls/{call_id}", include_in_schema=False)
    async def call(request: Request, call_id: str, fields: Fields = None) -> Response:
        caller = await api.authentication.user(request)
        return answer({"statusCode": 0, "call": selected(await api.service.call(caller, CallId(call_id)), fields)})


def _add_installation(router: APIRouter, desktop: Desktop) -> None:
    api, service = desktop.api, desktop.api.service

    @router.get(
        "/services",
        tags=["installation"],
        operation_id="getServices",
        summary="The services, and whether they are active",
        responses=documentation.answers(documentation.ServicesAnswer),
    )
    async def services(request: Request, fields: Fields = None) -> Response:
        await api.authentication.user(request)
        return answer(collection(desktop.services(), "services", fields))

    @router.get(
        "/services/{name}",
        tags=["installation"],
        operation_id="getService",
        summary="A service",
        responses=documentation.answers(documentation.ServiceAnswer, 404),
    )
    async def show_service(request: Request, name: str) -> Response:
        await api.authentication.user(request)
        return answer({"statusCode": 0, "service": _named(desktop.services(), name, "service")})

    @router.get(
        "/settings/agent-states",
        tags=["installation"],
        operation_id="getAgentStates",
        summary="The states that agents can choose",
        responses=documentation.answers(documentation.AgentStatesAnswer),
    )
    async def agent_states(request: Request) -> Response:
        await api.authentication.user(request)
        return answer(
            {
                "statusCode": 0,
                "settings": [agent_state_resource(each) for each in service.directory.agent_states.values()],
                "key": "id",
            }
        )

    @router.get(
        "/features/{name}",
        tags=["installation"],
        operation_id="getFeature",
        summary="A feature",
        responses=documentation.answers(documentation.FeatureAnswer, 404),
    )
    async def feature(request: Request, name: str) -> Response:
        await api.authentication.user(request)
        resources = [feature_resource(each, service.base_url) for each in FEATURES]
        return answer({"statusCode": 0, "feature": _named(resources, name, "feature")})

    @router.get(
        f"/voice-environments/{VOICE_ENVIRONMENT}",
        tags=["installation"],
        operation_id="getVoiceEnvironment",
        summary="The telephony environment of the devices",
        responses=documentation.answers(documentation.VoiceEnvironmentAnswer),
    )
    async def voice_environment(request: Request) -> Response:
        await api.authentication.user(request)
        return answer({"statusCode": 0, "voiceEnvironment": voice_environment_resource(service.base_url)})


def _named(resources: Sequence[Resource], name: str, kind: str) -> Resource:
    found = next((each for each in resources if each["id"] == name), None)
    if found is None:
        raise NotFound(f"there is no {kind} {name}")
    return found


def _add_empty(router: APIRouter, desktop: Desktop) -> None:
    api = desktop.api

    def add(path: str, name: str) -> None:
        @router.get(path, include_in_schema=False)
        async def empty(request: Request, fields: Fields = None) -> Response:
            await api.authentication.user(request)
            return answer(collection([], name, fields))

    for path, name in _EMPTY.items():
        add(path, name)

    @router.get("/me/settings", include_in_schema=False)
    async def settings(request: Request) -> Response:
        await api.authentication.user(request)
        return answer({"statusCode": 0, "settings": {}})

    @router.get("/me/devices/{device_id}/settings/{kind}", include_in_schema=False)
    async def device_settings(request: Request, device_id: str, kind: str) -> Response:  # noqa: ARG001 - the address'
        api.service.device(await api.authentication.user(request), DeviceId(device_id))
        return answer({"statusCode": 0, "settings": [], "key": "name"})


def internal_routes(api: Api) -> APIRouter:
    """Return the routes under `/internal-api`, which only the desktop of Web Services uses; it documents none."""
    router = APIRouter(prefix="/internal-api", include_in_schema=False)

    @router.get("/me/settings")
    async def settings(request: Request) -> Response:
        await api.authentication.user(request)
        return answer({"statusCode": 0, "settings": {}})

    @router.get("/contact-center")
    async def contact_center(request: Request) -> Response:
        await api.authentication.user(request)
        return answer({"statusCode": 0, "contactCenter": {"businessAttributes": []}})

    @router.post("/operations")
    async def operations(request: Request) -> Response:
        await api.operations.receive(request)
        return answer({"statusCode": 0})

    return router
