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


def test_answers_to_operations_and_refusals_of_the_worker_name_the_operation() -> None:
    paths = read("docs/openapi.json")["paths"]
    named = {
        path: {code for code, each in methods["post"]["responses"].items() if "Operation-Id" in each["headers"]}
        for path, methods in paths.items()
        if "requestBody" in methods.get("post", {})
    }
    assert named.pop("/api/v2/switch/events") == set(), "each event has an operation of its own"
    assert all(codes >= {"200", "202", "400", "403", "500", "503"} for codes in named.values())
    assert {"404", "409"} <= named["/api/v2/me/calls/{call_id}"]


def test_inherited_members_have_their_descriptions() -> None:
    calls, messages = (read(f"docs/{name}.json")["components"]["schemas"] for name in ("openapi", "asyncapi"))
    shown = calls["ShownCall"]["properties"]
    assert shown.items() >= calls["CallResource"]["properties"].items()
    assert shown["duration"]["description"] == "Whole seconds since the call began."
    assert "description" in messages["MetaConnectReply"]["properties"]["error"]
