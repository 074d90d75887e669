"""Failures of operations, in words without values of user data."""

import traceback
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from calltag.core.store.ports import StateUnreadable, StoreError


class ParkingReason(StrEnum):
    """Reasons for parking an operation, in headers, metrics and the CLI."""

    UNREADABLE = "not_an_operation"
    """The message cannot be decoded by this version."""
    FAULT = "failed_repeatedly"
    """It, or its call, failed repeatedly while others succeeded."""
    CRASH = "crashes_workers"
    """Workers crashed on it."""
    BEHIND = "behind_a_parked_one"
    """An earlier operation of the same call is parked, and it has no sender to refuse it to."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure: `exception` is the class of the error, `where` the line that raised it, `after` the parked operation
    of the same call."""

    detail: str
    exception: str = ""
    where: str = ""
    after: str = ""


def fault_of(error: Exception) -> Failure:
    """Return the failure of an exception. Only messages of the store are known to hold no values."""
    name = type(error).__name__
    known = isinstance(error, StateUnreadable) or (isinstance(error, StoreError) and error.__cause__ is None)
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return Failure(str(error) if known else f"{name} was raised", name, where)
