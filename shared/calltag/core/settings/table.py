"""Table of the settings, for the documentation and `calltag config`."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import orjson
from pydantic import BaseModel, SecretStr

from calltag.core.bus.addresses import addresses
from calltag.core.settings.root import Settings
from calltag.core.settings.variables import given_names, unknown_variables, variable

_PASSWORD_IN_QUERY: Final = re.compile(r"([?&]password=)[^&]*")


@dataclass(frozen=True, slots=True)
class Row:
    """One setting: variable, value as text, and description."""

    variable: str
    value: str
    description: str


def settings_table(settings: Settings | None = None) -> list[Row]:
    """Return every setting with its value in `settings`, or with its default."""
    shown = Settings.model_construct() if settings is None else settings
    return list(_rows(type(shown), shown, ()))


def unknown_settings() -> list[str]:
    """Return a warning for each variable or secret file that has the prefix of settings but is none."""
    sections = [variable((name,)) for name in Settings.model_fields]
    return unknown_variables(given_names(), [*sections, *(row.variable for row in settings_table())])


def _rows(model: type[BaseModel], values: BaseModel, path: tuple[str, ...]) -> Iterator[Row]:
    for name, field in model.model_fields.items():
        value = getattr(values, name)
        if isinstance(value, BaseModel):
            yield from _rows(type(value), value, (*path, name))
        else:
            yield Row(variable((*path, name)), _text(value), field.description or "")


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
