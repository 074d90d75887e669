"""The committed documents are what they say they are."""

import json
from pathlib import Path
from typing import Any

import jsonschema
from openapi_spec_validator import validate

ROOT = Path(__file__).parents[2]


def read(path: str) -> Any:
    return json.loads((ROOT / path).read_text())


def test_the_asyncapi_document_is_valid() -> None:
    schema = read("tests/clients/node_modules/@asyncapi/specs/schemas/3.0.0.json")
    jsonschema.Draft7Validator(schema).validate(read("docs/asyncapi.json"))


def test_the_openapi_document_is_valid() -> None:
    validate(read("docs/openapi.json"))
