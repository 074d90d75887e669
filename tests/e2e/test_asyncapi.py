"""The committed AsyncAPI document is one, by the schema of AsyncAPI itself."""

import json
from pathlib import Path
from typing import Any

import jsonschema

ROOT = Path(__file__).parents[2]


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def test_the_asyncapi_document_is_valid() -> None:
    schema = read("tests/clients/node_modules/@asyncapi/specs/schemas/3.0.0.json")
    jsonschema.Draft7Validator(schema).validate(read("docs/asyncapi.json"))
