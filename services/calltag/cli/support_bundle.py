"""Work of `calltag support-bundle`: an archive that describes an installation to those who help, without user data."""

import asyncio
import platform
import time
import zipfile
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

import httpx
import orjson

from calltag.cli.doctor import examine
from calltag.cli.partitions import listed_partitions
from calltag.cli.partitions import public as public_partition
from calltag.cli.top import public as public_load
from calltag.cli.top import top
from calltag.core import VERSION
from calltag.core.settings import Settings, settings_table
from calltag.core.store.processes import RunningProcess

_DEADLINE_S: Final = 15.0
_PAGES: Final = ("metrics", "readyz?verbose", "version")
_PAGE_DEADLINE_S: Final = 3.0
_MODE: Final = 0o600


async def bundle(settings: Settings, file: Path, progress: Callable[[str], None]) -> None:
    """Write the archive. A part that cannot be read is replaced by the reason; the others are there."""
    parts: dict[str, bytes] = {}
    for name, read in _PARTS.items():
        progress(name)
        parts[name] = await _part(read, settings)
    progress("pages of the processes")
    parts |= await _pages(settings)
    _write(file, parts)


async def _part(read: Callable[[Settings], Awaitable[object]], settings: Settings) -> bytes:
    try:
        async with asyncio.timeout(_DEADLINE_S):
            found = await read(settings)
    except Exception as error:  # noqa: BLE001 - whatever is wrong there belongs into the archive
        found = {"unavailable": f"{type(error).__name__}: {error}"}
    return orjson.dumps(found, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


async def _about(_: Settings) -> object:
    return {
        "calltag": VERSION,
        "made_at_ms": round(time.time() * 1_000),
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": dict(sorted((each.name, each.version) for each in distributions())),
    }


async def _settings(settings: Settings) -> object:
    return {row.variable: row.value for row in settings_table(settings) if row.is_set}


async def _doctor(settings: Settings) -> object:
    return [{"level": each.grade.name.lower(), "text": each.text} for each in await examine(settings)]


async def _partitions(settings: Settings) -> object:
    return [public_partition(each) for each in await listed_partitions(settings)]


async def _processes(settings: Settings) -> object:
    async with top(settings) as found:
        return [public_load(each) for each in await found.look()]


_PARTS: Final[Mapping[str, Callable[[Settings], Awaitable[object]]]] = {
    "about.json": _about,
    "settings.json": _settings,
    "doctor.json": _doctor,
    "partitions.json": _partitions,
    "processes.json": _processes,
}


async def _pages(settings: Settings) -> dict[str, bytes]:
    """Return metrics and readiness of the processes whose internal ports can be reached from here."""
    try:
        async with top(settings) as found:
            processes = [each.process for each in await found.look()]
    except Exception:  # noqa: BLE001 - processes.json has the reason
        return {}
    async with httpx.AsyncClient(timeout=_PAGE_DEADLINE_S) as http:
        pages = await asyncio.gather(*(_page(http, process, page) for process in processes for page in _PAGES))
    return dict(pages)


async def _page(http: httpx.AsyncClient, process: RunningProcess, page: str) -> tuple[str, bytes]:
    name = f"processes/{process.service}-{process.instance}/{page.partition('?')[0]}.txt"
    try:
        return name, (await http.get(f"http://{process.address}:{process.internal_port}/{page}")).content
    except httpx.HTTPError as error:
        return name, f"unavailable: {error!r}\n".encode()


def _write(file: Path, parts: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(f"calltag/{name}", content)
    file.chmod(_MODE)
