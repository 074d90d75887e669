"""The command `calltag`, in a process that dies of any operation that attaches the key `poison`."""

import os
from collections.abc import Mapping

from calltag.cli.main import main
from calltag.core.domain.agent import Agent
from calltag.core.domain.apply import NO_CALLS, apply
from calltag.core.domain.call import Call
from calltag.core.domain.ids import CallId
from calltag.core.domain.operations import AttachUserData, Operation
from calltag.core.domain.outcome import CallLimits, Outcome
from calltag.worker import batch

_apply = apply


def deadly(
    state: Call | Agent | None, operation: Operation, limits: CallLimits, related: Mapping[CallId, Call] = NO_CALLS
) -> Outcome:
    if isinstance(operation.action, AttachUserData) and operation.action.pairs[0][0] == "poison":
        os._exit(86)
    return _apply(state, operation, limits, related)


if __name__ == "__main__":
    setattr(batch, "apply", deadly)  # noqa: B010 - the worker's own name for it
    main()
