"""The hub: what it does before and beside the engine."""

from dataclasses import dataclass, field

from calltag.core.bayeux.engine import Caller
from calltag.core.bayeux.limits import BayeuxLimits
from calltag.notifier.cometd.hub import Hub

HELLO = {"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["long-polling"]}


@dataclass
class Presence:
    users: set[str] = field(default_factory=set)

    async def online(self, user: str) -> None:
        self.users.add(user)

    async def offline(self, user: str) -> None:
        self.users.discard(user)


class NoMetrics:
    def sessions(self, count: int) -> None: ...

    def received(self, messages: int) -> None: ...

    def delivered(self, channel: str, sessions: int) -> None: ...


async def test_no_session_begins_before_events_can_come() -> None:
    presence = Presence()
    hub = Hub(BayeuxLimits(), presence, NoMetrics())
    [reply] = (await hub.exchange([HELLO], Caller("alice"))).replies
    assert (reply["successful"], reply["error"]) == (False, "503::Service unavailable")
    assert reply["advice"]["reconnect"] == "handshake"  # type: ignore[index]
    assert presence.users == set()
    hub.reachable = True
    [reply] = (await hub.exchange([HELLO], Caller("alice"))).replies
    assert reply["successful"]
    assert presence.users == {"alice"}
