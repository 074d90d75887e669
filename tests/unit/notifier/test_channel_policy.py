"""Who may subscribe to what."""

import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.directory import demo_directory
from calltag.core.store.watches import Watched
from calltag.notifier.channel_policy import ChannelPolicy, watched_on

OWN = (
    "/v2/me/calls", "/v2/me/devices", "/v2/me/chats", "/v2/me/state", "/v2/me/work-items", "/v2/me/*", "/v2/me/**",
    "/notifications/services", "/notifications/**",
)  # fmt: skip
PATTERNS = ("/v2/*", "/v2/**", "/v2/users/**", "/**", "/*")
OF_AGENTS = ("/v2/users/alice/calls", "/v2/users/bob/*", "/v2/users/alice/**")
OF_OTHERS = ("/v2/users/dave/calls", "/v2/users/admin/calls", "/v2/users/dave/**")
NOBODYS = (
    "/v2/users/nobody/calls", "/v2/users/*", "/v2/users/alice", "/v2/users/alice/devices", "/v2/users/alice/calls/*",
    "/v2/users//calls", "/v2/me", "/v2/me/calls/1", "/v2/me/../users/alice/calls", "/v2/me/", "/x",
)  # fmt: skip


@pytest.mark.parametrize(
    ("user", "allowed"),
    [
        ("alice", OWN + PATTERNS),
        ("carol", OWN + PATTERNS + OF_AGENTS),
        ("admin", (*OWN, *PATTERNS, *OF_AGENTS, *OF_OTHERS, "/v2/calls")),
        ("switch", OWN + PATTERNS),
        ("nobody", ()),
    ],
)
def test_who_may_subscribe_to_what(user: str, allowed: tuple[str, ...]) -> None:
    policy = ChannelPolicy(demo_directory())
    every = (*OWN, *PATTERNS, *OF_AGENTS, *OF_OTHERS, "/v2/calls", *NOBODYS)
    assert [each for each in every if policy.may_subscribe(user, each)] == [*allowed]


@pytest.mark.parametrize("channel", OWN + NOBODYS)
def test_what_needs_no_watch(channel: str) -> None:
    assert not watched_on(channel) or channel == "/v2/users/nobody/calls"


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    ("user", "watched"),
    [
        ("alice", Watched()),
        ("carol", Watched(frozenset({UserId("alice"), UserId("bob")}))),
        ("admin", Watched(all=True)),
        ("nobody", Watched()),
    ],
)
def test_a_pattern_watches_whom_the_user_oversees(user: str, watched: Watched, pattern: str) -> None:
    assert ChannelPolicy(demo_directory()).watched_by(user, [pattern, "/v2/me/calls"]) == watched


def test_what_is_watched() -> None:
    assert watched_on("/v2/users/alice/*") == Watched(frozenset({UserId("alice")}))
    assert ChannelPolicy(demo_directory()).watched_by("admin", ["/v2/calls"]).all


@pytest.mark.parametrize("user", ["alice", "carol", "admin", "switch", "nobody"])
def test_everybody_may_publish_on_service_channels_and_nowhere_else(user: str) -> None:
    policy, services = ChannelPolicy(demo_directory()), ("/service/x", "/service/v2/me/calls")
    every = services + OWN + OF_AGENTS + PATTERNS + NOBODYS
    assert [each for each in every if policy.may_publish(user, each)] == [*services]
