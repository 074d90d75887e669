"""Limits and rules of operations, and their outcome."""

from collections.abc import Callable
from dataclasses import dataclass

from calltag.core.domain.agent import Agent
from calltag.core.domain.call import Call, ConsultData
from calltag.core.domain.events import Event
from calltag.core.domain.family import MergedData
from calltag.core.domain.status import StatusCode
from calltag.core.domain.user_data import JsonValue


@dataclass(frozen=True, slots=True)
class CallRules:
    """Rules for the user data of consult calls, and of calls into which they are merged."""

    consult_data: ConsultData = ConsultData.INHERITED
    merged_data: MergedData = MergedData.CONSULT_CHANGES


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Limits of one call; `encoded_bytes` returns the length of a value's JSON."""

    encoded_bytes: Callable[[JsonValue], int]
    max_pairs: int = 1_000
    max_bytes: int = 65_536
    max_parties: int = 64
    max_consults: int = 8
    """Consult calls that a party may have from one call at a time."""
    max_related: int = 32
    """Calls that belong together."""
    rules: CallRules = CallRules()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The state after an operation, and the events to publish. A refused operation does not change the state.

    `others` are the other calls that it changed.
    """

    state: Call | Agent | None
    events: tuple[Event, ...] = ()
    code: StatusCode = StatusCode.SUCCESS
    text: str = ""
    others: tuple[Call, ...] = ()


class RefusedError(Exception):
    """The state of the call does not allow the operation."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
