"""`fields=`: whole resources, or some of their properties."""

import pytest

from calltag.gateway.resources import collection, selected

RESOURCE = {"id": "1", "state": "Held", "uri": "u"}


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (None, {"id", "state", "uri"}),
        (["*"], {"id", "state", "uri"}),
        ([" * "], {"id", "state", "uri"}),
        (["*,id"], {"id", "state", "uri"}),
        (["id", "*"], {"id", "state", "uri"}),
        (["id"], {"id"}),
        (["id, state"], {"id", "state"}),
        (["id", "state,none"], {"id", "state"}),
        ([""], set()),
    ],
)
def test_the_parameters_fields_count_together(fields: list[str] | None, names: set[str]) -> None:
    assert set(selected(RESOURCE, fields)) == names


def test_a_collection_holds_addresses_unless_fields_are_named() -> None:
    assert collection([RESOURCE], "calls", None) == {"statusCode": 0, "uris": ["u"]}
    assert collection([RESOURCE], "calls", ["id"]) == {"statusCode": 0, "calls": [{"id": "1"}]}
