"""The directory file: what it gives, and how it says what is wrong with it."""

from pathlib import Path

import pytest
from argon2 import PasswordHasher

from calltag.core.domain.agent import SYSTEM_STATES, AgentState, UserState, WorkMode
from calltag.core.domain.ids import DeviceId, UserId
from calltag.core.identity.directory import (
    VOICE_FEATURE,
    Device,
    DirectoryError,
    Role,
    demo_directory,
    parse_directory,
    read_directory,
)

HASH = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$4iYp9m8xVw1QHTbRoyNyS1tzcRcyGRMOCOTyD4Rr0Vo"


def user(name: str, *lines: str) -> str:
    return "\n".join(["[[users]]", f'id = "{name}"', f'password_hash = "{HASH}"', *lines, ""])


def device(name: str, number: str) -> str:
    return f'[[users.devices]]\nid = "{name}"\nnumber = "{number}"'


def test_a_user_with_everything() -> None:
    text = user(
        "zoe",
        'first_name = "Zoë"',
        'last_name = "Q"',
        'roles = ["supervisor"]',
        'features = ["api-voice"]',
        device("d1", "7001"),
        device("d2", "7002"),
    )
    found = parse_directory(text, "a.toml")
    zoe = found.users[UserId("zoe")]
    assert (zoe.first_name, zoe.last_name, zoe.roles, zoe.features) == (
        "Zoë",
        "Q",
        frozenset({Role.SUPERVISOR}),
        frozenset({VOICE_FEATURE}),
    )
    assert zoe.devices == (Device(DeviceId("d1"), "7001"), Device(DeviceId("d2"), "7002"))
    assert found.by_device[DeviceId("d2")].user is zoe
    assert found.by_number["7001"].device.id == "d1"
    assert HASH not in repr(zoe)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "directory.toml"
    path.write_text(user("zoe"), encoding="utf-8-sig")
    assert set(read_directory(path).users) == {"zoe"}


def test_an_agent_without_devices_needs_little() -> None:
    (only,) = parse_directory(user("yan"), "a.toml").users.values()
    assert (only.roles, only.features, only.devices) == (frozenset({Role.AGENT}), frozenset(), ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("users = 1 1", r"a\.toml is not TOML: .*line 1"),
        ("users = " + "[" * 5_000, r"a\.toml is not TOML that can be read: it is nested too deep"),
        ("users = " + "9" * 5_000, r"a\.toml is not TOML: Exceeds the limit"),
        ("", r"a\.toml: users: Field required"),
        (user("yan", 'roles = ["boss"]'), r"a\.toml: users\.0\.roles\.0: Input should be 'agent', 'supervisor'"),
        (user("yan", "colour = 1"), r"a\.toml: users\.0\.colour: Extra inputs"),
        (user("yan", "devices = [{id = 'd', number = '1', color = 1}]"), r"users\.0\.devices\.0\.color: Extra"),
        (user("yan", 'supervisors = ["zed"]'), r"a\.toml: supervisor zed of user yan is not a user"),
        (user("yan", 'supervisors = ["yan"]'), r"a\.toml: supervisor yan of user yan lacks the role supervisor"),
        (user("yan", "devices = [{id = 'd'}]"), r"users\.0\.devices\.0\.number: Field required"),
        (user("yan").replace(HASH, "demo"), r"users\.0\.password_hash: not an argon2 hash"),
        (user("yan").replace(HASH, "$argon2id$x"), r"users\.0\.password_hash: not an argon2 hash"),
        (user("y:n"), r"users\.0\.id: String should match"),
        (user("a") + user("a"), r"a\.toml: user id a is there twice"),
        (user("a", device("d", "1")) + user("b", device("d", "2")), r"a\.toml: device id d is there twice"),
        (user("a", device("d", "1")) + user("b", device("e", "1")), r"a\.toml: device number 1 is there twice"),
    ],
)
def test_errors_name_file_place_and_reason(text: str, message: str) -> None:
    with pytest.raises(DirectoryError, match=message):
        parse_directory(text, "a.toml")


def test_errors_are_told_all_at_once_and_without_secrets() -> None:
    text = user("yan", "colour = 1").replace(HASH, "plain-text") + user("zoe", "size = 1")
    with pytest.raises(DirectoryError) as error:
        parse_directory(text, "a.toml")
    assert len(str(error.value).splitlines()) == 3
    assert "plain-text" not in str(error.value)


def test_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "centre.toml"
    file.write_text(user("zoë"), encoding="utf-8")
    assert list(read_directory(file).users) == ["zoë"]


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "centre.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DirectoryError, match=r"centre\.toml cannot be read"):
        read_directory(file)


def test_the_demo_contact_centre() -> None:
    demo = demo_directory()
    numbers = {name: [device.number for device in user.devices] for name, user in demo.users.items()}
    assert numbers == {
        "alice": ["15000"],
        "bob": ["15001"],
        "carol": ["15002"],
        "dave": ["15003"],
        "admin": ["15004"],
        "switch": [],
    }
    assert demo.by_number["15000"].device.id == "631608b3-ceb1-472b-ba05-2ae39555b0d1"
    assert {name for name, user in demo.users.items() if VOICE_FEATURE in user.features} == {
        "alice",
        "bob",
        "carol",
        "admin",
    }
    assert Role.SUPERVISOR in demo.users[UserId("carol")].roles
    assert [name for name, user in demo.users.items() if user.is_administrator] == ["admin"]
    assert demo.users[UserId("switch")].roles == frozenset({Role.SWITCH})
    assert demo.users[UserId("bob")].device(DeviceId("631608b3-ceb1-472b-ba05-2ae39555b0d1")) is None


def test_every_demo_password_is_demo() -> None:
    for each in demo_directory().users.values():
        assert PasswordHasher().verify(each.password_hash, "demo")


def test_supervisors_see_their_agents_and_administrators_everybody() -> None:
    demo = demo_directory()
    alice, dave, carol, admin = map(UserId, ("alice", "dave", "carol", "admin"))
    assert demo.oversees(carol, alice)
    assert demo.oversees(admin, dave)
    seen = [(carol, dave), (alice, carol), (alice, alice), (carol, UserId("x")), (UserId("x"), alice)]
    assert not [pair for pair in seen if demo.oversees(*pair)]


STATES = """
initial_agent_state = "Lunch"

[[agent_states]]
name = "Lunch"
id = "id-of-lunch"
display_name = "At lunch"
reason = "Lunch"

[[agent_states]]
name = "Training"
id = "id-of-training"
display_name = "Training"
work_mode = "AuxWork"

[[users]]
id = "alice"
password_hash = "{hash}"
"""


def test_states_of_agents_are_added_to_those_of_every_installation() -> None:
    centre = parse_directory(STATES.replace("{hash}", HASH), "a.toml")
    assert [*centre.agent_states] == [*SYSTEM_STATES, "Lunch", "Training"]
    lunch = AgentState("Lunch", UserState.NOT_READY, "id-of-lunch", "At lunch", reason="Lunch")
    assert centre.initial_state == centre.agent_states["Lunch"] == lunch
    assert centre.agent_states["Training"].work_mode is WorkMode.AUX_WORK


@pytest.mark.parametrize(
    ("was", "becomes", "message"),
    [
        ('initial_agent_state = "Lunch"', 'initial_agent_state = "Dinner"', "initial_agent_state is not known; known"),
        ('name = "Training"', 'name = "Lunch"', "agent state Lunch is there twice"),
        ('name = "Training"', 'name = "Ready"', "agent state Ready is there twice"),
        ('name = "Training"', 'name = "In training"', "agent_states.1.name"),
        ('work_mode = "AuxWork"', 'work_mode = "Work"', "agent_states.1.work_mode"),
        ('work_mode = "AuxWork"', 'state = "LoggedOut"', "agent_states.1.state"),
    ],
)
def test_errors_in_states_of_agents(was: str, becomes: str, message: str) -> None:
    with pytest.raises(DirectoryError, match=message):
        parse_directory(STATES.replace("{hash}", HASH).replace(was, becomes, 1), "a.toml")
