"""Parts of the OpenAPI document that the routes do not declare themselves: bodies, responses, examples.

The examples of AttachUserData are those of its page in the Web Services API reference.
"""

from collections.abc import Mapping
from typing import Any, Final

from calltag.gateway.operations import (
    CALL_OPERATIONS,
    DEVICE_OPERATIONS,
    SESSION_OPERATIONS,
    USER_DATA,
    Operations,
)

Schema = dict[str, Any]
Responses = dict[int | str, dict[str, Any]]

DESCRIPTION: Final = """
Attached data of live calls, by the Web Services v2 API.

Every answer has `statusCode`; if it is not 0, also `statusMessage`, and nothing was changed. An operation is answered
with `{"statusCode": 0}` as soon as it is safe with the message broker; its effect arrives as a message over CometD at
`/genesys/cometd`. With `Prefer: wait=N` (seconds, at most 10) the answer comes after the effect and holds the call.
With `Idempotency-Key` a request may be made again: it takes effect once and gets the same answer, where it waits with
the call as it is by then.
"""

CALL_EXAMPLE: Final[Schema] = {
    "id": "01RCC3N118B1V0SL8O7GK2LAES00000R",
    "state": "Dialing",
    "callUuid": "01RCC3N118B1V0SL8O7GK2LAES00000R",
    "connId": "007102719818001b",
    "deviceUri": "http://127.0.0.1:8080/api/v2/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1",
    "participants": [
        {"e164Number": "", "formattedPhoneNumber": "15001", "phoneNumber": "15001", "digits": "15001"}
    ],
    "dnis": "15001",
    "callType": "Internal",
    "capabilities": [
        "UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData", "Hangup"
    ],
    "userData": {"AccountNumber": "12345"},
    "duration": "63",
    "mute": "Off",
    "supervisorListeningIn": False,
    "monitoredUserMuted": False,
    "monitoring": False,
    "uri": "http://127.0.0.1:8080/api/v2/me/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
    "path": "/calls/01RCC3N118B1V0SL8O7GK2LAES00000R",
}  # fmt: skip


def _refusal(description: str, code: int, message: str) -> Schema:
    example = {"statusCode": code, "statusMessage": message}
    schema = {
        "type": "object",
        "required": ["statusCode", "statusMessage"],
        "properties": {"statusCode": {"type": "integer"}, "statusMessage": {"type": "string"}},
    }
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}


REFUSALS: Final[Responses] = {
    400: _refusal("A parameter is missing (1), invalid (10), or not valid in this state (2)", 1, "userData is missing"),
    401: _refusal("No credentials, or wrong ones (20)", 20, "user name or password is wrong"),
    403: _refusal("A feature or role is missing (3), or the resource is somebody else's (5)", 5, "not a call of yours"),
    404: _refusal("The resource does not exist (6)", 6, "there is no call 01RCC3N118B1V0SL8O7GK2LAES00000R"),
    408: _refusal("The body took too long to come (10)", 10, "the body did not come within 10 s"),
    409: _refusal(
        "The Idempotency-Key is of another request, or of one too long ago (18)", 18, "Idempotency-Key was used for ..."
    ),
    413: _refusal("The body is too large (10)", 10, "the body is larger than 262144 bytes"),
    429: _refusal(
        "The user, or the address, sends faster than it may (4), or too many passwords of this user or from "
        "this address were wrong (20); try again after Retry-After",
        4,
        "5 operations a second are allowed to one user",
    ),
    500: _refusal(
        "What the store holds cannot be read by this version (4)", 4, "the record of call:01RC... is not ..."
    ),
    503: _refusal(
        "RabbitMQ or Redis is unavailable, or the service is overloaded (4); retry after Retry-After",
        4,
        "RabbitMQ is unavailable",
    ),
}


def _documented(operations: Operations[Any]) -> Schema:
    schemas, requests = [each.schema() for each in operations], {each.name: each.request() for each in operations}
    return _request({"oneOf": schemas} if len(schemas) > 1 else dict(schemas[0]), requests)


def _request(schema: Schema, examples: Mapping[str, object]) -> Schema:
    content = {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}
    return {
        "requestBody": {"required": True, "content": {"application/json": content}},
        "parameters": [
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "description": "Makes retries of the same request safe.",
            },
            {
                "name": "Prefer",
                "in": "header",
                "schema": {"type": "string"},
                "example": "wait=5",
                "description": "Answer after the effect, waiting this many seconds at most.",
            },
        ],
        "responses": {
            "200": {
                "description": "Accepted, and safe with the broker; with Prefer: wait, carried out",
                "content": {"application/json": {"example": {"statusCode": 0}}},
            },
            "202": _refusal("Accepted, and not carried out within the time to wait (9)", 9, "accepted, but ..."),
        },
    }


CALL: Final = _documented(CALL_OPERATIONS)
ME: Final = _documented(SESSION_OPERATIONS)
DEVICE_CALLS: Final = _documented(DEVICE_OPERATIONS)

_PARTY: Final[Schema] = {
    "type": "object",
    "required": ["phoneNumber", "state"],
    "properties": {
        "phoneNumber": {"type": "string"},
        "state": {"type": "string", "enum": ["Dialing", "Ringing", "Established", "Held", "Released"]},
        "mute": {"type": "string", "enum": ["On", "Off"]},
    },
}

_SWITCH_EVENT: Final[Schema] = {
    "type": "object",
    "required": ["eventId", "eventType", "id"],
    "properties": {
        "eventId": {"type": "string", "description": "The same id twice takes effect once."},
        "eventType": {"type": "string", "enum": ["CallStarted", "PartyChanged", "CallEnded"]},
        "id": {"type": "string", "description": "The call's id."},
        "connId": {"type": "string"},
        "callType": {"type": "string", "enum": ["Internal", "Inbound", "Outbound", "Consult", "Unknown"]},
        "dnis": {"type": "string"},
        "beganAt": {"type": "integer", "description": "Unix time in milliseconds."},
        "parties": {"type": "array", "items": _PARTY},
        "userData": USER_DATA,
    },
}

SWITCH_EXAMPLE: Final[Schema] = {
    "eventId": "started-1",
    "eventType": "CallStarted",
    "id": "01RCC3N118B1V0SL8O7GK2LAES00000R",
    "connId": "007102719818001b",
    "callType": "Internal",
    "dnis": "15001",
    "parties": [{"phoneNumber": "15000", "state": "Dialing"}, {"phoneNumber": "15001", "state": "Ringing"}],
}


def _switch() -> Schema:
    either = {"oneOf": [_SWITCH_EVENT, {"type": "array", "items": _SWITCH_EVENT}]}
    described = _request(either, {"CallStarted": SWITCH_EXAMPLE})
    described["responses"]["207"] = _refusal(
        "With Prefer: wait: some events took effect, and some were refused (7)",
        7,
        "1 of 2 events were refused: event 1 (ended-1): 6, there is no call 01RCC3N118B1V0SL8O7GK2LAES00000R",
    )
    return described


SWITCH: Final = _switch()

CALL_ANSWER: Final[Responses] = {
    200: {
        "description": "The call as its user sees it",
        "content": {"application/json": {"example": {"statusCode": 0, "call": CALL_EXAMPLE}}},
    }
}
