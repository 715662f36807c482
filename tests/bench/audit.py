"""What the operator has asked of the API server, read in the audit log, and when nobody asks any more."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from localcluster import Cluster
from tests.bench.client import Json
from tests.bench.figures import Counts
from tests.stage import OPERATOR

T = TypeVar("T")

LULL = 0.3  # seconds without a request after which none is on its way
AFTERTHOUGHTS = 2.5  # seconds after which an operator that has done its work has told everything about it
FOLLOWING = "lists and watches"


class Audit:
    """The audit log of a cluster. What does not happen within `patience` seconds ends in a TimeoutError."""

    def __init__(self, cluster: Cluster, patience: float) -> None:
        self._cluster, self._patience = cluster, patience

    def mark(self) -> int:
        """A position in the audit log, for `counts`."""
        return self._cluster.audit_position()

    def counts(self, since: int, about: Callable[[Json], bool] = lambda _: True) -> Counts:
        """What the operator has asked since a mark, when it asks no more for a moment; of what `about` is true of.

        `about` is given the reference to the object: its resource, namespace and name.
        """
        return _tally(self._until_still(lambda: self._requests(since)), about)

    def counts_so_far(self, since: int, about: Callable[[Json], bool] = lambda _: True) -> Counts:
        """The same by now: what is on its way is not waited for."""
        return _tally(self._requests(since), about)

    def first_request(self, since: int) -> float:
        """When the operator first asked for anything since a mark, in seconds since the epoch."""
        received = min(event["requestReceivedTimestamp"] for event in self._requests(since))
        return datetime.fromisoformat(received).timestamp()

    def _requests(self, since: int) -> list[Json]:
        return self._cluster.audit_events(user=OPERATOR, since=since)

    def quiet(self) -> None:
        """Return when nobody has asked the API server for anything for a moment."""
        self._until_still(self.mark)

    def rest(self) -> None:
        """The same, when the operator has told everything about its work too."""
        time.sleep(AFTERTHOUGHTS)
        self.quiet()

    def _until_still(self, measure: Callable[[], T]) -> T:
        """What `measure` returns when it has returned the same a moment ago."""
        deadline = time.monotonic() + self._patience
        before = measure()
        while time.monotonic() < deadline:
            time.sleep(LULL)
            if (now := measure()) == before:
                return now
            before = now
        raise TimeoutError("the control plane does not come to rest")


def children_of(grant: str) -> Callable[[Json], bool]:
    """Whether a reference is to a Role of a grant of kind Role, or to a RoleBinding to it."""
    return lambda ref: bool(ref.get("name") == f"vmaccess:{grant}")


def _tally(requests: Iterable[Json], about: Callable[[Json], bool]) -> Counts:
    named = (event for event in requests if "objectRef" in event)  # else: discovery
    tally = Counter(_category(event) for event in named if about(event["objectRef"]))
    del tally[FOLLOWING]
    return Counts(**tally)


def _category(event: Json) -> str:
    ref = event["objectRef"]
    match event["verb"], ref["resource"], ref.get("subresource"):
        case "get", _, _:
            return "reads"
        case (("list" | "watch"), _, _):
            return FOLLOWING
        case _, "events", _:
            return "events"
        case _, "vmaccessgrants", "status":
            return "status"
    return "writes"
