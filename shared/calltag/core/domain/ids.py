"""Identifiers of the domain."""

from typing import NewType

CallId = NewType("CallId", str)
ConnId = NewType("ConnId", str)
DeviceId = NewType("DeviceId", str)
UserId = NewType("UserId", str)
OperationId = NewType("OperationId", str)
EventId = NewType("EventId", str)
