"""The sections of the settings tree. Units are in the names; every field says what it does."""

from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import NoDecode

from calltag.core.bus.addresses import addresses
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
}
"""The settings that have another name now."""


class Section(BaseModel):
    """A group of settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class ClientTlsSection(Section):
    """TLS to a server, where its URL says so (`amqps://`, `rediss://`); the server's certificate is always checked."""

    ca_file: Path | None = Field(
        None, description="PEM file of the authorities that the server's certificate may be from; else the system's."
    )
    cert_file: Path | None = Field(None, description="PEM file of the certificate that the server is shown.")
    key_file: Path | None = Field(None, description="PEM file of its key, where that is not in the same file.")
    key_password: SecretStr | None = Field(None, description="What the key is encrypted with.")


class Tls(Section):
    """TLS on the port for clients. The files are read anew when they change."""

    cert_file: Path | None = Field(
        None, description="PEM file of the certificate and its chain; with it, clients are served by TLS only."
    )
    key_file: Path | None = Field(None, description="PEM file of its key, where that is not in the same file.")
    key_password: SecretStr | None = Field(None, description="What the key is encrypted with.")
    client_ca_file: Path | None = Field(
        None, description="PEM file of the authorities from which clients must show a certificate."
    )

    @model_validator(mode="after")
    def _needs_certificate(self) -> "Tls":
        if self.cert_file is None and (self.key_file is not None or self.client_ca_file is not None):
            raise ValueError("KEY_FILE and CLIENT_CA_FILE take CERT_FILE")
        return self


class Amqp(Section):
    """RabbitMQ."""

    url: Annotated[SecretStr, _urls_of("amqp", "amqps")] = Field(
        SecretStr("amqp://guest:guest@127.0.0.1:5672/"),
        description="Address of RabbitMQ; those of a cluster's nodes with commas between. `amqps://` is by TLS.",
    )
    tls: ClientTlsSection = ClientTlsSection()
    prefix: str = Field(
        "calltag", pattern=r"^[a-z][a-z0-9_-]{0,31}$", description="What names of exchanges and queues begin with."
    )
    heartbeat_s: int = Field(10, ge=2, le=600, description="Heartbeat of the connection; two missed ones end it.")
    publish_deadline_s: Seconds = Field(1.5, le=60, description="How long to wait for the broker's confirm.")
    watch_s: Seconds = Field(
        3.0, le=60, description="How often connections and consumers are tried, to find those that are dead silently."
    )
    replicas: int = Field(
        0,
        ge=0,
        le=15,
        description="Nodes of a cluster that keep each operation; 0 is what RabbitMQ takes: three, or all if they are "
        "fewer.",
    )
    queue_max_length: Positive = Field(
        100_000,
        description="Messages that one partition may hold, under load of up to 64 operations each; beyond that "
        "operations are refused.",
    )
    delivery_limit: Positive = Field(
        1_000_000,
        description="Deliveries of one operation before RabbitMQ parks it by itself. The last resort: keep it high.",
    )
    parking_max_length: Positive = Field(
        10_000, description="Operations that may be parked; beyond, those that should be wait in their partitions."
    )
    inbox_expiry_s: int = Field(120, ge=5, description="How long a node's inbox outlives its connection.")
    inbox_max_bytes: Positive = Field(
        268_435_456, description="Bytes that a node's inbox may hold; beyond that the oldest messages go."
    )


class Redis(Section):
    """Redis or Valkey."""

    url: Annotated[SecretStr, _url_of("redis", "rediss", "unix")] = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Address of Redis or Valkey, `rediss://` by TLS; of a cluster or Sentinels, with commas.",
    )
    mode: Literal["single", "cluster", "sentinel"] = Field(
        "single", description="Whether the addresses are one server, nodes of a Redis Cluster, or Sentinels."
    )
    sentinel_service: str = Field("mymaster", min_length=1, description="Name of the master that Sentinels watch.")
    sentinel_username: str | None = Field(None, description="User on the Sentinels, if they want one.")
    sentinel_password: SecretStr | None = Field(None, description="Password on the Sentinels, if they want one.")
    wait_replicas: int = Field(
        0, ge=0, le=16, description="Replicas that have to have a change before anybody is told of it."
    )
    wait_timeout_s: Seconds = Field(
        0.5, le=60, description="How long to wait for them at a time; less than the deadline of an exchange."
    )
    tls: ClientTlsSection = ClientTlsSection()
    key_prefix: str = Field(
        "calltag", pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,31}$", description="What all keys begin with."
    )
    deadline_s: Seconds = Field(1.0, le=60, description="How long one exchange may take.")
    max_connections: Positive = Field(64, description="Connections that one process may have, with each server.")

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

    folder: Path = Field(Path(".calltag/data"), description="Where the embedded store keeps its data between runs.")


class Gateway(Section):
    """The HTTP API."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8080, description="Port to listen on.")
    max_body_bytes: Positive = Field(262_144, description="Size of a request's body.")
    max_depth: int = Field(16, ge=2, le=200, description="Nesting of a request's JSON.")
    max_values: int = Field(
        20_000,
        ge=100,
        description="Values in a request's JSON on all levels, empty lists and objects counted twice; else HTTP 400.",
    )
    max_pairs: Positive = Field(1_000, description="Pairs of user data that one request may carry.")
    max_user_data_bytes: Positive = Field(65_536, description="Bytes of user data that one request may carry.")
    max_key_bytes: int = Field(255, ge=1, le=65_536, description="Length of a key of user data, in UTF-8.")
    max_wait_s: int = Field(10, ge=1, le=300, description="Longest wait that `Prefer: wait=N` gets.")
    max_switch_events: Positive = Field(1_000, description="Events that one request of the switch may carry.")
    max_live_calls: Positive = Field(1_000, description="Live calls of one user; beyond, Dial is refused.")
    max_calls_bytes: Positive = Field(
        8_388_608, description="Length of the answer to `GET /me/calls`; beyond, HTTP 400."
    )
    max_in_flight: Positive = Field(2_000, description="Operations waiting for the broker's confirm at a time.")
    max_waiting: Positive = Field(2_000, description="Requests waiting for outcomes (`Prefer: wait`) at a time.")
    max_requests: Positive = Field(128, description="Requests worked on at a time; others wait their turn.")
    max_queued_requests: int = Field(
        256, ge=0, description="Requests waiting their turn, of one address half of them; beyond, HTTP 503."
    )
    queue_deadline_s: Seconds = Field(1.0, le=60, description="How long a request waits its turn; beyond, HTTP 503.")
    max_backlog: Positive = Field(
        5_000, description="Operations that may wait for the worker of one partition; beyond, HTTP 503."
    )
    max_backlog_age_s: Seconds = Field(
        10.0,
        le=3_600,
        description="How old the operations may be that a partition's worker takes up; beyond, HTTP 503.",
    )
    user_operations_per_s: Rate = Field(
        0.0, description="Operations of one user a second, in the long run; beyond, HTTP 429. 0 is no limit."
    )
    user_burst: Positive = Field(20, description="Operations of one user that may come at once.")
    address_operations_per_s: Rate = Field(
        0.0,
        description="Operations from one address a second, in the long run; beyond, HTTP 429. 0 is no limit.",
    )
    address_burst: Positive = Field(200, description="Operations from one address that may come at once.")
    max_rates: Positive = Field(
        10_000,
        description="Users, and addresses, whose rates are known at a time; the one silent longest is forgotten.",
    )
    idempotency_lifetime_s: Positive = Field(86_400, description="How long an Idempotency-Key is remembered.")


class Worker(Section):
    """The call-state worker."""

    batch_limit: int = Field(300, ge=1, le=10_000, description="Operations folded into one commit.")
    prefetch: int = Field(
        200,
        ge=1,
        le=65_535,
        description="Messages, under load of up to 64 operations each, taken ahead of their acknowledgement, a "
        "partition; fewer where PREFETCH_BYTES takes that.",
    )
    prefetch_bytes: Positive = Field(
        134_217_728,
        description="Bytes of messages taken ahead, all partitions together: each has an equal share, in messages of "
        "64 KiB, the most that several operations in one message have.",
    )
    max_call_pairs: Positive = Field(1_000, description="Pairs of user data that one call may hold.")
    max_call_bytes: Positive = Field(65_536, description="Bytes of user data that one call may hold.")
    max_call_parties: Positive = Field(64, description="Parties that one call may have, with those that left.")
    remembered_operations: Positive = Field(10_000, description="Operations remembered a call, to recognise repeats.")
    park_after_s: Seconds = Field(
        30.0,
        le=3_600,
        description="An operation that fails for so long, while the store is there, is parked and its call is marked.",
    )
    max_crashes: int = Field(
        3, ge=1, le=100, description="An operation that workers died of so often, one after another, is parked."
    )
    lease_s: Seconds = Field(
        6.0, le=300, description="A worker that has not renewed its lease for so long is no longer counted on."
    )
    recent_s: Seconds = Field(
        60.0, le=600, description="How long operations are kept at hand after their commit, should the store lose it."
    )
    recent_operations: int = Field(5_000, ge=0, le=100_000, description="How many of them at most, a partition.")
    recent_bytes: Positive = Field(
        67_108_864,
        description="How many bytes of them at most, all partitions together; each has an equal share.",
    )
    known_bytes: int = Field(
        524_288,
        ge=0,
        description="Bytes of calls that a worker keeps at hand, a partition, so as not to read them again.",
    )
    live_call_lifetime_s: Positive = Field(86_400, description="A call without any change for so long is ended.")
    released_call_lifetime_s: Positive = Field(300, description="How long a released call is kept.")


class Events(Section):
    """What is kept for subscribers that come back; the same for all processes."""

    retention_s: Seconds = Field(
        3_600.0, le=604_800, description="How long a user's events are kept after the last of them."
    )
    per_user: int = Field(1_000, ge=10, le=100_000, description="Events kept for one user, about.")
    per_user_bytes: int = Field(4_194_304, ge=65_536, description="Bytes of events kept for one user, about.")
    per_watcher: int = Field(
        10_000, ge=10, le=1_000_000, description="The same for a user who watches calls of others: events, about."
    )
    per_watcher_bytes: int = Field(
        41_943_040, ge=65_536, description="The same for a user who watches calls of others: bytes, about."
    )


class Notifier(Section):
    """The CometD server."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(8081, description="Port to listen on.")
    timeout_s: Seconds = Field(30.0, le=600, description="How long a /meta/connect is held.")
    interval_ms: int = Field(0, ge=0, description="Pause that clients make between two /meta/connect.")
    max_interval_s: Seconds = Field(10.0, description="A session without /meta/connect for so long ends.")
    socket_deadline_s: Seconds = Field(
        30.0, le=600, description="A WebSocket on which no session was connected for so long is closed."
    )
    max_sessions: Positive = Field(
        20_000, description="Sessions on one notifier; beyond, HTTP 503, and clients go to another."
    )
    max_sessions_per_user: Positive = Field(50, description="Sessions of one user.")
    max_sessions_per_address: int = Field(
        0,
        ge=0,
        description="Sessions that one notifier holds of one address before it begins no more for it; those begun and "
        "not connected yet count. 0 is no limit.",
    )
    handshakes_per_s: Seconds = Field(
        500.0, description="Handshakes that one notifier answers in a second, in the long run; others come back later."
    )
    handshake_burst: Positive = Field(1_000, description="Handshakes that may come at once.")
    handshakes_per_s_per_address: Rate = Field(
        250.0,
        description="The same from one address (of IPv6, a /64); TRUSTED_PROXIES matters. 0 is no limit.",
    )
    handshake_burst_per_address: Positive = Field(500, description="Handshakes that may come at once from one address.")
    max_handshake_addresses: Positive = Field(
        10_000, description="Addresses whose rates are known at a time; the one silent longest is forgotten."
    )
    max_refused_handshakes: Positive = Field(
        5, description="A WebSocket on which so many handshakes in a row were refused is closed."
    )
    max_subscriptions: Positive = Field(64, description="Subscriptions of one session.")
    max_queued_events: Positive = Field(
        1_000,
        description="Events waiting in memory for one session; later ones are read from Redis when they are due.",
    )
    max_queued_bytes: Positive = Field(
        4_194_304, description="Bytes of events waiting in memory for one session, unless a single event is larger."
    )
    max_queued_bytes_total: Positive = Field(
        268_435_456,
        description="Bytes of events waiting in memory for all sessions of one notifier; beyond, one event a session, "
        "and the others are read from Redis when they are due.",
    )
    max_answer_bytes: Positive = Field(
        524_288,
        description="Bytes of one answer to a client, unless a single change is larger; the rest goes with the next "
        "connect. Clients take 1 MiB by default.",
    )
    max_frame_bytes: Positive = Field(
        65_536,
        description="Bytes of one WebSocket message, unless a single event is larger; the rest goes in further ones. "
        "Some clients take 64 KiB by default.",
    )
    max_messages: Positive = Field(64, description="Bayeux messages in one request.")
    max_body_bytes: Positive = Field(65_536, description="Size of one request.")
    max_depth: int = Field(32, ge=2, le=200, description="Nesting of a request's JSON.")
    drain_spread_ms: int = Field(
        5_000,
        ge=0,
        le=600_000,
        description="Over how long the clients of a notifier that ends go to others; WebSockets over half of "
        "CALLTAG_DRAIN_TIMEOUT_S at most.",
    )
    max_server_interval_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="How long other messages keep a session alive without a /meta/connect; 0 is without end."
    )
    handshake_reconnect: bool = Field(
        False, description="Tell clients MAX_INTERVAL_S, so that after a longer cut they handshake by themselves."
    )
    activity_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="A session whose client sends nothing but /meta/connect for so long ends; 0 is without end."
    )
    activity: Literal["client", "client-server"] = Field(
        "client", description="Whose activity counts for ACTIVITY_S: with `client-server`, events to the client do too."
    )
    meta_connect_delivery_only: Transports = Field(
        ("long-polling",),
        description="Transports (commas between; `[]` for none) whose sessions get events with connect replies only, "
        "unless they ask otherwise.",
    )
    permessage_deflate: bool = Field(
        False, description="Compress WebSockets of clients that offer it: less traffic for more processor and memory."
    )
    max_sessions_per_browser: int = Field(
        1,
        ge=-1,
        description="Polling connects of one browser (cookie BAYEUX_BROWSER) that a notifier holds; -1 is any number.",
    )
    multi_session_interval_ms: int = Field(
        2_000, ge=0, description="How often tabs beyond that ask; 0 sends them away for good."
    )
    websocket: bool = Field(
        True, description="Offer WebSocket; without it, clients use long-polling from the beginning."
    )
    save_interval_s: Seconds = Field(
        0.25,
        le=2,
        description="Sessions that changed are saved so often. After a crash, clients get again what was sent since.",
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
        description="How long the next notifier of a session waits for the former one, if the client acknowledges.",
    )
    roaming_s: Seconds = Field(
        30.0,
        description="A session that moves to another notifier again within so long is saved before each answer.",
    )
    credential_recheck_s: Seconds = Field(
        5.0, le=60, description="Credentials that were checked are trusted for so long by a session's notifier."
    )
    callback_polling: bool = Field(
        False, description="Offer callback-polling (JSONP), for clients that can send no POST to another origin."
    )


class Http(Section):
    """Connections of clients, for the API and for CometD."""

    max_connections_per_address: int = Field(
        0,
        ge=0,
        description="Connections of one client address (IPv6: of one /64 network); beyond, HTTP 503. 0 is a quarter of "
        "CALLTAG_MAX_CONNECTIONS. Trusted proxies have no such limit.",
    )
    max_head_bytes: int = Field(
        65_536, ge=1_024, le=1_048_576, description="Size of a request line with its fields; beyond, HTTP 431."
    )
    max_headers: int = Field(200, ge=10, le=10_000, description="Fields of one request; beyond, HTTP 431.")
    max_framing_bytes: int = Field(
        65_536,
        ge=1_024,
        description="Bytes of chunk extensions and trailers of one request; beyond, HTTP 400.",
    )
    max_received_bytes: int = Field(
        268_435_456,
        ge=1_048_576,
        description="Bytes that all connections together may hold unserved; beyond, those that hold more than 16 KiB "
        "get HTTP 503 (WebSockets: close code 1013).",
    )
    max_frames_per_message: Positive = Field(
        1_000, description="Frames that one message of a WebSocket may consist of; beyond, close code 1008."
    )
    max_control_frames_per_s: Positive = Field(
        20,
        description="Pings and pongs a second from one WebSocket, in the long run, with ten seconds' worth at once; "
        "beyond, close code 1008.",
    )
    head_deadline_s: Seconds = Field(
        10.0, le=600, description="Seconds for a TLS handshake, and for the head of a request; then the end."
    )
    keep_alive_s: Seconds = Field(75.0, le=3_600, description="Seconds that a connection may be idle between requests.")
    write_stall_s: Seconds = Field(
        30.0, le=600, description="Seconds without progress after which a client that does not read is cut off."
    )
    close_deadline_s: Seconds = Field(
        5.0, le=60, description="Seconds that a connection has to close in good order before it is cut off."
    )
    ping_interval_s: Seconds = Field(
        20.0, le=600, description="Seconds of silence after which the client of a WebSocket is sent a ping."
    )
    pong_deadline_s: Seconds = Field(
        20.0, le=600, description="Seconds that the client of a WebSocket has to answer a ping."
    )


class Internal(Section):
    """The port for operators: /livez, /readyz, /metrics, /version."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: Port = Field(9090, description="Port to listen on; 0 takes a free one.")


class DirectorySection(Section):
    """Users and devices."""

    file: Path | None = Field(None, description="TOML file of users and devices.")
    demo: bool = Field(False, description="Use the demo contact centre, password `demo`. Never in production.")
    demo_on_network: bool = Field(
        False, description="Serve the demo contact centre on other addresses than this machine's own (127.0.0.1) too."
    )


class Login(Section):
    """Checking passwords."""

    failures_per_user: int = Field(
        10,
        ge=0,
        description="Wrong passwords for one user name in WINDOW_S before no more are looked at; 0 is no limit.",
    )
    failures_per_address: int = Field(
        100, ge=0, description="The same from one address (TRUSTED_PROXIES matters); 0 is no limit."
    )
    window_s: Positive = Field(300, description="How long wrong passwords are counted, from the first on.")
    concurrency: int = Field(
        2, ge=1, le=64, description="Passwords that one process checks at a time, each in a thread."
    )
    max_waiting: Positive = Field(
        200, description="Passwords that wait for being checked, of one address half of them; beyond, HTTP 503."
    )


class Session(Section):
    """HTTP sessions."""

    idle_s: Positive = Field(1_800, description="A session not used for so long ends.")
    lifetime_s: Positive = Field(43_200, description="A session ends after so long in any case.")
    max_per_user: Positive = Field(
        100, description="HTTP sessions of one user; one more ends the session that was not used for longest."
    )
    csrf_protection: bool = Field(
        False, description="Demand X-CSRF-TOKEN of requests that change something, and of CometD over HTTP."
    )
    secure_cookies: bool | None = Field(
        None,
        description="Set cookies for HTTPS only. Unset: with CALLTAG_TLS__CERT_FILE or an https CALLTAG_PUBLIC_URL.",
    )
    same_site: Literal["lax", "strict", "none"] = Field(
        "lax", description="Which requests of other sites' pages cookies go with; `none` (all) takes SECURE_COOKIES."
    )


class Log(Section):
    """Logging, to standard error."""

    format: Literal["auto", "json", "console"] = Field(
        "auto", description="`auto` is console on a terminal, else json."
    )
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least level that is logged.")
    max_queued_bytes: int = Field(
        1_048_576,
        ge=4_096,
        description="Bytes of output that wait to be written; beyond, lines are dropped and counted "
        "(`calltag_log_dropped_total`).",
    )
