"""Limits on open connections, in total and for each client address."""

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Final

from calltag.core.http.forwarded import TrustedProxies
from calltag.core.http.request_parser import RequestLimit

_IPV6_NETWORK_BITS: Final = 64
"""A client may choose any address of its /64 (RFC 4291, 2.5.1)."""


@dataclass(slots=True)
class Places:
    """Counts open connections, in total and by network; those of trusted proxies count in the total only."""

    total: int
    per_address: int
    proxies: TrustedProxies
    taken: int = 0
    _by_network: Counter[str] = field(default_factory=Counter)

    def take(self, address: str) -> RequestLimit | None:
        """Count a new connection, or return the limit that refuses it."""
        if self.taken >= self.total:
            return RequestLimit.CONNECTIONS
        if not self.proxies.trusts(address):
            network = _network_of(address)
            if self._by_network[network] >= self.per_address:
                return RequestLimit.CONNECTIONS_PER_ADDRESS
            self._by_network[network] += 1
        self.taken += 1
        return None

    def release(self, address: str) -> None:
        """Release the place of a connection from this address."""
        self.taken -= 1
        if not self.proxies.trusts(address):
            network = _network_of(address)
            self._by_network[network] -= 1
            if not self._by_network[network]:
                del self._by_network[network]


def _network_of(address: str) -> str:
    if ":" not in address:
        return address
    host_bits = 128 - _IPV6_NETWORK_BITS
    return str(IPv6Address(int(IPv6Address(address.partition("%")[0])) >> host_bits << host_bits))
