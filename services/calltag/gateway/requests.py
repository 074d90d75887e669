"""What headers say about how an operation is to be carried out."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from calltag.gateway.errors import OutOfRange

# A quoted string ends at its quote, or, where that is missing, with the header. All repetitions are possessive:
# whatever is in a header, it is read in linear time.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+(?:"|\\?$)'
_PREFERENCES: Final = re.compile(rf'(?:{_QUOTED}|[^,"])++', re.DOTALL)
_PREFERENCE: Final = re.compile(rf'\s*+([^\s=;"]++)\s*+(?:=\s*+({_QUOTED}|[^\s;"]*+))?+\s*+(?:;|$)', re.DOTALL)


def wait_s(prefer: Sequence[str], most_s: int) -> int | None:
    """The seconds of `Prefer: wait=N` (RFC 7240, section 4.3), no more than `most_s`; None if it is not asked for.

    `prefer` holds the headers of that name. Raises OutOfRange if N is not a whole number.
    """
    asked = next((value for name, value in _preferences(", ".join(prefer)) if name == "wait"), None)
    if asked is None:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", asked):
        raise OutOfRange("Prefer: wait must be a whole number of seconds")
    return min(int(asked), most_s)


def _preferences(header: str) -> Iterator[tuple[str, str]]:
    """Names, in small letters, and values, in the order given; parameters of a preference are passed over."""
    for each in _PREFERENCES.findall(header):
        found = _PREFERENCE.match(each)
        if found is not None:
            yield found[1].lower(), _unquoted(found[2] or "")


def _unquoted(word: str) -> str:
    return re.sub(r"\\(.)", r"\1", word[1:].removesuffix('"')) if word.startswith('"') else word
