"""Checks that code and documents are written in plain technical English: `python tests/language.py`.

It finds sentences that begin with a pronoun in place of a noun, words for people used of processes, and padding.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PHRASES: Final = (
    re.compile(r"(?:^|[.!?:|]\s+|\A)(?:What|Who|Whoever|Whom|Whose)\b(?![^.|]*\?)"),
    re.compile(r"\b(?:any more|of which|of whom|as far as)\b"),
    re.compile(r"\b(?:dies|died|dying|tells|hears|heard|owes|owed|goes away|gone away|went away)\b"),
)
"""A question may begin with What or Who."""


def main() -> int:
    """Print each phrase with its place; return 1 if there is one."""
    found = [*_in_documents(), *_in_code(), *_in_scripts()]
    for each in found:
        print(each)
    return int(bool(found))


def _in_documents() -> Iterator[str]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in sorted(pages):
        text = re.sub(r"```.*?```", lambda block: "\n" * block.group().count("\n"), page.read_text(), flags=re.DOTALL)
        yield from _phrases(page, 1, text)


def _in_code() -> Iterator[str]:
    for root in ("services", "shared"):
        for file in sorted((ROOT / root).rglob("*.py")):
            text = file.read_text()
            for node in ast.walk(ast.parse(text)):
                if (
                    isinstance(node, ast.Expr)
                    and isinstance(node.value, ast.Constant)
                    and isinstance(node.value.value, str)
                ):
                    yield from _phrases(file, node.lineno, node.value.value)
            for token in tokenize.generate_tokens(io.StringIO(text).readline):
                if token.type == tokenize.COMMENT:
                    yield from _phrases(file, token.start[0], token.string.lstrip("# "))


def _in_scripts() -> Iterator[str]:
    for file in sorted((ROOT / "shared").rglob("*.lua")):
        for number, line in enumerate(file.read_text().splitlines(), 1):
            if line.lstrip().startswith("--"):
                yield from _phrases(file, number, line.strip("- "))


def _phrases(file: Path, first: int, text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), first):
        for phrase in PHRASES:
            if (hit := phrase.search(line.strip())) is not None:
                yield f"{file.relative_to(ROOT)}:{number}: {hit.group().strip()!r}"


if __name__ == "__main__":
    sys.exit(main())
