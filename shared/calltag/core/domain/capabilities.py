"""Operations that a party may request, by the state of its leg."""

from collections.abc import Mapping
from typing import Final

from calltag.core.domain.call import LegState

# The order is that of Web Services; clients may display it.
_USER_DATA_AND_DTMF: Final = ("UpdateUserData", "SendDtmf", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")
_USER_DATA: Final = ("UpdateUserData", "AttachUserData", "DeleteUserDataPair", "DeleteUserData")

CAPABILITIES: Final[Mapping[LegState, tuple[str, ...]]] = {
    LegState.DIALING: (*_USER_DATA_AND_DTMF, "Hangup"),
    LegState.RINGING: (*_USER_DATA, "Answer", "Hangup"),
    LegState.ESTABLISHED: (*_USER_DATA_AND_DTMF, "Hangup", "Hold"),
    LegState.HELD: (*_USER_DATA, "Hangup", "Retrieve"),
    LegState.RELEASED: (),
}
"""Operations by leg state: those listed to clients are exactly those accepted."""
