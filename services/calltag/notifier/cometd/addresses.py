"""Addresses of clients, and how many sessions each has on this node."""

from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final

from calltag.core.bayeux.deadlines import Deadlines

_IPV6_NETWORK_BITS: Final = 64


def network_of(address: str) -> str:
    """The address, or the /64 of an IPv6 address: a client may choose any address of that."""
    if ":" not in address:
        return address
    try:
        return str(ip_network((address.partition("%")[0], _IPV6_NETWORK_BITS), strict=False))
    except ValueError:
        return address


@dataclass(slots=True)
class Addresses:
    """Counts the sessions that are held here, and those that were begun here and have not connected yet."""

    _of: dict[str, str] = field(default_factory=dict)
    _counts: Counter[str] = field(default_factory=Counter)
    _begun: Deadlines = field(default_factory=Deadlines)

    def count(self, address: str) -> int:
        """How many sessions the address has."""
        return self._counts[address]

    def begin(self, client_id: str, address: str, deadline_ms: int) -> None:
        """A session begins; it counts until the deadline, and for as long as it is held here."""
        self.put(client_id, address)
        self._begun.add(deadline_ms, client_id)

    def put(self, client_id: str, address: str) -> None:
        """The session is the address's (from now on)."""
        if self._of.get(client_id) != address:
            self.release(client_id)
            self._of[client_id] = address
            self._counts[address] += 1

    def release(self, client_id: str) -> None:
        """The session is not here (any more)."""
        address = self._of.pop(client_id, None)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def sweep(self, now_ms: int, held: Container[str]) -> None:
        """Forget the sessions that did not connect in time."""
        for client_id, _ in self._begun.due(now_ms):
            if client_id not in held:
                self.release(client_id)
