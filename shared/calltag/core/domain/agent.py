"""An agent's contact-centre session: the devices and their login state."""

from dataclasses import dataclass
from enum import StrEnum

from calltag.core.domain.ids import DeviceId, UserId


class UserState(StrEnum):
    """State of an agent on a device, by its name in the API."""

    LOGGED_OUT = "LoggedOut"
    NOT_READY = "NotReady"


@dataclass(frozen=True, slots=True)
class AgentDevice:
    """One device of an agent."""

    id: DeviceId
    number: str
    state: UserState


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with the devices of the session; every change increments `version`."""

    user: UserId
    devices: tuple[AgentDevice, ...]
    channels: tuple[str, ...] = ()
    version: int = 0
