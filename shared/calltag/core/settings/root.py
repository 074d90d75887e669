"""The root of the settings tree, read from the environment, from files of secrets and from the command line."""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as SourceError

from calltag.core.settings.sections import (
    Amqp,
    DirectorySection,
    Embedded,
    Gateway,
    Internal,
    Log,
    Notifier,
    Redis,
    Seconds,
    Session,
    Worker,
)

PREFIX = "CALLTAG_"
SECRETS_FOLDER = "CALLTAG_SECRETS_DIR"


class SettingsError(ValueError):
    """A setting has a value that is not valid; the message names the variable and the limit."""


class Settings(BaseSettings):
    """A variable is `CALLTAG_<SECTION>__<FIELD>`; a file of that name in CALLTAG_SECRETS_DIR does as well."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
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
    drain_timeout_s: Seconds = Field(10.0, le=600, description="How long to finish what is in hand at the end.")
    amqp: Amqp = Amqp()
    redis: Redis = Redis()
    embedded: Embedded = Embedded()
    gateway: Gateway = Gateway()
    worker: Worker = Worker()
    notifier: Notifier = Notifier()
    internal: Internal = Internal()
    directory: DirectorySection = DirectorySection()
    session: Session = Session()
    log: Log = Log()


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; `overrides` (from the command line) win over the environment.

    Raises SettingsError.
    """
    _take_secrets(os.environ.get(SECRETS_FOLDER))
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError("\n".join(map(_explain, error.errors(include_url=False, include_input=False)))) from None
    except SourceError as error:
        raise SettingsError(f"a setting cannot be read: {error}") from None


def _take_secrets(folder: str | None) -> None:
    """A mounted secret is a file named like the variable; a variable that is set wins over it."""
    if folder is None:
        return
    if not Path(folder).is_dir():
        raise SettingsError(f"{SECRETS_FOLDER}: {folder} is not a folder")
    for file in Path(folder).iterdir():
        if file.name.upper().startswith(PREFIX) and file.is_file():
            os.environ.setdefault(file.name.upper(), file.read_text(encoding="utf-8").strip())


def _explain(error: Any) -> str:
    return f"{variable(tuple(map(str, error['loc'])))}: {error['msg']}"


def variable(path: tuple[str, ...]) -> str:
    """The environment variable of a setting."""
    return PREFIX + "__".join(part.upper() for part in path)
