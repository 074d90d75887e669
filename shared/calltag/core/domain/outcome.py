"""Result of applying an operation."""

from collections.abc import Callable
from dataclasses import dataclass

from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call
from calltag.core.domain.events import Event
from calltag.core.domain.json_value import JsonValue
from calltag.core.domain.status import StatusCode


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of one call; `encoded_bytes` returns the length of a value's JSON."""

    encoded_bytes: Callable[[JsonValue], int]
    max_pairs: int = 1_000
    max_bytes: int = 65_536
    max_parties: int = 64


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state after an operation and the event to publish, if any. A refused operation does not change the state."""

    state: Call | Agent | None
    event: Event | None = None
    code: StatusCode = StatusCode.SUCCESS
    text: str = ""


class RefusedError(Exception):
    """The state of the call does not allow the operation."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
