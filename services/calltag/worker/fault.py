"""Why an operation failed, in words that hold no values."""

import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from calltag.core.store.ports import StateUnreadable, StoreError


class Reason(StrEnum):
    """Why an operation is parked, as headers, metrics and operators name it."""

    UNREADABLE = "not_an_operation"
    """The message is no operation that this version reads."""
    FAULT = "failed_repeatedly"
    """It, or its call, failed again and again while others went on."""
    CRASH = "crashes_workers"
    """Workers died while they worked on it."""
    BEHIND = "behind_a_parked_one"
    """An operation of the same call is parked, and nobody would be told of a refusal."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One failure. `exception` is the name of its class, `where` the line that raised it; `after` the parked operation
    that this one is behind."""

    detail: str
    exception: str = ""
    where: str = ""
    after: str = ""


def fault_of(error: Exception) -> Fault:
    """The fault that an exception stands for. Only the store's own words are known to hold no values."""
    name = type(error).__name__
    known = isinstance(error, StateUnreadable) or (isinstance(error, StoreError) and error.__cause__ is None)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return Fault(str(error) if known else f"{name} was raised", name, where)
