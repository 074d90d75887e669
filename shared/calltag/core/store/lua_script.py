"""Lua scripts of the store: each says in its first comment whether it is idempotent, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import resources
from typing import Final

from calltag.core.store.connection import Command, Request

_PRELUDE: Final = "-- prelude\n"
_IDEMPOTENT: Final = "-- Idempotent: "
_NOT_IDEMPOTENT: Final = "-- Not idempotent: "


@dataclass(frozen=True, slots=True)
class LuaScript:
    """A script; `idempotent` says whether it may be sent again after its reply was lost."""

    source: str
    idempotent: bool
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "digest", sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    def request(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Request:
        """Return a request to run the script."""
        command = ("EVALSHA", self.digest, len(keys), *keys, *args)
        return Request(keys[0] if keys else "", [command], self.idempotent, self.in_full(keys, args))

    def in_full(self, keys: Sequence[str], args: Sequence[str | bytes | int]) -> Command:
        """Return the command that runs the script at a server that does not know it."""
        return ("EVAL", self.source, len(keys), *keys, *args)


def lua_script(name: str) -> LuaScript:
    """Return the script of that name, with the functions of the prelude prepended if it uses them.

    Raises ValueError if it does not say whether it is idempotent.
    """
    folder = resources.files("calltag.core.store").joinpath("lua")
    text = folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")
    lines = text.splitlines()
    is_idempotent = any(line.startswith(_IDEMPOTENT) for line in lines)
    if is_idempotent == any(line.startswith(_NOT_IDEMPOTENT) for line in lines):
        raise ValueError(f"{name}.lua has to say either {_IDEMPOTENT!r} or {_NOT_IDEMPOTENT!r}, and why")
    if text.startswith(_PRELUDE):
        text = folder.joinpath("prelude.lua").read_text(encoding="utf-8") + text
    return LuaScript(text, is_idempotent)
