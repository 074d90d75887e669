"""Users whom tokens describe, as several processes keep them."""

import pytest

from calltag.core.domain.ids import UserId
from calltag.core.identity.claimed_users import ClaimedUsers, Profile
from calltag.core.identity.directory import Directory, Role, User, directory
from calltag.core.identity.login_attempts import WrongCredentials
from calltag.core.store.client import RedisClient

ALICE = User(UserId("alice"), "hash", roles=frozenset({Role.AGENT}))
AGENT = frozenset({Role.AGENT})
DAY_S = 86_400


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


class Process:
    """One process, with its directory."""

    def __init__(self, client: RedisClient, clock: Clock, *, admits: bool = True) -> None:
        self.directory = directory((ALICE,))
        self.users = ClaimedUsers(self.directory, client, "t", admits=admits, forget_s=10 * DAY_S, clock_s=clock)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def profile(user: str, clock: Clock, roles: frozenset[Role] = AGENT) -> Profile:
    return Profile(user=user, roles=roles, seen_at=int(clock.now_s))


def names(known: Directory) -> set[str]:
    return {str(name) for name in known.users}


async def test_users_are_known_to_all_processes(client: RedisClient, clock: Clock) -> None:
    one, other = Process(client, clock), Process(client, clock)
    assert (await one.users.admit(profile("zoe", clock))).id == "zoe"
    assert names(one.directory) == {"alice", "zoe"}
    await other.users.refresh()
    assert names(other.directory) == {"alice", "zoe"}
    await other.users.admit(profile("zoe", clock, frozenset({Role.ADMINISTRATOR})))
    await one.users.refresh()
    assert one.directory.users[UserId("zoe")].is_administrator


async def test_a_process_that_starts_later_knows_them(client: RedisClient, clock: Clock) -> None:
    await Process(client, clock).users.admit(profile("zoe", clock))
    later = Process(client, clock)
    await later.users.refresh()
    assert "zoe" in names(later.directory)


async def test_a_new_file_keeps_them(client: RedisClient, clock: Clock) -> None:
    process = Process(client, clock)
    await process.users.admit(profile("zoe", clock))
    await process.users.admit(profile("alice", clock, frozenset({Role.SUPERVISOR})))
    bob = User(UserId("bob"), "hash")
    process.users.file_read(directory((bob, ALICE)))
    assert names(process.directory) == {"alice", "bob", "zoe"}
    assert process.directory.users[ALICE.id].roles == {Role.SUPERVISOR}


async def test_a_repeated_sign_in_writes_nothing(client: RedisClient, clock: Clock) -> None:
    process = Process(client, clock)
    await process.users.admit(profile("zoe", clock))
    version = await client.execute("GET", "t:users:version")
    clock.now_s += DAY_S / 2
    await process.users.admit(profile("zoe", clock))
    assert await client.execute("GET", "t:users:version") == version
    clock.now_s += DAY_S
    await process.users.admit(profile("zoe", clock))
    assert await client.execute("GET", "t:users:version") != version


async def test_users_are_forgotten_who_do_not_come_back(client: RedisClient, clock: Clock) -> None:
    process = Process(client, clock)
    await process.users.admit(profile("zoe", clock))
    clock.now_s += 9 * DAY_S
    await process.users.admit(profile("yan", clock))
    clock.now_s += 2 * DAY_S
    later = Process(client, clock)
    await later.users.refresh()
    assert names(later.directory) == {"alice", "yan"}
    assert await client.execute("HLEN", "t:users") == 1


async def test_only_users_of_the_directory_are_admitted_by_default(client: RedisClient, clock: Clock) -> None:
    process = Process(client, clock, admits=False)
    with pytest.raises(WrongCredentials, match="user zoe is not in the directory"):
        await process.users.admit(profile("zoe", clock))
    assert (await process.users.admit(profile("alice", clock))).id == "alice"
    assert await client.execute("HLEN", "t:users") == 1


async def test_a_record_that_cannot_be_read_is_removed(client: RedisClient, clock: Clock) -> None:
    await client.execute("HSET", "t:users", "broken", "{", "wrong", '{"user": "a b"}')
    await client.execute("SET", "t:users:version", "1")
    process = Process(client, clock)
    await process.users.refresh()
    assert names(process.directory) == {"alice"}
    assert await client.execute("HLEN", "t:users") == 0


async def test_a_number_that_two_processes_gave_away_is_one_users_everywhere(client: RedisClient, clock: Clock) -> None:
    one, other = Process(client, clock), Process(client, clock)
    for process, name in ((one, "zoe"), (other, "yan")):
        await process.users.admit(profile(name, clock).model_copy(update={"numbers": ("300",)}))
        assert process.directory.by_number["300"].user.id == name
    for process in (one, other):
        await process.users.refresh()
        assert process.directory.by_number["300"].user.id == "yan"
        assert process.directory.users[UserId("zoe")].devices == ()


async def test_a_sign_in_does_not_look_at_all_users(
    client: RedisClient, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would stop the event loop for tenths of a second with ten thousand of them."""
    process = Process(client, clock)
    await process.users.admit(profile("zoe", clock))
    monkeypatch.delattr("calltag.core.identity.claimed_users.described")
    assert (await process.users.admit(profile("yan", clock))).id == "yan"
    assert names(process.directory) == {"alice", "yan", "zoe"}
