"""Why a message is parked, told by workers and by RabbitMQ."""

from datetime import UTC, datetime

from pamqp.common import FieldTable

from calltag.core.broker.ports import ParkingDetails, Partition
from calltag.core.broker.rabbitmq.parking import headers_of, parking_of


def test_what_a_worker_says_comes_back() -> None:
    why = ParkingDetails("failed", "text", Partition(3), 1, 2, 4, "ValueError", "call:C", "o9")
    assert parking_of(headers_of(why)) == why


def test_what_rabbitmq_took_out_is_told_with_its_reason() -> None:
    at = datetime.fromtimestamp(5, UTC)
    death: FieldTable = {"reason": "delivery_limit", "queue": "calltag.ops.p07", "time": at, "count": 1}
    why = parking_of({"x-death": [death], "x-delivery-count": 3})
    assert why is not None
    assert (why.reason, why.partition, why.failed_ms, why.attempts) == ("delivery_limit", 7, 5_000, 0)
    assert "no worker blocked its call" in why.detail


def test_where_nothing_tells_nothing_is_made_up() -> None:
    assert parking_of({}) is None
    assert parking_of({"x-death": []}) is None
    odd = parking_of({"x-death": [{"reason": "maxlen", "queue": "other"}]})
    assert odd is not None
    assert (odd.partition, odd.failed_ms) == (0, 0)
