"""One origin is one, in whichever way it is written; different ones are different."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.http.origin import AllowedOrigins, Origin

SAME = [
    ("https://desk.example.com", "https://desk.example.com:443"),
    ("http://desk.example.com", "http://desk.example.com:80"),
    ("https://desk.example.com", "HTTPS://Desk.Example.COM"),
    ("https://desk.example.com", "https://desk.example.com."),
    ("https://desk.example.com:8443", "https://DESK.example.com.:8443"),
    ("http://[::1]:8080", "http://[0:0:0:0:0:0:0:1]:8080"),
    ("http://[2001:db8::a]", "http://[2001:DB8::A]:80"),
    ("https://münchen.example", "https://xn--mnchen-3ya.example"),
]
DIFFERENT = [
    ("https://desk.example.com", "http://desk.example.com"),
    ("https://desk.example.com", "https://desk.example.com:80"),
    ("https://desk.example.com", "https://desk.example.com:8443"),
    ("https://desk.example.com", "https://desk.example.com.evil.example"),
    ("https://desk.example.com", "https://example.com"),
    ("https://desk.example.com", "https://xdesk.example.com"),
    ("http://[::1]", "http://[::2]"),
    ("http://127.0.0.1", "http://localhost"),
]
NONE = [
    "null", "", "https://", "desk.example.com", "ftp://desk.example.com", "https://desk.example.com/", "https://[::1",
    "https://[::g]", "https://desk.example.com:x", "https://desk.example.com:99999", "https://a@desk.example.com",
    "https://desk.example.com?a", "https://desk.example.com#a", "file://", "https://.", "https://\udcff",
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_ways_to_write_one_origin(one: str, other: str) -> None:
    assert Origin.parse(one) == Origin.parse(other)
    assert AllowedOrigins([one]).allow(other)
    assert AllowedOrigins([other]).allow(one)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_origins(one: str, other: str) -> None:
    assert Origin.parse(one) != Origin.parse(other)
    assert not AllowedOrigins([one]).allow(other)


@pytest.mark.parametrize("text", NONE)
def test_what_is_no_origin_is_never_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be scheme, host and port, as in"):
        Origin.parse(text)
    assert not AllowedOrigins(["https://desk.example.com"]).allow(text)


@pytest.mark.parametrize(
    ("origin", "host", "served"),
    [
        ("https://desk.example.com", "desk.example.com", True),
        ("https://desk.example.com", "desk.example.com:443", True),
        ("http://desk.example.com", "desk.example.com:80", True),
        ("https://desk.example.com", "Desk.Example.com", True),
        ("https://desk.example.com", "desk.example.com.", True),
        ("https://desk.example.com:8443", "desk.example.com:8443", True),
        ("http://[::1]:8080", "[0::1]:8080", True),
        ("http://desk.example.com", "desk.example.com:443", False),
        ("https://desk.example.com", "desk.example.com:80", False),
        ("https://desk.example.com:8443", "desk.example.com", False),
        ("https://evil.example", "desk.example.com", False),
        ("https://desk.example.com", "", False),
        ("https://desk.example.com", "desk.example.com/x", False),
        ("https://desk.example.com", "evil.example@desk.example.com", False),
    ],
)
def test_the_host_header_tells_host_and_port(origin: str, host: str, served: bool) -> None:
    assert Origin.parse(origin).is_served_at(host) is served


@given(st.text())
def test_any_text_is_allowed_only_where_all_are(text: str) -> None:
    assert not AllowedOrigins().allow(text)
    assert AllowedOrigins(["*"]).allow(text)
    AllowedOrigins(["https://desk.example.com"]).allow(text)
    Origin("https", "desk.example.com", 443).is_served_at(text)


def test_origins_that_are_not_configured_are_none() -> None:
    assert not AllowedOrigins()
    assert AllowedOrigins(["*"])
    assert AllowedOrigins(["https://desk.example.com"])
