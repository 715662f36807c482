"""The next write to a ClusterRole: a grant's own, or the one that all grants of a bare preset share.

It stands behind bindings in many namespaces, so what one write does here it does everywhere: to narrow comes first, to widen
only when no binding names anybody who is to leave, to remove when no binding points to it, except to revoke.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from vmaccess.policy import rules as rbac
from vmaccess.policy.access import Access, beside_strangers, conflict, is_aggregated, patch_role, remove_step, rules_of
from vmaccess.policy.children import BindingContent, Child, GrantId, Kind, PresetId, RoleContent, Whose
from vmaccess.policy.reasons import Reason
from vmaccess.policy.rules import Rules
from vmaccess.policy.steps import Create, Delete, Patch, Refused, Settled, Step, Wait
from vmaccess.policy.target import cluster_target


@dataclass(frozen=True, slots=True)
class Bindings:
    """The grant's RoleBindings in all namespaces.

    `stays` tells of a namespace whether those bound there keep their access, `settled` whether no write is on its way that was
    decided on for earlier wishes.
    """

    observed: Iterable[Child]
    stays: Callable[[str], bool]
    settled: bool


def own_role_step(grant: GrantId, access: Access, observed: Collection[Child], bindings: Bindings) -> Step:
    """The next write to the grant's own ClusterRole, towards `access`, whose subjects are all that may ever be bound.

    `observed` are the ClusterRoles that relate to the grant: the one of its name.
    """
    target = cluster_target(grant)
    role = next(iter(observed), None)
    if role is not None and role.whose(grant) is Whose.EARLIER:
        return remove_step(role, unchanged=True)
    if access.target != target and role is None:
        return Settled()
    everyone = [child for child in bindings.observed if target.is_of(child)]
    bound = [child for child in everyone if child.whose(grant) is not Whose.FOREIGN]
    if role is not None and access.target != target:
        return _unused(grant, access.rules, role, bound)
    if role is not None and role.whose(grant) is Whose.FOREIGN:
        return Refused(Reason.NAME_CONFLICT, conflict(role))
    if role is not None and role.deleting:
        return remove_step(role)
    if role is not None and is_aggregated(role):
        return remove_step(role)  # only a cluster admin may change such a ClusterRole
    if strangers := [child for child in everyone if child.whose(grant) is Whose.FOREIGN]:
        return beside_strangers(grant, access.rules, role, strangers) or Settled()
    leaving = not bindings.settled or any(
        child.whose(grant) is Whose.EARLIER or not bindings.stays(child.namespace) or _names_others(child, access)
        for child in bound
    )
    if role is None:
        return Wait(LEAVERS_FIRST) if leaving else Create(Kind.CLUSTER_ROLE, "", target.role, RoleContent(access.rules))
    if role.content == RoleContent(access.rules) and role.marks_intact(grant):
        return Settled()
    if leaving and not rbac.covers(rules_of(role), access.rules):
        both = RoleContent(rbac.intersect(rules_of(role), access.rules))
        return Wait(LEAVERS_FIRST) if role.content == both else Patch(role, both, grant, instead=Delete(role))
    return patch_role(role, access.rules, grant, Delete(role))


LEAVERS_FIRST = "those who lose their access must have lost it before the ClusterRole may give more"


def revoke_own_role_step(grant: GrantId, observed: Collection[Child]) -> Step:
    """The next write towards no ClusterRole of the grant's own: the one write that revokes in every namespace."""
    waiting: Step = Settled()
    for found in observed:
        whose = found.whose(grant)
        if whose is Whose.FOREIGN:
            continue
        step = remove_step(found, unchanged=whose is Whose.EARLIER)
        if not isinstance(step, Wait):
            return step
        waiting = step
    return waiting


def hold_own_role_step(grant: GrantId, ceiling: Rules | None, observed: Collection[Child]) -> Step:
    """The next write while nothing is given or taken: only what the base role no longer allows goes, and drift in the marks."""
    for role in observed:
        whose = role.whose(grant)
        if whose is Whose.EARLIER:
            return remove_step(role, unchanged=True)
        if whose is Whose.FOREIGN:
            continue
        if ceiling is not None and not rbac.covers(ceiling, rules_of(role)):
            return Patch(role, RoleContent(rbac.intersect(rules_of(role), ceiling)), grant, instead=Delete(role))
        if not role.deleting and not role.marks_intact(grant):
            return Patch(role, None, grant)
    return Settled()


def shared_role_step(preset: PresetId, wanted: Rules | None, observed: Child | None, *, used: bool) -> Step:
    """The next write to the ClusterRole of a preset. `wanted` is None where there is no base role: then it stays as it is."""
    if observed is None:
        return Create(Kind.CLUSTER_ROLE, "", preset.child_name, RoleContent(wanted)) if used and wanted is not None else Settled()
    if observed.whose(preset) is Whose.FOREIGN:
        return Refused(Reason.NAME_CONFLICT, conflict(observed)) if used else Settled()
    if not used or observed.deleting or is_aggregated(observed):
        return remove_step(observed)
    if wanted is not None and observed.content != RoleContent(wanted):
        return patch_role(observed, wanted, preset, Delete(observed))
    return Settled() if observed.marks_intact(preset) else Patch(observed, None, preset)


def _unused(grant: GrantId, wanted: Rules, role: Child, bound: Collection[Child]) -> Step:
    """A ClusterRole from before the grant had another target: narrowed at once, removed when every namespace has moved on."""
    if role.whose(grant) is Whose.FOREIGN:
        return Settled()
    if not bound:
        return remove_step(role)
    if not rbac.covers(wanted, rules_of(role)):
        return Patch(role, RoleContent(rbac.intersect(rules_of(role), wanted)), grant, instead=Delete(role))
    return Wait("every namespace moves on to the new role first")


def _names_others(binding: Child, access: Access) -> bool:
    content = binding.content
    return isinstance(content, BindingContent) and not set(content.subjects) <= set(access.subjects)
