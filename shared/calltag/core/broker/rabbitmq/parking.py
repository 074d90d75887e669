"""Parking details as message headers."""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from aio_pika.abc import HeadersType
from pamqp.common import FieldValue

from calltag.core.broker.ports import ParkingDetails, Partition

_PREFIX: Final = "calltag-"


def headers_of(parking: ParkingDetails) -> HeadersType:
    """Return the headers of a parked message."""
    return {
        f"{_PREFIX}reason": parking.reason,
        f"{_PREFIX}detail": parking.detail,
        f"{_PREFIX}partition": int(parking.partition),
        f"{_PREFIX}first-seen-ms": parking.first_seen_ms,
        f"{_PREFIX}failed-ms": parking.failed_ms,
        f"{_PREFIX}attempts": parking.attempts,
        f"{_PREFIX}exception": parking.exception,
        f"{_PREFIX}key": parking.key,
        f"{_PREFIX}after": parking.after,
    }


def parking_of(headers: Mapping[str, FieldValue]) -> ParkingDetails | None:
    """Return the details set by a worker, or those that RabbitMQ gave in `x-death`; None without either."""
    if isinstance(headers.get(f"{_PREFIX}reason"), str):
        return ParkingDetails(
            reason=_text(headers, "reason"),
            detail=_text(headers, "detail"),
            partition=Partition(_number(headers, "partition")),
            first_seen_ms=_number(headers, "first-seen-ms"),
            failed_ms=_number(headers, "failed-ms"),
            attempts=_number(headers, "attempts"),
            exception=_text(headers, "exception"),
            key=_text(headers, "key"),
            after=_text(headers, "after"),
        )
    deaths = headers.get("x-death")
    return _of_broker(deaths[0]) if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else None


def _of_broker(death: Mapping[str, FieldValue]) -> ParkingDetails:
    reason, queue, at = str(death.get("reason")), str(death.get("queue")), death.get("time")
    at_ms = round(at.timestamp() * 1000) if isinstance(at, datetime) else 0
    number = queue.rpartition(".p")[2]
    return ParkingDetails(
        reason=reason,
        detail=f"RabbitMQ took it out of {queue} ({reason}); no worker blocked its call",
        partition=Partition(int(number) if number.isdecimal() else 0),
        first_seen_ms=at_ms,
        failed_ms=at_ms,
        attempts=0,
    )


def _text(headers: Mapping[str, FieldValue], name: str) -> str:
    value = headers.get(_PREFIX + name)
    return value if isinstance(value, str) else ""


def _number(headers: Mapping[str, FieldValue], name: str) -> int:
    value = headers.get(_PREFIX + name)
    return value if isinstance(value, int) else 0
