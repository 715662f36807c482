"""`kubectl vmaccess rights`: what an admin has to apply before the operator keeps kubeconfigs for a grant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import yaml

from vmaccess.cli.connection import Connection, Refused, caller_of
from vmaccess.cli.failed import Failed
from vmaccess.cli.grants import Absent, Account, add_grant_option, grant_id, listed_accounts, owned_accounts, read_grant
from vmaccess.cli.tokens import secret_path
from vmaccess.policy.children import AccountContent, GrantId, Kind, Whose, project
from vmaccess.policy.kept import read_secret, slots
from vmaccess.policy.rights import OPERATOR_NAMESPACE, kubeconfig_rights, removal


def add_verb(verbs: Any, connection: argparse.ArgumentParser) -> None:
    """Add the verb `rights` with its options."""
    verb = verbs.add_parser(
        "rights",
        parents=[connection],
        help="print the rights that the operator needs to keep a grant's kubeconfigs",
        description="Prints a Role and a RoleBinding for each namespace in which a VMAccessGrant asks for kubeconfigs: by them "
        "the operator may make Secrets there, see to those of the grant's names, and make tokens of the grant's ServiceAccounts. "
        "It has no such rights otherwise. Applying them is up to you; so is taking them away, once the kubeconfigs are gone: "
        f"before that the operator could not take them back. What takes them away: {removal('GRANT')}",
        epilog="example: kubectl vmaccess rights runner | kubectl apply -f -",
    )
    add_grant_option(verb)
    verb.add_argument(
        "--operator-namespace",
        metavar="NS",
        default=OPERATOR_NAMESPACE,
        help=f"namespace in which the operator runs (default: {OPERATOR_NAMESPACE})",
    )
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out the verb; raises Failed."""
    wanted: dict[str, set[tuple[str, str]]] = {}
    with Connection(caller_of(options)) as api:
        try:
            grant = read_grant(api, options.grant)
        except Absent as absent:
            raise Failed(f"{absent}; {_left(options.grant)}") from absent
        for entry in grant["spec"].get("serviceAccounts") or ():
            if (kubeconfig := entry.get("kubeconfig")) is not None:
                wanted.setdefault(entry["namespace"], set()).add((entry["name"], kubeconfig["secretName"]))
        for namespace, kubeconfigs in sorted(wanted.items()):
            for note in _taken(api, grant_id(grant), namespace, kubeconfigs):
                print(note, file=sys.stderr)
        for account in {*listed_accounts(grant), *owned_accounts(grant)}:
            for secret in _remembered(api, account, grant_id(grant)):
                if (account.name, secret) not in (known := wanted.setdefault(account.namespace, set())):
                    known.add((account.name, secret))
                    print(_forgotten(account, secret), file=sys.stderr)
    if not wanted:
        raise Failed(
            f"VMAccessGrant {options.grant!r} asks for no kubeconfig: there is none in its spec.serviceAccounts; "
            f"{_left(options.grant)}"
        )
    rights = [
        each
        for namespace, kubeconfigs in sorted(wanted.items())
        for each in kubeconfig_rights(options.grant, namespace, kubeconfigs, options.operator_namespace)
    ]
    yaml.dump_all(rights, sys.stdout, _Whole, sort_keys=False)


def _remembered(api: Connection, account: Account, grant: GrantId) -> tuple[str, ...]:
    """Names of kubeconfigs that are still to be taken back, as a ServiceAccount says that is the grant's own: in another anybody
    may have written the names of Secrets that the operator has nothing to do with.
    """
    try:
        found = api.get(f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}")
    except Refused as refused:
        if refused.status != 404:
            print(
                f"note: ServiceAccount {account} cannot be read, so rights to kubeconfigs that are still to be taken back may be "
                f"missing: {refused.message}",
                file=sys.stderr,
            )
        return ()
    child = project(Kind.SERVICE_ACCOUNT, found, None)
    if child is None or child.whose(grant) is not Whose.OURS or not isinstance(child.content, AccountContent):
        return ()
    return child.content.kubeconfigs


def _taken(api: Connection, grant: GrantId, namespace: str, kubeconfigs: Iterable[tuple[str, str]]) -> Iterator[str]:
    """A note for each Secret that has a wanted name and is not the grant's, as far as the caller may see."""
    for name in (each for _, secret in sorted(kubeconfigs) for each in (secret, *slots(secret))):
        try:
            found = api.get_metadata(secret_path(namespace, name))
        except Refused as refused:
            if refused.status not in (403, 404):
                raise
            continue
        if not read_secret(found, grant).ours:
            yield (
                f"note: Secret {namespace}/{name} exists and is not this grant's: the operator will not touch it, and the grant "
                f"will say NameConflict; choose another kubeconfig.secretName, or delete it, before you apply rights to it"
            )


def _left(grant: str) -> str:
    return f"to take away the rights that were applied for it: {removal(grant)}"


def _forgotten(account: Account, secret: str) -> str:
    """What to think of before the operator is given rights to a Secret that the grant does not name."""
    return (
        f"note: these are rights to Secret {secret!r} in namespace {account.namespace!r} too, which the grant does not ask for "
        f"and ServiceAccount {account.name!r} remembers as a kubeconfig that is to be taken back; whoever may change that may "
        f"have written it: leave out what never was a kubeconfig of this grant"
    )


class _Whole(yaml.SafeDumper):
    """Writes a value that occurs twice in full."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the signature is PyYAML's
        return True
