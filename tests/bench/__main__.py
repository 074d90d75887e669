"""The bench: `python -m bench [--short] [--rounds N] [--only ROW,ROW] [--folder FOLDER]`.

Starts RabbitMQ, Redis and all that is compared, measures in turns, and prints a table of ratios. Nothing is left
running. A few minutes in the full form, about one in the short form.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.figures import Findings, Progress
from bench.load.talking import Broken
from bench.report import as_json, draw, markdown, table
from bench.rig import Backends, NotDone, backends
from bench.rows import gateway, notifier, path, scale, worker
from bench.size import FULL, SHORT, Size
from calltag.core.telemetry.logging import configure_logging

Compare = Callable[[Path, Backends, Size, Progress], Awaitable[Findings]]
ROWS: Final[Mapping[str, Compare]] = {
    "gateway": gateway.compare,
    "worker": worker.compare,
    "notifier": notifier.compare,
    "path": path.compare,
    "scale": scale.compare,
}


def main() -> int:
    """Measure the rows that are asked for; 1 if one does not hold."""
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # What the programs of the bench say of themselves in passing is no figure.
    configure_logging("bench", level="warning")
    size = SHORT if options.short else FULL
    size = replace(size, rounds=options.rounds or size.rounds)
    console = Console(stderr=True)
    began = time.monotonic()

    def progress(text: str) -> None:
        console.print(f"{time.monotonic() - began:5.0f} s  {text}", highlight=False)

    with tempfile.TemporaryDirectory(prefix="calltag-bench-") as name:
        found = asyncio.run(_measure(Path(name), options.only, size, progress))
    Console(width=None if sys.stdout.isatty() else 160).print(table(found))
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
        (options.folder / "bench.json").write_text(as_json(found))
        (options.folder / "bench.md").write_text(markdown(found))
        draw(found, options.folder / "bench.svg")
        print(f"bench.json, bench.md and bench.svg are in {options.folder}")
    for each in found.broken:
        print(f"not measured to the end: {each}", file=sys.stderr)
    return 0 if not found.broken and all(ratio.holds is not False for ratio in found.ratios) else 1


async def _measure(folder: Path, only: list[str], size: Size, progress: Progress) -> Findings:
    found = Findings()
    with backends(folder / "backends") as using:
        for name in only:
            progress(f"{name} ...")
            try:
                found.add(await ROWS[name](folder / name, using, size, progress))
            except (Broken, NotDone) as error:
                # What the others found took long, and is told all the same.
                progress(f"{name}: {error}")
                found.broken.append(f"{name}: {error}")
            using.store.clear()
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a fraction of the work, to see that everything runs")
    parser.add_argument("--rounds", type=int, help="how often each is measured (3)")
    parser.add_argument(
        "--only", type=_rows, default=list(ROWS), metavar="ROW,ROW", help=f"which rows: {', '.join(ROWS)}"
    )
    parser.add_argument("--folder", type=Path, help="write the figures there as JSON, Markdown and SVG as well")
    return parser.parse_args()


def _rows(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
