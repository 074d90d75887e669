"""The garbage collector of a service."""

import gc

import pytest

from calltag.core.process.os_limits import collect_less_often, spare_garbage_collection


def test_imports_do_not_collect_all_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "set_threshold", lambda *given: thresholds.append(given))
    collect_less_often()
    [(young, *_)] = thresholds
    assert young > 10_000


def test_what_is_there_is_not_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    thresholds: list[tuple[int, ...]] = []
    monkeypatch.setattr(gc, "set_threshold", lambda *given: thresholds.append(given))
    before = gc.get_threshold()
    try:
        spare_garbage_collection()
        assert gc.get_freeze_count() > 0
    finally:
        gc.unfreeze()
    [(young, *others)] = thresholds
    assert young > before[0]
    assert tuple(others) == before[1:]
