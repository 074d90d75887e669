"""Names of settings: environment variables, and files in the secrets folder."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from pydantic import BaseModel

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
