"""The sections of the settings tree. Units are in the names; every field says what it does."""

from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from calltag.core.broker.ports import addresses
from calltag.core.http.origin import ANY, Origin


def _split(text: object) -> object:
    """A list of texts, as a JSON list or with commas between."""
    if not isinstance(text, str):
        return text
    if text.lstrip().startswith("["):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            raise ValueError("begins like a JSON list and is none") from None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _check_url(url: str, schemes: tuple[str, ...], places: Sequence[str]) -> None:
    """`places` are user, host and port of each server that the URL names."""
    if url.partition("://")[0] not in schemes:
        raise ValueError(f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    try:
        parts = [urlsplit(f"//{place}") for place in places]
        well_formed = all(part.port is not None or "," not in (part.hostname or "") for part in parts)
    except ValueError:
        well_formed = False
    if not well_formed:
        raise ValueError("host and port are not well formed; special characters in a password need %XX")


def _addresses(url: str) -> list[str]:
    """Of some servers a URL has several addresses, with commas between; what stands before @ belongs to all."""
    login, at, places = urlsplit(url).netloc.rpartition("@")
    return [f"{login}{at}{place}" for place in places.split(",")]


def _url_of(*schemes: str) -> AfterValidator:
    def check(url: SecretStr) -> SecretStr:
        _check_url(url.get_secret_value(), schemes, _addresses(url.get_secret_value()))
        return url

    return AfterValidator(check)


def _urls_of(*schemes: str) -> AfterValidator:
    """One address, or several with commas between."""

    def check(urls: SecretStr) -> SecretStr:
        for url in addresses(urls.get_secret_value()):
            _check_url(url, schemes, [urlsplit(url).netloc])
        return urls

    return AfterValidator(check)


Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Transports = Annotated[tuple[Literal["long-polling", "websocket"], ...], NoDecode, BeforeValidator(_split)]


def _origin(text: str) -> str:
    if text != ANY:
        Origin.parse(text)
    return text


PublicUrl = Annotated[str, Field(pattern=r"^https?://[^/\s]+$"), AfterValidator(_origin)]
AllowedOrigin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s]+)$"), AfterValidator(_origin)]
Origins = Annotated[tuple[AllowedOrigin, ...], NoDecode, BeforeValidator(_split)]


def _network(text: str) -> str:
    if text != "*":
        try:
            ip_network(text)
        except ValueError:
            raise ValueError("must be addresses or networks, as in 10.0.0.0/8, or *") from None
    return text


Proxies = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], NoDecode, BeforeValidator(_split)]


MOVED: Final = {
    "CALLTAG_GATEWAY__CSRF_PROTECTION": "CALLTAG_SESSION__CSRF_PROTECTION",
    "CALLTAG_GATEWAY__ALLOWED_ORIGINS": "CALLTAG_ALLOWED_ORIGINS",
    "CALLTAG_NOTIFIER__ALLOWED_ORIGINS": "CALLTAG_ALLOWED_ORIGINS",
    "CALLTAG_WORKER__KNOWN_BYTES": "CALLTAG_WORKER__CALL_CACHE_BYTES",
}
"""The settings that have another name now."""


class Section(BaseModel):
    """A group of settings. Those in EVERYDAY are for most installations, the others for special cases."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ClientTlsSection(Section):
    """TLS to a server, where its URL says so (`amqps://`, `rediss://`); the server's certificate is always checked."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("ca_file", "cert_file", "key_file", "key_password")

    ca_file: Path | None = Field(
        None, description="PEM file of the certificate authorities to trust; by default those of the system."
    )
    cert_file: Path | None = Field(None, description="PEM file of the client certificate.")
    key_file: Path | None = Field(None, description="PEM file of its key, if that is not in the same file.")
    key_password: SecretStr | None = Field(None, description="Password of the key.")


class Tls(Section):
    """TLS on the port for clients. The files are read anew when they change."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("cert_file", "key_file", "key_password", "client_ca_file")

    cert_file: Path | None = Field(
        None, description="PEM file of the server certificate and its chain; if set, the client port serves TLS only."
    )
    key_file: Path | None = Field(None, description="PEM file of its key, if that is not in the same file.")
    key_password: SecretStr | None = Field(None, description="Password of the key.")
    client_ca_file: Path | None = Field(
        None,
        description="PEM file of the certificate authorities for client certificates; if set, clients "
        "must present one.",
    )

    @model_validator(mode="after")
    def _needs_certificate(self) -> "Tls":
        if self.cert_file is None and (self.key_file is not None or self.client_ca_file is not None):
            raise ValueError("KEY_FILE and CLIENT_CA_FILE take CERT_FILE")
        return self


class Amqp(Section):
    """RabbitMQ."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("url", "prefix", "replicas", "queue_max_length")

    url: Annotated[SecretStr, _urls_of("amqp", "amqps")] = Field(
        SecretStr("amqp://guest:guest@127.0.0.1:5672/"),
        description="URL of RabbitMQ, several nodes of a cluster with commas between; `amqps://` for TLS.",
    )
    tls: ClientTlsSection = ClientTlsSection()
    prefix: str = Field(
        "calltag", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="Prefix of the names of exchanges and queues."
    )
    heartbeat_s: int = Field(10, ge=2, le=600, description="Heartbeat of the connection; three missed ones close it.")
    publish_deadline_s: Seconds = Field(1.5, le=60, description="Deadline of a publisher confirm.")
    watch_s: Seconds = Field(3.0, le=60, description="Interval of checks that find dead connections and consumers.")
    replicas: int = Field(
        0,
        ge=0,
        le=15,
        description="Replicas of each partition queue in a cluster; 0 is RabbitMQ's default: three, or "
        "all nodes if they are fewer.",
    )
    queue_max_length: Positive = Field(
        100_000,
        description="Messages in one partition queue, each of up to 64 operations under load; beyond that"
        " operations are refused.",
    )
    delivery_limit: Positive = Field(
        1_000_000,
        description="Deliveries of one operation before RabbitMQ itself dead-letters it. A last resort: keep it high.",
    )
    parking_max_length: Positive = Field(
        10_000, description="Operations in the parking queue; beyond that operations wait in their partitions instead."
    )
    inbox_expiry_s: int = Field(
        120, ge=5, description="Lifetime of a node's inbox queue after its connection has closed."
    )
    inbox_max_bytes: Positive = Field(
        268_435_456, description="Bytes in a node's inbox queue; beyond that the oldest messages are dropped."
    )


class Redis(Section):
    """Redis or Valkey."""

    EVERYDAY: ClassVar[tuple[str, ...]] = (
        "url",
        "mode",
        "sentinel_service",
        "sentinel_username",
        "sentinel_password",
        "wait_replicas",
        "key_prefix",
    )

    url: Annotated[SecretStr, _url_of("redis", "rediss", "unix")] = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="URL of Redis or Valkey, `rediss://` for TLS; nodes of a cluster or Sentinels with commas between.",
    )
    mode: Literal["single", "cluster", "sentinel"] = Field(
        "single", description="Kind of the addresses: one server, nodes of a Redis Cluster, or Sentinels."
    )
    sentinel_service: str = Field(
        "mymaster", min_length=1, description="Name of the master in the configuration of the Sentinels."
    )
    sentinel_username: str | None = Field(None, description="User name for the Sentinels, if they require one.")
    sentinel_password: SecretStr | None = Field(None, description="Password for the Sentinels, if they require one.")
    wait_replicas: int = Field(
        0, ge=0, le=16, description="Replicas that must have a commit before its events are published."
    )
    wait_timeout_s: Seconds = Field(
        0.5, le=60, description="Time to wait for the replicas before a retry; less than DEADLINE_S."
    )
    tls: ClientTlsSection = ClientTlsSection()
    key_prefix: str = Field("calltag", pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,31}$", description="Prefix of all keys.")
    deadline_s: Seconds = Field(1.0, le=60, description="Deadline of one exchange.")
    max_connections: Positive = Field(64, description="Connections of one process to each server.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        several = len(_addresses(self.url.get_secret_value())) > 1
        if self.mode == "single" and several:
            raise ValueError("CALLTAG_REDIS__URL has several addresses: CALLTAG_REDIS__MODE must say what they are")
        if self.mode != "single" and self.url.get_secret_value().startswith("unix:"):
            raise ValueError(f"CALLTAG_REDIS__URL is a socket: that cannot be a {self.mode}")
        if self.mode == "cluster" and urlsplit(self.url.get_secret_value()).path not in {"", "/", "/0"}:
            raise ValueError("CALLTAG_REDIS__URL names a database: a cluster has none but 0")
        if self.wait_replicas and self.wait_timeout_s >= self.deadline_s:
            raise ValueError("CALLTAG_REDIS__WAIT_TIMEOUT_S must be less than CALLTAG_REDIS__DEADLINE_S")
        return self


class Embedded(Section):
    """The store inside `calltag serve --embedded`."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("folder",)

    folder: Path = Field(Path(".calltag/data"), description="Data folder of the embedded store.")


class Gateway(Section):
    """The HTTP API."""

    EVERYDAY: ClassVar[tuple[str, ...]] = (
        "host",
        "port",
        "max_user_data_bytes",
        "user_operations_per_s",
        "max_backlog_age_s",
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="Port to listen on.")
    challenge: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Answer to a request without valid credentials: HTTP 401 with `WWW-Authenticate` (`always`), HTTP "
        "403 without it as Web Services does (`never`), or 403 for scripts and clients of the API and 401 for the "
        "rest (`auto`).",
    )
    max_body_bytes: Positive = Field(262_144, description="Size of a request body.")
    max_depth: int = Field(16, ge=2, le=200, description="Nesting depth of a JSON request.")
    max_values: int = Field(
        20_000,
        ge=100,
        description="Values in a JSON request on all levels, empty lists and objects counted twice; "
        "beyond that HTTP 400.",
    )
    max_pairs: Positive = Field(1_000, description="Key-value pairs of user data in one request.")
    max_user_data_bytes: Positive = Field(65_536, description="Bytes of user data in one request.")
    max_key_bytes: int = Field(255, ge=1, le=65_536, description="Length of a user data key in UTF-8.")
    max_wait_s: int = Field(10, ge=1, le=300, description="Longest wait of a request with `Prefer: wait=N`.")
    max_switch_events: Positive = Field(1_000, description="Events in one request of the switch.")
    max_live_calls: Positive = Field(1_000, description="Live calls of one user; beyond that Dial is refused.")
    max_calls_bytes: Positive = Field(
        8_388_608, description="Size of the response to `GET /me/calls`; beyond that HTTP 400."
    )
    max_in_flight: Positive = Field(2_000, description="Operations waiting for a publisher confirm.")
    max_waiting: Positive = Field(2_000, description="Requests waiting for an outcome (`Prefer: wait`).")
    max_requests: Positive = Field(128, description="Requests in progress at a time; others are queued.")
    max_queued_requests: int = Field(
        256, ge=0, description="Queued requests, half of them of one address; beyond that HTTP 503."
    )
    queue_deadline_s: Seconds = Field(
        1.0, le=60, description="Longest time in the request queue; beyond that HTTP 503."
    )
    max_backlog: Positive = Field(5_000, description="Queued operations of one partition; beyond that HTTP 503.")
    max_backlog_age_s: Seconds = Field(
        10.0,
        le=3_600,
        description="Age of the operations that the worker of a partition receives; beyond that HTTP 503.",
    )
    user_operations_per_s: Rate = Field(
        0.0, description="Sustained operations a second of one user; beyond that HTTP 429. 0 disables the limit."
    )
    user_burst: Positive = Field(20, description="Operations of one user at once.")
    address_operations_per_s: Rate = Field(
        0.0,
        description="Sustained operations a second from one address; beyond that HTTP 429. 0 disables the limit.",
    )
    address_burst: Positive = Field(200, description="Operations from one address at once.")
    max_rates: Positive = Field(
        10_000,
        description="Users, and addresses, with a tracked rate; the least recent one is dropped.",
    )
    idempotency_lifetime_s: Positive = Field(86_400, description="Lifetime of an Idempotency-Key.")


class Worker(Section):
    """The call-state worker."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("max_call_bytes", "lease_s", "live_call_lifetime_s")

    batch_limit: int = Field(300, ge=1, le=10_000, description="Operations in one commit.")
    prefetch: int = Field(
        200,
        ge=1,
        le=65_535,
        description="Prefetched messages of one partition, each of up to 64 operations under load; fewer "
        "if PREFETCH_BYTES demands it.",
    )
    prefetch_bytes: Positive = Field(
        134_217_728,
        description="Prefetched bytes of all partitions together, an equal share for each, in messages of"
        " 64 KiB (the largest with several operations).",
    )
    max_call_pairs: Positive = Field(1_000, description="Key-value pairs of user data of one call.")
    max_call_bytes: Positive = Field(65_536, description="Bytes of user data of one call.")
    max_call_parties: Positive = Field(
        64, description="Parties of one call, including those that have left; for gateways, those of a switch event."
    )
    consult_user_data: Literal["inherited", "separate", "joint"] = Field(
        "inherited",
        description="User data of a consult call: a copy of that of the call from which it began (`inherited`), only "
        "that of the request (`separate`), or that of both calls together (`joint`).",
    )
    merged_user_data: Literal[
        "consult-changes", "main-only", "consult-only", "merged-over-main", "merged-over-consult"
    ] = Field(
        "consult-changes",
        description="User data when a consult call is joined with the call from which it began: the keys that were "
        "changed on the consult call win (`consult-changes`), or a rule of T-Server.",
    )
    remembered_operations: Positive = Field(
        10_000, description="Operation ids remembered for one call, to recognise redelivered operations."
    )
    park_after_s: Seconds = Field(
        30.0,
        le=3_600,
        description="Park an operation, and block its call, after it failed for so long while Redis was available.",
    )
    max_crashes: int = Field(
        3, ge=1, le=100, description="Park an operation after this many consecutive worker crashes."
    )
    lease_s: Seconds = Field(
        6.0, le=300, description="Lease of a worker in the registry; when it lapses, other workers take its partitions."
    )
    recent_s: Seconds = Field(
        60.0, le=600, description="Time for which committed operations stay in memory, in case Redis loses the commit."
    )
    recent_operations: int = Field(
        5_000, ge=0, le=100_000, description="Committed operations in memory, for one partition."
    )
    recent_bytes: Positive = Field(
        67_108_864,
        description="Bytes of committed operations in memory, all partitions together, an equal share for each.",
    )
    call_cache_bytes: int = Field(
        524_288,
        ge=0,
        description="Bytes of the call cache of one partition.",
    )
    live_call_lifetime_s: Positive = Field(86_400, description="End a call after this time without a change.")
    wrap_up_s: Positive = Field(
        1_800, description="Time for which a released call is kept: one can read it, and set its disposition."
    )


class Events(Section):
    """Events kept for subscribers that reconnect; the same for all processes."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("retention_s", "per_user")

    retention_s: Seconds = Field(
        3_600.0, le=604_800, description="Time for which a user's events are kept after the last of them."
    )
    per_user: int = Field(1_000, ge=10, le=100_000, description="Approximate number of events kept for one user.")
    per_user_bytes: int = Field(4_194_304, ge=65_536, description="Approximate bytes of events kept for one user.")
    per_watcher: int = Field(
        10_000,
        ge=10,
        le=1_000_000,
        description="Approximate number of events kept for a user who watches calls of others.",
    )
    per_watcher_bytes: int = Field(
        41_943_040, ge=65_536, description="Approximate bytes of events kept for a user who watches calls of others."
    )


class NotifierSettings(Section):
    """The CometD server."""

    EVERYDAY: ClassVar[tuple[str, ...]] = (
        "host",
        "port",
        "timeout_s",
        "max_interval_s",
        "max_sessions",
        "websocket",
        "callback_polling",
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8081, description="Port to listen on.")
    timeout_s: Seconds = Field(30.0, le=600, description="Time for which a /meta/connect is suspended.")
    interval_ms: int = Field(0, ge=0, description="Pause of clients between two /meta/connect.")
    max_interval_s: Seconds = Field(10.0, description="End a session after this time without a /meta/connect.")
    socket_deadline_s: Seconds = Field(
        30.0, le=600, description="Close a WebSocket after this time without a connected session."
    )
    max_sessions: Positive = Field(
        20_000, description="Sessions of one notifier; beyond that HTTP 503, and clients try another one."
    )
    max_sessions_per_user: Positive = Field(50, description="Sessions of one user.")
    max_sessions_per_address: int = Field(
        0,
        ge=0,
        description="Sessions of one address at one notifier, including those that have not connected "
        "yet; beyond that it begins no more. 0 disables the limit.",
    )
    handshakes_per_s: Seconds = Field(
        500.0, description="Sustained handshakes a second of one notifier; beyond that clients retry later."
    )
    handshake_burst: Positive = Field(1_000, description="Handshakes at once.")
    handshakes_per_s_per_address: Rate = Field(
        250.0,
        description="Sustained handshakes a second from one address (of IPv6, a /64), see "
        "TRUSTED_PROXIES. 0 disables the limit.",
    )
    handshake_burst_per_address: Positive = Field(500, description="Handshakes at once from one address.")
    max_handshake_addresses: Positive = Field(
        10_000, description="Addresses with a tracked rate; the least recent one is dropped."
    )
    max_refused_handshakes: Positive = Field(
        5, description="Close a WebSocket after this many consecutive refused handshakes."
    )
    max_subscriptions: Positive = Field(64, description="Subscriptions of one session.")
    max_queued_events: Positive = Field(
        1_000,
        description="Events in the memory queue of one session; later ones are read from Redis when they are due.",
    )
    max_queued_bytes: Positive = Field(
        4_194_304, description="Bytes in the memory queue of one session, unless a single event is larger."
    )
    max_queued_bytes_total: Positive = Field(
        268_435_456,
        description="Bytes in the memory queues of all sessions; beyond that a session queues one event, "
        "and reads the others from Redis when they are due.",
    )
    max_answer_bytes: Positive = Field(
        524_288,
        description="Bytes of one response, unless a single change is larger; the rest goes with the next"
        " connect. Clients accept 1 MiB by default.",
    )
    max_frame_bytes: Positive = Field(
        65_536,
        description="Bytes of one WebSocket message, unless a single event is larger; the rest goes in "
        "further ones. Some clients accept 64 KiB by default.",
    )
    max_messages: Positive = Field(64, description="Bayeux messages in one request.")
    max_body_bytes: Positive = Field(65_536, description="Size of one request.")
    max_depth: int = Field(32, ge=2, le=200, description="Nesting depth of a JSON request.")
    drain_spread_ms: int = Field(
        5_000,
        ge=0,
        le=600_000,
        description="Time over which a stopping notifier spreads its clients to others; for WebSockets at"
        " most half of CALLTAG_DRAIN_TIMEOUT_S.",
    )
    max_server_interval_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="Time for which other messages keep a session alive without a /meta/connect; 0 is unlimited."
    )
    handshake_reconnect: bool = Field(
        False, description="Include `maxInterval` in the advice, so that clients re-handshake after long disconnects."
    )
    activity_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="End a session whose client sends nothing but /meta/connect for this time; 0 is unlimited."
    )
    activity: Literal["client", "client-server"] = Field(
        "client",
        description="Activity that counts for ACTIVITY_S: that of the client, or with `client-server` "
        "also events to it.",
    )
    meta_connect_delivery_only: Transports = Field(
        ("long-polling",),
        description="Transports (commas between; `[]` for none) whose sessions get events with connect "
        "replies only, unless they choose otherwise.",
    )
    permessage_deflate: bool = Field(
        False, description="Compress WebSockets of clients that offer it: less traffic for more CPU and memory."
    )
    max_sessions_per_browser: int = Field(
        1,
        ge=-1,
        description="Suspended connects of one browser (cookie BAYEUX_BROWSER); -1 is unlimited.",
    )
    multi_session_interval_ms: int = Field(
        2_000, ge=0, description="Polling interval of further tabs of a browser; 0 refuses them."
    )
    websocket: bool = Field(True, description="Offer WebSocket; without it, clients use long-polling at once.")
    save_interval_s: Seconds = Field(
        0.25,
        le=2,
        description="Interval of write-behind saves of sessions. After a crash, events sent since the "
        "last one are repeated.",
    )
    lease_s: Seconds = Field(
        3.0,
        ge=1,
        le=60,
        description="Lease of a notifier in Redis; while it cannot be renewed, each /meta/connect asks Redis first.",
    )
    flush_timeout_s: Seconds = Field(
        0.1,
        le=5,
        description="Time that a claim of a client with acknowledgement waits for the former home to save the session.",
    )
    roaming_s: Seconds = Field(
        30.0,
        description="A session that moves again within this time roams: it is saved before each answer.",
    )
    credential_recheck_s: Seconds = Field(
        5.0, le=60, description="Time for which the home of a session trusts checked credentials."
    )
    callback_polling: bool = Field(
        False, description="Offer callback-polling (JSONP), for clients that cannot POST to another origin."
    )


class Http(Section):
    """Connections of clients, for the API and for CometD."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("max_connections_per_address",)

    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="Connections of one client address (IPv6: of one /64 network); beyond that HTTP 503. "
        "0 is a quarter of CALLTAG_MAX_CONNECTIONS. Trusted proxies are exempt.",
    )
    max_head_bytes: int = Field(
        65_536,
        ge=1_024,
        le=1_048_576,
        description="Size of a request line with its header fields; beyond that HTTP 431.",
    )
    max_headers: int = Field(200, ge=10, le=10_000, description="Header fields of one request; beyond that HTTP 431.")
    max_framing_bytes: int = Field(
        65_536,
        ge=1_024,
        description="Bytes of chunk extensions and trailers of one request; beyond that HTTP 400.",
    )
    max_received_bytes: int = Field(
        268_435_456,
        ge=1_048_576,
        description="Received and unserved bytes of all connections together; beyond that connections "
        "with more than 16 KiB get HTTP 503 (WebSockets: close code 1013).",
    )
    max_frames_per_message: Positive = Field(
        1_000, description="Frames of one WebSocket message; beyond that close code 1008."
    )
    max_control_frames_per_s: Positive = Field(
        20,
        description="Sustained pings and pongs a second from one WebSocket, ten seconds' worth at once; "
        "beyond that close code 1008.",
    )
    head_deadline_s: Seconds = Field(
        10.0, le=600, description="Deadline of a TLS handshake, and of the head of a request."
    )
    keep_alive_s: Seconds = Field(75.0, le=3_600, description="Idle time of a connection between requests.")
    write_stall_s: Seconds = Field(
        30.0, le=600, description="Close a connection after this time without progress of a write."
    )
    close_deadline_s: Seconds = Field(
        5.0, le=60, description="Deadline of an orderly close; then the connection is aborted."
    )
    ping_interval_s: Seconds = Field(20.0, le=600, description="Send a ping after this time of silence on a WebSocket.")
    pong_deadline_s: Seconds = Field(20.0, le=600, description="Deadline of the pong.")


class Internal(Section):
    """The port for operators: /livez, /readyz, /metrics, /version."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("host", "port")

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(9090, description="Port to listen on; 0 chooses a free one.")


class DirectorySection(Section):
    """Users and devices."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("file", "demo", "demo_on_network")

    file: Path | None = Field(None, description="TOML file with users and devices.")
    demo: bool = Field(False, description="Use the demo contact centre, with the password `demo`. Never in production.")
    demo_on_network: bool = Field(
        False, description="Serve the demo contact centre on other addresses than 127.0.0.1 too."
    )


class LoginSection(Section):
    """Checking passwords."""

    user_header: str = Field(
        "",
        pattern=r"^[A-Za-z0-9-]{0,64}$",
        description="Header in which a proxy names the user whom it has authenticated, such as `X-Remote-User`.",
    )
    user_header_proxies: Proxies = Field(
        (),
        description="Addresses and networks of these proxies; the header of other peers is ignored. The proxy must "
        "remove it from the requests of its clients.",
    )
    failures_per_user: int = Field(
        10,
        ge=0,
        description="Failed logins of one user name in WINDOW_S before a lock-out; 0 disables it.",
    )
    failures_per_address: int = Field(
        100,
        ge=0,
        description="Failed logins from one address in WINDOW_S before a lock-out (see TRUSTED_PROXIES); "
        "0 disables it.",
    )
    window_s: Positive = Field(300, description="Time for which failed logins are counted, from the first one on.")
    concurrency: int = Field(
        2, ge=1, le=64, description="Passwords that one process verifies at a time, each in a thread."
    )
    max_waiting: Positive = Field(
        200, description="Logins waiting for a verification, half of them of one address; beyond that HTTP 503."
    )

    @model_validator(mode="after")
    def _names_its_proxies(self) -> Self:
        if bool(self.user_header) != bool(self.user_header_proxies):
            raise ValueError("USER_HEADER and USER_HEADER_PROXIES take each other")
        if "*" in self.user_header_proxies:
            raise ValueError("USER_HEADER_PROXIES must be addresses or networks: with * anybody could be any user")
        return self


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]


class Oidc(Section):
    """OpenID Connect: users sign in with tokens of a provider. Off without ISSUER."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("issuer",)

    issuer: str | None = Field(
        None, pattern=r"^https?://[^\s]+$", description="Address of the provider, as its tokens name it in `iss`."
    )
    audience: str = Field("", description="Audience (`aud`) of the access tokens that the API accepts.")
    client_id: str = Field("", description="Client at the provider, for browsers to sign in at /oidc/login.")
    client_secret: SecretStr | None = Field(None, description="Secret of the client; none for a public one.")
    scopes: Words = Field(("openid", "profile"), description="Scopes of that sign-in, with commas between.")
    user_claim: str = Field("preferred_username", min_length=1, description="Claim that names the user.")
    roles_claim: str = Field(
        "",
        description="Claim with the user's roles, as in `realm_access.roles`; without it the directory decides.",
    )
    roles_prefix: str = Field("", description="Prefix that roles of calltag have in that claim; others are ignored.")
    features_claim: str = Field("", description="Claim with the user's features; without it the directory decides.")
    devices_claim: str = Field("", description="Claim with the phone numbers of a user who is not in the directory.")
    supervisors_claim: str = Field("", description="Claim with the supervisors of a user who is not in the directory.")
    unlisted_users: bool = Field(False, description="Admit users who are not in the directory.")
    forget_users_s: Positive = Field(
        2_592_000, description="Forget roles, features and unlisted users after this time without a sign-in."
    )
    sessions_end_with_tokens: bool = Field(
        True, description="End HTTP and CometD sessions when the token ends that began them."
    )
    clock_skew_s: int = Field(60, ge=0, le=600, description="Tolerated difference to the provider's clock.")
    keys_lifetime_s: Seconds = Field(3_600.0, description="Time after which the provider's keys are read again.")
    timeout_s: Seconds = Field(5.0, le=60, description="Deadline of a request to the provider.")
    ca_file: Path | None = Field(
        None, description="PEM file of the certificate authorities to trust; by default those of the system."
    )

    @model_validator(mode="after")
    def _is_complete(self) -> Self:
        if self.issuer is not None and not self.audience:
            raise ValueError("CALLTAG_OIDC__ISSUER takes CALLTAG_OIDC__AUDIENCE: tokens for others must be refused")
        return self


class SessionSettings(Section):
    """HTTP sessions."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("idle_s", "csrf_protection", "secure_cookies")

    idle_s: Positive = Field(1_800, description="End a session after this time without a request.")
    lifetime_s: Positive = Field(43_200, description="End a session after this time in any case.")
    max_per_user: Positive = Field(
        100, description="HTTP sessions of one user; one more evicts the least recently used one."
    )
    csrf_protection: bool = Field(
        False, description="Require X-CSRF-TOKEN for requests that change something, and for CometD over HTTP."
    )
    secure_cookies: bool | None = Field(
        None,
        description="Set cookies for HTTPS only. By default with CALLTAG_TLS__CERT_FILE or an https "
        "CALLTAG_PUBLIC_URL.",
    )
    same_site: Literal["lax", "strict", "none"] = Field(
        "lax", description="SameSite attribute of cookies; `none` requires SECURE_COOKIES."
    )


class Log(Section):
    """Logging, to standard error."""

    EVERYDAY: ClassVar[tuple[str, ...]] = ("format", "level")

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="Format; `auto` is console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Minimum log level.")
    max_queued_bytes: int = Field(
        1_048_576,
        ge=4_096,
        description="Bytes of queued output; beyond that lines are dropped and counted "
        "(`calltag_log_lines_dropped_total`).",
    )
