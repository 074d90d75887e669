"""The directory file: a directory without contradictions, or a DirectoryError."""

from argon2 import PasswordHasher

from calltag.core.identity.directory import DirectoryError, parse_directory
from fuzz.target import Target

HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("demo").encode()
WORDS = [
    b"[[users]]\n", b"[[users.devices]]\n", b'id = "', b'number = "', b'password_hash = "', b'"\n', b"roles = [", b"]",
    b"[", b"{", b"}", b"=", b"'agent'", b"'administrator'", b"features = ", b"1979-05-27T07:32:00Z", b"9" * 50, b"\\u",
    b"inf", b'"""', b"#", b"\r", b"\x00", HASH, b"users = ",
]  # fmt: skip
SEEDS = [
    b'[[users]]\nid = "yan"\npassword_hash = "' + HASH + b'"\n[[users.devices]]\nid = "d"\nnumber = "1"\n',
    b"users = []",
    *(
        b'[[users]]\nid = "yan"\npassword_hash = "%b"\ndevices = [{id = "d", number = "1"}, {id = "%b", number = "%b"}]'
        % (HASH, *other)
        for other in ((b"e", b"2"), (b"e", b"1"), (b"d", b"2"))
    ),
    b"users = " + b"[" * 3_000,
    b"users = " + b"9" * 4_400,
    b"a.b.c = {d = [1, 2.5, true, 07:32:00]}",
]


def one_input(data: bytes) -> None:
    """Every user and device is found by its names; an error names the source first."""
    try:
        found = parse_directory(data.decode(errors="replace"), "centre.toml")
    except DirectoryError as error:
        assert str(error).startswith("centre.toml")
        return
    devices = [device for user in found.users.values() for device in user.devices]
    assert all(user.id == name for name, user in found.users.items())
    assert set(found.by_device) == {device.id for device in devices}
    assert set(found.by_number) == {device.number for device in devices}
    assert len(found.by_device) == len(found.by_number) == len(devices)


TARGET = Target("directory", one_input, SEEDS, WORDS, max_bytes=8_192)
