"""An agent's contact-centre session: which of the agent's devices are logged in."""

from dataclasses import dataclass
from enum import StrEnum

from calltag.core.domain.ids import DeviceId, UserId


class UserState(StrEnum):
    """The agent's state on a device, by the name that clients see."""

    LOGGED_OUT = "LoggedOut"
    NOT_READY = "NotReady"


@dataclass(frozen=True, slots=True)
class AgentDevice:
    """One device of the agent."""

    id: DeviceId
    number: str
    state: UserState


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent with the devices of the session; `version` rises by one with every change."""

    user: UserId
    devices: tuple[AgentDevice, ...]
    channels: tuple[str, ...] = ()
    version: int = 0
