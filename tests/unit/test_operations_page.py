"""The tables of docs/operations.md are what the domain does."""

import json
import re
from pathlib import Path

import pytest

from calltag.core.domain.resource_view import CAPABILITIES
from calltag.core.domain.user_data import UserData

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BEFORE = UserData({"Account": ("1",)})
EFFECTS = re.findall(r"^\| `(\{.*?\})` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)


def shown(cell: str) -> object:
    """The user data that a cell of the table shows."""
    match cell:
        case "no change":
            return BEFORE.as_object()
        case "the key is removed":
            return {}
        case _:
            return json.loads(cell.strip("`"))


@pytest.mark.parametrize(("given", "attached", "updated"), EFFECTS)
def test_an_effect_on_user_data(given: str, attached: str, updated: str) -> None:
    pairs = json.loads(given).items()
    assert BEFORE.attach(pairs).as_object() == shown(attached)
    assert BEFORE.update(pairs).as_object() == shown(updated)


def test_the_table_has_every_kind_of_value() -> None:
    assert len(EFFECTS) == 8


def test_the_states_of_each_operation() -> None:
    part = PAGE[PAGE.index("## Operations on a call") : PAGE.index("## Other operations")]
    told: dict[str, set[str]] = {}
    before: set[str] = set()
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 and re.match("[A-Z]", cells[0]):
            before = before if cells[2] == "the same" else set(cells[2].split(", "))
            told.update((name, before) for name in cells[0].split(", "))
    names = {name for allowed in CAPABILITIES.values() for name in allowed}
    assert told == {name: {state.value for state, allowed in CAPABILITIES.items() if name in allowed} for name in names}
