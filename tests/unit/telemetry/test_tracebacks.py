"""Tracebacks in the log: where it failed and with which exception, and never what the exception says."""

import asyncio
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiormq.abc
import orjson
import pytest
import structlog
from pamqp.commands import Basic
from pamqp.header import ContentHeader
from pydantic import TypeAdapter
from redis.exceptions import ResponseError

from calltag.core.broker.ports import BrokerUnavailable
from calltag.core.contracts.operations import (
    AGENT,
    CALL,
    ENVELOPE,
    EVENT,
    NODE,
    OPERATION,
    REPLY,
    NodeMessage,
    OperationReply,
    WireError,
)
from calltag.core.contracts.stored_call import decode_dones
from calltag.core.domain.call import Call
from calltag.core.domain.ids import OperationId
from calltag.core.domain.status import StatusCode
from calltag.core.store.client import not_usable
from calltag.core.strict_json import JsonLimits, parse
from calltag.core.telemetry.logging import Form, configure_logging, summary_of
from unit.telemetry.test_logging import Terminal, output

__all__ = ["output"]
SECRET = "MOST-SECRET-4711"
WRONG = orjson.dumps(
    {
        "kind": SECRET, "id": [SECRET], "v": SECRET, "operation": {"id": [SECRET]}, "events": [{"kind": SECRET}],
        "operation_id": [SECRET], "code": SECRET, "user": [SECRET],
    }
)  # fmt: skip


def _group() -> None:
    raise ExceptionGroup(SECRET, [ValueError(SECRET), KeyError(SECRET)])


def _alone() -> None:
    raise ValueError(SECRET)


def _chained() -> None:
    try:
        _alone()
    except ValueError as error:
        raise RuntimeError(SECRET) from error


RECORDS: dict[str, Callable[[], object]] = {
    "operation": lambda: OPERATION.decode(WRONG),
    "envelope": lambda: ENVELOPE.decode(WRONG),
    "node": lambda: NODE.decode(WRONG),
    "event": lambda: EVENT.decode(WRONG),
    "reply": lambda: REPLY.decode(WRONG),
    "stored call": lambda: CALL.decode(WRONG),
    "stored agent": lambda: AGENT.decode(WRONG),
    "stored outcomes": lambda: decode_dones("call:C", [OperationId("o")], [b'"' + SECRET.encode()]),
    "model": lambda: NodeMessage.model_validate_json(WRONG),
    "dataclass": lambda: TypeAdapter(Call).validate_json(WRONG),
    "request": lambda: parse(b'{"%b": 1, "%b": 2}' % (SECRET.encode(), SECRET.encode()), JsonLimits()),
    "json": lambda: orjson.loads(b"[" + SECRET.encode()),
    "key": lambda: dict[str, int]()[SECRET],
    "group": _group,
    "chain": _chained,
}


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("record", RECORDS)
def test_what_a_record_holds_is_in_no_traceback(output: Terminal, form: Form, record: str) -> None:
    configure_logging("worker", form=form)
    try:
        RECORDS[record]()
    except Exception:
        structlog.get_logger().exception("failed")
        logging.getLogger("asyncio").exception("failed too")
    written = output.getvalue()
    assert written.count("Traceback (most recent call last)") >= 2
    assert Path(__file__).name in written
    assert SECRET not in written


@pytest.mark.parametrize("form", ["json", "console"])
def test_every_exception_of_a_chain_is_named_where_it_was_raised(output: Terminal, form: Form) -> None:
    configure_logging("worker", form=form)
    try:
        _chained()
    except RuntimeError:
        structlog.get_logger().exception("failed")
    written = output.getvalue()
    assert written.index("ValueError") < written.index("direct cause") < written.index("RuntimeError")
    assert "in _chained" in written


def test_the_members_of_a_group_are_shown(output: Terminal) -> None:
    configure_logging("worker", form="console")
    try:
        _group()
    except ExceptionGroup:
        structlog.get_logger().exception("failed")
    assert all(name in output.getvalue() for name in ("ExceptionGroup", "ValueError", "KeyError"))


def test_what_the_system_says_is_shown(output: Terminal) -> None:
    configure_logging("worker", form="console")
    try:
        (Path("/") / "nowhere" / SECRET).read_text()
    except OSError:
        structlog.get_logger().exception("failed")
    assert "FileNotFoundError: No such file or directory" in output.getvalue()
    assert SECRET not in output.getvalue().replace("/ SECRET", "")


async def test_what_asyncio_says_of_a_task_that_failed_shows_no_values(output: Terminal) -> None:
    configure_logging("worker")
    loop = asyncio.get_running_loop()

    def fail(what: str) -> None:
        raise ValueError(what)

    handled = asyncio.Event()

    def handle(its: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        its.default_exception_handler(context)
        handled.set()

    loop.set_exception_handler(handle)
    loop.call_soon(fail, SECRET)
    await handled.wait()
    [event] = output.events()
    assert (event["logger"], event["level"]) == ("asyncio", "error")
    assert str(event["event"]).startswith("Exception in callback test_what_asyncio_says")
    assert "in fail" in str(event["exception"])
    assert SECRET not in output.getvalue()


def test_a_message_that_a_library_complains_of_is_not_shown(output: Terminal) -> None:
    configure_logging("worker")
    header = ContentHeader(0, 1, Basic.Properties())
    message = aiormq.abc.DeliveredMessage(Basic.Return(), header, SECRET.encode(), None)  # type: ignore[arg-type]
    logging.getLogger("asyncio").error("Unhandled message %r returning", message)
    assert output.events()[0]["event"] == "Unhandled message 'DeliveredMessage' returning"


def test_what_redis_was_asked_is_not_in_what_it_refuses() -> None:
    refusal = ResponseError(f"unknown command 'HSET', with args beginning with: 'key' '{SECRET}' ")
    assert str(not_usable(refusal)) == "Redis is not usable: ResponseError: unknown command 'HSET'"


def test_where_an_event_is_wrong_is_told_without_keys_of_user_data() -> None:
    call = {
        "id": "c", "conn_id": "x", "type": "Inbound", "dnis": "", "began_at_ms": 0, "legs": [],
        "user_data": {"values": {SECRET: 5}},
    }  # fmt: skip
    event = {
        "kind": "call", "id": "e", "notification": "StatusChange", "recipients": [], "accepted_at_ms": 0, "call": call,
    }  # fmt: skip
    with pytest.raises(WireError, match="user_data") as error:
        EVENT.decode(orjson.dumps(event))
    assert SECRET not in str(error.value)


def test_an_exception_that_ends_the_process_is_shown_without_values() -> None:
    program = (
        "from calltag.core.telemetry.logging import configure_logging\n"
        f"configure_logging('worker')\nraise ValueError('{SECRET[:5]}' + '{SECRET[5:]}')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "ValueError" in ended.stderr
    assert SECRET not in ended.stderr


@pytest.mark.parametrize(
    ("error", "summary"),
    [
        (ValueError(SECRET), "ValueError"),
        (BrokerUnavailable("no connection"), "BrokerUnavailable: no connection"),
        (OSError(24, "Too many open files", SECRET), "OSError: Too many open files"),
        (OSError(SECRET), "OSError"),
    ],
)
def test_an_error_is_told_in_one_line_without_values(error: Exception, summary: str) -> None:
    assert summary_of(error) == summary


def test_encoding_warns_of_no_value() -> None:
    wrong: Any = [SECRET]
    reply = OperationReply.model_construct(operation_id=OperationId("o"), code=StatusCode.SUCCESS, text=wrong)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        REPLY.encode(reply)
    assert warned == []
