"""The intake before an application: so many requests at a time, a bounded queue, and nobody waits for long."""

import asyncio
from collections.abc import Callable

from starlette.types import Message, Receive, Scope, Send

from calltag.core.http.admission_queue import AdmissionQueue, Rejection, release_slot
from parts.eventually import eventually


class App:
    """Answers requests once `go` is set."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.at_work = 0
        self.most_at_work = 0

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await self.go.wait()
        self.at_work -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def nothing() -> Message:
    return {"type": "http.request"}


async def request(app: Callable[..., object], receive: Receive = nothing, address: str = "") -> Message:
    """The head of the answer."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "http", "client": (address, 1) if address else None}, receive, send)  # type: ignore[misc]
    return sent[0]


def begin(app: Callable[..., object], receive: Receive = nothing) -> asyncio.Task[Message]:
    return asyncio.create_task(request(app, receive))


async def test_so_many_at_a_time_and_the_others_after_them() -> None:
    app = App()
    intake = AdmissionQueue(app, 2, 3, 10)
    tasks = [begin(intake) for _ in range(5)]
    await eventually(lambda: intake.queued == 3)
    assert (intake.in_progress, app.at_work) == (2, 2)
    app.go.set()
    assert [(await each)["status"] for each in tasks] == [200] * 5
    assert (intake.in_progress, intake.queued, app.most_at_work) == (0, 0, 2)


async def test_beyond_the_queue_requests_are_refused_at_once() -> None:
    app, turned = App(), list[Rejection]()
    intake = AdmissionQueue(app, 1, 1, 10, turned.append)
    tasks = [begin(intake) for _ in range(2)]
    await eventually(lambda: intake.queued == 1)
    refused = await request(intake)
    headers = dict(refused["headers"])
    assert refused["status"] == 503
    assert 1 <= int(headers[b"retry-after"]) <= 3
    assert turned == [Rejection.QUEUE_FULL]
    app.go.set()
    assert [(await each)["status"] for each in tasks] == [200, 200]


async def test_an_address_leaves_places_in_the_queue_for_others() -> None:
    app, turned = App(), list[Rejection]()
    intake = AdmissionQueue(app, 1, 8, 10, turned.append)
    greedy = [asyncio.create_task(request(intake, address="10.0.0.1")) for _ in range(20)]
    await eventually(lambda: intake.queued == 4 and len(turned) == 15)
    others = [asyncio.create_task(request(intake, address=f"10.0.0.{host}")) for host in (2, 3)]
    await eventually(lambda: intake.queued == 6)
    app.go.set()
    assert [(await each)["status"] for each in others] == [200, 200]
    statuses = [(await each)["status"] for each in greedy]
    assert (statuses.count(200), statuses.count(503)) == (5, 15)
    assert set(turned) == {Rejection.QUEUE_FULL}
    assert intake._places.taken == 0


async def test_nobody_waits_longer_than_the_deadline() -> None:
    app, turned = App(), list[Rejection]()
    intake = AdmissionQueue(app, 1, 5, 0.05, turned.append)
    first = begin(intake)
    assert (await begin(intake))["status"] == 503
    assert (turned, intake.queued) == ([Rejection.LATE], 0)
    app.go.set()
    assert (await first)["status"] == 200
    assert (await request(intake))["status"] == 200


async def test_who_would_wait_too_long_at_the_pace_of_late_is_refused_at_once() -> None:
    turned = list[Rejection]()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    # No one has to wait for so long: there is room for a few in the queue, and the others are told before.
    intake = AdmissionQueue(app, 1, 1_000, 0.3, turned.append)
    statuses = [each["status"] for each in await asyncio.gather(*(request(intake) for _ in range(10)))]
    assert statuses == [200] * 10
    tasks = [begin(intake) for _ in range(500)]
    await eventually(lambda: intake.queued + len(turned) == 499)
    assert intake.in_progress == 1
    assert len(turned) > 200
    assert 200 in [(await each)["status"] for each in tasks]


async def test_who_goes_away_keeps_no_place() -> None:
    app = App()
    intake = AdmissionQueue(app, 1, 5, 10)
    first, second, third = begin(intake), begin(intake), begin(intake)
    await eventually(lambda: intake.queued == 2)
    second.cancel()
    await asyncio.wait({second})
    first.cancel()
    await asyncio.wait({first})
    await eventually(lambda: intake.in_progress == 1 and intake.queued == 0)
    app.go.set()
    assert (await third)["status"] == 200
    assert intake.in_progress == 0


async def test_a_turn_that_comes_with_the_end_of_the_request_goes_on_to_the_next() -> None:
    app = App()
    intake = AdmissionQueue(app, 1, 5, 10)
    first, second, third = begin(intake), begin(intake), begin(intake)
    await eventually(lambda: intake.queued == 2)
    app.go.set()
    await first
    second.cancel()
    await asyncio.wait({second})
    assert (await third)["status"] == 200
    assert (intake.in_progress, intake.queued) == (0, 0)


async def test_who_only_waits_for_others_takes_no_turn() -> None:
    done = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with release_slot():
            await done.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    intake = AdmissionQueue(app, 1, 0, 10)
    tasks = [begin(intake) for _ in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert intake.in_progress <= 1
    done.set()
    statuses = [(await each)["status"] for each in tasks]
    assert 200 in statuses
    assert intake.in_progress == 0


async def test_a_body_that_does_not_come_takes_no_turn_for_long() -> None:
    here = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def slow() -> Message:
        await here.wait()
        return await nothing()

    intake = AdmissionQueue(app, 1, 5, 10)
    slow_one = begin(intake, slow)
    assert (await request(intake))["status"] == 200
    assert not slow_one.done()
    here.set()
    assert (await slow_one)["status"] == 200
    assert intake.in_progress == 0


async def test_an_answer_that_is_not_read_takes_no_turn_for_long() -> None:
    read = asyncio.Event()

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def unread(message: Message) -> None:
        if message["type"] == "http.response.body":
            await read.wait()

    intake = AdmissionQueue(app, 1, 5, 10)
    deaf = asyncio.create_task(intake({"type": "http", "client": None}, nothing, unread))
    assert (await request(intake))["status"] == 200
    assert not deaf.done()
    read.set()
    await deaf
    assert intake.in_progress == 0


async def test_outside_of_an_intake_nothing_is_set_aside() -> None:
    with release_slot():
        pass
