"""Reading of requests: body, parameters and headers, within limits; each error names the parameter and the limit."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final
from urllib.parse import quote

import orjson
from starlette.requests import Request

from calltag.core.domain.user_data import JsonValue, Pair, Size, stored_pairs
from calltag.core.strict_json import JsonLimits, JsonRefused, TooManyValues, parse
from calltag.gateway.errors import OutOfRange, ParameterMissing

Body = Mapping[str, JsonValue]
IGNORED_HEADER: Final = "Calltag-Ignored-Parameters"
_MAX_IGNORED: Final = 16
_MAX_IGNORED_LENGTH: Final = 32
_JSON_TYPES: Final = ("application/json", "text/json")
# A quoted string ends at its quote, or, if that is missing, with the header. All repetitions are possessive, so that
# any header is parsed in linear time.
_QUOTED: Final = r'"(?:[^"\\]|\\.)*+(?:"|\\?$)'
_PREFERENCES: Final = re.compile(rf'(?:{_QUOTED}|[^,"])++', re.DOTALL)
_PREFERENCE: Final = re.compile(rf'\s*+([^\s=;"]++)\s*+(?:=\s*+({_QUOTED}|[^\s;"]*+))?+\s*+(?:;|$)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class UserDataLimits:
    """Limits of the user data in one request."""

    max_pairs: int = 1_000
    max_bytes: int = 65_536
    max_key_bytes: int = 255


def required_text(body: Body, name: str, *, max_bytes: int = 255, within: str = "") -> str:
    """Return a string that is present and not empty; `within` is where the body is, for errors.

    Raises ParameterMissing, OutOfRange.
    """
    value = body.get(name)
    if value is None:
        raise ParameterMissing(f"{within}{name} is missing")
    if not isinstance(value, str):
        raise OutOfRange(f"{within}{name} must be a string")
    if not value:
        raise OutOfRange(f"{within}{name} must not be empty")
    if len(value.encode()) > max_bytes:
        raise OutOfRange(f"{within}{name} is longer than {max_bytes} bytes")
    return value


def optional_text(body: Body, name: str, default: str, *, max_bytes: int = 255) -> str:
    """Return a string, or the default if it is missing. Raises OutOfRange."""
    return required_text(body, name, max_bytes=max_bytes) if body.get(name) is not None else default


def required_object(body: Body, name: str) -> Body:
    """Return a JSON object. Raises ParameterMissing, OutOfRange."""
    if name not in body or body[name] is None:
        raise ParameterMissing(f"{name} is missing")
    value = body[name]
    if not isinstance(value, dict):
        raise OutOfRange(f"{name} must be a JSON object")
    return value


def required_list(body: Body, name: str, *, max_items: int) -> list[JsonValue]:
    """Return a list that is not empty. Raises ParameterMissing, OutOfRange."""
    if name not in body or body[name] is None:
        raise ParameterMissing(f"{name} is missing")
    value = body[name]
    if not isinstance(value, list) or not value:
        raise OutOfRange(f"{name} must be a list of at least one")
    if len(value) > max_items:
        raise OutOfRange(f"{name} has {len(value)} entries; at most {max_items} are allowed")
    return value


def ignored_header(names: Iterable[str]) -> str:
    """Return the value of the header that names parameters of no effect: the first ones, percent-encoded."""
    shown = [
        quote(name[:_MAX_IGNORED_LENGTH], safe="", errors="replace")
        for name in islice(dict.fromkeys(names), _MAX_IGNORED)
    ]
    return ", ".join(shown)


def whole_number(name: str, text: str | None, default: int, *, least: int, most: int) -> int:
    """Return a parameter of the address that is a whole number, the default if it is missing. Raises OutOfRange."""
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise OutOfRange(f"{name} must be a whole number from {least} to {most}")
    return int(text)


def user_data(body: Body, limits: UserDataLimits, *, required: bool = True) -> tuple[Pair, ...]:
    """Return the pairs of `userData`. Raises ParameterMissing, OutOfRange."""
    if not required and body.get("userData") is None:
        return ()
    pairs = tuple(required_object(body, "userData").items())
    for key, _ in pairs:
        _check_key(key, "userData: a key", limits)
    # Counted before any value is encoded, so that a request far beyond the limit costs little.
    count = stored_pairs(pairs)
    if count > limits.max_pairs:
        raise OutOfRange(f"userData has {count} pairs; a request may carry {limits.max_pairs}")
    size = Size.of(pairs, lambda value: len(orjson.dumps(value)))
    if size.encoded_bytes > limits.max_bytes:
        raise OutOfRange(f"userData has {size.encoded_bytes} bytes; a request may carry {limits.max_bytes}")
    return pairs


def user_data_key(body: Body, limits: UserDataLimits) -> str:
    """Return the parameter `key`. Raises ParameterMissing, OutOfRange."""
    return required_text(body, "key", max_bytes=limits.max_key_bytes)


def _check_key(key: str, what: str, limits: UserDataLimits) -> None:
    if not key:
        raise OutOfRange(f"{what} is empty")
    if len(key.encode()) > limits.max_key_bytes:
        raise OutOfRange(f"{what} is longer than {limits.max_key_bytes} bytes")


@dataclass(frozen=True, slots=True)
class ReadBody:
    """A parsed body, and its bytes as received."""

    json: JsonValue
    raw: bytes

    def as_object(self) -> Body:
        """Return the body as a JSON object. Raises OutOfRange."""
        if not isinstance(self.json, dict):
            raise OutOfRange("the body must be a JSON object")
        return self.json


@dataclass(frozen=True, slots=True)
class BodyReader:
    """Reads JSON bodies within `limits`, each within `deadline_s` seconds."""

    limits: JsonLimits = field(default_factory=JsonLimits)
    deadline_s: float = 10.0

    async def read(self, request: Request) -> ReadBody:
        """Read and parse the body of a request.

        Raises OutOfRange: HTTP status 408 for a body too slow, 413 for one too large, 415 for another type.
        """
        content_type = (request.headers.get("content-type") or _JSON_TYPES[0]).partition(";")[0].strip().lower()
        if content_type not in _JSON_TYPES:
            raise OutOfRange("the body must be JSON: send Content-Type: application/json", http_status=415)
        raw = await self._in_time(request)
        try:
            return ReadBody(parse(raw, self.limits), raw)
        except TooManyValues as refused:
            raise OutOfRange(f"{refused}; send it in several requests (CALLTAG_GATEWAY__MAX_VALUES)") from None
        except JsonRefused as refused:
            raise OutOfRange(str(refused)) from None

    async def _in_time(self, request: Request) -> bytes:
        try:
            async with asyncio.timeout(self.deadline_s):
                return await self._bounded(request)
        except TimeoutError:
            raise OutOfRange(
                f"the body did not come within {self.deadline_s:g} s (CALLTAG_BODY_DEADLINE_S)",
                http_status=408,
                # The rest of the body would be parsed as the next request.
                headers={"Connection": "close"},
            ) from None

    async def _bounded(self, request: Request) -> bytes:
        """Read the body, no further than the limit."""
        most = self.limits.max_bytes
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        body, more = bytearray(), True
        while more:
            # Cheaper than the framework's stream: nearly every body arrives in one message.
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise OutOfRange("the client left before its request was complete")
            body += message.get("body", b"")
            if len(body) > most:
                raise _too_large(most)
            more = message.get("more_body", False)
        return bytes(body)


def _too_large(most: int) -> OutOfRange:
    return OutOfRange(f"the body is larger than {most} bytes", http_status=413)


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
