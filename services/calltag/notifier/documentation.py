"""The messages that CometD clients send and receive: models, examples and channels, for the AsyncAPI document.

Source of the envelopes: Bayeux protocol 1.0. The content of messages is described where it is built, in `event_views`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from calltag.core.bayeux.channels import CONNECT, DISCONNECT, HANDSHAKE, SUBSCRIBE, UNSUBSCRIBE
from calltag.core.domain.ids import UserId
from calltag.core.domain.resource_view import CALL_EXAMPLE
from calltag.notifier.channel_policy import ALL_CALLS_CHANNEL, calls_channel_of
from calltag.notifier.event_views import (
    CALLS_CHANNEL,
    DEVICES_CHANNEL,
    SERVICES_CHANNEL,
    CallStateChange,
    DeviceStateChange,
    MessageExt,
    OperationRefusal,
    ServiceStateChange,
)

Schema = dict[str, Any]
_DEMO: Final = "demo"
"""Password of the demo contact centre, which is public."""
_ID: Final = "01RCC3N118B1V0SL8O7GK2LAES00000R"
_CLIENT: Final = "cmfrggzdfmztwq2lknnwg23tpoa3tcnzsmfwgsy3f"


class Advice(TypedDict):
    """The next step of a client; it replaces the advice before."""

    reconnect: Literal["retry", "handshake", "none"]
    interval: int
    """Milliseconds before the next connect or handshake."""
    timeout: int
    """Milliseconds for which a connect is suspended at most."""
    maxInterval: NotRequired[int]
    multiple_clients: NotRequired[Annotated[bool, Field(alias="multiple-clients")]]
    """True while another session of the browser is held, and this one has to ask again; false once that is over."""


class ConnectAdvice(TypedDict):
    """The wishes of a client for one connect."""

    timeout: NotRequired[int]
    """Milliseconds for which to suspend it at most; 0 asks for an answer at once."""
    interval: NotRequired[int]
    """Milliseconds before its next connect."""


class HandshakeCredentials(TypedDict):
    """Name and password; one of the names is enough."""

    userName: NotRequired[str]
    username: NotRequired[str]
    user: NotRequired[str]
    login: NotRequired[str]
    password: NotRequired[str]
    token: NotRequired[str]
    """An access token of the OpenID provider, in place of name and password."""


class CalltagWish(TypedDict):
    """Wishes of a client that Web Services does not know."""

    metaConnectDeliveryOnly: bool
    """Send events with the replies to connects only (true), or with any reply (false)."""


class ClockTimes(TypedDict):
    """Times for the synchronization of clocks, in milliseconds."""

    tc: float
    l: NotRequired[float]  # noqa: E741 - the protocol's name
    o: NotRequired[float]
    ts: NotRequired[float]
    p: NotRequired[float]
    a: NotRequired[float]


class HandshakeExt(TypedDict):
    """Extensions of a handshake."""

    authentication: NotRequired[HandshakeCredentials]
    """Credentials, for clients that send neither a cookie nor HTTP Basic."""
    ack: NotRequired[bool]
    """The client acknowledges what it receives."""
    replay: NotRequired[bool]
    """Messages have `data.event`, and subscriptions may begin in the past."""
    calltag: NotRequired[CalltagWish]
    timesync: NotRequired[ClockTimes]


class ClientMessage(TypedDict):
    """A message of a client."""

    id: NotRequired[str | int]
    timestamp: NotRequired[str]


class MetaHandshakeRequest(ClientMessage):
    """Begin a session."""

    channel: Literal["/meta/handshake"]
    version: str
    supportedConnectionTypes: list[str]
    minimumVersion: NotRequired[str]
    ext: NotRequired[HandshakeExt]


class ConnectExt(TypedDict):
    """Extensions of a connect."""

    ack: NotRequired[int]
    """Number of the last reply that the client has."""
    timesync: NotRequired[ClockTimes]


class MetaConnectRequest(ClientMessage):
    """Wait for messages."""

    channel: Literal["/meta/connect"]
    clientId: str
    connectionType: str
    advice: NotRequired[ConnectAdvice]
    ext: NotRequired[ConnectExt]


class SnapshotWish(TypedDict):
    """A wish for the present state."""

    snapshot: bool
    """Send the present state of what the channels are about with the reply."""


class SubscribeExt(TypedDict):
    """Extensions of a subscription."""

    replay: NotRequired[dict[str, int | str | None]]
    """By channel the `replayId` after which messages are wanted; -1: new ones only, -2: all that are kept."""
    calltag: NotRequired[SnapshotWish]
    timesync: NotRequired[ClockTimes]


class MetaSubscribeRequest(ClientMessage):
    """Subscribe to channels or patterns."""

    channel: Literal["/meta/subscribe"]
    clientId: str
    subscription: str | list[str]
    ext: NotRequired[SubscribeExt]


class MetaUnsubscribeRequest(ClientMessage):
    """End subscriptions."""

    channel: Literal["/meta/unsubscribe"]
    clientId: str
    subscription: str | list[str]


class MetaDisconnectRequest(ClientMessage):
    """End the session."""

    channel: Literal["/meta/disconnect"]
    clientId: str


class Reply(TypedDict):
    """A reply to a message of the client."""

    id: NotRequired[str | int]
    """As in the message."""
    successful: bool
    error: NotRequired[str]
    """`code:arguments:text`, if it is not successful."""
    advice: NotRequired[Advice]
    timestamp: NotRequired[str]


class CalltagOfHandshake(TypedDict):
    """The answer to the client's wishes."""

    metaConnectDeliveryOnly: bool


class HandshakeReplyExt(TypedDict):
    """Extensions that the session has."""

    ack: NotRequired[bool]
    replay: NotRequired[bool]
    calltag: NotRequired[CalltagOfHandshake]
    timesync: NotRequired[ClockTimes]


class MetaHandshakeReply(Reply):
    """The session, or the reason why there is none."""

    channel: Literal["/meta/handshake"]
    version: str
    minimumVersion: NotRequired[str]
    supportedConnectionTypes: list[str]
    clientId: NotRequired[str]
    """Id of the session, which proves the user where the handshake itself had the credentials."""
    ext: NotRequired[HandshakeReplyExt]


class CalltagOfConnect(TypedDict):
    """State of the session's messages."""

    missed: NotRequired[Literal[True]]
    """Messages were lost by retention: read the state again."""
    behind: NotRequired[Literal[True]]
    """More messages wait than one answer holds: connect at once."""


class ConnectReplyExt(TypedDict):
    """Extensions of the reply to a connect."""

    ack: NotRequired[int]
    """Number of this reply."""
    calltag: NotRequired[CalltagOfConnect]
    timesync: NotRequired[ClockTimes]


class MetaConnectReply(Reply):
    """The end of a connect; messages come before it."""

    channel: Literal["/meta/connect"]
    clientId: NotRequired[str]
    ext: NotRequired[ConnectReplyExt]


class ReplyExt(TypedDict):
    """Extensions of a reply."""

    timesync: NotRequired[ClockTimes]


class SnapshotGiven(TypedDict):
    """The answer to a wish for a snapshot."""

    snapshot: bool
    """False if it would have been too long: read the calls over HTTP."""


class SubscribeReplyExt(ReplyExt):
    """Extensions of the reply to a subscription."""

    calltag: NotRequired[SnapshotGiven]


class MetaSubscribeReply(Reply):
    """The subscription, as it was sent."""

    channel: Literal["/meta/subscribe"]
    clientId: NotRequired[str]
    subscription: NotRequired[str | list[str]]
    ext: NotRequired[SubscribeReplyExt]


class MetaUnsubscribeReply(Reply):
    """The subscription that ended, as it was sent."""

    channel: Literal["/meta/unsubscribe"]
    clientId: NotRequired[str]
    subscription: NotRequired[str | list[str]]
    ext: NotRequired[ReplyExt]


class MetaDisconnectReply(Reply):
    """The end of the session, also when the server ends it."""

    channel: Literal["/meta/disconnect"]
    clientId: NotRequired[str]
    ext: NotRequired[ReplyExt]


class CallMessage(TypedDict):
    """A change of a call."""

    channel: str
    data: CallStateChange
    ext: MessageExt


class RefusalMessage(TypedDict):
    """The refusal of an operation that was accepted."""

    channel: str
    data: OperationRefusal
    ext: MessageExt


class DeviceMessage(TypedDict):
    """A change of the user's devices."""

    channel: str
    data: DeviceStateChange
    ext: MessageExt


class ServiceMessage(TypedDict):
    """A change of the service."""

    channel: str
    data: ServiceStateChange


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel, with what clients send to it and receive from it."""

    name: str
    address: str
    description: str
    receives: Sequence[type] = ()
    sends: Sequence[type] = ()
    parameters: Mapping[str, str] | None = None


_EXT: Final[Schema] = {
    "calltag": {
        "eventId": "ik2f0c1e9b6c1f4b7d8a90",
        "version": 2,
        "acceptedAt": "2026-01-31T12:00:00.000Z",
        "replayId": 176986080000000,
    }
}
_METRICS: Final[Schema] = {
    "eventProcessing": {
        "nodeProcessingTimeNanos": 41_000,
        "serverGenerationTimestamp": 1_769_860_800_000,
        "serverProcessingTimeTotalMs": 4,
    }
}
_ADVICE: Final[Schema] = {"reconnect": "retry", "interval": 0, "timeout": 30_000}


def _request(number: str, channel: str, **members: object) -> Schema:
    return {"id": number, "channel": channel, "clientId": _CLIENT, **members}


def _reply(number: str, channel: str, **members: object) -> Schema:
    return {"id": number, "channel": channel, "successful": True, "clientId": _CLIENT, **members}


EXAMPLES: Final[Mapping[type, Schema]] = {
    MetaHandshakeRequest: {
        "id": "1",
        "channel": HANDSHAKE,
        "version": "1.0",
        "supportedConnectionTypes": ["long-polling"],
        "ext": {"authentication": {"userName": "alice", "password": _DEMO}},
    },
    MetaHandshakeReply: _reply(
        "1", HANDSHAKE, version="1.0", minimumVersion="1.0", supportedConnectionTypes=["long-polling"], advice=_ADVICE
    ),
    MetaConnectRequest: _request("3", CONNECT, connectionType="long-polling"),
    MetaConnectReply: _reply("3", CONNECT, advice=_ADVICE),
    MetaSubscribeRequest: _request("2", SUBSCRIBE, subscription=CALLS_CHANNEL),
    MetaSubscribeReply: _reply("2", SUBSCRIBE, subscription=CALLS_CHANNEL),
    MetaUnsubscribeRequest: _request("4", UNSUBSCRIBE, subscription=CALLS_CHANNEL),
    MetaUnsubscribeReply: _reply("4", UNSUBSCRIBE, subscription=CALLS_CHANNEL),
    MetaDisconnectRequest: _request("5", DISCONNECT),
    MetaDisconnectReply: _reply("5", DISCONNECT),
    CallMessage: {
        "channel": CALLS_CHANNEL,
        "data": {
            "notificationType": "AttachedDataChanged",
            "call": CALL_EXAMPLE,
            "phoneNumber": "15000",
            "messageType": "CallStateChangeMessage",
            "metrics": _METRICS,
        },
        "ext": _EXT,
    },
    RefusalMessage: {
        "channel": CALLS_CHANNEL,
        "data": {
            "notificationType": "OperationRefused",
            "operationName": "Retrieve",
            "operationId": "ik2f0c1e9b6c1f4b7d8a90",
            "callId": _ID,
            "statusCode": 2,
            "callUri": f"http://127.0.0.1:8080/api/v2/me/calls/{_ID}",
            "statusMessage": "Retrieve is not possible while the call is Dialing",
            "errorMessage": "Retrieve is not possible while the call is Dialing",
            "messageType": "ErrorMessage",
            "metrics": _METRICS,
        },
        "ext": {"calltag": {name: value for name, value in _EXT["calltag"].items() if name != "version"}},
    },
    DeviceMessage: {
        "channel": DEVICES_CHANNEL,
        "data": {
            "devices": [
                {
                    "id": "631608b3-ceb1-472b-ba05-2ae39555b0d1",
                    "deviceState": "Active",
                    "phoneNumber": "15000",
                    "e164Number": "",
                    "dynamicPhoneNumber": "",
                    "description": "",
                    "telephonyNetwork": "Private",
                    "doNotDisturb": "Off",
                    "channels": ["voice"],
                    "voiceEnvironmentUri": "http://127.0.0.1:8080/api/v2/voice-environments/default",
                    "capabilities": ["DoNotDisturbOn", "ForwardCallsOn"],
                    "uri": "http://127.0.0.1:8080/api/v2/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1",
                    "path": "/devices/631608b3-ceb1-472b-ba05-2ae39555b0d1",
                    "userState": {
                        "state": "Ready",
                        "id": "9430250E-0A1B-421F-B372-F29E69366DED",
                        "displayName": "Ready",
                    },
                }
            ],
            "messageType": "DeviceStateChangeMessage",
            "metrics": _METRICS,
        },
        "ext": _EXT,
    },
    ServiceMessage: {
        "channel": SERVICES_CHANNEL,
        "data": {
            "messageType": "ServiceStateChangeMessage",
            "services": [{"serviceName": "voice", "state": "Inactive"}],
        },
    },
}
"""An example of each message."""

CHANNELS: Final = (
    Channel("handshake", HANDSHAKE, "Begins a session.", [MetaHandshakeReply], [MetaHandshakeRequest]),
    Channel("connect", CONNECT, "Waits for messages: the request stays open until there are some.", [MetaConnectReply],
             [MetaConnectRequest]),
    Channel("subscribe", SUBSCRIBE, "Subscribes to channels.", [MetaSubscribeReply], [MetaSubscribeRequest]),
    Channel("unsubscribe", UNSUBSCRIBE, "Ends subscriptions.", [MetaUnsubscribeReply], [MetaUnsubscribeRequest]),
    Channel("disconnect", DISCONNECT, "Ends a session.", [MetaDisconnectReply], [MetaDisconnectRequest]),
    Channel("calls", CALLS_CHANNEL, "Changes of the calls that the user's devices are on, one message for each leg of "
             "the user, and refusals of the user's operations.", [CallMessage, RefusalMessage]),
    Channel("devices", DEVICES_CHANNEL, "Changes of the user's devices and of the agent's state, and refusals of "
             "operations on them.", [DeviceMessage, RefusalMessage]),
    Channel("services", SERVICES_CHANNEL, "Whether operations are accepted.", [ServiceMessage]),
    Channel("callsOfUser", calls_channel_of(UserId("{user}")), "Changes of a user's calls, as the user sees them, "
             "for the user's supervisors and administrators.", [CallMessage], parameters={"user": "Id of the user."}),
    Channel("allCalls", ALL_CALLS_CHANNEL, "Changes of all calls, for administrators, one message for each leg.",
             [CallMessage]),
)  # fmt: skip
