"""The root of the settings tree, read from the command line, the environment and files of secrets."""

import os
from pathlib import Path

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as SourceError

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
    Login,
    NotifierSettings,
    Origins,
    Positive,
    Proxies,
    PublicUrl,
    Redis,
    Seconds,
    SessionSettings,
    Tls,
    Worker,
)
from calltag.core.settings.variables import (
    DELIMITER,
    PREFIX,
    SECRETS_FOLDER,
    SettingsError,
    given_names,
    refuse_unknown_sections,
    variable,
)


class Settings(BaseSettings):
    """A variable is `CALLTAG_<SECTION>__<FIELD>`; an empty one counts as not set.

    A file of that name in the folder CALLTAG_SECRETS_DIR does as well; a variable wins over it.
    """

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
    login: Login = Login()
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
