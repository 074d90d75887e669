"""Parsing of the header `Prefer: wait=N` of operations."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from calltag.gateway.errors import OutOfRange

# A quoted string ends at its quote, or, if that is missing, with the header. All repetitions are possessive, so that
# any header is parsed in linear time.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+(?:"|\\?$)'
_PREFERENCES: Final = re.compile(rf'(?:{_QUOTED}|[^,"])++', re.DOTALL)
_PREFERENCE: Final = re.compile(rf'\s*+([^\s=;"]++)\s*+(?:=\s*+({_QUOTED}|[^\s;"]*+))?+\s*+(?:;|$)', re.DOTALL)


def wait_s(prefer: Sequence[str], most_s: int) -> int | None:
    """Return the seconds of `Prefer: wait=N` (RFC 7240, section 4.3), at most `most_s`; None without the preference.

    `prefer` holds the headers of that name. Raises OutOfRange if N is not a whole number.
    """
    asked = next((value for name, value in _preferences(", ".join(prefer)) if name == "wait"), None)
    if asked is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", asked):
        raise OutOfRange("Prefer: wait must be a whole number of seconds")
    return min(int(asked), most_s)


def _preferences(header: str) -> Iterator[tuple[str, str]]:
    """Yield names, in lower case, and values, in the order given; parameters of a preference are ignored."""
    for each in _PREFERENCES.findall(header):
        found = _PREFERENCE.match(each)
        if found is not None:
            yield found[1].lower(), _unquoted(found[2] or "")


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:].removesuffix('"')) if word.startswith('"') else word
