"""What was measured, which of it is wrong, and how it is shown. A time is never wrong; a count is."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

HEADINGS = (
    f"{'scenario':56} {'seconds':>8} {'bare':>8} {'ratio':>6} {'goal':>8} {'writes':>7} {'needed':>7} {'reads':>6} {'status':>7}"
)


@dataclass(frozen=True)
class Counts:
    """The operator's requests in the API server's audit log.

    `writes` are those to children, `status` and `events` those that tell of them, `reads` GETs of single objects.
    """

    writes: int = 0
    status: int = 0
    events: int = 0
    reads: int = 0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line of the table."""

    scenario: str
    counts: Counts
    seconds: float | None = None
    floor: float | None = None
    """Seconds of what it is compared with: the bare client, or what the scenario names."""
    goal: float | None = None
    """Of the ratio where there is a floor, else of the seconds."""
    needed: int | None = None
    """Writes to children; None where nobody can say: some are refused and tried again, or chance decides."""
    reads_due: int | None = 0
    """None where it has to ask: a grant that has vanished is read once before anything is taken away."""
    silent: bool = False
    """Nothing happened, so that neither statuses nor Events are due."""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Seconds over the floor's."""
        return self.seconds / self.floor if self.floor and self.seconds is not None else None

    def wrong(self) -> Iterator[str]:
        """What is not as it has to be, in words."""
        counts = self.counts
        if self.needed is not None and counts.writes != self.needed:
            yield f"{self.scenario}: {counts.writes} writes where {self.needed} are needed"
        if self.reads_due is not None and counts.reads != self.reads_due:
            yield f"{self.scenario}: {counts.reads} reads where {self.reads_due} are due"
        if self.silent and (counts.status or counts.events):
            yield f"{self.scenario}: {counts.status} statuses and {counts.events} Events although nothing happened"

    def line(self) -> str:
        """The line of the table."""
        unit = "x" if self.floor else "s"
        cells = (
            f"{self.scenario:56}",
            f"{self.seconds:8.2f}" if self.seconds is not None else " " * 8,
            f"{self.floor:8.2f}" if self.floor else " " * 8,
            f"{self.ratio:6.2f}" if self.ratio is not None else " " * 6,
            f"{f'{self.goal:g} {unit}':>8}" if self.goal else " " * 8,
            f"{self.counts.writes:7}",
            f"{self.needed:7}" if self.needed is not None else " " * 7,
            f"{self.counts.reads:6}",
            f"{self.counts.status:7}",
        )
        return " ".join(cells)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self) | {"ratio": self.ratio, "wrong": list(self.wrong())}


@dataclass(frozen=True)
class Memory:
    """Resident megabytes of the operator's process: now, and at most since it was started."""

    moment: str
    resident: float
    peak: float
    grants: int
    children: int

    @property
    def budget(self) -> float:
        """100 MB, 20 kB for a grant and 1 kB for a child."""
        return 100 + 0.02 * self.grants + 0.001 * self.children

    def line(self) -> str:
        """The line of the table."""
        return f"{self.moment:56} {self.resident:8.1f} {self.peak:8.1f} {self.budget:8.1f} {self.grants:7} {self.children:9}" + (
            "" if self.peak <= self.budget else "  over"
        )

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self) | {"budget": self.budget}


def table(figures: Iterable[Figure], memory: Collection[Memory]) -> str:
    """Everything for a person."""
    lines = [HEADINGS, *(figure.line() for figure in figures)]
    if memory:
        lines += ["", f"{'memory of the operator, MB':56} {'now':>8} {'peak':>8} {'budget':>8} {'grants':>7} {'children':>9}"]
        lines += [each.line() for each in memory]
    return "\n".join(lines)
