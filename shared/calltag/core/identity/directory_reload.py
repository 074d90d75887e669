"""The directory's file is read again when it changes, and on SIGHUP."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from calltag.core.identity.directory import Directory, DirectoryError, read_directory
from calltag.core.process.waiting import set_within

log = structlog.get_logger()
_LOOK_S: Final = 2.0
_Signature = tuple[int, int, int]


@dataclass(slots=True)
class DirectoryReload:
    """Replaces the content of a directory by that of its file; an invalid file changes nothing, and is logged."""

    path: Path
    directory: Directory
    apply: Callable[[Directory], None] | None = None
    """Takes over what was read, in place of the directory itself."""
    look_s: float = _LOOK_S
    _read: _Signature | None = field(init=False)

    def __post_init__(self) -> None:
        self._read = _signature(self.path)

    async def run(self) -> None:
        """Look for changes until cancelled."""
        asked = asyncio.Event()
        with _on_hangup(asked):
            while True:
                is_asked = await set_within(asked, self.look_s)
                asked.clear()
                # The time of the file first: what changes while it is read is read again.
                found = _signature(self.path)
                if is_asked or found not in {None, self._read}:
                    self._read = found
                    await self._reload()

    async def _reload(self) -> None:
        try:
            found = await asyncio.to_thread(read_directory, self.path)
        except DirectoryError as error:
            log.error("directory_not_reloaded", reason=str(error), effect="the users are those of before")
            return
        before = len(self.directory.users)
        (self.apply or self.directory.become)(found)
        log.info("directory_reloaded", users=len(found.users), users_before=before)


def _signature(path: Path) -> _Signature | None:
    """Return what differs between two versions of a file; None while it is not there."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_mtime_ns, state.st_size, state.st_ino


@contextmanager
def _on_hangup(event: asyncio.Event) -> Iterator[None]:
    """Set the event on SIGHUP."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, event.set)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)
