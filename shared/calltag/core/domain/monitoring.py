"""Monitoring of agents by supervisors.

Source of the names: Web Services API, ListenIn, Coach and BargeIn.
"""

from dataclasses import dataclass
from enum import StrEnum

from calltag.core.domain.ids import DeviceId


class MonitoringState(StrEnum):
    """Way in which a supervisor takes part in a call, by its name in the API."""

    LISTEN_IN = "ListenIn"
    """No party is aware of the supervisor."""
    COACH = "Coach"
    """The supervisor speaks to the agent alone."""
    BARGE_IN = "BargeIn"
    """A party like the others."""


class MonitoringScope(StrEnum):
    """End of the monitoring of a call, by its name in the API."""

    CALL = "Call"
    """The call ends; transfers do not matter."""
    AGENT = "Agent"
    """The agent leaves the call."""


class MonitoringMode(StrEnum):
    """Selection of the calls that ring at a supervisor, by its name in the API."""

    ALL_CALLS = "AllCalls"
    """The present calls of the agent, and all later ones."""
    NEXT_CALL = "NextCall"
    """Later ones, until the supervisor answers or declines one of them."""


@dataclass(frozen=True, slots=True)
class Monitoring:
    """Monitoring of one device by another one: as a supervisor asked for it, and on the leg of each monitored call.

    `number` is that of the `target`. `user_muted` is True on a call on which the supervisor muted the agent.
    """

    target: DeviceId
    number: str
    state: MonitoringState
    scope: MonitoringScope = MonitoringScope.CALL
    mode: MonitoringMode = MonitoringMode.ALL_CALLS
    user_muted: bool = False

    @property
    def is_silent(self) -> bool:
        """True unless the supervisor is a party like the others."""
        return self.state is not MonitoringState.BARGE_IN
