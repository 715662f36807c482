"""Credentials that can be taken back one by one: a Secret for each, to which its tokens are bound and with which they die.

The Secret holds nothing. It is there to be deleted, and its marks tell what is out. Source: the TokenRequest API's
`boundObjectRef`; the API server refuses a token whose Secret is gone within the ten seconds of its authentication cache.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from vmaccess.policy.children import GROUP, MANAGED_BY, MANAGED_BY_LABEL, GrantId

CREDENTIAL_LABEL = f"{GROUP}/credential"  # its id
CREDENTIAL_TYPE = f"{GROUP}/credential"  # of the Secret, which cannot be changed: labels alone may be copied onto any
NAME_PREFIX = "vmaccess-credential-"  # of those that people make; the id follows
ACCOUNT, ROUTE, ISSUED, EXPIRES = (f"{GROUP}/{word}" for word in ("service-account", "route", "issued", "expires"))  # annotations


def new_id() -> str:
    """An id that no credential has had: what somebody has noted to be revoked must not come to mean another."""
    return secrets.token_hex(4)


class Route(StrEnum):
    """How a credential came into somebody's hands."""

    OPERATOR = "operator"  # by the Secret that the operator keeps
    KUBECONFIG = "kubeconfig"  # in a file that `kubectl vmaccess kubeconfig` wrote
    EXEC = "exec"  # from `kubectl vmaccess credential`, time and again


@dataclass(frozen=True, slots=True)
class Credential:
    """What the Secret of a credential tells. Times are RFC 3339; `expires` is empty where tokens are asked for time and again,
    `deleted` where the Secret does not wait to be deleted.
    """

    id: str
    uid: str
    namespace: str
    secret: str
    account: str
    route: str
    issued: str
    expires: str
    deleted: str = ""


def credential_body(
    grant: GrantId, name: str, credential: str, account: str, route: Route, issued: str, expires: str
) -> dict[str, Any]:
    """The Secret of a credential. It goes with the grant and does not hold up its deletion: to say so takes a right."""
    reference = grant.owner_references()[0] | {"controller": False, "blockOwnerDeletion": False}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "labels": {**grant.labels(), CREDENTIAL_LABEL: credential},
            "annotations": {ACCOUNT: account, ROUTE: str(route), ISSUED: issued, **({EXPIRES: expires} if expires else {})},
            "ownerReferences": [reference],
        },
        "type": CREDENTIAL_TYPE,
    }


def read_credential(raw: Mapping[str, Any]) -> Credential:
    """What a Secret with CREDENTIAL_LABEL tells; anybody may have written anything into it."""
    meta = raw["metadata"]
    labels, notes = meta.get("labels") or {}, meta.get("annotations") or {}
    return Credential(
        id=labels.get(CREDENTIAL_LABEL, ""),
        uid=meta["uid"],
        namespace=meta["namespace"],
        secret=meta["name"],
        account=notes.get(ACCOUNT, ""),
        route=notes.get(ROUTE, ""),
        issued=notes.get(ISSUED, ""),
        expires=notes.get(EXPIRES, ""),
        deleted=meta.get("deletionTimestamp", ""),
    )


def is_managed(labels: Mapping[str, str], grant: GrantId) -> bool:
    """Whether the labels say that something is this grant's."""
    return labels.get(MANAGED_BY_LABEL) == MANAGED_BY and grant.labels().items() <= labels.items()
