"""How far a worker lags behind."""

from collections.abc import Mapping

from calltag.core.broker.ports import Partition
from calltag.core.store.ports import StoreUnavailable
from calltag.worker.reports import Lag, LagReports

HERE, THERE = Partition(0), Partition(1)


def test_the_greatest_age_since_the_last_report() -> None:
    clock = [1_000]
    lag = Lag(lambda: clock[0])
    assert lag.worst_ms() == 0
    lag.took(400)
    lag.finished()
    lag.took(900)
    lag.finished()
    assert lag.worst_ms() == 600
    assert lag.worst_ms() == 0


def test_what_is_in_hand_grows_older() -> None:
    clock = [1_000]
    lag = Lag(lambda: clock[0])
    lag.took(900)
    assert lag.worst_ms() == 100
    clock[0] = 5_000
    assert lag.worst_ms() == 4_100
    lag.finished()
    lag.worst_ms()
    assert lag.worst_ms() == 0


class Reported:
    def __init__(self) -> None:
        self.reports: list[Mapping[Partition, int]] = []
        self.away = False

    async def report(self, lags: Mapping[Partition, int]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.reports.append(lags)

    async def read(self) -> Mapping[Partition, int]:
        raise NotImplementedError


async def test_only_what_is_owned_is_reported() -> None:
    lags = Reported()
    reports = LagReports(lags, lambda: 1_000)
    reports.of(THERE).took(0)
    await reports.report([HERE])
    lags.away = True
    await reports.report([THERE])
    assert lags.reports == [{HERE: 0}]
