"""Which channel a publisher goes on with, after a queue has refused something."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from aio_pika.exceptions import DeliveryError
from pamqp.commands import Basic

from calltag.core.broker.ports import BrokerRefused
from calltag.core.broker.rabbitmq import publisher
from calltag.core.broker.rabbitmq.publisher import Publisher
from parts.eventually import eventually


@dataclass(eq=False)
class Channel:
    """A channel on which every queue refuses what is published, or takes it."""

    refuses: bool
    is_closed: bool = False

    async def get_exchange(self, _: str, *, ensure: bool) -> "Channel":
        assert not ensure
        return self

    async def publish(self, *_: Any, mandatory: bool) -> None:
        assert mandatory
        if self.refuses:
            raise DeliveryError(None, Basic.Nack())

    async def close(self) -> None:
        self.is_closed = True


@dataclass
class Link:
    """A link that gives these channels out, and counts."""

    channels: list[Channel]
    blocked: bool = False
    opened: list[Channel] = field(default_factory=list)

    async def look(self) -> bool:
        return False

    async def open_channel(self, *, confirms: bool) -> Channel:
        assert confirms
        self.opened.append(self.channels[len(self.opened)])
        return self.opened[-1]


async def refused(made: Publisher) -> None:
    with pytest.raises(BrokerRefused, match="full"):
        await made.publish("exchange", "key", b"{}", "name")


async def test_a_channel_that_is_not_young_any_more_is_left_where_a_queue_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have come by a leader that has died since."""
    monkeypatch.setattr(publisher, "_TRUSTED_S", 0.0)
    link = Link([Channel(refuses=True), Channel(refuses=False)])
    made = Publisher(link, deadline_s=0.01)  # type: ignore[arg-type]
    await refused(made)
    await made.publish("exchange", "key", b"{}", "name")
    assert link.opened == link.channels
    await eventually(lambda: link.channels[0].is_closed)
    assert not link.channels[1].is_closed


async def test_a_young_channel_is_kept_where_a_queue_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue that is full is no reason to open channels as fast as there is something to publish."""
    monkeypatch.setattr(publisher, "_TRUSTED_S", 3_600.0)
    link = Link([Channel(refuses=True)])
    made = Publisher(link, deadline_s=0.01)  # type: ignore[arg-type]
    for _ in range(10):
        await refused(made)
    assert link.opened == link.channels
    assert not link.channels[0].is_closed
