"""The address under which a process can be reached, and when it says so."""

import asyncio

import pytest

from calltag.core.settings import load_settings
from calltag.core.telemetry.internal_http import Health
from calltag.serve.app import Ports, as_bound, reachable, report_ready
from parts.eventually import eventually, turns


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("::1", "[::1]"),
        ("10.1.2.3", "10.1.2.3"),
        ("desk.example.com", "desk.example.com"),
    ],
)
def test_a_url_leads_to_the_machine_that_listens(host: str, shown: str) -> None:
    settings = load_settings(gateway={"host": host, "port": 0})
    assert reachable(host) == shown
    assert as_bound(settings, Ports(1, 2), gateway=True).public_url == f"http://{shown}:2"


def test_what_is_set_stays_and_what_was_left_open_is_filled_in() -> None:
    settings = load_settings(public_url="https://a.example", notifier={"port": 0}, internal={"port": 0})
    bound = as_bound(settings, Ports(7, 8), gateway=False)
    assert (bound.public_url, bound.internal.port, bound.notifier.port) == ("https://a.example", 7, 8)
    assert bound.gateway == settings.gateway
    assert as_bound(load_settings(), Ports(7, 8), gateway=False).public_url == load_settings().public_url


async def test_it_is_told_once_when_every_check_holds() -> None:
    told: list[str] = []
    stop, open_for_all = asyncio.Event(), asyncio.Event()
    health = Health("gateway", {"installation": open_for_all.is_set, "broker": lambda: True})
    telling = asyncio.create_task(report_ready(health, stop, lambda: told.append("ready")))
    await turns()
    assert told == []
    open_for_all.set()
    await eventually(lambda: told == ["ready"])
    open_for_all.clear()
    assert not telling.done()
    stop.set()
    await telling
    assert told == ["ready"]


async def test_a_process_that_ends_before_it_was_ready_never_says_so() -> None:
    stop = asyncio.Event()
    stop.set()
    await report_ready(Health("gateway", {"broker": lambda: True}), stop, lambda: pytest.fail("told"))
