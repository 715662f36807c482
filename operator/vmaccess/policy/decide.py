"""What is to be done in one namespace, for one ServiceAccount or for the ClusterRole of one grant: intent and place together."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from vmaccess.model.problems import Problems
from vmaccess.policy.access import Access, ClusterRoles, grant_step, hold_step, remove_step, withdraw_step
from vmaccess.policy.accounts import account_step, remove_account_step
from vmaccess.policy.children import (
    BindingContent,
    Child,
    GrantId,
    Kind,
    Subjects,
    Whose,
    service_account_subject,
)
from vmaccess.policy.cluster_role import Bindings, hold_own_role_step, own_role_step, revoke_own_role_step
from vmaccess.policy.grant import Give, Grant, Hold, Intent, Leave, Take
from vmaccess.policy.namespaces import Globs, Namespace, Place
from vmaccess.policy.reasons import STALLING, Reason
from vmaccess.policy.report import Outcome, State
from vmaccess.policy.steps import Create, Delete, Patch, Refused, Settled, Step, Wait, Write


@dataclass(frozen=True, slots=True)
class Decision:
    """The next step, and what there is to report should it be the last; `outcome` None means: nothing worth counting."""

    step: Step
    outcome: Outcome | None


GRANTED, PENDING, BLOCKED, REVOKING = (Outcome(state) for state in (State.GRANTED, State.PENDING, State.BLOCKED, State.REVOKING))


@dataclass(frozen=True, slots=True)
class ClusterSide:
    """The ClusterRoles as a namespace sees them: each by its name, what has come of the one that the grant binds to, and whether
    that has been awaited for long.
    """

    roles: ClusterRoles
    outcome: Outcome | None = None
    overdue: bool = False

    @property
    def failed(self) -> bool:
        """Whether it has failed, which is told once and not for every namespace."""
        return self.outcome is not None and self.outcome.reason is not None

    @property
    def stuck(self) -> bool:
        """Whether it will not come by itself, or not soon."""
        if self.overdue:
            return True
        return self.outcome is not None and self.failed and (self.outcome.final or self.outcome.reason in STALLING)


def decide_namespace(
    grant: Grant,
    intent: Intent,
    access: Access | None,
    where: tuple[str, Place],
    protected: Globs,
    observed: Collection[Child],
    cluster: ClusterSide,
) -> Decision:
    """The decision for the namespace and place in `where`, given all Roles and RoleBindings there that relate to the grant.

    `access` is None while it is not known yet which of the grant's ServiceAccounts are there to be bound.
    """
    name, place = where
    match intent:
        case Leave():
            return Decision(Settled(), None)
        case Take():
            return _withdrawal(grant.id, observed)
    match place:
        case Place.OUTSIDE:
            return _withdrawal(grant.id, observed)
        case Place.PROTECTED:
            decision = _withdrawal(grant.id, observed)
            if not isinstance(decision.step, Settled):
                return decision
            return _refusal(Refused(Reason.PROTECTED_NAMESPACE, _protected(name)))
        case Place.MISSING:
            return _refusal(
                Refused(Reason.NAMESPACE_NOT_FOUND, f"namespace {name!r} does not exist: it is granted at once when it appears")
            )
        case Place.TERMINATING:
            step = _on_its_way_out(grant, intent, access, name, protected, observed, cluster)
            return Decision(step, REVOKING if isinstance(step, Write) or (isinstance(step, Wait) and step.holds) else None)
    if isinstance(intent, Hold):
        bound = any(child.whose(grant.id) is Whose.OURS and _stands(child, observed, cluster) for child in observed)
        outcome = GRANTED if bound else BLOCKED if place is Place.SELECTED else None
        return Decision(hold_step(grant.id, intent.ceiling, observed), outcome)
    if access is None:
        reduction = _reduction(grant, intent, name, _may_be_bound(grant, intent, protected), observed, cluster)
        return Decision(reduction if isinstance(reduction, Patch | Delete) else Wait("the ServiceAccounts come first"), PENDING)
    if not access.subjects:
        decision = _withdrawal(grant.id, observed)
        return decision if decision.outcome is not None else Decision(decision.step, BLOCKED)
    step = grant_step(grant.id, name, access, observed, cluster.roles, stuck=cluster.stuck)
    if isinstance(step, Wait) and cluster.failed:
        kept = Outcome(State.FAILED, Reason.REVOCATION_FAILED, f"the wider access from before stays as long as {step.why}")
        return Decision(step, kept if step.holds else BLOCKED)
    return _towards(step)


def decide_cluster_role(
    grant: Grant,
    intent: Intent,
    protected: Globs,
    observed: Collection[Child],
    bindings: Bindings,
    account: Callable[[str, str], Child | None],
) -> Decision:
    """The decision for the grant's own ClusterRole, given all ClusterRoles that relate to the grant, and its bindings.

    `account` is the ServiceAccount of a namespace and name: one that is somebody else's by now is to leave.
    """
    match intent:
        case Leave():
            return Decision(Settled(), None)
        case Take():
            step = revoke_own_role_step(grant.id, observed)
        case Hold(ceiling=ceiling):
            return Decision(hold_own_role_step(grant.id, ceiling, observed), None)
        case Give(trimmed=trimmed, target=target):
            most = Access(target, trimmed.rules, _may_be_bound(grant, intent, protected, account))
            step = own_role_step(grant.id, most, observed, bindings)
            if target.owner == grant.id and target.kind is Kind.CLUSTER_ROLE:
                return _towards(step)
    return Decision(step, None if isinstance(step, Settled) else REVOKING)


def decide_account(
    grant: Grant,
    intent: Intent,
    where: tuple[str, str],
    namespace: Namespace | None,
    protected: Globs,
    observed: Child | None,
    alive: Callable[[GrantId], bool],
) -> Decision:
    """The decision for the ServiceAccount whose namespace and name are in `where`; `alive` tells of other grants' ids."""
    place, name = where
    if isinstance(intent, Leave | Hold):
        return Decision(Settled(), None)
    listed = grant.accounts.get(where)
    if isinstance(grant.spec, Problems) and not (isinstance(intent, Take) and intent.accounts):
        return Decision(Settled(), None)  # which ServiceAccounts are wanted cannot be read, so none is touched
    if listed is None or (isinstance(intent, Take) and intent.accounts):
        step = remove_account_step(grant.id, observed)
        return Decision(step, None if isinstance(step, Settled) else REVOKING)
    if place in protected:
        return _refusal(Refused(Reason.PROTECTED_NAMESPACE, f"ServiceAccount {name!r}: {_protected(place)}"))
    if namespace is None:
        return _refusal(
            Refused(
                Reason.NAMESPACE_NOT_FOUND,
                f"ServiceAccount {name!r}: namespace {place!r} does not exist: it is made at once when it appears",
            )
        )
    if namespace.terminating:
        return _refusal(Refused(Reason.NAMESPACE_NOT_FOUND, f"ServiceAccount {name!r}: namespace {place!r} is being deleted"))
    return _towards(account_step(grant.id, place, name, bool(listed.automount_service_account_token), observed, alive))


def bound_accounts(grant: Grant, protected: Globs, observed: Callable[[str, str], Child | None]) -> Subjects:
    """Subjects for those listed ServiceAccounts that are there, ours and in no protected namespace; no other is ever bound."""
    return tuple(
        service_account_subject(*key)
        for key in grant.accounts
        if key[0] not in protected and (child := observed(*key)) is not None and child.whose(grant.id) is Whose.OURS
    )


def _on_its_way_out(
    grant: Grant,
    intent: Give | Hold,
    access: Access | None,
    name: str,
    protected: Globs,
    observed: Collection[Child],
    cluster: ClusterSide,
) -> Step:
    """The next write in a namespace that is being deleted, which may take long: nothing can be made there any more, so what
    should be replaced is removed.
    """
    if isinstance(intent, Hold):
        return hold_step(grant.id, intent.ceiling, observed)
    wanted = access.subjects if access is not None else _may_be_bound(grant, intent, protected)
    step = _reduction(grant, intent, name, wanted, observed, cluster)
    if not isinstance(step, Create):
        return step
    bindings = (child for child in observed if child.kind is Kind.ROLE_BINDING and child.whose(grant.id) is Whose.OURS)
    old = next((child for child in bindings if not intent.target.is_of(child)), None)
    return remove_step(old) if old is not None else Settled()


def _reduction(
    grant: Grant, intent: Give, name: str, wanted: Subjects, observed: Collection[Child], cluster: ClusterSide
) -> Step:
    """The next write towards what is wanted now for those who are bound already, without anybody who is not `wanted`."""
    bound = {
        subject
        for child in observed
        if isinstance(child.content, BindingContent) and child.whose(grant.id) is Whose.OURS
        for subject in child.content.subjects
    }
    staying = Access(intent.target, intent.trimmed.rules, tuple(subject for subject in wanted if subject in bound))
    return grant_step(grant.id, name, staying, observed, cluster.roles, stuck=cluster.stuck)


def _stands(binding: Child, observed: Collection[Child], cluster: ClusterSide) -> bool:
    """Whether it is a binding to a role that exists."""
    match binding.content:
        case BindingContent(role_kind=Kind.CLUSTER_ROLE, role_name=name):
            return cluster.roles(name) is not None
        case BindingContent(role_name=name):
            return any(child.kind is Kind.ROLE and child.name == name for child in observed)
    return False


def _may_be_bound(
    grant: Grant, intent: Give, protected: Globs, account: Callable[[str, str], Child | None] = lambda *_: None
) -> Subjects:
    """All that the spec names, whether its ServiceAccounts are there already or not, without those that are another's."""
    names = (key for key in grant.accounts if key[0] not in protected)
    ours = (key for key in names if (child := account(*key)) is None or child.whose(grant.id) is Whose.OURS)
    return (*(service_account_subject(*key) for key in ours), *intent.subjects)


def _towards(step: Step) -> Decision:
    """The decision where access, or a ServiceAccount, is wanted."""
    match step:
        case Settled():
            return Decision(step, GRANTED)
        case Refused():
            return _refusal(step)
    return Decision(step, PENDING)


def _withdrawal(grant: GrantId, observed: Collection[Child]) -> Decision:
    step = withdraw_step(grant, observed)
    return Decision(step, None if isinstance(step, Settled) else REVOKING)


def _refusal(step: Refused) -> Decision:
    return Decision(step, Outcome(State.FAILED, step.reason, step.message))


def _protected(name: str) -> str:
    return f"namespace {name!r} is protected: remove it from the grant, or from the operator's --protected-namespaces"
