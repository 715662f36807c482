"""A grant as the mirror holds it, and what it asks for as a whole, before any one namespace is looked at."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from typing import Any

import orjson

from vmaccess.model.grant import Withdrawals, read_spec, withdrawals
from vmaccess.model.problems import Problems
from vmaccess.model.spec import RBAC_GROUP, ServiceAccount, Spec
from vmaccess.policy import rules as rbac
from vmaccess.policy.children import ROTATE, GrantId, Subject, Subjects, shared
from vmaccess.policy.entries import InvalidRole
from vmaccess.policy.kubevirt import DEFAULT_BASE
from vmaccess.policy.reasons import Reason, Warned
from vmaccess.policy.role import Trimmed, ceiling, trim
from vmaccess.policy.rules import Rules
from vmaccess.policy.target import Target, target_of
from vmaccess.policy.times import Phase, in_words


class Deletion(Enum):
    """How far a grant is on its way out, and what is to become of its children."""

    NONE = "none"
    REVOKE = "deleted in the foreground: its children go first"
    ORPHAN = "deleted with --cascade=orphan: its children stay"


@dataclass(frozen=True, slots=True)
class Grant:
    """One VMAccessGrant, read once for every version of it that the watch brings.

    `accounts` are the listed ServiceAccounts by namespace and name; none where the spec cannot be read. `told` is the status as
    `status_text` writes it. `rotation` is any text: with another one its kubeconfigs get other tokens.
    """

    id: GrantId
    version: int = field(compare=False)
    generation: int
    deletion: Deletion
    spec: Spec | Problems
    limits: Withdrawals
    accounts: Mapping[tuple[str, str], ServiceAccount]
    told: str
    rotation: str = ""

    @property
    def uid(self) -> str:
        """The grant's own uid."""
        return self.id.uid

    @property
    def status(self) -> Mapping[str, Any]:
        """The status that it has. Others see the same one: it is never to be changed."""
        return _read_status(self.told)

    @property
    def base(self) -> str:
        """Name of the ClusterRole that is trimmed."""
        role = self.spec.role if isinstance(self.spec, Spec) else None
        return (role.from_ if role is not None else None) or DEFAULT_BASE


def read_grant(raw: Mapping[str, Any], known: Grant | None) -> Grant:
    """Project one VMAccessGrant; what `known` already understood of the same generation is not read again."""
    meta = raw["metadata"]
    grant_id = GrantId(meta["name"], meta["uid"])
    generation = meta.get("generation", 0)
    unchanged = known is not None and known.id == grant_id and known.generation == generation
    spec = known.spec if known is not None and unchanged else read_spec(raw)
    return Grant(
        id=grant_id,
        version=int(meta["resourceVersion"]),
        generation=generation,
        deletion=_deletion(meta, known if known is not None and known.id == grant_id else None),
        spec=spec,
        limits=known.limits if known is not None and unchanged else withdrawals(raw),
        accounts=known.accounts if known is not None and unchanged else _accounts(spec),
        told=status_text(raw.get("status") or {}),
        rotation=(meta.get("annotations") or {}).get(ROTATE, ""),
    )


def status_text(status: Mapping[str, Any]) -> str:
    """A status as JSON, the same for equal ones: a thousand statuses are kept, and dicts take four times as much."""
    return orjson.dumps(status, option=orjson.OPT_SORT_KEYS).decode()


@lru_cache(maxsize=64)
def _read_status(text: str) -> Mapping[str, Any]:
    status: Mapping[str, Any] = orjson.loads(text)
    return status


def _accounts(spec: Spec | Problems) -> Mapping[tuple[str, str], ServiceAccount]:
    listed = spec.service_accounts or () if isinstance(spec, Spec) else ()
    return {(account.namespace, account.name): account for account in listed}


def _deletion(meta: Mapping[str, Any], known: Grant | None) -> Deletion:
    if "deletionTimestamp" not in meta:
        return Deletion.NONE
    if known is not None and known.deletion is Deletion.ORPHAN:
        return Deletion.ORPHAN  # the children are orphaned, and the grant lingers for somebody else's finalizer
    return Deletion.ORPHAN if "orphan" in (meta.get("finalizers") or ()) else Deletion.REVOKE


@dataclass(frozen=True, slots=True)
class Give:
    """The grant gives these rights where it selects, by bindings to `target`.

    `subjects` are the existing ones, its own ServiceAccounts come on top.
    """

    trimmed: Trimmed
    target: Target
    subjects: Subjects


@dataclass(frozen=True, slots=True)
class Take:
    """Every right of the grant goes. With `accounts` the ServiceAccounts go too, else they stay as identities without rights."""

    reason: Reason
    message: str
    accounts: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing is given and nothing is taken, except where a namespace is excluded or no longer selected.

    `ceiling` is the most that the live base allows, where that is known: a right that has left the base does not stay.
    """

    reason: Reason
    message: str
    ceiling: Rules | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """Nothing at all is touched any more: the children are no longer managed."""


Intent = Give | Take | Hold | Leave


def intent(grant: Grant, base: Rules | None, phase: Phase) -> Intent:
    """What a grant asks for in a phase. `base` are the rules of the ClusterRole it trims, None where there is no such role.

    What takes access away comes first, whatever else is invalid or missing.
    """
    match grant.deletion:
        case Deletion.ORPHAN:
            return Leave()
        case Deletion.REVOKE:
            return Take(Reason.DELETED, "the grant is being deleted", accounts=True)
    begins, ends = grant.limits.begins, grant.limits.ends
    if phase is Phase.AFTER and ends is not None:
        return Take(
            Reason.EXPIRED,
            f"expired at {in_words(ends)}: the access is taken away, the ServiceAccounts stay; a later "
            f"spec.expirationTime gives it again",
        )
    if grant.limits.suspend:
        return Take(Reason.SUSPENDED, "spec.suspend is true: the access is taken away, the ServiceAccounts stay")
    if phase is Phase.BEFORE and begins is not None:
        return Take(Reason.NOT_STARTED, f"begins at {in_words(begins)}: until then nothing is given")
    if isinstance(grant.spec, Problems):
        return Hold(Reason.INVALID_SPEC, grant.spec.summary())
    if base is None:
        return Hold(
            Reason.BASE_ROLE_NOT_FOUND,
            f"the ClusterRole {grant.base!r} of spec.role.from does not exist: install KubeVirt or correct the name; "
            f"nothing is created and nothing is removed until it appears",
        )
    try:
        trimmed = trim(base, grant.spec.role)
    except InvalidRole as invalid:
        return Hold(Reason.INVALID_SPEC, f"spec.{invalid.field}: {invalid.message}", ceiling(base, grant.spec.role))
    if not trimmed.rules:
        details = "".join(f" ({warning.message})" for warning in trimmed.warnings if warning.type == Warned.RULE_UNMATCHED)
        return Take(
            Reason.ROLE_EMPTY,
            f"the ClusterRole {grant.base!r} has none of the rights that spec.role keeps: nothing is given until it has{details}",
        )
    rules = shared(trimmed.rules)  # what a thousand Roles are compared with
    return Give(replace(trimmed, rules=rules), target_of(grant.id, grant.spec.role), _subjects(grant.spec))


def _subjects(spec: Spec) -> Subjects:
    return tuple(
        Subject(subject.kind, subject.name, subject.namespace or "", "" if subject.kind == "ServiceAccount" else RBAC_GROUP)
        for subject in spec.subjects or ()
    )


@lru_cache(maxsize=1024)
def rules_hash(rules: Rules) -> str:
    """A short fingerprint of rules, the same for the same rights."""
    return hashlib.sha256(json.dumps(rbac.render(rules), sort_keys=True).encode()).hexdigest()[:12]
