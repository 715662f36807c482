"""What is to be done at a key: the decisions of policy, given what the mirrors show and how long something has been awaited."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.world import World
from vmaccess.departed import REVOKE_GRACE
from vmaccess.keys import Key, Part
from vmaccess.ontheirway import OnTheirWay
from vmaccess.ownership import Ownership
from vmaccess.policy.access import Access, is_ready
from vmaccess.policy.children import BindingContent, GrantId, Kind, PresetId, RoleContent, Whose
from vmaccess.policy.cluster_role import Bindings
from vmaccess.policy.decide import (
    ClusterSide,
    Decision,
    bound_accounts,
    decide_account,
    decide_cluster_role,
    decide_namespace,
)
from vmaccess.policy.grant import Deletion, Give, Grant, Take, rules_hash
from vmaccess.policy.namespaces import Globs, Place, candidates, place
from vmaccess.policy.report import State
from vmaccess.policy.rules import Rules
from vmaccess.progress import Progress, loop_time
from vmaccess.shared import NAMES, SharedRoles

ACCOUNT_GRACE = 2.0  # seconds for which bindings wait for a ServiceAccount whose creation hangs
ROLE_GRACE = 2.0  # seconds for which what gives too much waits for the ClusterRole that is to take its place


class Decider:
    """Decides for one grant at one place at a time, and has the grant looked at again when a wait is over."""

    def __init__(
        self,
        world: World,
        queue: WorkQueue[Key],
        shared: SharedRoles,
        on_their_way: OnTheirWay,
        ownership: Ownership,
        protected: Globs,
    ) -> None:
        self._world, self._queue, self._shared, self._on_their_way = world, queue, shared, on_their_way
        self._ownership, self._protected = ownership, protected
        self._roles_alone = ClusterSide(world.cluster_role)

    def decide(self, progress: Progress, key: Key) -> Decision:
        """What is to be done next in the namespace, for the ServiceAccount or for the ClusterRole that the key names."""
        grant, namespace = progress.grant, self._world.namespace(key.namespace)
        if key.part is Part.ACCOUNT:
            where = (key.namespace, key.account)
            account = self._world.account(*where)
            return decide_account(grant, progress.intent, where, namespace, self._protected, account, self._is_alive)
        observed = [child for child in self._world.related(key.grant, key.namespace) if child.kind is not Kind.SERVICE_ACCOUNT]
        if revoked := self._ownership.revoked(key.grant):
            observed = [child.owned_by(revoked) for child in observed]
        if key.part is Part.CLUSTER_ROLE:
            settled = not self._on_their_way.is_stale(progress)
            bindings = Bindings(self._world.related_bindings(key.grant), partial(self._stays, grant), settled=settled)
            return decide_cluster_role(grant, progress.intent, self._protected, observed, bindings, self._world.account)
        at = key.namespace, place(grant.limits, key.namespace, namespace, self._protected)
        side = self._cluster_side(progress)
        return decide_namespace(grant, progress.intent, progress.access, at, self._protected, observed, side)

    def access(self, progress: Progress) -> Access | None:
        """What is bound, once it is known which of the listed ServiceAccounts are there and ours."""
        if not isinstance(progress.intent, Give):
            return None
        accounts = bound_accounts(progress.grant, self._protected, self._world.account)
        there = {(account.namespace, account.name) for account in accounts}
        if any(outcome.state is State.PENDING and account not in there for account, outcome in progress.accounts.items()):
            if progress.awaited_since is None:
                progress.awaited_since = loop_time()
            if self._again_within(ACCOUNT_GRACE, progress, progress.awaited_since):
                return None
        else:
            progress.awaited_since = None
        return Access(progress.intent.target, progress.intent.trimmed.rules, (*accounts, *progress.intent.subjects))

    def accounts_of(self, progress: Progress) -> set[tuple[str, str]]:
        """The ServiceAccounts that a grant has to do with: those listed, those that are its own, and those it has had."""
        related = self._world.related(progress.grant.id.name)
        ours = {(child.namespace, child.name) for child in related if child.kind is Kind.SERVICE_ACCOUNT}
        return ours | progress.grant.accounts.keys() | progress.accounts.keys()

    def namespaces_of(self, progress: Progress) -> set[str]:
        """The namespaces that a grant has to do with: those it may select, and those with something of it."""
        grant = progress.grant
        names = {*self._world.related_namespaces(grant.id.name), *progress.namespaces}
        if (selection := grant.limits.selection) is not None:
            names |= candidates(selection, self._world.namespaces)
        return names

    def bound_in(self, progress: Progress, key: Key) -> Iterator[str]:
        """Namespaces with a binding that is to go and still names the ServiceAccount, but for those that cannot be had now."""
        subject = (key.namespace, key.account)
        if isinstance(progress.intent, Give) and subject in {
            (listed.namespace, listed.name) for listed in progress.intent.subjects
        }:
            return  # it is listed as an existing subject now: the bindings go on naming it
        for binding in self._world.related(key.grant):
            if binding.kind is not Kind.ROLE_BINDING or binding.whose(progress.grant.id) is Whose.FOREIGN:
                continue
            outcome = progress.namespaces.get(binding.namespace)
            if outcome is not None and outcome.reason is not None:
                continue  # rather kill the tokens than wait for it
            assert isinstance(binding.content, BindingContent)  # noqa: S101 - by construction of Child
            if any((bound.namespace, bound.name) == subject for bound in binding.content.subjects):
                yield binding.namespace

    def revokes_at_once(self, progress: Progress) -> bool:
        """Whether a ClusterRole of the grant's own is just being removed: the one write that revokes everywhere comes first."""
        if not isinstance(progress.intent, Take) or (known := progress.cluster_role) is None or known.reason is not None:
            return False
        if progress.revoking_since is None:
            progress.revoking_since = loop_time()
        return self._again_within(REVOKE_GRACE, progress, progress.revoking_since)

    def rules_before(self, progress: Progress, known: Progress | None) -> Rules | None:
        """The rules that the status speaks of, where the base role has changed since: also while no operator ran."""
        role = progress.grant.status.get("role") or {}
        if "baseHash" not in role or progress.base is None or role["baseHash"] == rules_hash(progress.base):
            return None
        remembered = (known.before, known.intent.trimmed.rules if isinstance(known.intent, Give) else None) if known else ()
        children = self._world.related(progress.grant.id.name)
        shared = (self._world.cluster_role(name) for name in NAMES)
        observed = (child.content.rules for child in (*children, *shared) if child and isinstance(child.content, RoleContent))
        candidates = (*remembered, *observed, ())
        return next((rules for rules in candidates if rules is not None and rules_hash(rules) == role.get("hash")), None)

    def _is_alive(self, grant_id: GrantId) -> bool:
        grant = self._world.grant(grant_id.name)
        return grant is not None and grant.id == grant_id and grant.deletion is Deletion.NONE

    def _stays(self, grant: Grant, namespace: str) -> bool:
        """Whether those who are bound in a namespace keep their access there."""
        where = place(grant.limits, namespace, self._world.namespace(namespace), self._protected)
        return where in (Place.SELECTED, Place.TERMINATING, Place.UNKNOWN)

    def _cluster_side(self, progress: Progress) -> ClusterSide:
        """What namespaces see of the ClusterRoles: asked for each of them, so what does not change is not worked out anew."""
        if not isinstance(progress.intent, Give) or progress.intent.target.kind is not Kind.CLUSTER_ROLE:
            return self._roles_alone
        target, known = progress.intent.target, progress.role_ready
        role = self._world.cluster_role(target.role)
        outcome = self._shared.outcome(target.owner.preset) if isinstance(target.owner, PresetId) else progress.cluster_role
        if known is not None and known[0] is role and known[1] is outcome:
            return known[2]
        if role is not None and is_ready(Access(target, progress.intent.trimmed.rules, ()), role):
            progress.role_awaited_since = None
            progress.role_ready = role, outcome, (side := ClusterSide(self._world.cluster_role, outcome))
            return side
        if progress.role_awaited_since is None:
            progress.role_awaited_since = loop_time()
        waits = self._again_within(ROLE_GRACE, progress, progress.role_awaited_since)
        return ClusterSide(self._world.cluster_role, outcome, overdue=not waits)

    def _again_within(self, grace: float, progress: Progress, since: float) -> bool:
        """Whether what is awaited since then still has time; the grant is looked at again when it has not."""
        left = since + grace - loop_time()
        if left > 0:
            self._queue.add_after(Key(Part.GRANT, progress.grant.id.name), left, urgent=True)
        return left > 0
