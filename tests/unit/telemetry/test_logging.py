"""Logs: one form for all, and never a secret or a value of user data."""

import io
import json
import logging
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import structlog

from calltag.core import VERSION
from calltag.core.telemetry.logging import Form, Level, configure_logging

SECRET = "12345-do-not-log"


class Terminal(io.StringIO):
    """Standard error that looks like a terminal, or not."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = Terminal()
    # pytest puts its own standard error in place before each phase of a test, so sys.stderr itself would not last.
    monkeypatch.setattr("calltag.core.telemetry.logging.sys", SimpleNamespace(stderr=stream))
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    for library in ("aio_pika", "aiormq", "websockets", "asyncio"):
        logging.getLogger(library).setLevel(logging.NOTSET)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def test_a_line_of_json(output: Terminal) -> None:
    configure_logging("gateway")
    structlog.contextvars.bind_contextvars(call_id="C1")
    structlog.get_logger().info("operation_accepted", operation="AttachUserData")
    (event,) = output.events()
    assert str(event.pop("time")).endswith("Z")
    assert event == {
        "event": "operation_accepted",
        "level": "info",
        "operation": "AttachUserData",
        "call_id": "C1",
        "service": "gateway",
        "version": VERSION,
    }


def test_libraries_come_out_in_the_same_form(output: Terminal) -> None:
    configure_logging("gateway", level="debug")
    logging.getLogger("aiormq.connection").warning("%s is away", "the broker")
    logging.getLogger("websockets.server").info("chatter")
    (event,) = output.events()
    assert event["event"] == "the broker is away"
    assert (event["level"], event["logger"], event["service"]) == ("warning", "aiormq.connection", "gateway")


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_what_calltag_reports_itself_no_library_says_beside_it(output: Terminal, level: Level) -> None:
    configure_logging("gateway", level=level)
    logging.getLogger("aiormq.connection").error("error when creating transport")
    logging.getLogger("aio_pika.robust_connection").error("connection attempt failed")
    logging.getLogger("asyncio").error("task exception was never retrieved")
    assert [event["event"] for event in output.events()] == ["task exception was never retrieved"]


def test_the_level_is_the_least_that_is_logged(output: Terminal) -> None:
    configure_logging("gateway", level="error")
    structlog.get_logger().warning("quiet")
    logging.getLogger("aio_pika").warning("quiet")
    structlog.get_logger().error("loud")
    assert [event["event"] for event in output.events()] == ["loud"]


def test_configuring_again_replaces(output: Terminal) -> None:
    configure_logging("gateway")
    configure_logging("worker")
    structlog.get_logger().info("once")
    assert [event["service"] for event in output.events()] == ["worker"]


@pytest.mark.parametrize(("terminal", "form"), [(True, "auto"), (False, "console")])
def test_a_person_reads_text(output: Terminal, terminal: bool, form: Form) -> None:
    output.terminal = terminal
    configure_logging("gateway", form=form)
    structlog.get_logger().info("stopping", signal="SIGTERM")
    line = output.getvalue()
    assert "stopping" in line
    assert "SIGTERM" in line
    assert not line.startswith("{")
    assert ("\x1b[" in line) == terminal


def test_json_is_written_to_a_terminal_where_asked_for(output: Terminal) -> None:
    output.terminal = True
    configure_logging("gateway", form="json")
    structlog.get_logger().info("stopping")
    assert output.events()[0]["event"] == "stopping"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize(
    "fields",
    [
        {"user_data": {"Account": SECRET}},
        {"userData": SECRET},
        {"password": SECRET},
        {"Authorization": SECRET},
        {"csrf_token": SECRET},
        {"headers": {"Set-Cookie": SECRET}},
        {"operation": {"action": [{"pairs": [SECRET]}]}},
        {"events": ({"userData": SECRET},)},
    ],
)
def test_contents_and_secrets_are_not_logged(output: Terminal, form: Form, fields: dict[str, object]) -> None:
    configure_logging("gateway", form=form)
    structlog.get_logger().info("operation_accepted", **fields)
    assert SECRET not in output.getvalue()
    assert "(not logged)" in output.getvalue()


def test_what_is_bound_by_context_is_guarded_too(output: Terminal) -> None:
    configure_logging("gateway")
    structlog.contextvars.bind_contextvars(user_data=SECRET)
    structlog.get_logger().info("operation_accepted")
    assert SECRET not in output.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_tracebacks_do_not_show_local_variables(output: Terminal, form: Form) -> None:
    configure_logging("gateway", form=form)
    held = f"{SECRET[:5]}{SECRET[5:]}"
    try:
        int("broken")
    except ValueError:
        structlog.get_logger().exception("failed", held_length=len(held))
        logging.getLogger("asyncio").exception("failed too")
    assert output.getvalue().count("ValueError") == 2
    assert SECRET not in output.getvalue()


@pytest.mark.parametrize("odd", ["\ud800", 2**70, {1: 2}, {("a", 1): 2}, object, b"x"])
def test_no_value_can_break_a_line(output: Terminal, odd: object) -> None:
    configure_logging("gateway")
    structlog.get_logger().info("odd", field=odd)
    assert output.events()[0]["event"] == "odd"
