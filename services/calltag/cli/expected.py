"""Errors that users see as one line, without a traceback."""

from typing import Final

from calltag.cli.calls import NoSuchCall, NotEnded
from calltag.cli.parked import NotParked
from calltag.cli.partitions import NothingStarted
from calltag.cli.repartition import NotAtRest
from calltag.cli.sessions import NoSuchSession
from calltag.core.broker.ports import BrokerError
from calltag.core.http.server import PortBusy
from calltag.core.identity.directory import DirectoryError
from calltag.core.process.lifecycle import ServiceFailed, first_leaf
from calltag.core.process.tls import TlsError
from calltag.core.settings import SettingsError
from calltag.core.store.ports import StoreError

_EXPECTED: Final = (
    SettingsError, DirectoryError, TlsError, PortBusy, StoreError, BrokerError, ServiceFailed, NoSuchSession,
    NotParked, NothingStarted, NoSuchCall, NotEnded, NotAtRest,
)  # fmt: skip


def expected_error(error: BaseException) -> BaseException | None:
    """Return the error to show in one line, the first one of a group; None if a traceback has to show it."""
    if isinstance(error, BaseExceptionGroup):
        expected, unexpected = error.split(_EXPECTED)
        return first_leaf(expected) if expected is not None and unexpected is None else None
    return error if isinstance(error, _EXPECTED) else None
