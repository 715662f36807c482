"""The next write for one ServiceAccount of a grant. A ServiceAccount is never re-created for a change: every token would die."""

from __future__ import annotations

from collections.abc import Callable

from vmaccess.policy.access import left_behind, remove_step
from vmaccess.policy.children import AccountContent, Child, GrantId, Kind, Whose
from vmaccess.policy.reasons import Reason
from vmaccess.policy.steps import Create, Patch, Refused, Settled, Step


def account_step(
    grant: GrantId,
    namespace: str,
    name: str,
    automount: bool,  # noqa: FBT001 - a value of the API, not a mode
    observed: Child | None,
    alive: Callable[[GrantId], bool],
) -> Step:
    """The next write towards the ServiceAccount `namespace`/`name` being there and ours.

    What it remembers of kubeconfigs stays.
    `alive` tells whether another grant, which the ServiceAccount may belong to, is there to stay.
    """
    if observed is None:
        return Create(Kind.SERVICE_ACCOUNT, namespace, name, AccountContent(automount))
    match observed.whose(grant):
        case Whose.FOREIGN:
            return _taken(grant, observed, alive)
        case Whose.EARLIER:
            return remove_step(observed, unchanged=True)
    if observed.deleting:
        return remove_step(observed)
    remembered = observed.content.kubeconfigs if isinstance(observed.content, AccountContent) else ()
    content = AccountContent(automount, remembered)
    if observed.content != content or not observed.marks_intact(grant):
        return Patch(observed, content, grant)
    return Settled()


def remove_account_step(grant: GrantId, observed: Child | None) -> Step:
    """The next write towards a ServiceAccount that the grant no longer lists being gone."""
    whose = observed.whose(grant) if observed is not None else Whose.FOREIGN
    if observed is None or whose is Whose.FOREIGN:
        return Settled()
    return remove_step(observed, unchanged=whose is Whose.EARLIER)


def _taken(grant: GrantId, observed: Child, alive: Callable[[GrantId], bool]) -> Refused:
    account, other = f"ServiceAccount {observed.namespace}/{observed.name}", observed.marked_owner
    if other is None and (mark := observed.marked_label) is not None and mark.name == grant.name and mark.uid != grant.uid:
        return Refused(Reason.NAME_CONFLICT, left_behind(account, mark))
    if other is None or observed.marked_label != other:
        return Refused(
            Reason.NAME_CONFLICT,
            f"{account} exists (created {observed.created}) and is not this grant's, so it gets nothing: whoever made it may "
            f"hold its token; once its origin is known, list it under subjects as kind ServiceAccount, or delete it and the "
            f"grant makes its own",
        )
    if alive(other):
        return Refused(
            Reason.NAME_CONFLICT,
            f"{account} belongs to the VMAccessGrant {other.name!r}: list it under subjects to give it this access too",
        )
    return Refused(Reason.NAME_HELD, f"{account} still belongs to the VMAccessGrant {other.name!r}, which is being deleted")
