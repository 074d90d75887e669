"""The commands in the documents exist, with their targets, variables and options; and links lead somewhere.

They are parsed and not run: tests/e2e/test_commands.py runs the tour of the README.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from typer import BadParameter
from typer.main import get_command

from calltag.cli.main import app
from calltag.core.settings import settings_table

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    [
        *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", "CHANGELOG")),
        *(ROOT / "docs").rglob("*.md"),
    ]
)
FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE: Final = re.compile(r"`((?:make|calltag) [^`]+)`")
SHELLS: Final = frozenset({"sh", "console", "bash"})
OTHERS: Final = frozenset(
    {"curl", "date", "docker", "helm", "kubectl", "pip", "python3", "rabbitmqctl", "redis-cli", "redis-server", "sed"}
)
"""Commands that are neither of the project nor of Python."""
OF_COMPOSE: Final = set(re.findall(r"\$\{(\w+):\?", (ROOT / "deploy" / "compose.yaml").read_text()))
ASSIGNMENT: Final = re.compile(r"([A-Z_]+)=(.*)", re.DOTALL)
SUBSTITUTION: Final = "$("
HEADING: Final = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
LINK: Final = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path) -> Iterator[str]:
    """The blocks of shell commands of a page."""
    for language, text in FENCED.findall(page.read_text(encoding="utf-8")):
        if language in SHELLS:
            yield text


def lines(block: str) -> Iterator[list[str]]:
    """The words of each command line of a block; a line goes on behind a backslash and within quotes."""
    text = ""
    for line in block.splitlines():
        text += line
        if text.endswith("\\"):
            text = text[:-1]
            continue
        try:
            words = shlex.split(text, comments=True)
        except ValueError:
            text += "\n"
            continue
        text = ""
        if words:
            yield words
    assert not text, f"a line does not end: {text}"


def commands(words: Sequence[str]) -> Iterator[tuple[dict[str, str], list[str]]]:
    """The commands of a line, which pipes divide: the variables of each, and its words."""
    given: dict[str, str] = {}
    command: list[str] = []
    for word in words:
        found = None if command else ASSIGNMENT.fullmatch(word)
        if word == "|":
            yield given, command
            given, command = {}, []
        elif found is None:
            command.append(word)
        elif SUBSTITUTION in found[2]:
            command.append(found[2].partition(SUBSTITUTION)[2])
        else:
            given[found[1]] = found[2]
    if command:
        yield given, command


def everywhere() -> list[Any]:
    """Each command of the blocks, and each call of make and calltag within the text, with its page."""
    found = [
        (page, command)
        for page in PAGES
        for block in blocks(page)
        for words in lines(block)
        for command in commands(words)
    ]
    for page in PAGES:
        text = FENCED.sub("", page.read_text(encoding="utf-8"))
        found += [(page, ({}, shlex.split(each))) for each in INLINE.findall(text)]
    return [pytest.param(*command, id=f"{page.name}: {' '.join(command[1])[:60]}") for page, command in found]


@pytest.mark.parametrize(("given", "command"), everywhere())
def test_a_command_is_known(given: dict[str, str], command: list[str]) -> None:
    name, *arguments = command
    match name:
        case "make":
            check_make(arguments)
        case "calltag":
            check_calltag(arguments)
        case "export":
            check_settings(arguments)
        case ".venv/bin/python":
            check_python(given, arguments)
        case _:
            assert Path(name).name in OTHERS
            assert all((ROOT / each).exists() for each in arguments if each.startswith("deploy/"))


def check_make(arguments: Sequence[str]) -> None:
    targets = [each for each in arguments if "=" not in each]
    assert targets
    rules = "\n\n".join(rules_of(each) for each in targets)
    for each in arguments:
        variable, equals, value = each.partition("=")
        if not equals:
            continue
        if variable.startswith("CALLTAG_TEST_"):
            assert variable in texts_of_tests()
            continue
        assert f"$({variable})" in rules or re.search(rf"^{variable} \?=", makefile(), re.MULTILINE), variable
        if variable == "ARGS":
            check_pytest(shlex.split(value))
        if variable == "ONLY" and "bench" in targets:
            assert set(value.split(",")) <= {file.stem for file in (ROOT / "tests" / "bench" / "rows").glob("*.py")}


def rules_of(target: str) -> str:
    """The paragraphs of the Makefile with the rules of a target."""
    found = [each for each in makefile().split("\n\n") if re.search(rf"^{re.escape(target)}:", each, re.MULTILINE)]
    assert found, f"make has no target {target}"
    return "\n\n".join(found)


@cache
def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


@cache
def texts_of_tests() -> str:
    files = (*(ROOT / "tests" / "parts").rglob("*.py"), *(ROOT / "tests" / "parts").rglob("*.sh"))
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def check_pytest(arguments: Sequence[str]) -> None:
    for each in arguments:
        if each.startswith("tests"):
            path, _, test = each.partition("::")
            assert (ROOT / path).exists(), path
            assert not test or f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), each


def check_calltag(arguments: Sequence[str]) -> None:
    command: Any = get_command(app)
    context = command.make_context("calltag", [], resilient_parsing=True)
    left = list(arguments)
    while left and hasattr(command, "commands") and not left[0].startswith("-"):
        name = left.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"calltag has no command {name}"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {each.partition("=")[0] for each in left if each.startswith("-")} <= known
    if left and not hasattr(command, "commands"):
        # Checks the number of arguments and the types of values as well.
        command.make_context(command.name, left, parent=context)


def check_settings(arguments: Sequence[str]) -> None:
    known = {row.variable for row in settings_table()} | OF_COMPOSE
    assert {each.partition("=")[0] for each in arguments} <= known


def check_python(given: dict[str, str], arguments: Sequence[str]) -> None:
    option, module, *options = arguments
    assert option == "-m"
    file = ROOT.joinpath(given.get("PYTHONPATH", "."), *module.split(".")).with_suffix(".py")
    text = file.read_text(encoding="utf-8")
    for each in options:
        assert not each.startswith("-") or f'"{each}"' in text, each


def anchor(heading: str) -> str:
    """The anchor that the repository host gives a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return {anchor(each) for each in HEADING.findall(text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, heading = link.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), link
        assert not heading or heading in anchors(file), link


@pytest.mark.parametrize(
    "wrong",
    [
        ["make", "tset"],
        ["make", "run", "ONLY=gateway"],
        ["make", "bench", "ONLY=gatway"],
        ["make", "test", "ARGS=tests/unit/test_nothing.py"],
        ["make", "test", "ARGS=tests/unit/test_documented_commands.py::test_nothing"],
        ["calltag", "parkd", "ls"],
        ["calltag", "parked", "ls", "--al"],
        ["calltag", "--versions"],
        ["calltag", "gateway", "--port", "many"],
        ["export", "CALLTAG_REDIS__ULR=redis://redis:6379/0"],
        [".venv/bin/python", "-m", "bench.nothing"],
        ["wget", "http://127.0.0.1:8080"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_found(wrong: list[str]) -> None:
    with pytest.raises((AssertionError, FileNotFoundError, BadParameter)):
        test_a_command_is_known({"PYTHONPATH": "tests"}, wrong)
