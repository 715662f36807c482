"""What is wanted for the kubeconfig of one ServiceAccount, and which Secrets may hold one of it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vmaccess.model.spec import DEFAULT_LIFETIME, Spec
from vmaccess.policy.children import AccountContent, Child
from vmaccess.policy.delivery import Wish
from vmaccess.policy.grant import Grant, Hold, Intent, Leave, Take
from vmaccess.policy.kubeconfig import ClusterEntry
from vmaccess.policy.namespaces import Globs, globs
from vmaccess.policy.reasons import Reason
from vmaccess.policy.steps import Refused, Wait

Goal = Wish | Refused | Wait | None
Names = Sequence[str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted, given the names of all Secrets that may hold a kubeconfig.

    Those that are `leaving` go as soon as what is wanted is there; of the others the tokens of an earlier `rotation`, which is
    any text.
    """

    goal: Goal
    names: Names = ()
    leaving: Names = ()
    rotation: str = ""


def wanted_of(
    grant: Grant,
    intent: Intent,
    account: Child,
    cluster: Callable[[str | None], ClusterEntry | str],
    protected: Globs,
    *,
    there: Names,
    asked: Names,
) -> Wanted:
    """What is wanted for a ServiceAccount of the grant's own.

    A kubeconfig of it may be in the Secrets known to be `there`, in those that were `asked` for before, and in the one that is
    asked for now: somebody may have stripped every trace of it. `cluster` tells how a kubeconfig names the cluster, given the
    address in the spec, or why it cannot.
    """
    listed = grant.accounts.get((account.namespace, account.name))
    wanted = listed.kubeconfig if listed is not None else None
    rotation, leaving = _rotation(grant), tuple[str, ...]()
    match intent:
        case Leave():
            return Wanted(None)
        case Hold() if wanted is not None and wanted.secret_name in there:
            names: Names = there  # what is there is kept going
        case Hold():
            return Wanted(Wait("nothing is given and nothing is taken") if there else None, there, rotation=rotation)
        case _:
            names = tuple(sorted({*there, *asked, *([wanted.secret_name] if wanted is not None else [])}))
            leaving = tuple(name for name in names if wanted is None or name != wanted.secret_name)
    if wanted is None or isinstance(intent, Take) or account.namespace in protected:
        return Wanted(None, names, names, rotation)
    if isinstance(entry := cluster(wanted.server), str):
        refused = Refused(Reason.SERVER_UNKNOWN, f"ServiceAccount {account.namespace}/{account.name}: {entry}")
        return Wanted(refused, names, rotation=rotation)
    wish = Wish(
        grant=grant.id,
        namespace=account.namespace,
        account=account.name,
        account_uid=account.uid,
        secret=wanted.secret_name,
        lifetime=wanted.token_lifetime_seconds or DEFAULT_LIFETIME,
        ends=grant.limits.ends.timestamp() if grant.limits.ends is not None else math.inf,
        cluster=entry,
        context_namespace=_context_namespace(grant, account),
        rotation=rotation,
    )
    return Wanted(wish, names, leaving, rotation)


def _rotation(grant: Grant) -> str:
    """What the annotation says, cut to a length: anybody who may write it may write much."""
    return hashlib.sha256(grant.rotation.encode()).hexdigest()[:16] if grant.rotation else ""


def kubeconfigs_of(account: Child) -> Names:
    """Names of Secrets that the ServiceAccount remembers."""
    return account.content.kubeconfigs if isinstance(account.content, AccountContent) else ()


def _context_namespace(grant: Grant, account: Child) -> str:
    """The default namespace of a kubeconfig: the first that is listed and not excluded, else the ServiceAccount's own."""
    listed = grant.spec.namespaces or () if isinstance(grant.spec, Spec) else ()
    excluded = globs(grant.limits.exclude_namespaces)
    return next((name for name in listed if name not in excluded), account.namespace)
