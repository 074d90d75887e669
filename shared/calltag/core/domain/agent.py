"""An agent's contact-centre session: the devices, and the state of the agent on each.

Source of the states, their ids and their names: Web Services API, agent states of the voice channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from calltag.core.domain.ids import DeviceId, UserId
from calltag.core.domain.monitoring import Monitoring


class UserState(StrEnum):
    """State of an agent on a device, by its name in the API."""

    LOGGED_OUT = "LoggedOut"
    LOGGED_IN = "LoggedIn"
    READY = "Ready"
    NOT_READY = "NotReady"


class WorkMode(StrEnum):
    """Work mode of an agent who is not ready, by its name in the API."""

    AFTER_CALL_WORK = "AfterCallWork"
    AUX_WORK = "AuxWork"


@dataclass(frozen=True, slots=True)
class AgentState:
    """A state that an agent can choose: `name` is the operation that sets it; `reason` distinguishes states of a kind.

    One without an `id` cannot be chosen: the agent logged in a moment ago.
    """

    name: str
    state: UserState
    id: str = ""
    display_name: str = ""
    work_mode: WorkMode | None = None
    reason: str | None = None


READY: Final = AgentState("Ready", UserState.READY, "9430250E-0A1B-421F-B372-F29E69366DED", "Ready")
NOT_READY: Final = AgentState("NotReady", UserState.NOT_READY, "900D55CC-2BB0-431F-8BF9-D3525B383BE6", "Not Ready")
OFFLINE: Final = AgentState("Offline", UserState.LOGGED_OUT, "0F7F5003-EF26-4D13-A6Ef-D0C7EC819BEB", "Offline")
LOGGED_IN: Final = AgentState("LoggedIn", UserState.LOGGED_IN)
SYSTEM_STATES: Final[Mapping[str, AgentState]] = {
    each.name: each
    for each in (
        READY,
        NOT_READY,
        AgentState(
            "AfterCallWork",
            UserState.NOT_READY,
            "D3663509-3D82-4DD3-A82E-2EA8EFA02AEF",
            "After Call Work",
            WorkMode.AFTER_CALL_WORK,
        ),
        AgentState(
            "AuxWork", UserState.NOT_READY, "2B36138D-C564-4562-A8CB-3C32D564F296", "Aux Work", WorkMode.AUX_WORK
        ),
        OFFLINE,
    )
}
"""States that every installation has, by name."""


NOT_IN_SESSION: Final = "is not in a contact-centre session: send StartContactCenterSession first"
"""Refusal of what a device does only during the session."""


@dataclass(frozen=True, slots=True)
class AgentDevice:
    """One device of an agent. `active` is True from the start to the end of the contact-centre session.

    Calls to it are forwarded to `forward_to`, if that is not empty. Calls of another device ring at it too, if it is a
    supervisor's device with a `monitoring`.
    """

    id: DeviceId
    number: str
    state: AgentState = OFFLINE
    active: bool = False
    do_not_disturb: bool = False
    forward_to: str = ""
    monitoring: Monitoring | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with the devices of the session; every change increments `version`."""

    user: UserId
    devices: tuple[AgentDevice, ...]
    channels: tuple[str, ...] = ()
    version: int = 0

    def device(self, device: DeviceId) -> AgentDevice | None:
        """Return the device of that id, if the session has it."""
        return next((each for each in self.devices if each.id == device), None)
