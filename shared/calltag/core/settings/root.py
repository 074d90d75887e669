"""The root of the settings tree, read from the command line, the environment and files of secrets."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings.exceptions import SettingsError as SourceError

from calltag.core.settings.sections import (
    Amqp,
    DirectorySection,
    Embedded,
    Events,
    Gateway,
    Internal,
    Log,
    Login,
    Notifier,
    Positive,
    Proxies,
    Redis,
    Seconds,
    Session,
    Tls,
    Worker,
)

PREFIX: Final = "CALLTAG_"
DELIMITER: Final = "__"
SECRETS_FOLDER: Final = "CALLTAG_SECRETS_DIR"


class SettingsError(ValueError):
    """Settings are not valid; the message has a line for each, with the variable and the limit, never the value."""


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
        32, ge=1, le=1_024, description="Number of partitions, fixed when the installation is made."
    )
    public_url: str = Field(
        "http://127.0.0.1:8080",
        pattern=r"^https?://[^/\s]+$",
        description="Scheme, host and port that clients use; `uri` and `deviceUri` begin with it.",
    )
    max_connections: int = Field(
        20_000, ge=1, description="Connections of clients that one process serves; beyond, HTTP 503."
    )
    max_batch_bytes: int = Field(
        1_048_576,
        ge=65_536,
        le=16_777_216,
        description="Bytes of one batch: operations taken up together, events of one commit, events added to streams "
        "or read from them at once, one message to a node. A single one that is larger goes alone. RabbitMQ's "
        "`max_message_size` must not be less.",
    )
    operation_memory_s: Positive = Field(3_600, description="How long a repeated operation is recognised at least.")
    body_deadline_s: Seconds = Field(
        10.0, le=600, description="How long the body of a request may take to come; beyond, HTTP 408 (CometD: 400)."
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        le=600,
        description="How long to serve on at the end, not ready any more: until balancers have seen it.",
    )
    trusted_proxies: Proxies = Field(
        (),
        description="Addresses and networks of proxies whose X-Forwarded-For tells the client's address, with commas "
        "between; `*` is all.",
    )
    drain_timeout_s: Seconds = Field(10.0, le=600, description="How long to finish what is in hand at the end.")
    amqp: Amqp = Amqp()
    redis: Redis = Redis()
    embedded: Embedded = Embedded()
    gateway: Gateway = Gateway()
    worker: Worker = Worker()
    events: Events = Events()
    notifier: Notifier = Notifier()
    internal: Internal = Internal()
    tls: Tls = Tls()
    directory: DirectorySection = DirectorySection()
    session: Session = Session()
    login: Login = Login()
    log: Log = Log()

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


def load_settings(**overrides: object) -> Settings:
    """The settings of this process; `overrides` (from the command line) win over the environment.

    An override of a section is a mapping of some of its fields, as in `gateway={"port": 8080}`.
    Raises SettingsError.
    """
    _refuse_unknown(os.environ)
    folder = os.environ.get(SECRETS_FOLDER)
    if folder and not Path(folder).is_dir():
        raise SettingsError(f"{SECRETS_FOLDER}: {folder} is not a folder")
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
    if error["type"] == "extra_forbidden":
        reason = "there is no such setting"
    return f"{variable(error['loc'])}: {reason}"


def variable(path: Iterable[str | int]) -> str:
    """The environment variable of a setting; positions in its value are left out."""
    return PREFIX + DELIMITER.join(part.upper() for part in path if isinstance(part, str))


def _refuse_unknown(names: Iterable[str]) -> None:
    """A section that does not exist is a slip of the pen. (Unknown fields of a section are refused by the section.)

    Names without the delimiter may be others': Kubernetes puts CALLTAG_GATEWAY_SERVICE_HOST and the like there.
    """
    ours = [name for name in names if name.upper().startswith(PREFIX) and DELIMITER in name]
    for name in ours:
        section = name[len(PREFIX) :].partition(DELIMITER)[0].lower()
        if section not in Settings.model_fields:
            near = difflib.get_close_matches(section, Settings.model_fields, 1)
            hint = f"; is {variable(near)} meant?" if near else ""
            raise SettingsError(f"{name}: there is no section {section.upper()}{hint}")
