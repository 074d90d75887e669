"""What was measured, and the figures that are made of it: ratios of what was measured in one run, in turns."""

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: so much work took so many seconds, and so many seconds of CPU (user and system)."""

    work: float
    seconds: float
    cpu_s: float

    @property
    def per_cpu_s(self) -> float:
        """Work for each second of CPU."""
        return self.work / self.cpu_s

    @property
    def per_s(self) -> float:
        """Work for each second that passed."""
        return self.work / self.seconds


@dataclass(frozen=True, slots=True)
class Bound:
    """What a ratio has to be: at least, or at most."""

    value: float
    at_least: bool = True

    def holds(self, ratio: float) -> bool:
        return ratio >= self.value if self.at_least else ratio <= self.value

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.value:g}"


@dataclass(frozen=True, slots=True)
class Ratio:
    """One line of the table: a ratio, measured once in each round. Without a bound it is only reported."""

    row: str
    what: str
    against: str
    values: Sequence[float]
    bound: Bound | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest."""
        return min(self.values), max(self.values)

    @property
    def holds(self) -> bool | None:
        """Whether the median is as the bound says; None without a bound."""
        return None if self.bound is None else self.bound.holds(self.median)


@dataclass(frozen=True, slots=True)
class Absolute:
    """A figure that depends on the machine, shown beside the ratios."""

    row: str
    what: str
    values: Sequence[float]
    unit: str

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The least and the greatest."""
        return min(self.values), max(self.values)


@dataclass(slots=True)
class Findings:
    """All that a run found."""

    ratios: list[Ratio] = field(default_factory=list)
    absolutes: list[Absolute] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    """What could not be measured to its end, and why."""

    def add(self, other: "Findings") -> None:
        self.ratios += other.ratios
        self.absolutes += other.absolutes


Measure = Callable[[], Awaitable[Sample]]


async def in_turns(measures: Mapping[str, Measure], rounds: int, progress: Progress) -> dict[str, list[Sample]]:
    """Measure each once in every round, so that what slows the machine for a while slows all of them."""
    taken: dict[str, list[Sample]] = {name: [] for name in measures}
    for number in range(1, rounds + 1):
        for name, measure in measures.items():
            sample = await measure()
            taken[name].append(sample)
            speeds = f"{sample.per_cpu_s:,.0f} a CPU second, {sample.per_s:,.0f} a second"
            progress(f"round {number} of {rounds}: {name}: {speeds}")
    return taken


def ratios(ours: Sequence[Sample], others: Sequence[Sample]) -> list[float]:
    """How much more work for each second of CPU, round by round."""
    return [mine.per_cpu_s / other.per_cpu_s for mine, other in zip(ours, others, strict=True)]


def harmonic(*parts: Sequence[Sample]) -> list[float]:
    """What one does for each second of CPU who does all the parts for each piece of work, round by round."""
    return [1 / sum(1 / sample.per_cpu_s for sample in of_round) for of_round in zip(*parts, strict=True)]
