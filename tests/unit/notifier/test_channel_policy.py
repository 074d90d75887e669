"""Who may subscribe to what."""

import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import demo_directory
from calltag.core.store.watches import Watched
from calltag.notifier.channel_policy import ChannelPolicy, watched_on

OWN = ("/v2/me/calls", "/v2/me/devices", "/notifications/services", "/v2/me/*", "/v2/me/**", "/notifications/**")
OF_AGENTS = ("/v2/users/alice/calls", "/v2/users/bob/*", "/v2/users/alice/**")
OF_OTHERS = ("/v2/users/dave/calls", "/v2/users/admin/calls", "/v2/users/dave/**")
OF_ALL = ("/v2/calls", "/v2/*", "/v2/**", "/v2/users/**")
NOBODYS = (
    "/v2/users/nobody/calls", "/v2/users/*", "/v2/users/alice", "/v2/users/alice/devices", "/v2/users/alice/calls/*",
    "/v2/users//calls", "/**", "/*", "/v2/me", "/v2/me/calls/1", "/x",
)  # fmt: skip


@pytest.mark.parametrize(
    ("user", "allowed"),
    [
        ("alice", OWN),
        ("carol", OWN + OF_AGENTS),
        ("admin", OWN + OF_AGENTS + OF_OTHERS + OF_ALL),
        ("switch", OWN),
        ("nobody", ()),
    ],
)
def test_who_may_subscribe_to_what(user: str, allowed: tuple[str, ...]) -> None:
    policy = ChannelPolicy(demo_directory())
    every = OWN + OF_AGENTS + OF_OTHERS + OF_ALL + NOBODYS
    assert [each for each in every if policy.may_subscribe(user, each)] == [*allowed]


@pytest.mark.parametrize("channel", OWN + NOBODYS)
def test_what_needs_no_watch(channel: str) -> None:
    assert not watched_on(channel) or channel == "/v2/users/nobody/calls"


def test_what_is_watched() -> None:
    assert watched_on("/v2/users/alice/*") == Watched(frozenset({UserId("alice")}))
    assert watched_on("/v2/**").all


@pytest.mark.parametrize("user", ["alice", "carol", "admin", "switch", "nobody"])
def test_everybody_may_publish_on_service_channels_and_nowhere_else(user: str) -> None:
    policy, services = ChannelPolicy(demo_directory()), ("/service/x", "/service/v2/me/calls")
    every = services + OWN + OF_AGENTS + OF_ALL + NOBODYS
    assert [each for each in every if policy.may_publish(user, each)] == [*services]
