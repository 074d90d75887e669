"""Which operations a party may ask for in which state of its leg."""

from collections.abc import Mapping
from typing import Final

from calltag.core.domain.call import LegState

# The order is the one in which Web Services lists them; clients may show it.
_USER_DATA_AND_DTMF: Final = ("UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")
_USER_DATA: Final = ("UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")

CAPABILITIES: Final[Mapping[LegState, tuple[str, ...]]] = {
    LegState.DIALING: (*_USER_DATA_AND_DTMF, "Hangup"),
    LegState.RINGING: (*_USER_DATA, "Answer", "Hangup"),
    LegState.ESTABLISHED: (*_USER_DATA_AND_DTMF, "Hangup", "Hold"),
    LegState.HELD: (*_USER_DATA, "Hangup", "Retrieve"),
    LegState.RELEASED: (),
}
"""The operations that calltag carries out, by leg state: what it lists is what it accepts."""
