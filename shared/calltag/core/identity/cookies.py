"""Setting and parsing cookies; those set are HttpOnly, for all paths."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

SameSite = Literal["lax", "strict", "none"]


@dataclass(frozen=True, slots=True)
class CookieFlags:
    """`secure`: for HTTPS only; `same_site`: on which cross-site requests browsers send them (RFC 6265bis, 5.6.7)."""

    secure: bool = False
    same_site: SameSite = "lax"

    def set_cookie(self, name: str, value: str) -> str:
        """Return the value of a Set-Cookie header."""
        secure = "; Secure" if self.secure else ""
        return f"{name}={value}; Path=/; HttpOnly; SameSite={self.same_site.capitalize()}{secure}"


USUAL: Final = CookieFlags()
_MOST: Final = 8
"""Maximum number of cookies of one name that are read."""


def values_of(name: str, headers: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct values of the cookies of that name in `Cookie` headers, in order, 8 at most.

    Other applications on the host or domain may set a cookie of the same name, and browsers send all of them, in an
    order that no server can choose (RFC 6265, 5.4).
    """
    pairs = (part.partition("=") for header in headers for part in header.split(";"))
    values = (value.strip().removeprefix('"').removesuffix('"') for key, _, value in pairs if key.strip() == name)
    return tuple(dict.fromkeys(value for value in values if value))[:_MOST]
