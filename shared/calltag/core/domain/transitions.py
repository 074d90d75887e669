"""How the legs of a call change state."""

from dataclasses import replace

from calltag.core.domain.call import Call, Leg, LegState


def answered(call: Call, leg: Leg) -> Call:
    """The ringing leg takes the call: it and whoever was dialing are through."""
    through = {LegState.DIALING: LegState.ESTABLISHED}
    return call.with_legs(
        [
            replace(each, state=LegState.ESTABLISHED if each is leg else through.get(each.state, each.state))
            for each in call.legs
        ]
    )


def moved(call: Call, leg: Leg, state: LegState) -> Call:
    """One leg is in another state; the others stay."""
    return call.with_leg(leg, replace(leg, state=state))


def hung_up(call: Call, leg: Leg) -> Call:
    """The leg leaves; a call of two is over."""
    if sum(each.live for each in call.legs) <= 2:
        return ended(call)
    return moved(call, leg, LegState.RELEASED)


def ended(call: Call) -> Call:
    """Everybody is off the call."""
    return call.with_legs([replace(leg, state=LegState.RELEASED) for leg in call.legs])


def parties_changed(call: Call, told: tuple[Leg, ...]) -> Call:
    """The switch's word on some parties: known numbers take the new state, new numbers join."""
    news = {leg.number: leg for leg in told}
    known = [
        replace(leg, state=news[leg.number].state, muted=news[leg.number].muted) if leg.number in news else leg
        for leg in call.legs
    ]
    numbers = {leg.number for leg in call.legs}
    return call.with_legs([*known, *(leg for number, leg in news.items() if number not in numbers)])
