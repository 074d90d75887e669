"""The client's address behind proxies: only what trusted proxies say counts, and only addresses."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calltag.core.http.scope import TrustedProxies
from parts.work import lines_run

FRONT, CLIENT = "10.0.0.1", "203.0.113.7"
ADDRESSES = st.ip_addresses().map(str)
OUTSIDE = ADDRESSES.filter(lambda text: not _in_private(text))
INSIDE = st.ip_addresses(network="10.0.0.0/8").map(str)
ENTRIES = st.one_of(ADDRESSES, st.text(max_size=20), st.sampled_from(["unknown", "", " ", "_hidden", "1.2.3.4:5"]))


def _in_private(text: str) -> bool:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return address.version == 4 and address in ipaddress.ip_network("10.0.0.0/8")


@pytest.mark.parametrize(
    ("networks", "peer", "trusted"),
    [
        ((), FRONT, False),
        (("10.0.0.1",), FRONT, True),
        (("10.0.0.1",), "10.0.0.2", False),
        (("10.0.0.0/8", "2001:db8::/32"), "10.9.9.9", True),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db8::1", True),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:DB8:0::1", True),
        (("10.0.0.0/8", "2001:db8::/32"), "2001:db9::1", False),
        (("10.0.0.0/8",), "::ffff:10.0.0.1", True),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("10.0.0.0/8",), "", False),
        (("10.0.0.0/8",), "a name", False),
        (("*",), "", True),
        (("10.0.0.0/8", "*"), CLIENT, True),
    ],
)
def test_trusted_are_addresses_and_networks(networks: tuple[str, ...], peer: str, trusted: bool) -> None:
    assert TrustedProxies(networks).trusts(peer) is trusted


@pytest.mark.parametrize("network", ["front", "10.0.0.0/99", "10.0.0.1/8", "", "10.0.0.1:80"])
def test_what_is_no_network_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match=r"does not appear to be|has host bits"):
        TrustedProxies((network,))


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([], FRONT),
        ([""], FRONT),
        ([" , "], FRONT),
        ([CLIENT], CLIENT),
        ([f" {CLIENT} "], CLIENT),
        (["192.0.2.99, 203.0.113.7"], CLIENT),
        (["192.0.2.99", "203.0.113.7"], CLIENT),
        (["192.0.2.99, 203.0.113.7, 10.0.0.3"], CLIENT),
        (["192.0.2.99", "203.0.113.7, 10.0.0.3", "10.0.0.4,"], CLIENT),
        (["10.0.0.5, 10.0.0.3"], "10.0.0.5"),
        (["203.0.113.7:54321"], CLIENT),
        (["2001:db8::7"], "2001:db8::7"),
        (["[2001:DB8::7]"], "2001:db8::7"),
        (["[2001:db8:0:0::7]:443"], "2001:db8::7"),
        (["::ffff:203.0.113.7"], CLIENT),
        (["forged, 203.0.113.7"], CLIENT),
        (["unknown"], FRONT),
        (["203.0.113.7, unknown"], FRONT),
        (["203.0.113.7, unknown, 10.0.0.3"], FRONT),
        (["not-an-address level=error forged=yes"], FRONT),
        (["fe80::1%x\x1b]0;X"], FRONT),
        (["fe80::1%eth0"], FRONT),
        (["[203.0.113.7]:80"], CLIENT),
        (["2001:db8::7:99999999"], FRONT),
        (["203.0.113.7:"], FRONT),
        (["203.0.113.7:x"], FRONT),
        (["203.0.113.07"], FRONT),
        (["3405803783"], FRONT),
        (["²⁰³.0.113.7"], FRONT),
    ],
)
def test_the_client_is_the_last_that_is_no_trusted_proxy(headers: list[str], client: str) -> None:
    assert TrustedProxies(("10.0.0.0/8",)).client_address(FRONT, headers) == client


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([CLIENT], CLIENT),
        (["9.9.9.9, 203.0.113.7"], CLIENT),
        (["9.9.9.9, 203.0.113.7, 10.0.0.3"], "10.0.0.3"),
        (["9.9.9.9", "203.0.113.7"], CLIENT),
        (["203.0.113.7, unknown"], FRONT),
        ([], FRONT),
    ],
)
def test_with_every_peer_trusted_the_client_is_what_the_nearest_proxy_appended(headers: list[str], client: str) -> None:
    assert TrustedProxies(("*",)).client_address(FRONT, headers) == client


@given(st.lists(ENTRIES, max_size=6).map(", ".join), OUTSIDE, st.lists(INSIDE, max_size=3))
def test_nothing_that_a_client_sends_changes_its_address(sent: str, client: str, proxies: list[str]) -> None:
    headers = [", ".join([sent, client, *proxies])]
    expected = str(ipaddress.ip_address(client))
    got = TrustedProxies(("10.0.0.0/8",)).client_address(FRONT, headers)
    assert got in {expected, str(getattr(ipaddress.ip_address(client), "ipv4_mapped", None))}


@given(st.lists(st.lists(ENTRIES, max_size=4).map(",".join), max_size=4), ADDRESSES)
def test_the_answer_is_always_the_peer_or_an_address(headers: list[str], peer: str) -> None:
    for networks in (("*",), ("10.0.0.0/8", "fc00::/7"), ()):
        got = TrustedProxies(networks).client_address(peer, headers)
        assert got == peer or str(ipaddress.ip_address(got)) == got


@given(st.lists(st.lists(ENTRIES, max_size=4).map(",".join), max_size=4), OUTSIDE)
def test_a_peer_that_is_not_trusted_speaks_for_itself(headers: list[str], peer: str) -> None:
    assert TrustedProxies(("10.0.0.0/8",)).client_address(peer, headers) == peer


@pytest.mark.parametrize(
    ("headers", "scheme"),
    [
        ([], "http"),
        (["https"], "https"),
        (["HTTPS"], "https"),
        (["wss"], "https"),
        (["ws"], "http"),
        (["https, http"], "http"),
        (["http", "https"], "https"),
        (["https,"], "https"),
        (["ftp"], "http"),
        (["https\tx"], "http"),
        ([""], "http"),
    ],
)
def test_the_scheme_is_the_one_that_the_nearest_proxy_tells(headers: list[str], scheme: str) -> None:
    assert TrustedProxies(("*",)).scheme(headers, "http") == scheme
    assert TrustedProxies(("*",)).scheme(["nothing"], "wss") == "wss"


def test_a_peer_that_was_seen_before_is_not_judged_again() -> None:
    proxies = TrustedProxies([f"10.{number}.0.0/16" for number in range(200)])
    first = lines_run(lambda: proxies.client_address(FRONT, [CLIENT]))
    again = lines_run(lambda: proxies.client_address(FRONT, [CLIENT]))
    assert first > 400
    assert again < 40


def test_what_is_remembered_of_peers_is_bounded() -> None:
    proxies = TrustedProxies(("192.0.2.0/24",))
    for number in range(10_000):
        assert not proxies.trusts(str(ipaddress.ip_address(number)))
    assert proxies._judged.cache_info().currsize <= 4_096
