"""Devices and states of agents as desktops read them."""

from dataclasses import replace

import pytest

from calltag.core.domain.agent import LOGGED_IN, NOT_READY, SYSTEM_STATES, AgentDevice, AgentState, UserState
from calltag.core.domain.ids import DeviceId, OperationId, UserId
from calltag.core.domain.operations import (
    AgentAction,
    AgentOperation,
    ChangeAgentState,
    EndContactCenterSession,
    ForwardCalls,
    SetDoNotDisturb,
)
from calltag.core.domain.resource_view import device_resource, user_state_resource

DEVICE = AgentDevice(DeviceId("d"), "15000", NOT_READY, active=True)


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (LOGGED_IN, {"state": "LoggedIn"}),
        (
            SYSTEM_STATES["AuxWork"],
            {
                "id": "2B36138D-C564-4562-A8CB-3C32D564F296",
                "displayName": "Aux Work",
                "state": "NotReady",
                "workMode": "AuxWork",
            },
        ),
        (
            AgentState("Lunch", UserState.NOT_READY, "id", "At lunch", reason="Lunch"),
            {"id": "id", "displayName": "At lunch", "state": "NotReady", "reason": "Lunch"},
        ),
    ],
)
def test_a_state(state: AgentState, shown: dict[str, str]) -> None:
    assert user_state_resource(state) == shown


def test_a_device_during_a_session() -> None:
    resource = device_resource(DEVICE, "http://x", monitors=False)
    assert (resource["deviceState"], resource["userState"]["state"]) == ("Active", "NotReady")
    assert (resource["doNotDisturb"], resource["capabilities"]) == ("Off", ["DoNotDisturbOn", "ForwardCallsOn"])
    assert "forwardCallsTo" not in resource


def test_a_device_that_is_not_to_be_disturbed_and_forwards() -> None:
    resource = device_resource(replace(DEVICE, do_not_disturb=True, forward_to="15009"), "http://x", monitors=False)
    assert (resource["doNotDisturb"], resource["forwardCallsTo"]) == ("On", "15009")
    assert resource["capabilities"] == ["DoNotDisturbOff", "ForwardCallsOff"]


def test_a_device_without_a_session() -> None:
    resource = device_resource(AgentDevice(DeviceId("d"), "15000"), "http://x", monitors=False)
    assert (resource["deviceState"], resource["capabilities"], "userState" in resource) == ("Inactive", [], False)


@pytest.mark.parametrize(
    ("action", "name", "device"),
    [
        (ChangeAgentState(NOT_READY), "NotReady", None),
        (SetDoNotDisturb(DeviceId("d"), on=True), "DoNotDisturbOn", "d"),
        (SetDoNotDisturb(DeviceId("d"), on=False), "DoNotDisturbOff", "d"),
        (ForwardCalls(DeviceId("d"), "15009"), "ForwardCallsOn", "d"),
        (ForwardCalls(DeviceId("d"), ""), "ForwardCallsOff", "d"),
        (EndContactCenterSession(), "EndContactCenterSession", None),
    ],
)
def test_an_operation_has_the_name_under_which_it_was_sent(action: AgentAction, name: str, device: str | None) -> None:
    operation = AgentOperation(OperationId("o"), UserId("alice"), action, 1)
    assert (operation.operation_name, operation.device) == (name, device)
