"""Figures over time, and whether they grow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen `at_s` after the beginning, by name."""

    at_s: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """How one figure went after the warm-up; `growth` is what its slope adds over that time."""

    name: str
    first: float
    last: float
    most: float
    growth: float
    allowed: float

    @property
    def flat(self) -> bool:
        """Whether it did not grow, as far as can be told."""
        return self.growth <= self.allowed


def trends(samples: Sequence[Sample], warm_up_s: float, allowed: Mapping[str, tuple[float, float]]) -> list[Trend]:
    """The trends of all figures from `warm_up_s` on.

    `allowed` has, by the unit in which a name ends, how much a figure may grow: a share of its mean, and at least that.
    """
    later = [each for each in samples if each.at_s >= warm_up_s]
    return [_trend(name, later, allowed) for name in sorted(later[-1].values)] if later else []


def _trend(name: str, samples: Sequence[Sample], allowed: Mapping[str, tuple[float, float]]) -> Trend:
    points = [(each.at_s, each.values[name]) for each in samples if name in each.values]
    values = [value for _, value in points]
    mean = sum(values) / len(values)
    share, least = allowed[name.rpartition(" ")[2]]
    growth = _slope(points) * (points[-1][0] - points[0][0])
    return Trend(name, values[0], values[-1], max(values), growth, max(least, share * mean))


def _slope(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the line of least squares."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
