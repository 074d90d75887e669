"""The documentation site: README.md, every page in docs, and the files that they link.

`python deploy/website.py FOLDER` writes it; `--check` builds it in a temporary folder. Both fail on a broken link or
anchor within the site. Links to other hosts are not followed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
INDEX = "docs/index.md"
CONFIG = ROOT / "docs" / "zensical.toml"
STYLE = "docs/site.css"
LINK = re.compile(r"\]\(([^)\s]+)\)")
COLOR = re.compile(r"\x1b\[[0-9;]*m")
SECTION = re.compile(r"^## (.+)$")


@dataclass
class Page(HTMLParser):
    """The links and the anchors of one built page."""

    links: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        for name, value in attrs:
            if name == "id":
                self.anchors.add(value or "")
            elif name in {"href", "src"}:
                self.links.append(value or "")


def links_of(page: str) -> Iterator[str]:
    """Yield the files of this repository that a Markdown page links, as paths from its root."""
    for link in LINK.findall((ROOT / page).read_text(encoding="utf-8")):
        path = unquote(urlsplit(link).path)
        target = Path(os.path.normpath(ROOT / page / ".." / path))
        if path and not urlsplit(link).scheme and target.is_relative_to(ROOT) and target.is_file():
            yield target.relative_to(ROOT).as_posix()


def files() -> set[str]:
    """Return the pages of the site and all that they link, as paths from the root."""
    found: set[str] = set()
    waiting = ["README.md", *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md")))]
    waiting = [path for path in waiting if "node_modules" not in path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += links_of(path) if path.endswith(".md") else ()
    return found


def navigation() -> str:
    """Return the sections of docs/index.md with their pages, each page once, as TOML."""
    sections: list[tuple[str, list[str]]] = []
    seen = {"README.md", INDEX}
    for line in (ROOT / INDEX).read_text(encoding="utf-8").splitlines():
        if (heading := SECTION.match(line)) is not None:
            sections.append((heading[1], []))
        for link in LINK.findall(line) if sections else ():
            page = os.path.normpath(Path(INDEX).parent / link)
            chapters = list(links_of(page)) if page.endswith("/README.md") else []
            new = [each for each in (page, *chapters) if each.endswith(".md") and each not in seen]
            seen.update(new)
            sections[-1][1].extend(new)
    entries = ['"README.md"', json.dumps(INDEX)]
    entries += [f"{{{json.dumps(title)} = {json.dumps(pages)}}}" for title, pages in sections]
    return f"nav = [{', '.join(entries)}]"


def stage(folder: Path) -> None:
    """Copy the sources of the site, in the layout of the repository, so that links hold on both."""
    for path in (*files(), STYLE):
        target = folder / "pages" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, target)
    config = CONFIG.read_text(encoding="utf-8").replace("[project]\n", f"[project]\n{navigation()}\n", 1)
    (folder / CONFIG.name).write_text(config, encoding="utf-8")


def build(folder: Path) -> str:
    """Build the staged site, and return the warnings of a build that failed."""
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    warnings = COLOR.sub("", done.stderr)
    return warnings.partition("Traceback")[0] or warnings if done.returncode else ""


def broken(html: Path) -> list[str]:
    """Return the links that lead nowhere, also those to files and pictures, which the generator does not check."""
    pages: Mapping[Path, Page] = {path: Page() for path in sorted(html.rglob("*.html")) if path.name != "404.html"}
    for path, page in pages.items():
        page.feed(path.read_text(encoding="utf-8"))
    return [
        f"{path.relative_to(html)}: {link} leads nowhere"
        for path, page in pages.items()
        for link in page.links
        if not leads_somewhere(path, link, pages)
    ]


def leads_somewhere(path: Path, link: str, pages: Mapping[Path, Page]) -> bool:
    """Return whether a link of a page has a target; links to other hosts count as good."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return True
    target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
    target = target / "index.html" if target.is_dir() else target
    anchors = pages[target].anchors if target in pages else set()
    return target.is_file() and (not parts.fragment or target not in pages or unquote(parts.fragment) in anchors)


def main() -> int:
    """Build the site; return 1 if a link is broken."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stage(folder)
        faults = build(folder) or "".join(f"{each}\n" for each in broken(folder / "html"))
        sys.stderr.write(faults)
        if not faults and "--check" not in sys.argv[1:]:
            target = Path(sys.argv[1])
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(folder / "html", target)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
