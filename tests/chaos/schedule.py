"""What goes wrong, when, and to whom: a pure function of the seed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

GATEWAYS: Final = ("gateway-0", "gateway-1")
WORKERS: Final = ("worker-0", "worker-1", "worker-2")
NOTIFIERS: Final = ("notifier-0", "notifier-1")
SERVICES: Final = (*GATEWAYS, *WORKERS, *NOTIFIERS)
FEWEST: Final = ("gateway-0", "gateway-1", "worker-0", "worker-1", "notifier-0", "notifier-1")
"""As few services as leave another one of each kind."""
BROKER: Final = "broker"
STORE: Final = "store"
GUEST: Final = "guest"
_BACKENDS: Final = (*(f"{name}:{BROKER}" for name in SERVICES), *(f"{name}:{STORE}" for name in SERVICES))
_LINKS: Final = (*_BACKENDS, *(f"{name}:clients" for name in (*GATEWAYS, *NOTIFIERS)))


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: whom it may befall, for how long, and by how much it delays (least and most, in seconds)."""

    targets: Sequence[str]
    shortest_s: float = 0.0
    longest_s: float = 0.0
    least_late_s: float = 0.0
    most_late_s: float = 0.0


KINDS: Final[Mapping[str, Kind]] = {
    # A service is killed, or asked to end, and started again after a while.
    "kill": Kind(SERVICES, 0.1, 2.0),
    "terminate": Kind(SERVICES, 0.1, 2.0),
    # A worker stands still beyond its lease while the broker takes its connections for dead, and then goes on.
    "freeze": Kind(WORKERS, 2.2, 4.0),
    # Somebody else stands still, and goes on as if nothing had been.
    "pause": Kind((*GATEWAYS, *NOTIFIERS, BROKER, STORE), 0.5, 3.0),
    # A worker is killed while its commit is on the way to the store, where that arrives when another worker has taken
    # the partition over; the other one, whose way is long, has not seen yet what is there.
    "belated": Kind(WORKERS, 1.0, 3.0, 0.15, 0.3),
    # A worker's commit arrives, and its connections to the store break before the answer is back.
    "unanswered": Kind(WORKERS, 1.0, 3.0),
    # One worker more, for a while.
    "join": Kind((GUEST,), 2.0, 6.0),
    # The servers are killed, and started again.
    "kill_broker": Kind((BROKER,), 0.1, 2.0),
    "kill_store": Kind((STORE,), 0.1, 2.0),
    # The broker is short of memory, and takes nothing from those who publish.
    "alarm": Kind((BROKER,), 0.5, 2.5),
    # The queue of a node vanishes, and the broker cancels its consumer.
    "forget": Kind((*GATEWAYS, *NOTIFIERS)),
    # Connections are reset; or nothing goes through them any more, without a sign; or nothing goes through for a while;
    # or everything comes late: what is on its way for a second may arrive when its sender is long dead, or never.
    "cut": Kind(_LINKS),
    "vanish": Kind(_BACKENDS),
    "stall": Kind(_LINKS, 0.5, 4.0),
    "slow": Kind(_LINKS, 1.0, 6.0, 0.05, 1.0),
}

Mix = Mapping[str, float]
"""How often each kind comes, compared with the others."""

ALL: Final[Mix] = {
    "kill": 6, "terminate": 2, "freeze": 3, "pause": 2, "belated": 1.5, "unanswered": 1.5, "join": 1.5,
    "kill_broker": 0.7, "kill_store": 1, "alarm": 0.7, "forget": 1, "cut": 4, "vanish": 1.5, "stall": 4, "slow": 2,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: when it begins after the start, how long it lasts, what it is, whom it befalls, how late it makes."""

    at_s: float
    lasts_s: float
    kind: str
    target: str
    late_s: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.2f} s" if self.lasts_s else ""
        late = f", {self.late_s:.2f} s late" if self.late_s else ""
        return f"{self.at_s:6.2f} s  {self.kind} {self.target}{lasts}{late}"


def schedule(
    seed: int, seconds: float, mix: Mix = ALL, *, every_s: float = 1.5, services: Sequence[str] = SERVICES
) -> list[Step]:
    """The faults of a run of so many seconds, one each `every_s` on average; `mix` may name "kind" or "kind target".

    Each comes once before any comes again, which is then as often as the mix says. A target may be the beginning of a
    name: "kill worker" befalls any worker that is among the `services`.
    """
    random = Random(f"faults {seed}")
    names = list(mix)
    first = random.sample(names, len(names))
    steps: list[Step] = []
    at_s = random.uniform(0.3, every_s)
    while at_s < seconds:
        chosen = first[len(steps)] if len(steps) < len(first) else random.choices(names, list(mix.values()))[0]
        kind, _, begins = chosen.partition(" ")
        of_kind = KINDS[kind]
        target = random.choice([each for each in of_kind.targets if _named(each, begins) and _is_there(each, services)])
        lasts_s = random.uniform(of_kind.shortest_s, of_kind.longest_s)
        late_s = random.uniform(of_kind.least_late_s, of_kind.most_late_s)
        steps.append(Step(round(at_s, 3), round(lasts_s, 3), kind, target, round(late_s, 3)))
        at_s += random.uniform(0.1, 2 * every_s - 0.1)
    return steps


def _is_there(target: str, services: Sequence[str]) -> bool:
    return target in {BROKER, STORE, GUEST} or target.partition(":")[0] in services


def _named(target: str, begins: str) -> bool:
    """Whether a target is meant: "worker", "worker-1", "worker:store" (that link of any worker)."""
    service, _, link = begins.partition(":")
    name, _, place = target.partition(":")
    return name.startswith(service) and (not link or place == link)
