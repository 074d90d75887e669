"""What a run leaves behind: what was asked and answered, what was received, and how it all ended.

Nothing here knows how calltag works; the checker judges this alone.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

Data = Mapping[str, Sequence[str]]
"""User data: every key with its values, also where there is one only."""
Kind = Literal["attach", "update", "delete", "forbidden", "impossible"]
Outcome = Literal["accepted", "refused", "unknown"]
Related = Literal["main", "consult"]
Ending = Literal["transfer", "conference", "merged", "removed", "alone", "single step", "one more"]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a sender, whose operations on a call are numbered in the order in which they were sent.

    attach      the value `sender-number` is added under the keys `log` and `sender`
    update      the value becomes the only one under the key `sender`
    delete      the key `sender` goes
    forbidden   the gateway has to refuse it; its value may show nowhere
    impossible  it is taken, and its `user` is to be told that the state of the call does not allow it
    """

    call: str
    sender: str
    number: int
    kind: Kind
    outcome: Outcome
    user: str = ""
    tries: int = 1

    @property
    def value(self) -> str:
        return f"{self.sender}-{self.number}"


@dataclass(frozen=True, slots=True)
class Received:
    """One message about a call; without a version where an operation was refused."""

    call: str
    event_id: str
    sequence: int
    version: int | None = None
    data: Data = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """A call as it was read by somebody who had been told of the version before."""

    call: str
    version: int
    data: Data


@dataclass(frozen=True, slots=True)
class Subscriber:
    """What one subscriber received, in order; it was there from the beginning of its calls, or asked for all of it.

    `left` says that it went before the end; `missed` how often it was told that something was lost.
    """

    name: str
    user: str
    calls: Sequence[str]
    received: Sequence[Received]
    left: bool = False
    missed: int = 0
    readings: Sequence[Reading] = ()
    calls_of: str = ""
    """The other user to whose calls it subscribed; empty for its own."""


@dataclass(frozen=True, slots=True)
class Final:
    """A call at the end: as a client reads it, and as it lies in the store."""

    call: str
    read: Data
    stored: Data
    version: int


@dataclass(frozen=True, slots=True)
class Step:
    """A change of one of two related calls, in the order in which those of one user were sent.

    attach, update, delete   of the pairs, or keys, of the `data`
    consult                  the consult call begins from the main call, with the pairs of the `data`
    join                     the parties of both are on the main call then
    hangup                   the consult call ends, and nothing comes of it

    One that was refused, as the call was over for its user by then, may have no effect.
    """

    call: Related
    kind: Literal["attach", "update", "delete", "consult", "join", "hangup"]
    data: Data
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Family:
    """Two calls that belong together; `known` says that each step was carried out.

    `finals` are the calls at the end, by their id, and `parties` the users who are on the main call then.
    """

    main: str
    consult: str
    ending: Ending
    steps: Sequence[Step]
    known: bool
    refused: Sequence[str] = ()
    """Operations that were refused though nothing spoke against them."""
    finals: Mapping[str, Final] = field(default_factory=dict)
    released: Mapping[str, bool] = field(default_factory=dict)
    parties: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """All of a run. `parked` is what lies in the queue of dead letters; `unsent` how many events the store keeps."""

    seed: int
    operations: Sequence[Operation]
    subscribers: Sequence[Subscriber]
    finals: Sequence[Final]
    parked: Sequence[str] = ()
    unsent: int = 0
    notes: Sequence[str] = ()
    """What else was not as it should be: services that did not end cleanly, say."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """How often each kind of fault took place, and whom it befell."""
    families: Sequence[Family] = ()
    failed_faults: Mapping[str, int] = field(default_factory=dict)
    """Those that found nobody whom they could befall."""

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1))
