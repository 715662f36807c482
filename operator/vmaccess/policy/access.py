"""The next write in one namespace of one grant: its Role and its RoleBinding.

The order is the safety. At every moment between two writes a subject that leaves has at most what it had, a subject that
joins has at most what it will have, and a subject that stays has at least what is in both (design: order of changes).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from vmaccess.policy import rules as rbac
from vmaccess.policy.children import (
    NAME_PREFIX,
    UID_LABEL,
    BindingContent,
    Child,
    GrantId,
    Kind,
    RoleContent,
    Subjects,
    Whose,
)
from vmaccess.policy.reasons import Reason
from vmaccess.policy.rules import Rules
from vmaccess.policy.steps import Create, Delete, Patch, Refused, Settled, Step, Wait


@dataclass(frozen=True, slots=True)
class Access:
    """What a grant gives in each of its namespaces: these rights, to these subjects."""

    rules: Rules
    subjects: Subjects


def grant_step(grant: GrantId, namespace: str, access: Access, observed: Collection[Child]) -> Step:
    """The next write towards `access` in `namespace`, given every Role and RoleBinding there that relates to the grant."""
    name = grant.child_name
    bindings, roles = _of(Kind.ROLE_BINDING, observed), _of(Kind.ROLE, observed)
    for found in (*bindings, *roles):
        whose = found.whose(grant)
        if whose is Whose.EARLIER or (whose is Whose.OURS and found.name != name):
            return remove_step(found, unchanged=whose is Whose.EARLIER)

    binding = next((child for child in bindings if child.name == name), None)
    role = next((child for child in roles if child.name == name), None)
    for taken, partner in ((role, binding), (binding, role)):
        if taken is not None and taken.whose(grant) is Whose.FOREIGN:
            if partner is not None and partner.whose(grant) is Whose.OURS:
                return remove_step(partner)
            return Refused(Reason.NAME_CONFLICT, _conflict(taken))

    for child in (binding, role):
        if child is not None and child.deleting:
            return remove_step(child)
    target = BindingContent(Kind.ROLE, name, access.subjects)
    if binding is not None and not _same_target(binding, target):
        return remove_step(binding)  # roleRef is immutable
    role_ready = role is not None and role.content == RoleContent(access.rules)

    if binding is not None and (left := _after_leaving(binding, target, role_ready)) is not None:
        return Patch(binding, left, grant, instead=Delete(binding))
    if role is None:
        return Create(Kind.ROLE, namespace, name, RoleContent(access.rules))
    if not role_ready or not role.marks_intact(grant):
        return _patch_role(role, access.rules, grant, binding)
    if binding is None:
        return Create(Kind.ROLE_BINDING, namespace, name, target)
    if binding.content != target or not binding.marks_intact(grant):
        return Patch(binding, target, grant)
    return Settled()


def hold_step(grant: GrantId, ceiling: Rules | None, observed: Collection[Child]) -> Step:
    """The next write while nothing is given or taken: none, but for what a grant that is gone has left behind, and for a Role
    that has more than the base role still allows.
    """
    for child in (*_of(Kind.ROLE_BINDING, observed), *_of(Kind.ROLE, observed)):
        if child.whose(grant) is Whose.EARLIER:
            return remove_step(child, unchanged=True)
    binding = next((child for child in _of(Kind.ROLE_BINDING, observed) if child.whose(grant) is Whose.OURS), None)
    for role in _of(Kind.ROLE, observed):
        if ceiling is None or role.whose(grant) is not Whose.OURS or not isinstance(role.content, RoleContent):
            continue
        if not rbac.covers(ceiling, role.content.rules):
            narrowed = RoleContent(rbac.intersect(role.content.rules, ceiling))
            return Patch(role, narrowed, grant, instead=Delete(binding) if binding is not None else None)
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
        f"`kubectl delete rolebindings,roles,serviceaccounts -A -l {UID_LABEL}={mark.uid}`"
    )


_LAST = {Kind.ROLE_BINDING: 0, Kind.ROLE: 1, Kind.SERVICE_ACCOUNT: 2}


def _of(kind: Kind, observed: Collection[Child]) -> list[Child]:
    return [child for child in observed if child.kind is kind]


def remove_step(child: Child, *, unchanged: bool = False) -> Step:
    """Delete, but first let go whatever would hold the object: RBAC grants on while an object waits to be deleted."""
    if child.finalizers:
        metadata_only = Patch(child, None, None)  # needs no right to the rules, so it is never refused as an escalation
        if isinstance(child.content, BindingContent) and child.content.subjects:
            emptied = BindingContent(child.content.role_kind, child.content.role_name, ())
            return Patch(child, emptied, None, instead=metadata_only)
        return metadata_only
    if child.deleting:
        return Wait(f"{child.kind} {child.name} is being deleted")
    return Delete(child, unchanged)


def _same_target(binding: Child, target: BindingContent) -> bool:
    content = binding.content
    return isinstance(content, BindingContent) and (content.role_kind, content.role_name) == (target.role_kind, target.role_name)


def _after_leaving(binding: Child, target: BindingContent, role_ready: bool) -> BindingContent | None:  # noqa: FBT001
    """The binding without the subjects that leave, or None where none does.

    While the role still has to change, those who join wait until it has: they must not hold the old rights.
    """
    content = binding.content
    if not isinstance(content, BindingContent) or not set(content.subjects) - set(target.subjects):
        return None
    if role_ready:
        return target
    stayers = tuple(subject for subject in target.subjects if subject in content.subjects)
    return BindingContent(target.role_kind, target.role_name, stayers)


def _patch_role(role: Child, wanted: Rules, grant: GrantId, binding: Child | None) -> Patch:
    assert isinstance(role.content, RoleContent)  # noqa: S101 - by construction of Child
    held = role.content.rules
    if rbac.covers(wanted, held):
        return Patch(role, RoleContent(wanted), grant)
    last_resort = Delete(binding) if binding is not None else None
    both = rbac.intersect(held, wanted)
    narrowed = Patch(role, RoleContent(both), grant, instead=last_resort)
    return Patch(role, RoleContent(wanted), grant, instead=narrowed if both not in (held, wanted) else last_resort)


def _conflict(taken: Child) -> str:
    if (mark := taken.marked_label) is not None and taken.name == NAME_PREFIX + mark.name:
        return left_behind(f"{taken.kind} {taken.name!r}", mark)
    return (
        f"{taken.kind} {taken.name!r} exists (created {taken.created}) and is not this grant's: it is left as it is and "
        f"nothing is granted here; delete or rename it once its origin is known"
    )
