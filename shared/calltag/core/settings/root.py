"""The root of the settings tree, read from the command line, the environment and files of secrets."""

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import orjson
from pydantic import BaseModel, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from calltag.core.broker.ports import addresses
from calltag.core.settings.sections import (
    MOVED,
    Amqp,
    DirectorySection,
    Embedded,
    Events,
    Gateway,
    Http,
    Internal,
    Log,
    LoginSection,
    NotifierSettings,
    Oidc,
    Origins,
    Positive,
    Proxies,
    PublicUrl,
    Redis,
    Seconds,
    Section,
    SessionSettings,
    Tls,
    Worker,
)

PREFIX: Final = "CALLTAG_"
DELIMITER: Final = "__"
SECRETS_FOLDER: Final = "CALLTAG_SECRETS_DIR"
_OF_TESTS: Final = "CALLTAG_TEST_"
_SERVICE_LINK: Final = re.compile(
    r"CALLTAG_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Kubernetes sets these in each container for services whose names begin with `calltag`."""
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://")
_NEAR: Final = 0.8
_PASSWORD_IN_QUERY: Final = re.compile(r"([?&]password=)[^&]*")


class SettingsError(ValueError):
    """Settings are invalid; the message has a line for each, with the variable and the limit, never the value."""


def variable(path: Iterable[str | int]) -> str:
    """Return the environment variable of a setting; list positions in the path are omitted."""
    return PREFIX + DELIMITER.join(part.upper() for part in path if isinstance(part, str))


def given_names() -> Mapping[str, str]:
    """Return variables with their values, and secret files with '', whose names have the prefix of settings."""
    folder = os.environ.get(SECRETS_FOLDER)
    files = [each.name for each in Path(folder).iterdir()] if folder and Path(folder).is_dir() else []
    given = {**dict.fromkeys(files, ""), **os.environ}
    return {name: value for name, value in given.items() if name.upper().startswith(PREFIX)}


def refuse_unknown_sections(names: Iterable[str], settings: type[BaseModel]) -> None:
    """Raise SettingsError for a section that does not exist. (Sections themselves refuse unknown fields.)"""
    for name in names:
        section, delimiter, _ = name[len(PREFIX) :].partition(DELIMITER)
        if delimiter and section.lower() not in settings.model_fields:
            near = difflib.get_close_matches(section.lower(), settings.model_fields, 1)
            hint = f"; is {variable(near)} meant?" if near else ""
            raise SettingsError(f"{name}: there is no section {section.upper()}{hint}")


def unknown_variables(names: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Return a warning for each unknown name without the delimiter, with the likely name.

    Those with the delimiter are refused instead: only calltag uses it.
    """
    settings = {*known, SECRETS_FOLDER}
    return [
        f"{name} is not a setting and has no effect{_hint(name.upper(), settings)}"
        for name, value in sorted(names.items())
        if DELIMITER not in name and name.upper() not in settings and not _is_others(name.upper(), value)
    ]


def _is_others(name: str, value: str) -> bool:
    """Return whether Kubernetes sets the name itself, or it is one of calltag's own tests."""
    is_link = _SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and _SERVICE_URL.match(value))
    return bool(is_link) or name.startswith(_OF_TESTS)


def _hint(name: str, settings: Iterable[str]) -> str:
    by_letters = {_letters(each): each for each in settings}
    near = difflib.get_close_matches(_letters(name), by_letters, 1, _NEAR)
    return f"; is {by_letters[near[0]]} meant?" if near else ""


def _letters(name: str) -> str:
    return name.removeprefix(PREFIX).replace(DELIMITER, "_")


class Settings(BaseSettings):
    """A variable is `CALLTAG_<SECTION>__<FIELD>`; an empty one counts as not set.

    A file of that name in the folder CALLTAG_SECRETS_DIR does as well; a variable wins over it.
    """

    EVERYDAY: ClassVar[tuple[str, ...]] = (
        "partitions",
        "public_url",
        "max_connections",
        "trusted_proxies",
        "allowed_origins",
        "drain_delay_s",
        "drain_timeout_s",
    )
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        validate_default=True,
    )

    partitions: int = Field(
        32, ge=1, le=1_024, description="Number of partitions, fixed for the lifetime of an installation."
    )
    public_url: PublicUrl = Field(
        "http://127.0.0.1:8080",
        description="Scheme, host and port that clients use; prefix of `uri` and `deviceUri`.",
    )
    max_connections: int = Field(20_000, ge=1, description="Client connections of one process; beyond that HTTP 503.")
    max_batch_bytes: int = Field(
        1_048_576,
        ge=65_536,
        le=16_777_216,
        description="Bytes of one batch: operations in one message, events of one commit, events appended"
        " to or read from streams, one message to a node. A single larger item goes alone. "
        "RabbitMQ's `max_message_size` must not be less.",
    )
    operation_memory_s: Positive = Field(
        3_600, description="Minimum time for which a repeated operation is recognised."
    )
    body_deadline_s: Seconds = Field(
        10.0, le=600, description="Deadline of a request body; beyond that HTTP 408 (CometD: 400)."
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        le=600,
        description="Time to keep serving after SIGTERM while /readyz fails, so that load balancers drain.",
    )
    trusted_proxies: Proxies = Field(
        (),
        description="Addresses and networks, with commas between, of proxies that append to or overwrite "
        "X-Forwarded-For; `*` trusts the last entry of any peer.",
    )
    allowed_origins: Origins = Field(
        (),
        description="Origins whose pages may use the API and CometD, with commas between; the server's "
        "own is always allowed. `*` allows all, without cookies.",
    )
    drain_timeout_s: Seconds = Field(10.0, le=600, description="Time to finish requests and batches after SIGTERM.")
    amqp: Amqp = Amqp()
    redis: Redis = Redis()
    embedded: Embedded = Embedded()
    http: Http = Http()
    gateway: Gateway = Gateway()
    worker: Worker = Worker()
    events: Events = Events()
    notifier: NotifierSettings = NotifierSettings()
    internal: Internal = Internal()
    tls: Tls = Tls()
    directory: DirectorySection = DirectorySection()
    session: SessionSettings = SessionSettings()
    login: LoginSection = LoginSection()
    oidc: Oidc = Oidc()
    log: Log = Log()

    @field_validator("session", mode="after")
    @classmethod
    def _cookies_for_all_sites_are_secure(cls, session: SessionSettings, info: ValidationInfo) -> SessionSettings:
        tls, public_url = info.data.get("tls", Tls()), info.data.get("public_url", "")
        if session.same_site == "none" and not _are_secure(session, tls, public_url):
            raise ValueError("browsers take cookies with SAME_SITE none only with SECURE_COOKIES")
        return session

    @property
    def cookies_are_secure(self) -> bool:
        """Whether cookies are for HTTPS only."""
        return _are_secure(self.session, self.tls, self.public_url)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the library calls it so
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the library calls it so
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        secrets = NestedSecretsSettingsSource(file_secret_settings, os.environ.get(SECRETS_FOLDER) or None, "error")
        return init_settings, env_settings, secrets


def _are_secure(session: SessionSettings, tls: Tls, public_url: str) -> bool:
    if session.secure_cookies is not None:
        return session.secure_cookies
    return tls.cert_file is not None or public_url.startswith("https://")


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; `overrides` (from the command line) win over the environment.

    An override of a section is a mapping of some of its fields, as in `gateway={"port": 8080}`.
    Raises SettingsError.
    """
    folder = os.environ.get(SECRETS_FOLDER)
    if folder and not Path(folder).is_dir():
        raise SettingsError(f"{SECRETS_FOLDER}: {folder} is not a folder")
    refuse_unknown_sections(given_names(), Settings)
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)
        raise SettingsError("\n".join(map(_explained, wrong))) from None
    except SourceError as error:
        raise SettingsError(f"settings cannot be read: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{SECRETS_FOLDER}: a file cannot be read: {error}") from None


def _explained(error: ErrorDetails) -> str:
    reason = error["msg"].removeprefix("Value error, ")
    name = variable(error["loc"])
    if error["type"] == "extra_forbidden":
        reason = f"this setting is {MOVED[name]} now" if name in MOVED else "there is no such setting"
    return f"{name}: {reason}"


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: variable, value as text, and description; `is_everyday` if most installations consider it."""

    variable: str
    value: str
    description: str
    is_everyday: bool = False
    is_set: bool = False


def settings_table(settings: Settings | None = None) -> list[Row]:
    """Return every setting with its value in `settings`, or with its default."""
    shown = Settings.model_construct() if settings is None else settings
    return list(_rows(shown, ()))


def unknown_settings() -> list[str]:
    """Return a warning for each variable or secret file that has the prefix of settings but is none."""
    sections = [variable((name,)) for name in Settings.model_fields]
    return unknown_variables(given_names(), [*sections, *(row.variable for row in settings_table())])


def _rows(values: Settings | Section, path: tuple[str, ...]) -> Iterator[Row]:
    for name, field in type(values).model_fields.items():
        value = getattr(values, name)
        if isinstance(value, Section):
            yield from _rows(value, (*path, name))
        else:
            is_set = name in values.model_fields_set
            description = field.description or ""
            yield Row(variable((*path, name)), _text(value), description, name in values.EVERYDAY, is_set)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case SecretStr():
            return ",".join(map(_without_password, addresses(value.get_secret_value())))
        case tuple():
            return orjson.dumps(value).decode()
        case _:
            return str(value)


def _without_password(url: str) -> str:
    """Return the URL with `***` for a password before the host or in the query; `***` if it is not a URL."""
    if "://" not in url:
        return "***"
    scheme, separator, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    name, colon, _ = credentials.partition(":")
    hidden = _PASSWORD_IN_QUERY.sub(r"\1***", host)
    return f"{scheme}{separator}{name}{':***' if colon else ''}{at}{hidden}"
