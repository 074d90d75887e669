"""How cookies are set: no script reads them, and they go with every address of the server."""

from dataclasses import dataclass
from typing import Final, Literal

SameSite = Literal["lax", "strict", "none"]


@dataclass(frozen=True, slots=True)
class CookieFlags:
    """`secure`: for HTTPS only; `same_site`: which requests of other sites' pages they go with (RFC 6265bis, 5.6.7)."""

    secure: bool = False
    same_site: SameSite = "lax"

    def set_cookie(self, name: str, value: str) -> str:
        """The value of a Set-Cookie header."""
        secure = "; Secure" if self.secure else ""
        return f"{name}={value}; Path=/; HttpOnly; SameSite={self.same_site.capitalize()}{secure}"


USUAL: Final = CookieFlags()
