"""Log lines of persistent failures: one when it begins, at most one per minute while it lasts, one when it is over."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Literal
from weakref import WeakSet

import structlog

from calltag.core.telemetry.logging import reason_of

log = structlog.get_logger()
REPEAT_S: Final = 60.0
_all: "Final[WeakSet[Condition]]" = WeakSet()


def forget_conditions() -> None:
    """Reset all conditions."""
    for condition in _all:
        condition.reset()


@dataclass(slots=True, eq=False, weakref_slot=True)
class Condition:
    """A failure that recurs until it is repaired, such as a refused connection.

    `failing` and `over` are the events of its log lines. Several subjects (partitions, connections) may fail: the
    condition is over when none does. One without `over` is over after a minute without failures.
    """

    failing: str
    over: str = ""
    level: Literal["info", "warning", "error"] = "warning"
    cure: str = ""
    """Remedy for operators, shown in each line."""
    clock_s: Callable[[], float] = time.monotonic
    _subjects: set[Hashable] = field(default_factory=set)
    _causes: set[str] = field(default_factory=set)
    """Error types logged since it began."""
    _count: int = 0
    _began_s: float = 0.0
    _logged_s: float = float("-inf")

    def __post_init__(self) -> None:
        _all.add(self)

    def fails(self, error: BaseException, subject: Hashable = None, **details: object) -> None:
        """Note a failure. An error with `logged_elsewhere` is ignored, as another condition logs it."""
        if getattr(error, "logged_elsewhere", False):
            return
        now_s = self.clock_s()
        if not self._subjects or (not self.over and now_s - self._logged_s >= REPEAT_S):
            self._causes.clear()
            self._count, self._began_s = 0, now_s
        self._subjects.add(subject)
        self._count += 1
        cause = type(error).__name__
        if cause not in self._causes or now_s - self._logged_s >= REPEAT_S:
            self._causes.add(cause)
            self._log(error, now_s, details)

    def holds(self, subject: Hashable = None) -> None:
        """Note that the subject works."""
        if subject not in self._subjects:
            return
        self._subjects.discard(subject)
        if not self._subjects and self.over:
            log.info(self.over, failed_s=round(self.clock_s() - self._began_s, 1))

    def forget(self, subject: Hashable = None) -> None:
        """Drop a subject that no longer matters, without a log line."""
        self._subjects.discard(subject)

    def reset(self) -> None:
        """Forget all failures and log lines."""
        self._subjects.clear()
        self._logged_s = float("-inf")

    def _log(self, error: BaseException, now_s: float, details: dict[str, object]) -> None:
        if self.cure:
            details["cure"] = self.cure
        if self._count > 1:
            details |= {"times": self._count, "since_s": round(now_s - self._began_s, 1)}
        getattr(log, self.level)(self.failing, reason=reason_of(error), **details)
        self._count, self._logged_s = 0, now_s
