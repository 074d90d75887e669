"""State transitions of the legs of a call."""

from dataclasses import replace

from calltag.core.domain.call import Call, Leg, LegState


def answered(call: Call, leg: Leg) -> Call:
    """Establish the leg that answers, and all dialing ones."""
    through = {LegState.DIALING: LegState.ESTABLISHED}
    return call.with_legs(
        [
            replace(each, state=LegState.ESTABLISHED if each is leg else through.get(each.state, each.state))
            for each in call.legs
        ]
    )


def moved(call: Call, leg: Leg, state: LegState) -> Call:
    """Return the call with one leg in another state."""
    return call.with_leg(leg, replace(leg, state=state))


def hung_up(call: Call, leg: Leg) -> Call:
    """Release the leg; end the call if at most two legs were live."""
    if sum(each.live for each in call.legs) <= 2:
        return ended(call)
    return moved(call, leg, LegState.RELEASED)


def ended(call: Call) -> Call:
    """Release all legs."""
    return call.with_legs([replace(leg, state=LegState.RELEASED) for leg in call.legs])


def parties_changed(call: Call, changed_legs: tuple[Leg, ...]) -> Call:
    """Apply a report of the switch on some parties: known numbers change state, new numbers join."""
    changed = {leg.number: leg for leg in changed_legs}
    known = [
        replace(leg, state=changed[leg.number].state, muted=changed[leg.number].muted) if leg.number in changed else leg
        for leg in call.legs
    ]
    numbers = {leg.number for leg in call.legs}
    return call.with_legs([*known, *(leg for number, leg in changed.items() if number not in numbers)])
