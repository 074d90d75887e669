"""The committed documents are what they say they are."""

import json
from pathlib import Path
from typing import Any

from openapi_spec_validator import validate

ROOT = Path(__file__).parents[2]


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def test_the_openapi_document_is_valid() -> None:
    validate(read("docs/openapi.json"))
