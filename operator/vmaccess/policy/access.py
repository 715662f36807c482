"""The next write in one namespace of one grant: its Role and its RoleBindings.

The order is the safety. At every moment between two writes a subject that leaves has at most what it had, a subject that
joins has at most what it will have, and a subject that stays has at least what is in both (design: order of changes).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from vmaccess.policy import rules as rbac
from vmaccess.policy.children import (
    UID_LABEL,
    BindingContent,
    Child,
    GrantId,
    Kind,
    OwnerId,
    RoleContent,
    Subjects,
    Whose,
)
from vmaccess.policy.reasons import Reason
from vmaccess.policy.rules import Rules
from vmaccess.policy.steps import Create, Delete, Patch, Refused, Settled, Step, Wait
from vmaccess.policy.target import Target, role_target, target_named


@dataclass(frozen=True, slots=True)
class Access:
    """What a grant gives in each of its namespaces: these rights, by this role, to these subjects."""

    target: Target
    rules: Rules
    subjects: Subjects


ClusterRoles = Callable[[str], Child | None]
"""The ClusterRole of a name, as it is observed."""


def grant_step(
    grant: GrantId,
    namespace: str,
    access: Access,
    observed: Collection[Child],
    cluster_role: ClusterRoles,
    *,
    stuck: bool = False,
) -> Step:
    """The next write towards `access` in `namespace`, given every Role and RoleBinding there that relates to the grant.

    A ClusterRole is not written here; bindings wait until it is as it should be. `stuck` says that it will not become so by
    itself or soon: then what gives more than is wanted does not wait for it.
    """
    target = access.target
    if not observed and target.kind is Kind.ROLE:
        return _new_role(namespace, access)
    if not observed and is_ready(access, cluster_role(target.role)):
        return _new_binding(namespace, access)
    roles = _of(Kind.ROLE, observed)
    ours, foreign = list[Child](), list[Child]()
    for found in (*_of(Kind.ROLE_BINDING, observed), *roles):
        whose = found.whose(grant)
        if whose is Whose.EARLIER or (whose is Whose.OURS and not _as_named(found, grant, cluster_role, roles)):
            return remove_step(found, unchanged=whose is Whose.EARLIER)
        (ours if whose is Whose.OURS else foreign).append(found)
    mine = _of(Kind.ROLE_BINDING, ours)
    role = next((child for child in ours if child.kind is Kind.ROLE), None)
    if (taken := next((child for child in foreign if _takes_a_place(child, target)), None)) is not None:
        return remove_step(ours[0]) if ours else Refused(Reason.NAME_CONFLICT, conflict(taken))
    for child in ours:
        if child.deleting:
            return remove_step(child)

    backing = role if target.kind is Kind.ROLE else cluster_role(target.role)
    ready = is_ready(access, backing)
    binding = next((child for child in mine if target.is_of(child)), None)
    old = [child for child in mine if child is not binding]
    wider = next((child for child in old if not _within(child, access.rules, role, cluster_role)), None)
    if wider is not None and role is not None and role_target(grant).is_of(wider):
        return _narrow_role(role, access.rules, grant, wider)
    for child in mine:
        if (left := _after_leaving(child, access, ready and target.is_of(child))) is None:
            continue
        # A binding may be changed only by who holds all that its role has, and not at all where there is no role: what the base
        # has lost goes from the role first, and a binding that gives nothing goes as a whole.
        behind = _behind(child, role, cluster_role)
        if behind is None:
            return remove_step(child)
        if not rbac.covers(access.rules, rules_of(behind)):
            if behind is role:
                return _narrow_role(role, access.rules, grant, child)
            if behind.whose(grant) is Whose.OURS and not stuck:
                return Wait(f"ClusterRole {behind.name} is narrowed first", holds=True)
        return Patch(child, left, grant, instead=Delete(child))
    instead = Delete(wider) if wider is not None else None

    if target.kind is Kind.ROLE:
        if strangers := [child for child in foreign if target.is_of(child)]:
            if (step := beside_strangers(grant, access.rules, role, strangers)) is not None:
                return remove_step(wider) if wider is not None and isinstance(step, Refused) else step
        elif role is None:
            return _new_role(namespace, access, instead)
        elif not ready or not role.marks_intact(grant):
            return patch_role(role, access.rules, grant, Delete(binding) if binding is not None else None, replaces=instead)
    elif not ready and (wider is None or not stuck):
        return Wait(f"ClusterRole {target.role} comes first", holds=wider is not None)
    elif not ready and wider is not None:
        return _replace_in_part(grant, wider, binding, access, backing)
    if binding is None:
        return _new_binding(namespace, access, instead)
    content = target.content(access.subjects)
    if binding.content != content or not binding.marks_intact(grant):
        return Patch(binding, content, grant)
    if old:
        return remove_step(old[0])
    if role is not None and target.kind is not Kind.ROLE:
        return remove_step(role)
    if (orphan := next((child for child in foreign if _is_left_behind(child, grant)), None)) is not None:
        return Refused(Reason.NAME_CONFLICT, conflict(orphan))
    return Settled()


def beside_strangers(owner: GrantId, wanted: Rules, role: Child | None, strangers: Sequence[Child]) -> Step | None:
    """The next write to a Role or ClusterRole that bindings point to which are not ours: whoever they name holds what it says.

    So it may become less, and never more; None where it is as it should be already.
    """
    if role is not None and not rbac.covers(wanted, rules_of(role)):
        return Patch(role, RoleContent(rbac.intersect(rules_of(role), wanted)), owner, instead=Delete(role))
    if role is not None and not role.marks_intact(owner):
        return Patch(role, None, owner)
    if role is not None and role.content == RoleContent(wanted):
        return None
    where = ", ".join(sorted(f"{child.namespace}/{child.name}" for child in strangers)[:5])
    labelled = next((child for child in strangers if child.marked_label is not None), None)
    cure = conflict(labelled) if labelled is not None else "delete them once their origin is known"
    kind = role.kind if role is not None else "role"
    return Refused(
        Reason.NAME_CONFLICT,
        f"RoleBindings that are not this grant's point to its {kind} ({where}) and would share with others what is added, "
        f"so it stays as it is: {cure}",
    )


def is_ready(access: Access, role: Child | None) -> bool:
    """Whether a Role or ClusterRole says what is to be bound."""
    if role is None or role.deleting or role.whose(access.target.owner) is not Whose.OURS:
        return False
    return isinstance(role.content, RoleContent) and role.content.says(access.rules)


def hold_step(grant: GrantId, ceiling: Rules | None, observed: Collection[Child]) -> Step:
    """The next write while nothing is given or taken: none, but for what a grant that is gone has left behind, and for a Role
    that has more than the base role still allows.
    """
    for child in (*_of(Kind.ROLE_BINDING, observed), *_of(Kind.ROLE, observed)):
        if child.whose(grant) is Whose.EARLIER:
            return remove_step(child, unchanged=True)
    own = role_target(grant)
    binding = next(
        (child for child in _of(Kind.ROLE_BINDING, observed) if own.is_of(child) and child.whose(grant) is Whose.OURS), None
    )
    for role in _of(Kind.ROLE, observed):
        if ceiling is not None and role.whose(grant) is Whose.OURS and not rbac.covers(ceiling, rules_of(role)):
            return _narrow_role(role, ceiling, grant, binding)
    for child in observed:
        if child.whose(grant) is Whose.OURS and not child.deleting and not child.marks_intact(grant):
            return Patch(child, None, grant)  # so that what stays can be revoked
    return Settled()


def withdraw_step(grant: GrantId, observed: Collection[Child]) -> Step:
    """The next write towards no access at all: bindings before roles, foreign objects left alone."""
    waiting: Step = Settled()
    for child in (*_of(Kind.ROLE_BINDING, observed), *_of(Kind.ROLE, observed)):
        whose = child.whose(grant)
        if whose is Whose.FOREIGN:
            continue
        step = remove_step(child, unchanged=whose is Whose.EARLIER)
        if not isinstance(step, Wait):
            return step
        waiting = step
    return waiting


def release_step(gone: Collection[str], revoked: Collection[str], observed: Iterable[Child]) -> Step:
    """The next write for the children of grants that no longer exist, named by uid.

    Of a grant that is merely `gone`, only an ownerReference condemns a child: what carries the label alone was left behind by
    `--cascade=orphan`. Of one that is known to be `revoked` as well, any mark does.
    """
    waiting: Step = Settled()
    for child in sorted(observed, key=lambda child: _LAST[child.kind]):
        ends = child.end(revoked) & set(gone)
        if not ends:
            continue
        step = remove_step(child, unchanged=not ends & set(revoked))
        if not isinstance(step, Wait):
            return step
        waiting = step
    return waiting


def left_behind(what: str, mark: GrantId) -> str:
    """What to say of an object that carries the label of a grant of this name that is gone, and no owner."""
    return (
        f"{what} is not this grant's: it carries the label of an earlier grant of the name, as --cascade=orphan leaves it, "
        f"and may still give what that one gave; once its origin is known, delete all that was left by "
        f"`kubectl delete rolebindings,clusterroles,roles,serviceaccounts -A -l {UID_LABEL}={mark.uid}`"
    )


# A grant's own ClusterRole first of all: its end revokes in every namespace at once.
_LAST = {Kind.CLUSTER_ROLE: 0, Kind.ROLE_BINDING: 1, Kind.ROLE: 2, Kind.SERVICE_ACCOUNT: 3}


def remove_step(child: Child, *, unchanged: bool = False) -> Step:
    """Delete, but first let go whatever would hold the object: RBAC grants on while an object waits to be deleted."""
    if child.finalizers:
        metadata_only = Patch(child, None, None)  # needs no right to the rules, so it is never refused as an escalation
        emptied = _emptied(child)
        return Patch(child, emptied, None, instead=metadata_only) if emptied is not None else metadata_only
    if child.deleting:
        return Wait(f"{child.kind} {child.name} is being deleted")
    return Delete(child, unchanged)


def patch_role(
    role: Child, wanted: Rules, owner: OwnerId, last_resort: Delete | None, *, replaces: Delete | None = None
) -> Patch:
    """Give a Role or ClusterRole the rules that are wanted; `last_resort` is what revokes where even less is refused.

    `replaces` removes what gives more than is wanted and waits for this one to take its place.
    """
    held = rules_of(role)
    if replaces is not None or rbac.covers(wanted, held):
        return Patch(role, RoleContent(wanted), owner, instead=replaces)
    both = rbac.intersect(held, wanted)
    narrowed = Patch(role, RoleContent(both), owner, instead=last_resort)
    return Patch(role, RoleContent(wanted), owner, instead=narrowed if both not in (held, wanted) else last_resort)


def rules_of(role: Child) -> Rules:
    """The rules of a Role or ClusterRole."""
    assert isinstance(role.content, RoleContent)  # noqa: S101 - by construction of Child
    return role.content.rules


def is_aggregated(role: Child) -> bool:
    """Whether Kubernetes makes its rules from other ClusterRoles."""
    return isinstance(role.content, RoleContent) and role.content.aggregated


def conflict(taken: Child) -> str:
    """What to say of an object that has a name of ours and is not ours."""
    if (mark := taken.marked_label) is not None and target_named(mark, taken.name) is not None:
        return left_behind(f"{taken.kind} {taken.name!r}", mark)
    return (
        f"{taken.kind} {taken.name!r} exists (created {taken.created}) and is not this grant's: it is left as it is and "
        f"nothing is granted here; delete or rename it once its origin is known"
    )


def _new_role(namespace: str, access: Access, instead: Delete | None = None) -> Create:
    return Create(Kind.ROLE, namespace, access.target.role, RoleContent(access.rules), instead)


def _new_binding(namespace: str, access: Access, instead: Delete | None = None) -> Create:
    return Create(Kind.ROLE_BINDING, namespace, access.target.binding, access.target.content(access.subjects), instead)


def _is_left_behind(child: Child, grant: GrantId) -> bool:
    """Whether a foreign object is of an earlier grant of the name, and in none of our places."""
    mark = child.marked_label
    return mark is not None and mark.name == grant.name and target_named(mark, child.name) is not None


def _of(kind: Kind, observed: Collection[Child]) -> list[Child]:
    return [child for child in observed if child.kind is kind]


def _as_named(child: Child, grant: GrantId, cluster_role: ClusterRoles, roles: Collection[Child]) -> bool:
    """Whether a child of ours has a name that we give, and for a binding: points to where its name says, and that is ours."""
    if child.kind is Kind.ROLE:
        return child.name == grant.child_name
    target = target_named(grant, child.name)
    if target is None or not target.is_of(child):
        return False
    named = (
        next((role for role in roles if role.name == target.role), None)
        if target.kind is Kind.ROLE
        else cluster_role(target.role)
    )
    return named is None or named.whose(target.owner) is Whose.OURS


def _takes_a_place(foreign: Child, target: Target) -> bool:
    """Whether a foreign object has the name of one that is to be ours."""
    if foreign.kind is Kind.ROLE_BINDING:
        return foreign.name == target.binding
    return target.kind is Kind.ROLE and foreign.name == target.role


def _behind(binding: Child, role: Child | None, cluster_role: ClusterRoles) -> Child | None:
    """What a binding of ours points to."""
    ref = binding.content
    assert isinstance(ref, BindingContent)  # noqa: S101 - by construction of Child
    return role if ref.role_kind == Kind.ROLE else cluster_role(ref.role_name)


def _within(binding: Child, rules: Rules, role: Child | None, cluster_role: ClusterRoles) -> bool:
    """Whether what a binding of ours points to gives nothing beyond `rules`."""
    backing = _behind(binding, role, cluster_role)
    return backing is None or rbac.covers(rules, rules_of(backing))


def _narrow_role(role: Child, most: Rules, grant: GrantId, binding: Child | None) -> Step:
    """Take from a Role what is beyond `most`; where nothing is left of it, end the binding."""
    both = rbac.intersect(rules_of(role), most)
    if not both and binding is not None:
        return remove_step(binding)
    return Patch(role, RoleContent(both), grant, instead=Delete(binding) if binding is not None else None)


def _replace_in_part(grant: GrantId, wider: Child, binding: Child | None, access: Access, role: Child | None) -> Step:
    """Where the ClusterRole does not become what it should: who stays gets what it says so far, and what gives too much goes."""
    assert isinstance(wider.content, BindingContent)  # noqa: S101 - by construction of Child
    if role is None or role.whose(access.target.owner) is not Whose.OURS or role.deleting or is_aggregated(role):
        return remove_step(wider)
    bound = binding.content.subjects if binding is not None and isinstance(binding.content, BindingContent) else ()
    staying = tuple(each for each in access.subjects if each in wider.content.subjects or each in bound)
    if rbac.covers(access.rules, rules_of(role)) and not set(staying) <= set(bound):
        content = access.target.content(staying)
        if binding is None:
            return Create(Kind.ROLE_BINDING, wider.namespace, access.target.binding, content, Delete(wider))
        return Patch(binding, content, grant, instead=Delete(wider))
    return remove_step(wider)


def _after_leaving(binding: Child, access: Access, ready: bool) -> BindingContent | None:  # noqa: FBT001
    """The binding without the subjects that leave, or None where none does.

    Those who join wait until the role is ready, and never join a binding that is to go: they must not hold the old rights.
    """
    content = binding.content
    if not isinstance(content, BindingContent) or content.subjects == access.subjects:
        return None
    if set(content.subjects) <= set(access.subjects):
        return None
    if ready:
        return access.target.content(access.subjects)
    stayers = tuple(subject for subject in access.subjects if subject in content.subjects)
    return BindingContent(content.role_kind, content.role_name, stayers)


def _emptied(child: Child) -> BindingContent | RoleContent | None:
    """What to leave of an object that is to go and is held by a finalizer, where that revokes something."""
    match child.content:
        case BindingContent(role_kind, role_name, subjects) if subjects:
            return BindingContent(role_kind, role_name, ())
        case RoleContent() as content if child.kind is Kind.CLUSTER_ROLE and content != RoleContent(()):
            return RoleContent(())
    return None
