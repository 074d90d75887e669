"""The OpenAPI document: answers and refusals by route, from the models of resources and the table of operations.

The examples of AttachUserData are those of its page in the Web Services API reference.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Final, Literal, NotRequired

from fastapi import FastAPI
from pydantic import ConfigDict, TypeAdapter
from typing_extensions import TypedDict, get_original_bases, is_typeddict

from calltag.core.domain import resource_view
from calltag.core.domain.resource_view import CallResource, DeviceResource, ShownCall
from calltag.core.identity.authentication import COOKIE
from calltag.core.identity.http_sessions import CSRF_EXPOSED_HEADERS, CSRF_HEADER, CSRF_NAME_HEADER
from calltag.core.telemetry import request_ids
from calltag.gateway import errors, resources
from calltag.gateway.errors import EventError
from calltag.gateway.operations import (
    CALL_OPERATIONS,
    CHANNEL_OPERATIONS,
    DEVICE_OPERATIONS,
    DIAL_OPERATIONS,
    SESSION_OPERATIONS,
    Operations,
)
from calltag.gateway.requests import IGNORED_HEADER
from calltag.gateway.resources import (
    AgentStateResource,
    ChannelResource,
    ContactResource,
    FeatureResource,
    ServiceResource,
    UserResource,
    VoiceEnvironmentResource,
)
from calltag.gateway.switch_events import SWITCH_EVENTS

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

VERSION_PATH: Final = "/api/v2/diagnostics/version"
SWITCH_PATH: Final = "/api/v2/switch/events"
DESCRIPTION: Final = """
Attached data of live calls, by the Web Services v2 API.

Every answer has `statusCode`; if it is not 0, also `statusMessage`, and nothing was changed, except with the HTTP
statuses 202, 207, 500 and 503. An operation is answered with `{"statusCode": 0}` as soon as it is safe with the message
broker; its effect arrives as a message over CometD at `/genesys/cometd`. With `Prefer: wait=N` (seconds, at most 10)
the answer comes after the effect and holds the call. With `Idempotency-Key` a request may be made again: it takes
effect once and gets the same answer, where it waits with the call as it is by then.
"""


class AcceptedAnswer(TypedDict):
    """The request was accepted; with `Prefer: wait`, it took effect."""

    statusCode: Literal[0]


class ChannelOutcome(TypedDict):
    """Outcome for one channel of StartContactCenterSession."""

    statusCode: int
    statusMessage: NotRequired[str]
    channel: str


class SessionAnswer(TypedDict):
    """The request was accepted; with `Prefer: wait`, it took effect. 7: some channels are not served."""

    statusCode: Literal[0, 7]
    failed: NotRequired[list[ChannelOutcome]]
    succeeded: NotRequired[list[ChannelOutcome]]


class ChannelAnswer(AcceptedAnswer):
    """A channel, and the state of the agent there."""

    channel: ChannelResource


class ChannelsAnswer(AcceptedAnswer):
    """The channels if the request has `fields`, else their addresses."""

    channels: NotRequired[list[ChannelResource]]
    uris: NotRequired[list[str]]


class ContactAnswer(AcceptedAnswer):
    """One contact."""

    contact: ContactResource


class ContactsAnswer(AcceptedAnswer):
    """The contacts if the request has `fields`, else their addresses."""

    contacts: NotRequired[list[ContactResource]]
    uris: NotRequired[list[str]]


class ServiceAnswer(AcceptedAnswer):
    """One service."""

    service: ServiceResource


class ServicesAnswer(AcceptedAnswer):
    """The services if the request has `fields`, else their addresses."""

    services: NotRequired[list[ServiceResource]]
    uris: NotRequired[list[str]]


class AgentStatesAnswer(AcceptedAnswer):
    """The states; `key` names the member that identifies one."""

    settings: list[AgentStateResource]
    key: Literal["id"]


class FeatureAnswer(AcceptedAnswer):
    """One feature."""

    feature: FeatureResource


class VoiceEnvironmentAnswer(AcceptedAnswer):
    """The telephony environment."""

    voiceEnvironment: VoiceEnvironmentResource


class VersionAnswer(AcceptedAnswer):
    """The version of the server."""

    version: str


class UserAnswer(AcceptedAnswer):
    """The user of the session."""

    user: UserResource


class DeviceAnswer(AcceptedAnswer):
    """One device."""

    device: DeviceResource


class DevicesAnswer(AcceptedAnswer):
    """The devices if the request has `fields`, else their addresses."""

    devices: NotRequired[list[DeviceResource]]
    uris: NotRequired[list[str]]


class CallAnswer(AcceptedAnswer):
    """One call."""

    call: ShownCall


class CallsAnswer(AcceptedAnswer):
    """The calls if the request has `fields`, else their addresses."""

    calls: NotRequired[list[CallResource]]
    uris: NotRequired[list[str]]


class CallListAnswer(CallsAnswer):
    """A page of calls if the request has `fields`, else of their addresses."""

    nextUri: NotRequired[str]
    """Address of the next page; absent on the last one."""


class OperationAnswer(AcceptedAnswer):
    """The operation was accepted. With `Prefer: wait` it took effect, and `call` is the call after it."""

    call: NotRequired[ShownCall]


class ErrorAnswer(TypedDict):
    """The request was refused, and changed nothing, except with these HTTP statuses.

    202: it was accepted, and its outcome is unknown. 207: some events took effect. 500 and 503: it may take effect.
    """

    statusCode: int
    statusMessage: str
    """The reason, for people."""
    errors: NotRequired[list[EventError]]
    """The refused events of the switch, each with its reason; absent for other requests."""


_SELECTABLE: Final = (
    "UserResource",
    "DeviceResource",
    "CallResource",
    "ShownCall",
    "ChannelResource",
    "ContactResource",
    "ServiceResource",
)
"""Resources whose properties the parameter `fields` selects."""


def describe_by_docstrings(*modules: ModuleType) -> None:
    """Take the docstrings of fields as their descriptions; the domain itself knows no framework."""
    for module in modules:
        for model in vars(module).values():
            if is_typeddict(model):
                add = partial(_add_inherited, [base for base in get_original_bases(model) if is_typeddict(base)])
                model.__pydantic_config__ = ConfigDict(use_attribute_docstrings=True, json_schema_extra=add)


def _add_inherited(bases: Sequence[type], schema: Schema) -> None:
    """Add the descriptions of inherited fields, which pydantic looks for in the class itself only."""
    for base in bases:
        for name, member in TypeAdapter(base).json_schema()["properties"].items():
            if "description" in member:
                schema["properties"][name].setdefault("description", member["description"])


def drop_titles(schemas: Mapping[str, Schema]) -> None:
    """Remove the titles of members: they are made of the names, which say the same."""
    for model in schemas.values():
        for member in model.get("properties", {}).values():
            member.pop("title", None)


describe_by_docstrings(resource_view, resources, errors)


def _header(description: str, example: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}, "example": example}


HEADERS: Final[Mapping[str, Schema]] = {
    request_ids.HEADER: _header("Id of the request, which the log names.", "4f1c0de2b1c94f0f8d2d3c0a5a5e1b77"),
    "Retry-After": _header("Seconds after which to try again.", "1"),
    "WWW-Authenticate": _header("The scheme of authentication.", 'Basic realm="calltag", charset="UTF-8"'),
    "Operation-Id": _header("Id of the operation, if it has one: messages and log name it.", "ik2f0c1e9b6c1f4b7d8a90"),
    "Preference-Applied": _header("Present if the request has Prefer: wait, with the time that counts.", "wait=5"),
    "Idempotent-Replayed": _header("Present if the answer is that of an earlier request with the same key.", "true"),
    IGNORED_HEADER: _header("Parameters of the request that have no effect, percent-encoded.", "location, queue"),
    CSRF_NAME_HEADER: _header("Name of the header with the token; present if CSRF protection is on.", CSRF_HEADER),
    CSRF_HEADER: _header("Token of the session; present if CSRF protection is on.", "q0xN5kJ2vT8c"),
}
"""The headers of answers, which pages of allowed origins may read."""
_OF_CODES: Final = {"401": ("WWW-Authenticate",), "429": ("Retry-After",), "503": ("Retry-After",)}
_OF_OPERATIONS: Final = ("Operation-Id", "Preference-Applied", "Idempotent-Replayed")
_BEFORE_OPERATIONS: Final = ("401", "408", "413", "415", "429")
"""Codes of answers to requests that were not read, or not allowed."""


def _refusal(description: str, code: int, message: str) -> Schema:
    example = {"statusCode": code, "statusMessage": message}
    return {"description": description, "model": ErrorAnswer, "content": {"application/json": {"example": example}}}


_REFUSALS: Final[Responses] = {
    202: _refusal("Accepted, and not carried out within the time to wait (9)", 9, "accepted, but ..."),
    207: _refusal(
        "With Prefer: wait: some events took effect, and some were refused (7)",
        7,
        "1 of 2 events were refused: event 1 (ended-1): 6, there is no call 01RCC3N118B1V0SL8O7GK2LAES00000R",
    ),
    400: _refusal("A parameter is missing (1), invalid (10), or not valid in this state (2)", 1, "userData is missing"),
    401: _refusal("No credentials, or wrong ones (20)", 20, "user name or password is wrong"),
    403: _refusal(
        "A feature or role is missing (3), the resource is another user's (5), or a script has no credentials (20)",
        5,
        "not a call of yours",
    ),
    404: _refusal("The resource does not exist (6)", 6, "there is no call 01RCC3N118B1V0SL8O7GK2LAES00000R"),
    408: _refusal("The body was too slow (10)", 10, "the body did not come within 10 s"),
    409: _refusal("The Idempotency-Key is another request's, or too old (18)", 18, "Idempotency-Key was used for ..."),
    413: _refusal("The body is too large (10)", 10, "the body is larger than 262144 bytes"),
    415: _refusal("The body is not JSON (10)", 10, "the body must be JSON: send Content-Type: application/json"),
    429: _refusal(
        "The user or the address exceeds its rate (4), or had too many wrong passwords (20); retry after Retry-After",
        4,
        "5 operations a second are allowed to one user",
    ),
    500: _refusal("An internal error, an unreadable record, or an operation that is parked (4)", 4, "internal error"),
    503: _refusal(
        "RabbitMQ or Redis is unavailable, or the service is overloaded (4): retry after Retry-After, with the same "
        "Idempotency-Key, because the operation may have been published",
        4,
        "RabbitMQ is unavailable",
    ),
}
_OF_ALL: Final = (401, 403, 429, 500, 503)
_OF_BODIES: Final = (202, 400, 403, 408, 409, 413, 415)


def answers(model: type, *refusals: int, example: Mapping[str, object] | None = None) -> Responses:
    """Return the responses of a route: the model of its answer, and the refusals that occur beside those of all."""
    content = {} if example is None else {"content": {"application/json": {"example": example}}}
    described = str(model.__doc__).strip()
    codes = sorted({*refusals, *_OF_ALL})
    return {200: {"model": model, "description": described, **content}, **{code: _REFUSALS[code] for code in codes}}


def operation_answers(model: type, *refusals: int) -> Responses:
    """Return the responses of a route for operations."""
    return answers(model, *_OF_BODIES, *refusals, example={"statusCode": 0})


def _documented(operations: Operations[Any]) -> Schema:
    schemas, requests = [each.schema() for each in operations], {each.name: each.request() for each in operations}
    return _request({"oneOf": schemas} if len(schemas) > 1 else dict(schemas[0]), requests)


def _request(schema: Schema, examples: Mapping[str, object]) -> Schema:
    content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {
        "requestBody": {"required": True, "content": {"application/json": content}},
        "parameters": [
            _parameter("Idempotency-Key", "Makes retries of the same request safe.", minLength=1, maxLength=255),
            _parameter("Prefer", "Answer after the effect, waiting this many seconds at most.", examples=["wait=5"]),
        ],
    }


def _parameter(name: str, description: str, **schema: object) -> Schema:
    return {"name": name, "in": "header", "description": description, "schema": {"type": "string", **schema}}


CALL: Final = _documented(CALL_OPERATIONS)
ME: Final = _documented(SESSION_OPERATIONS)
CHANNEL: Final = _documented(CHANNEL_OPERATIONS)
DEVICE: Final = _documented(DEVICE_OPERATIONS)
DEVICE_CALLS: Final = _documented(DIAL_OPERATIONS)

_SWITCH_EVENT: Final[Schema] = {"$ref": "#/components/schemas/SwitchEvent"}
SWITCH: Final = _request(
    {"oneOf": [_SWITCH_EVENT, {"type": "array", "items": _SWITCH_EVENT}]},
    {each.name: each.request() for each in SWITCH_EVENTS},
)

_SECURITY: Final[Mapping[str, Schema]] = {
    "basic": {"type": "http", "scheme": "basic", "description": "Name and password, which begin a session."},
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "An access token of the OpenID provider, where the installation has one.",
    },
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "The cookie of the session."},
    "csrf": {
        "type": "apiKey",
        "in": "header",
        "name": CSRF_HEADER,
        "description": "With the cookie, for all methods but GET, if CSRF protection is on: the token that each answer "
        "to a GET has in the header of this name.",
    },
}


def document(app: FastAPI) -> None:
    """Complete the OpenAPI document of the application."""
    generate = app.openapi

    def completed() -> Schema:
        if app.openapi_schema is None:
            _complete(generate())
        return app.openapi_schema or {}

    app.openapi = completed  # type: ignore[method-assign]


def _complete(schema: Schema) -> None:
    schemas = schema["components"]["schemas"]
    drop_titles(schemas)
    for name in _SELECTABLE:
        # The parameter `fields` selects properties.
        schemas[name].pop("required")
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas.update({each.name: each.schema() for each in SWITCH_EVENTS})
    schemas["SwitchEvent"] = {
        "oneOf": [{"$ref": f"#/components/schemas/{each.name}"} for each in SWITCH_EVENTS],
        "discriminator": {"propertyName": SWITCH_EVENTS.tag},
    }
    schema["components"]["securitySchemes"] = dict(_SECURITY)
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            # The framework promises it for parameters that it never refuses.
            operation["responses"].pop("422", None)
            for code, response in operation["responses"].items():
                response["headers"] = _headers(path, code, method, has_operation="requestBody" in operation)
            if path != VERSION_PATH:
                by_cookie: Schema = {"session": []} if method == "get" else {"session": [], "csrf": []}
                operation["security"] = [{"basic": []}, {"bearer": []}, by_cookie]


def _headers(path: str, code: str, method: str, *, has_operation: bool) -> Schema:
    names = [request_ids.HEADER, IGNORED_HEADER, *_OF_CODES.get(code, ())]
    if method == "get" and code == "200" and path != VERSION_PATH:
        names += CSRF_EXPOSED_HEADERS
    if has_operation and code not in _BEFORE_OPERATIONS:
        # A request of the switch has many operations.
        names += _OF_OPERATIONS if path != SWITCH_PATH else _OF_OPERATIONS[1:]
    return {name: HEADERS[name] for name in names}
