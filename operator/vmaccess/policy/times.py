"""When a grant gives access: from notBeforeTime until expirationTime, by a clock that somebody else reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from vmaccess.model.grant import Withdrawals

LATE = 1.0  # seconds by which what a Date header tells is late at most: it is cut to the second
SOON = 3600.0  # seconds before its end for which a grant says that it ends soon


class Phase(Enum):
    """Where a grant is in its time."""

    BEFORE = "it has not begun"
    DURING = "it gives access, as far as its times are concerned"
    AFTER = "it has ended"


@dataclass(frozen=True, slots=True)
class Reading:
    """What time it is, in seconds since 1970: not before `earliest`, maybe as late as `latest`, `current` by the last answer."""

    earliest: float
    current: float
    latest: float


def phase_of(limits: Withdrawals, status: Mapping[str, Any], generation: int, now: Reading, *, begun: bool) -> Phase:
    """The phase of a grant. When in doubt it gives nothing: it begins by the earliest time and ends by the latest.

    One that gives no access so far ends a little before its end, by as much as the latest time may be late: else an end that has
    just passed would not be seen before something is given. One that has begun (`begun`) does not go back. Nor does one whose
    status says that this generation has expired, whatever has become of the clock since.
    """
    if limits.ends is not None:
        late = 0.0 if is_active(status) and status.get("observedGeneration") == generation else LATE
        if limits.ends.timestamp() <= now.latest + late or has_expired(status, generation):
            return Phase.AFTER
    if limits.begins is not None and not begun and now.earliest < limits.begins.timestamp():
        return Phase.BEFORE
    return Phase.DURING


def is_active(status: Mapping[str, Any]) -> bool:
    """Whether the status tells of access in force."""
    return any(each.get("type") == "Active" and each.get("status") == "True" for each in status.get("conditions") or ())


def has_expired(status: Mapping[str, Any], generation: int) -> bool:
    """Whether the status tells of this generation that it has expired."""
    return status.get("expiredGeneration") == generation


def next_transition(limits: Withdrawals, phase: Phase) -> datetime | None:
    """When access begins or ends next, None where time changes nothing any more."""
    match phase:
        case Phase.BEFORE:
            return limits.begins
        case Phase.DURING:
            return limits.ends
    return None


def in_words(moment: datetime) -> str:
    """As Kubernetes writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
