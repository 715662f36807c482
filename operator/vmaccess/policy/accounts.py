"""The next write for one ServiceAccount of a grant. A ServiceAccount is never re-created for a change: every token would die."""

from __future__ import annotations

from vmaccess.policy.access import remove_step
from vmaccess.policy.children import AccountContent, Child, GrantId, Kind, Whose
from vmaccess.policy.reasons import Reason
from vmaccess.policy.steps import Create, Patch, Refused, Settled, Step


def account_step(grant: GrantId, namespace: str, name: str, automount: bool, observed: Child | None) -> Step:  # noqa: FBT001
    """The next write towards the ServiceAccount `namespace`/`name` being there and ours."""
    content = AccountContent(automount)
    if observed is None:
        return Create(Kind.SERVICE_ACCOUNT, namespace, name, content)
    match observed.whose(grant):
        case Whose.FOREIGN:
            return Refused(Reason.NAME_CONFLICT, _conflict(observed))
        case Whose.EARLIER:
            return remove_step(observed, unchanged=True)
    if observed.deleting:
        return remove_step(observed)
    if observed.content != content or not observed.marks_intact(grant):
        return Patch(observed, content, grant)
    return Settled()


def remove_account_step(grant: GrantId, observed: Child | None) -> Step:
    """The next write towards a ServiceAccount that the grant no longer lists being gone."""
    if observed is None or observed.whose(grant) is not Whose.OURS:
        return Settled()
    return remove_step(observed)


def _conflict(observed: Child) -> str:
    other = observed.marked_owner
    if other is not None and observed.marked_label == other:
        return (
            f"ServiceAccount {observed.namespace}/{observed.name} belongs to the VMAccessGrant {other.name!r}: "
            f"list it under subjects to give it this access too"
        )
    return (
        f"ServiceAccount {observed.namespace}/{observed.name} exists (created {observed.created}) and is not this grant's, so it gets "
        f"nothing: whoever made it may hold its token; once its origin is known, list it under subjects as kind ServiceAccount, "
        f"or delete it and the grant makes its own"
    )
