"""Users as tokens describe them."""

from typing import Any

import pytest

from calltag.core.domain.agent import AgentState, UserState
from calltag.core.domain.ids import DeviceId, UserId
from calltag.core.identity.claimed_users import ClaimNames, Profile, described, profile_of
from calltag.core.identity.directory import Device, Directory, Role, User, directory
from calltag.core.identity.login_attempts import WrongCredentials
from calltag.core.identity.openid import claim, words

NAMES = ClaimNames("email", "realm_access.roles", "calltag-", "features", "phones", "team.leads")
LUNCH = AgentState("Lunch", UserState.NOT_READY, "lunch", "Lunch")
ALICE = User(UserId("alice"), "hash", "Alice", roles=frozenset({Role.AGENT}), features=frozenset({"api-voice"}),
             devices=(Device(DeviceId("a"), "100"),), supervisors=frozenset({UserId("carol")}))  # fmt: skip
CAROL = User(UserId("carol"), "hash", roles=frozenset({Role.SUPERVISOR}))
BASE = directory((ALICE, CAROL), agent_states=(LUNCH,), initial_state="Lunch")


def profile(user: str, **more: Any) -> Profile:
    return Profile(user=user, **more)


@pytest.mark.parametrize(
    ("path", "value"),
    [("a", 1), ("b.c", 2), ("d.e", 3), ("b.x", None), ("a.b", None), ("", None), ("b", {"c": 2})],
)
def test_a_claim_is_found_by_name_or_path(path: str, value: object) -> None:
    assert claim({"a": 1, "b": {"c": 2}, "d.e": 3, "d": {"e": 4}}, path) == value


@pytest.mark.parametrize(
    ("value", "texts"),
    [("a b", ["a", "b"]), (["a b", 1, "c"], ["a b", "c"]), (None, []), ({"a": 1}, []), ("", []), (7, [])],
)
def test_texts_of_a_claim(value: object, texts: list[str]) -> None:
    assert list(words(value)) == texts


def test_claims_become_a_profile() -> None:
    claims = {
        "email": "zoe@example.com",
        "realm_access": {"roles": ["calltag-agent", "administrator", "calltag-nothing", "calltag-supervisor"]},
        "features": "api-voice x",
        "phones": ["200", "201"],
        "team": {"leads": ["carol"]},
        "given_name": "Zoe",
        "family_name": "Zett",
    }
    assert profile_of(claims, NAMES, 7.9) == profile(
        "zoe@example.com",
        roles=frozenset({Role.AGENT, Role.SUPERVISOR}),
        features=frozenset({"api-voice", "x"}),
        numbers=("200", "201"),
        supervisors=frozenset({"carol"}),
        first_name="Zoe",
        last_name="Zett",
        seen_at=7,
    )


def test_without_names_of_claims_the_directory_decides() -> None:
    found = profile_of({"email": "a", "roles": ["administrator"]}, ClaimNames("email"), 0)
    assert (found.roles, found.features) == (None, None)


def test_with_their_names_and_no_claims_a_user_has_none() -> None:
    found = profile_of({"email": "a"}, NAMES, 0)
    assert (found.roles, found.features) == (frozenset(), frozenset())


@pytest.mark.parametrize("user", [None, "", 7, ["a"], "a b", "a:b", "a\n", "a" * 129, {"a": 1}])
def test_a_claim_that_names_no_user_is_refused(user: object) -> None:
    with pytest.raises(WrongCredentials, match="the claim email of the token is not the name of a user"):
        profile_of({"email": user}, NAMES, 0)


def test_a_profile_is_written_again_after_a_change_and_after_a_day() -> None:
    first = profile("a", roles=frozenset({Role.AGENT}), seen_at=1_000)
    assert first.agrees(first.model_copy(update={"seen_at": 80_000}))
    assert not first.agrees(first.model_copy(update={"seen_at": 100_000}))
    assert not first.agrees(first.model_copy(update={"roles": frozenset()}))
    assert not first.agrees(None)


def users(found: Directory) -> dict[str, User]:
    return {str(name): user for name, user in found.users.items()}


def test_the_claims_of_a_user_of_the_directory_replace_roles_and_features_alone() -> None:
    said = profile("alice", roles=frozenset({Role.ADMINISTRATOR}), numbers=("999",), first_name="Eve")
    alice = users(described(BASE, [said], admits=True))["alice"]
    assert alice.roles == {Role.ADMINISTRATOR}
    assert (alice.features, alice.devices, alice.first_name) == (ALICE.features, ALICE.devices, "Alice")
    assert alice.credential == ALICE.credential


def test_others_are_admitted_by_setting() -> None:
    zoe = profile("zoe", roles=frozenset({Role.AGENT}), numbers=("200", "200"), supervisors=frozenset({"carol", "x"}))
    assert "zoe" not in described(BASE, [zoe], admits=False).users
    found = described(BASE, [zoe], admits=True)
    user = users(found)["zoe"]
    assert [each.number for each in user.devices] == ["200"]
    assert found.by_number["200"].user == user
    assert user.supervisors == {"carol"}
    assert "zoe" in found.overseen_by(UserId("carol"))
    assert users(described(BASE, [zoe], admits=True))["zoe"].devices == user.devices, (
        "the ids must be the same anywhere"
    )


def test_a_number_has_one_user() -> None:
    """That of the directory, or the first one by name, in whatever order a process read them."""
    profiles = [profile("zoe", numbers=("100", "300")), profile("yan", numbers=("300", "301"))]
    for found in (described(BASE, profiles, admits=True), described(BASE, profiles[::-1], admits=True)):
        assert {number: owner.user.id for number, owner in found.by_number.items()} == {
            "100": "alice",
            "300": "yan",
            "301": "yan",
        }


@pytest.mark.parametrize(
    "said",
    [
        profile("zoe", roles=frozenset({Role.AGENT}), numbers=("200",), supervisors=frozenset({"carol"})),
        profile("zoe", roles=frozenset({Role.ADMINISTRATOR})),
        profile("alice", roles=frozenset({Role.ADMINISTRATOR}), features=frozenset({"x"})),
        profile("alice"),
    ],
)
def test_one_user_more_makes_the_directory_that_all_together_make(said: Profile) -> None:
    whole = described(BASE, [said], admits=True)
    user = whole.users[UserId(said.user)]
    for before in (BASE, described(BASE, [said.model_copy(update={"roles": frozenset()})], admits=True)):
        added = before.with_user(user)
        assert (added.users, added.by_device, added.by_number) == (whole.users, whole.by_device, whole.by_number)
        assert added.administrators == whole.administrators
        assert {name: of for name, of in added.by_supervisor.items() if of} == whole.by_supervisor
    assert BASE.users.keys() == {"alice", "carol"}, "it must stay as it was"


def test_who_is_no_supervisor_any_longer_supervises_nobody() -> None:
    found = described(BASE, [profile("carol", roles=frozenset({Role.AGENT}))], admits=False)
    assert users(found)["alice"].supervisors == frozenset()
    assert not found.oversees(UserId("carol"), UserId("alice"))


def test_the_rest_of_the_directory_stays() -> None:
    found = described(BASE, [], admits=True)
    assert found == BASE
