"""The table of docs/operations.md is what the domain does."""

import json
import re
from pathlib import Path

import pytest

from calltag.core.domain.apply import apply
from calltag.core.domain.call import Call, CallType, Leg, LegState
from calltag.core.domain.ids import CallId, ConnId, DeviceId, OperationId, UserId
from calltag.core.domain.operations import AttachUserData, CallOperation, UpdateUserData
from calltag.core.domain.outcome import CallLimits
from calltag.core.domain.user_data import UserData

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
BEFORE = UserData({"a": ("1",), "b": ("x", "y")})
ALICES = Leg("15000", LegState.ESTABLISHED, DeviceId("d"), UserId("alice"))
CALL = Call(CallId("c"), ConnId("c"), CallType.INBOUND, "15000", 1, (ALICES,), BEFORE)
EFFECTS = re.findall(r"^\| `(\{.*?\})`(?:: [^|]*)? \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)


def shown(cell: str) -> dict[str, object]:
    """The user data that a cell of the table shows."""
    data = BEFORE.as_object()
    for pair in re.findall(r'`("\w+": .*?)`', cell):
        data |= json.loads(f"{{{pair}}}")
    for key in re.findall(r"removes `(\w+)`", cell):
        del data[key]
    assert data != BEFORE.as_object() or cell.startswith("no change"), cell
    return data


@pytest.mark.parametrize(("given", "attached", "updated"), EFFECTS)
def test_an_effect_on_user_data(given: str, attached: str, updated: str) -> None:
    pairs = json.loads(given).items()
    assert BEFORE.attach(pairs).as_object() == shown(attached)
    assert BEFORE.update(pairs).as_object() == shown(attached if updated == "the same" else updated)
    for action, cell in ((AttachUserData(tuple(pairs)), attached), (UpdateUserData(tuple(pairs)), updated)):
        operation = CallOperation(OperationId("o"), CALL.id, action, 1, UserId("alice"))
        outcome = apply(CALL, operation, CallLimits(lambda _: 1))
        assert (not outcome.events) == (cell.strip() == "no change"), action.name


def test_the_table_has_every_kind_of_value() -> None:
    assert len(EFFECTS) == 14
