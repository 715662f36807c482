"""`kubectl vmaccess credentials` and `revoke`: what is out for a grant, and how one of them is taken back alone."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from vmaccess.cli.connection import Connection, Refused, caller_of
from vmaccess.cli.failed import Failed
from vmaccess.cli.grants import add_grant_option, grant_id, listed_accounts, no_access, owned_accounts, read_grant
from vmaccess.cli.times import moment
from vmaccess.cli.tokens import secret_path
from vmaccess.model.grant import withdrawals
from vmaccess.policy.children import PLURAL, ROTATE, UID_LABEL
from vmaccess.policy.credentials import CREDENTIAL_LABEL, CREDENTIAL_TYPE, Credential, Route, is_managed, read_credential
from vmaccess.policy.kept import slots

Json = dict[str, Any]

HELD = timedelta(seconds=70)  # a minute of leeway in kubernetes pkg/serviceaccount/claims.go, and the ten seconds of the cache
DELAY = "a token that is in use dies within 10 seconds, which is for how long the API server remembers it as good"


@dataclass(frozen=True, slots=True)
class Found:
    """The credentials of a grant, and a sentence for each namespace in which the caller may not look for them."""

    credentials: tuple[Credential, ...]
    hidden: tuple[str, ...]


def add_verbs(verbs: Any, connection: argparse.ArgumentParser) -> None:
    """Add the verbs `credentials` and `revoke` with their options."""
    shown = verbs.add_parser(
        "credentials",
        parents=[connection],
        help="list the credentials of a grant that are out",
        description="Lists the credentials of a VMAccessGrant that can be revoked one by one: which ServiceAccount each is of, "
        "by which route it came about, since when, and until when. You need the right to list Secrets in the namespaces of the "
        "grant's ServiceAccounts; what the Secrets hold is not asked for.",
        epilog="example: kubectl vmaccess credentials runner",
    )
    add_grant_option(shown)
    shown.add_argument("-o", "--output", choices=["json"], help="print JSON instead of a table")
    shown.set_defaults(run=show)

    taken = verbs.add_parser(
        "revoke",
        parents=[connection],
        help="take credentials of a grant back",
        description="Revokes credentials of a VMAccessGrant: their tokens die within ten seconds, and all others go on. You need "
        "the rights to list and to delete Secrets in the namespaces of the grant's ServiceAccounts.",
        epilog="example: kubectl vmaccess revoke runner --credential 1a2b3c4d",
    )
    add_grant_option(taken)
    which = taken.add_mutually_exclusive_group()
    which.add_argument("--credential", metavar="ID", action="append", help="the credential; may be given several times")
    which.add_argument("--all", action="store_true", help="every credential of the grant, those that the operator keeps included")
    which.add_argument("--expired", action="store_true", help="tidy up: those of `kubeconfig` that have expired anyway")
    taken.set_defaults(run=revoke)


def show(options: argparse.Namespace) -> None:
    """Carry out the verb `credentials`; raises Failed."""
    with Connection(caller_of(options)) as api:
        grant = read_grant(api, options.grant)
        found, now = _find(api, grant), api.now
    if options.output == "json":
        print(json.dumps([_as_json(each, now) for each in found.credentials], indent=2))
    elif found.credentials:
        print(table(found.credentials, now))
    else:
        print(_none_of(options.grant), file=sys.stderr)
    inactive = no_access(grant)
    for note in (*found.hidden, *([inactive] if inactive is not None else [])):
        print(f"note: {note}", file=sys.stderr)


def revoke(options: argparse.Namespace) -> None:
    """Carry out the verb `revoke`; raises Failed, also where a part of it could not be done."""
    with Connection(caller_of(options)) as api:
        grant = read_grant(api, options.grant)
        found = _find(api, grant)
        chosen = _chosen(found, options, api.now)
        refused = {each: why for each in chosen if (why := _delete(api, each)) is not None}
    gone = [each for each in chosen if each not in refused]
    failed = [f"credential {each.id}: {why}" for each, why in refused.items()]
    if any(each.route != Route.KUBECONFIG or not is_over(each, api.now) for each in gone):
        print(f"{DELAY}; tokens that are bound to no credential end with the grant alone")
    if any(is_kept(grant, each, api.now) for each in gone):
        print(
            f"where the grant still asks for it, the operator makes another within five minutes; at once: kubectl annotate "
            f'{PLURAL} {options.grant} --overwrite {ROTATE}="$(date)"'
        )
    if not chosen:
        why = "no credential of `kubeconfig` has expired" if options.expired else _none_of(options.grant)
        print(f"nothing to revoke: {why}")
    if options.all:
        failed += found.hidden
    if failed:
        raise Failed("not everything is revoked: " + "; ".join(failed))


def is_over(credential: Credential, now: datetime) -> bool:
    """Whether its end has come, as far as its Secret tells."""
    try:
        ends = datetime.fromisoformat(credential.expires)
    except ValueError:
        return False
    return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)) <= now


def is_kept(grant: Json, credential: Credential, now: datetime) -> bool:
    """Whether the grant has the operator make another in the place of this one: it asks for the kubeconfig and gives access."""
    limits = withdrawals(grant)
    if "deletionTimestamp" in grant["metadata"] or limits.suspend or (limits.ends is not None and limits.ends <= now):
        return False
    return credential.route == Route.OPERATOR and any(
        (entry["namespace"], entry["name"]) == (credential.namespace, credential.account)
        and credential.secret in slots(entry["kubeconfig"]["secretName"])
        for entry in grant["spec"].get("serviceAccounts") or ()
        if entry.get("kubeconfig")
    )


def lives_until(credential: Credential) -> datetime | None:
    """Until when the API server takes tokens of a Secret that is deleted and held by finalizers; None where it is not."""
    return datetime.fromisoformat(credential.deleted) + HELD if credential.deleted else None


def table(credentials: Iterable[Credential], now: datetime) -> str:
    """As kubectl shows a list."""
    rows = [("ID", "SERVICE ACCOUNT", "ROUTE", "ISSUED", "EXPIRES", "STATE")]
    for each in credentials:
        account = f"{each.namespace}/{each.account}"
        rows.append((each.id, account, each.route, each.issued, each.expires or "-", _state(each, now)))
    cells = [[_harmless(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)


def _none_of(grant: str) -> str:
    return (
        f"no credential with a Secret of its own is known of VMAccessGrant {grant!r}; tokens that were made without one are not "
        f"listed, and end with the grant at the latest"
    )


def _find(api: Connection, grant: Json) -> Found:
    me = grant_id(grant)
    credentials: list[Credential] = []
    hidden = {}
    namespaces = sorted({account.namespace for account in (*listed_accounts(grant), *owned_accounts(grant))})
    for namespace in namespaces:
        query = {"labelSelector": f"{UID_LABEL}={me.uid},{CREDENTIAL_LABEL}", "fieldSelector": f"type={CREDENTIAL_TYPE}"}
        try:
            items = api.list_metadata(f"/api/v1/namespaces/{namespace}/secrets", **query)
        except Refused as refused:
            if refused.status != 403:
                raise
            hidden[namespace] = f"you may not list Secrets in namespace {namespace!r}: {refused.message}"
            continue
        credentials += (read_credential(item) for item in items if is_managed(item["metadata"].get("labels") or {}, me))
    if namespaces and len(hidden) == len(namespaces):
        raise Failed(f"{hidden[namespaces[0]]}: ask for a Role that allows list on secrets in namespace {namespaces[0]!r}")
    return Found(tuple(sorted(credentials, key=lambda each: (each.issued, each.id))), tuple(hidden.values()))


def _chosen(found: Found, options: argparse.Namespace, now: datetime) -> list[Credential]:
    if options.all:
        return list(found.credentials)
    if options.expired:
        return [each for each in found.credentials if each.route == Route.KUBECONFIG and is_over(each, now)]
    known = "\n" + table(found.credentials, now) if found.credentials else " none"
    hidden = "".join(f"\n{note}" for note in found.hidden)
    if not options.credential:
        raise Failed(f"say which with --credential ID, or --all; credentials of VMAccessGrant {options.grant!r}:{known}{hidden}")
    chosen = [each for each in found.credentials if each.id in options.credential]
    if unknown := [name for name in options.credential if name not in {each.id for each in chosen}]:
        raise Failed(f"VMAccessGrant {options.grant!r} has no credential {', '.join(unknown)}; it has:{known}{hidden}")
    return chosen


def _delete(api: Connection, credential: Credential) -> str | None:
    """Delete its Secret and say so; returns why its tokens live on."""
    try:
        left = api.delete(secret_path(credential.namespace, credential.secret), credential.uid)
    except Refused as refused:
        if refused.status != 403:
            return str(refused)
        return f"you may not delete Secrets in namespace {credential.namespace!r}: {refused.message}"
    if left is not None and (until := lives_until(read_credential(left))) is not None and api.now < until:
        return (
            f"finalizers ({', '.join(left['metadata']['finalizers'])}) hold its Secret, so the API server takes its tokens until "
            f"{moment(until)}; to end them within 10 seconds: kubectl patch secret {credential.secret} -n {credential.namespace} "
            f"""--type=merge -p '{{"metadata":{{"finalizers":null}}}}'"""
        )
    account = f"{credential.namespace}/{credential.account}"
    print(f"revoked credential {_harmless(credential.id)} of ServiceAccount {_harmless(account)}")
    return None


def _as_json(credential: Credential, now: datetime) -> Json:
    return {
        "id": credential.id,
        "serviceAccount": {"namespace": credential.namespace, "name": credential.account},
        "route": credential.route,
        "issued": credential.issued,
        "expires": credential.expires or None,
        "state": _state(credential, now),
    }


def _state(credential: Credential, now: datetime) -> str:
    if is_over(credential, now):
        return "expired"
    until = lives_until(credential)
    return "valid" if until is None else "revoking" if now < until else "revoked"


def _harmless(text: str) -> str:
    """What somebody wrote into a Secret, without what a terminal would take for commands."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
