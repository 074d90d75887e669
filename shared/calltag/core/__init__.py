"""The packages that every service shares: the domain, the ports and their adapters, the Bayeux engine."""

from typing import Final

VERSION: Final = "0.1.0"
