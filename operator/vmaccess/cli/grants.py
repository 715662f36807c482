"""What a verb has to know of a grant before it makes or takes back a credential: whose it is, for where, and for how long."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vmaccess.cli.connection import Connection, Refused
from vmaccess.cli.failed import Failed
from vmaccess.cli.times import MINIMUM, in_words, moment
from vmaccess.model.grant import withdrawals
from vmaccess.policy.children import API_VERSION, PLURAL, UID_LABEL, GrantId
from vmaccess.policy.namespaces import globs

Json = dict[str, Any]

SLACK = timedelta(seconds=5)  # between the API server's last answer and the token


class Absent(Failed):
    """There is no such grant."""


@dataclass(frozen=True, slots=True, order=True)
class Account:
    """A ServiceAccount by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


def add_grant_option(verb: argparse.ArgumentParser) -> None:
    """The argument by which every verb is told its grant."""
    verb.add_argument("grant", metavar="GRANT", help="name of the VMAccessGrant")


def add_account_option(verb: argparse.ArgumentParser) -> None:
    """The option that tells the ServiceAccount."""
    verb.add_argument(
        "--service-account",
        metavar="NS/NAME",
        type=_account,
        help="which of the grant's ServiceAccounts; needed only where it has several",
    )


def read_grant(api: Connection, name: str) -> Json:
    """The grant; raises Failed in words where there is none, or the caller may not read it."""
    try:
        return api.get(f"/apis/{API_VERSION}/{PLURAL}/{_segment(name)}")
    except Refused as refused:
        if refused.reason == "NotFound" and refused.status == 404 and PLURAL in refused.message:
            raise Absent(f"VMAccessGrant {name!r} does not exist: `kubectl get {PLURAL}` lists those that do") from refused
        if refused.status == 404:
            raise Failed(f"{api.server} knows no VMAccessGrants: is this the right cluster (--context)?") from refused
        if refused.status == 403:
            raise Failed(f"you may not read VMAccessGrant {name!r}: {refused.message}") from refused
        if refused.status == 401:
            raise Failed(f"{api.server} does not accept your credentials: log in again, or see --context") from refused
        raise


def grant_id(grant: Json) -> GrantId:
    """By what its objects are marked."""
    return GrantId(grant["metadata"]["name"], grant["metadata"]["uid"])


def listed_accounts(grant: Json) -> list[Account]:
    """The ServiceAccounts that its spec names."""
    return [Account(entry["namespace"], entry["name"]) for entry in grant["spec"].get("serviceAccounts") or ()]


def owned_accounts(grant: Json) -> list[Account]:
    """The ServiceAccounts that exist and are its own."""
    return [Account(entry["namespace"], entry["name"]) for entry in (grant.get("status") or {}).get("serviceAccounts") or ()]


def choose(grant: Json, named: Account | None) -> Account:
    """The ServiceAccount that is meant, which exists and is the grant's own; raises Failed with the choice or the cause."""
    name = grant["metadata"]["name"]
    listed = listed_accounts(grant)
    choice = ", ".join(map(str, listed))
    if not listed:
        raise Failed(
            f"VMAccessGrant {name!r} has no serviceAccounts: the users, groups and ServiceAccounts under subjects "
            f"bring credentials of their own"
        )
    if named is None and len(listed) > 1:
        raise Failed(f"VMAccessGrant {name!r} has several ServiceAccounts: choose one with --service-account: {choice}")
    account = named or listed[0]
    if account not in listed:
        raise Failed(f"ServiceAccount {account} is not among the serviceAccounts of VMAccessGrant {name!r}, which are: {choice}")
    if "deletionTimestamp" in grant["metadata"]:
        raise Failed(f"VMAccessGrant {name!r} is being deleted, and ServiceAccount {account} with it")
    if account not in owned_accounts(grant):
        why = _why_absent(grant.get("status") or {}, account)
        raise Failed(f"ServiceAccount {account} of VMAccessGrant {name!r} is not there: {why}")
    return account


def end(grant: Json) -> datetime | None:
    """When the grant ends by itself, in UTC; None where it does not."""
    ends = withdrawals(grant).ends
    return ends.astimezone(UTC) if ends is not None else None


def possible_lifetime(grant: Json, asked: timedelta, now: datetime) -> timedelta:
    """What may be asked for, no longer than the grant lasts; raises Failed where no token is as short as that."""
    name, ends = grant["metadata"]["name"], end(grant)
    if ends is None:
        return asked
    left = ends - now - SLACK
    if ends <= now:
        raise Failed(f"VMAccessGrant {name!r} has expired, at {moment(ends)}: set a later spec.expirationTime")
    if left < MINIMUM:
        raise Failed(
            f"VMAccessGrant {name!r} ends in {in_words(ends - now)}, at {moment(ends)}, and no token is valid for less than "
            f"{in_words(MINIMUM)}: set a later spec.expirationTime"
        )
    return min(asked, left)


def default_namespace(grant: Json) -> str | None:
    """The first listed namespace that is not excluded and has not failed; None where the grant lists none."""
    spec, status = grant["spec"], grant.get("status") or {}
    failing = {failure["namespace"] for failure in status.get("failures") or ()}
    excluded = globs(tuple(spec.get("excludeNamespaces") or ()))
    usable = (namespace for namespace in spec.get("namespaces") or () if namespace not in failing and namespace not in excluded)
    return next(usable, None)


def any_bound_namespace(api: Connection, grant: Json) -> str | None:
    """For a grant that only selects: a namespace with a binding of it, where the caller may list those; else None."""
    query = {"labelSelector": f"{UID_LABEL}={grant['metadata']['uid']}", "limit": "1"}
    try:
        found = api.get("/apis/rbac.authorization.k8s.io/v1/rolebindings", **query)["items"]
    except Refused:
        return None
    return str(found[0]["metadata"]["namespace"]) if found else None


def is_granted(api: Connection, grant: Json, namespace: str) -> bool:
    """Whether the grant is about a namespace: it lists it, or has a binding there. Where the caller may not look for bindings,
    also whatever it may select.
    """
    spec = grant["spec"]
    if namespace in (spec.get("namespaces") or ()) and namespace not in globs(tuple(spec.get("excludeNamespaces") or ())):
        return True
    query = {"labelSelector": f"{UID_LABEL}={grant['metadata']['uid']}", "limit": "1"}
    try:
        return bool(api.get(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", **query)["items"])
    except Refused:
        return "namespaceSelector" in spec


def lack(grant: Json, kind: str) -> str | None:
    """Reason and message of a condition that does not hold; None where it does, or is not there."""
    found = (each for each in (grant.get("status") or {}).get("conditions") or () if each["type"] == kind)
    return next((f"{each['reason']}: {each['message']}" for each in found if each["status"] != "True"), None)


def no_access(grant: Json) -> str | None:
    """A sentence where the grant gives no access at present, with the reason."""
    why = lack(grant, "Active")
    return f"the grant gives no access at present: {why}" if why is not None else None


def _why_absent(status: Mapping[str, Any], account: Account) -> str:
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    if "Ready" not in conditions:
        return "the operator has not looked at the grant yet; is it running? (kubectl get pods -n vmaccess-system)"
    for failure in status.get("failures") or ():
        if failure["namespace"] == account.namespace and account.name in failure["message"]:
            return f"{failure['reason']}: {failure['message']}"
    return f"{conditions['Ready']['reason']}: {conditions['Ready']['message']}"


def _account(text: str) -> Account:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name):
        raise argparse.ArgumentTypeError("write it as namespace/name, such as default/mykubevirtrunner")
    return Account(namespace, name)


def _segment(name: str) -> str:
    """A name as one segment of a URL path; what Kubernetes would not take as a name could address something else."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
        raise Failed(f"{name!r} is not the name of a VMAccessGrant: lower case letters, digits, '-' and '.'")
    return name
