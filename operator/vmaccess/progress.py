"""What the controller remembers of a grant's work. Nothing of it outlives the process, and nothing needs to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TypeVar

from vmaccess.keys import Key, Part
from vmaccess.policy.access import Access
from vmaccess.policy.children import Child
from vmaccess.policy.decide import ClusterSide
from vmaccess.policy.grant import Grant, Intent, intent
from vmaccess.policy.report import Outcome, ScopedName
from vmaccess.policy.rules import Rules
from vmaccess.policy.times import Phase


@dataclass(slots=True)
class Progress:
    """How far one grant, in one generation and phase and over one base role, has come. Times are the event loop's."""

    grant: Grant
    base: Rules | None
    phase: Phase
    intent: Intent
    reported_at: float
    written: str | None = None  # the status that was last written, as text
    told_at_rest: bool = False  # whether nothing was on its way then
    access: Access | None = None
    namespaces: dict[str, Outcome] = field(default_factory=dict)
    accounts: dict[ScopedName, Outcome] = field(default_factory=dict)
    kubeconfigs: dict[ScopedName, Outcome] = field(default_factory=dict)
    cluster_role: Outcome | None = None  # of the grant's own
    before: Rules | None = None  # the rules that the status was last written for, where they are known
    awaited_since: float | None = None  # since when bindings wait for a ServiceAccount
    role_awaited_since: float | None = None  # since when the ClusterRole that is to be bound has not been as it should be
    role_ready: tuple[Child, Outcome | None, ClusterSide] | None = (
        None  # the ClusterRole when it last was, its outcome, and what they mean
    )
    revoking_since: float | None = None  # since when bindings wait for the end of the grant's own ClusterRole
    lost: dict[Key, float] = field(default_factory=dict)  # places in which a child of ours has vanished, and when
    verified_at: float = 0.0  # when the grant was last read by name and found alive
    drifted: set[Key] = field(default_factory=set)  # places that were as they should be until somebody else changed them
    unsettled: int = 0  # places that are being worked on
    planned: bool = False  # whether every place has been looked at once: before that there is nothing true to report

    @classmethod
    def of(cls, grant: Grant, base: Rules | None, phase: Phase, known: Progress | None, *, now: float) -> Progress:
        """The progress of `grant`: what is known already, as far as it is about the same grant and the same wishes."""
        if known is not None and known.is_about(grant, base, phase):
            return known
        fresh = cls(grant, base, phase, intent(grant, base, phase), reported_at=now)
        if known is not None and known.grant.id == grant.id:
            fresh.lost, fresh.verified_at = known.lost, known.verified_at
        return fresh

    def is_about(self, grant: Grant, base: Rules | None, phase: Phase) -> bool:
        """Whether nothing has changed in what is wanted."""
        mine = self.grant
        return self.phase is phase and (mine.id, mine.generation, mine.deletion, self.base) == (
            grant.id,
            grant.generation,
            grant.deletion,
            base,
        )

    def outcome(self, key: Key) -> Outcome | None:
        """What is known of a key."""
        if key.part is Part.CLUSTER_ROLE:
            return self.cluster_role
        if key.part is Part.KUBECONFIG:
            return self.kubeconfigs.get((key.namespace, key.account))
        return self.accounts.get((key.namespace, key.account)) if key.account else self.namespaces.get(key.namespace)

    def note(self, key: Key, outcome: Outcome | None) -> None:
        """Remember what has come of a place; None where there is nothing to tell any more."""
        known = self.outcome(key)
        self.unsettled += (outcome is not None and outcome.moving) - (known is not None and known.moving)
        if key.part is Part.CLUSTER_ROLE:
            self.cluster_role = outcome
        elif key.part is Part.KUBECONFIG:
            _set(self.kubeconfigs, (key.namespace, key.account), outcome)
        elif key.account:
            _set(self.accounts, (key.namespace, key.account), outcome)
        else:
            _set(self.namespaces, key.namespace, outcome)


def loop_time() -> float:
    """What time it is by the event loop, in seconds since some moment."""
    return asyncio.get_running_loop().time()


K = TypeVar("K")


def _set(outcomes: dict[K, Outcome], key: K, outcome: Outcome | None) -> None:
    if outcome is None:
        outcomes.pop(key, None)
    else:
        outcomes[key] = outcome
