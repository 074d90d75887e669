"""Ids of CometD sessions as clients show them."""

from calltag.core.domain.ids import UserId
from calltag.core.store.client_ids import is_bearer, new_client_id, user_of
from fuzz.target import Target

WORDS = [b"c", b"b", b"a" * 32, b"mfwgsy3f", b"=", b"-", b"7", b"\xc3\xa4", b"\xef\xbc\xa1", b"\x00", b"\xc4\xb1"]
SEEDS = [b"c" + b"a" * 32 + b"mfwgsy3f", b"b" + b"a" * 32, b"", b"alice", "ÄÖ@host.example".encode()]


def one_input(data: bytes) -> None:
    """Any text names a user or nobody, and no user longer than itself; every user's id names that user."""
    text = data.decode(errors="replace")
    user = user_of(text)
    assert user is None or (0 < len(user.encode()) < len(text) and text.isalnum())
    is_bearer(text)
    if text:
        for bearer in (True, False):
            client_id = new_client_id(UserId(text), bearer=bearer)
            assert (user_of(client_id), is_bearer(client_id)) == (text, bearer)
            assert client_id.isascii() and client_id.isalnum()


TARGET = Target("client_ids", one_input, SEEDS, WORDS, max_bytes=600)
