"""The life of a service: signals, dead tasks, exit."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine

import pytest

from calltag.core.process.lifecycle import EXIT_FORCED, Lifecycle, ServiceFailed, run, run_service

LOOPS = pytest.mark.parametrize("uvloop", [True, False], ids=["uvloop", "asyncio"])


async def forever() -> None:
    await asyncio.Event().wait()


async def broken() -> None:
    raise ValueError("no broker")


async def broken_below() -> None:
    async with asyncio.TaskGroup() as outer:
        async with asyncio.TaskGroup() as inner:
            inner.create_task(broken())
        outer.create_task(nothing())


async def nothing() -> None:
    return


async def test_side_tasks_are_cancelled_when_main_returns() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def main(life: Lifecycle) -> None:
        tasks.append(life.supervise("consumer", forever()))
        assert life.is_running()
        assert tasks[0].get_name() == "consumer"

    await run_service(main)
    assert tasks[0].cancelled()


@pytest.mark.parametrize(
    ("work", "message", "cause"),
    [
        (broken, "consumer failed: ValueError", ValueError),
        (broken_below, "consumer failed: ValueError", ExceptionGroup),
        (nothing, "consumer ended unexpectedly", None),
    ],
)
async def test_a_dead_side_task_lets_main_finish_and_fails_the_service(
    work: Callable[[], Coroutine[object, object, None]], message: str, cause: type[Exception] | None
) -> None:
    steps: list[str] = []

    async def main(life: Lifecycle) -> None:
        life.supervise("other", forever())
        life.supervise("consumer", work())
        await life.stop.wait()
        assert not life.is_running()
        await asyncio.sleep(0)
        steps.append("drained")

    with pytest.raises(ServiceFailed) as failed:
        await run_service(main)
    assert str(failed.value) == message
    assert type(failed.value.__cause__) is (cause or type(None))
    assert steps == ["drained"]


async def test_the_first_dead_task_is_the_one_that_is_told() -> None:
    async def main(life: Lifecycle) -> None:
        life.supervise("first", broken())
        life.supervise("second", broken())
        await life.stop.wait()
        await asyncio.sleep(0)

    with pytest.raises(ServiceFailed, match=r"^first"):
        await run_service(main)


async def test_a_side_task_may_end_once_the_service_stops() -> None:
    async def main(life: Lifecycle) -> None:
        async def until_stop() -> None:
            await life.stop.wait()

        task = life.supervise("consumer", until_stop())
        life.stop.set()
        await task

    await run_service(main)


async def test_what_main_raises_comes_out_as_it_is() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def main(life: Lifecycle) -> None:
        tasks.append(life.supervise("consumer", forever()))
        raise OSError("port busy")

    with pytest.raises(OSError, match="port busy"):
        await run_service(main)
    assert tasks[0].cancelled()


async def test_cancelling_the_service_cancels_its_side_tasks() -> None:
    begun = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def main(life: Lifecycle) -> None:
        tasks.append(life.supervise("consumer", forever()))
        begun.set()
        await forever()

    service = asyncio.create_task(run_service(main))
    await begun.wait()
    service.cancel()
    with pytest.raises(asyncio.CancelledError):
        await service
    assert tasks[0].cancelled()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_sets_stop(number: signal.Signals) -> None:
    async def main(life: Lifecycle) -> None:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await life.stop.wait()

    await run_service(main)
    assert signal.getsignal(number) in {signal.SIG_DFL, signal.default_int_handler}


async def test_a_second_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    forced = asyncio.Event()
    codes: list[int] = []

    def exit_now(code: int) -> None:
        codes.append(code)
        forced.set()

    monkeypatch.setattr("calltag.core.process.lifecycle.os._exit", exit_now)

    async def main(life: Lifecycle) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await life.stop.wait()
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(5):
            await forced.wait()

    await run_service(main)
    assert codes == [EXIT_FORCED]


@LOOPS
def test_a_service_runs_in_a_loop_of_its_own(monkeypatch: pytest.MonkeyPatch, uvloop: bool) -> None:
    if not uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)
    loops: list[str] = []

    async def main(_: Lifecycle) -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)

    run(main)
    assert ("uvloop" in loops[0]) == uvloop


SERVICE = """
import asyncio, sys, time
from calltag.core.process.lifecycle import Lifecycle, run
from calltag.core.telemetry.logging import configure_logging

async def main(life: Lifecycle) -> None:
    configure_logging("test")
    life.supervise("consumer", asyncio.Event().wait())
    print("ready", flush=True)
    await life.stop.wait()
    print("draining", flush=True)
    if "deadline" in sys.argv:
        life.end_within(0.3)
    if "stuck" in sys.argv:
        time.sleep(60)
    if "hold" in sys.argv:
        await asyncio.Event().wait()

run(main)
print("ended", flush=True)
"""


def service(*arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SERVICE, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_ends_cleanly_and_soon(number: signal.Signals) -> None:
    with service() as process:
        began = time.monotonic()
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
    assert (out, process.returncode) == ("draining\nended\n", 0)
    assert '"event":"stopping"' in errors
    assert "Traceback" not in errors
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("how", ["hold", "stuck"])
def test_a_process_that_drains_for_too_long_ends_at_its_deadline(how: str) -> None:
    with service("deadline", how) as process:
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=20)
    assert (out, process.returncode) == ("draining\n", EXIT_FORCED)
    assert "stopped without finishing" in errors


def test_a_process_that_ends_in_time_does_not_meet_its_deadline() -> None:
    with service("deadline") as process:
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("draining\nended\n", 0)


def test_a_process_that_drains_for_too_long_ends_at_the_second_signal() -> None:
    with service("hold") as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "draining\n"
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=20)
    assert (out, process.returncode) == ("", EXIT_FORCED)
    assert "without finishing" in errors
