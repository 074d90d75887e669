"""The pictures of the documentation are drawn from their present sources; rendering itself needs npm, this does not."""

import hashlib
import re
from pathlib import Path

import pytest

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
SHARED = ("style.d2", "render.mjs", "package-lock.json")
"""As in render.mjs, which writes the hash."""
SOURCES = sorted(path for path in PICTURES.glob("*.d2") if path.name not in SHARED)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_a_picture_is_as_new_as_its_source(source: Path) -> None:
    written = [source.read_bytes(), *((PICTURES / name).read_bytes() for name in SHARED)]
    expected = hashlib.sha256(b"".join(written)).hexdigest()
    drawn = re.findall(r"<!-- sha256 of the sources: (\w+) -->", source.with_suffix(".svg").read_text())
    assert drawn == [expected], f"{source.name} changed; run: make pictures"


def test_every_picture_has_a_source() -> None:
    assert [path.stem for path in sorted(PICTURES.glob("*.svg"))] == [path.stem for path in SOURCES]
