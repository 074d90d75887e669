"""Exhaustive search of the states of `session_home_model`, breadth first: the first violation has the fewest steps."""

import gc
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

from parts.session_home_model import Case, Model, OutOfBudget, Property, State, Step, Violation, initial

RECOVERY_STEPS: Final = 15

Move: TypeAlias = tuple[State, Step, tuple[bool, ...], bool]
"""A step in a state, with the choices in it, and whether faults may happen."""


@dataclass(frozen=True, slots=True)
class Result:
    """The size of a search, the names of the steps taken, and the violated property with the steps that lead to it."""

    states: int
    transitions: int
    recovery_steps: int
    taken: frozenset[str]
    violated: Property | None = None
    trace: tuple[str, ...] = ()


class Found(Exception):
    """A violation, and the moves that lead to it."""

    def __init__(self, violation: Violation, moves: list[Move]) -> None:
        super().__init__(str(violation))
        self.violation, self.moves = violation, moves


class Search:
    def __init__(self, case: Case) -> None:
        self.case = case
        self.transitions = 0
        self.origins: dict[State, Move | None] = {}
        self.recovery_steps: dict[tuple[object, ...], int] = {}

    def run(self) -> Result:
        start = initial(self.case.setup)
        self.origins[start] = None
        queue = deque([start])
        try:
            while queue:
                state = queue.popleft()
                if Property.STUCK in self.case.properties:
                    self.recover(state)
                for step in Model(self.case, state).steps():
                    queue.extend(self.new_states(state, step))
        except Found as found:
            return self.result(found.violation.broken, self.trace(found))
        return self.result()

    def result(self, violated: Property | None = None, trace: tuple[str, ...] = ()) -> Result:
        taken = frozenset(move[1][0].__name__ for move in self.origins.values() if move)
        recovery_steps = max(self.recovery_steps.values(), default=0)
        return Result(len(self.origins), self.transitions, recovery_steps, taken, violated, trace)

    def new_states(self, state: State, step: Step) -> list[State]:
        """Take a step once with each combination of its choices."""
        states: list[State] = []
        paths: list[tuple[bool, ...]] = [()]
        for path in paths:
            model, move = Model(self.case, state, path), (state, step, path, True)
            self.transitions += 1
            try:
                step[0](model, step[1])
            except Violation as violation:
                raise Found(violation, [*self.moves_to(state), move]) from None
            except OutOfBudget:
                pass
            else:
                after = model.frozen()
                if self.origins.setdefault(after, move) is move:
                    states.append(after)
            given = len(path)
            paths += [(*path, *(False,) * (at - given), True) for at in range(given, model.choices)]
        return states

    def recover(self, state: State) -> None:
        """Check that the client gets all events if no further fault happens."""
        moves: list[Move] = []
        keys: list[tuple[object, ...]] = []
        while (key := state[:-2]) not in self.recovery_steps:
            keys.append(key)
            model = Model(self.case, state, faults=False)
            if model.client.received == model.head:
                break
            step = next(model.recovery_steps(), None)
            if step is None or len(moves) == RECOVERY_STEPS:
                stuck = Violation(Property.STUCK, f"the client lacks events after {len(moves)} steps without a fault")
                raise Found(stuck, self.moves_to(moves[0][0] if moves else state) + moves)
            self.transitions += 1
            moves.append((state, step, (), False))
            step[0](model, step[1])
            state = model.frozen()
        rest = self.recovery_steps.get(key, -1)
        for distance, each in enumerate(reversed(keys), rest + 1):
            self.recovery_steps[each] = distance

    def moves_to(self, state: State) -> list[Move]:
        moves = []
        move = self.origins[state]
        while move:
            moves.append(move)
            move = self.origins[move[0]]
        return moves[::-1]

    def trace(self, found: Found) -> tuple[str, ...]:
        """Take the moves once more and return what happens as lines."""
        log: list[str] = []
        before = True
        for state, step, path, faults in found.moves:
            if before and not faults:
                log.append("(no further faults)")
            before = faults
            model = Model(self.case, state, path, faults)
            model.log = log
            with suppress(Violation):
                step[0](model, step[1])
        return *log, str(found.violation)


def search(case: Case) -> Result:
    """Visit every reachable state, or those up to the first violation."""
    gc.disable()  # It would visit all states again and again, which takes a third of the time.
    try:
        return Search(case).run()
    finally:
        gc.enable()
