"""`kubectl vmaccess kubeconfig`: a kubeconfig for a grant's ServiceAccount, so that nobody copies a token by hand.

The token is asked for by the caller (TokenRequest), never stored in the cluster, and dies with its ServiceAccount.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from vmaccess.cli.connection import ClusterEntry, Connection, Failed, Json, Refused
from vmaccess.policy.children import API_VERSION, PLURAL, UID_LABEL
from vmaccess.policy.namespaces import globs

MINIMUM = timedelta(minutes=10)  # of the TokenRequest API, kubernetes pkg/apis/authentication/validation
MAXIMUM = timedelta(seconds=1 << 32)
STDOUT = "-"
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


@dataclass(frozen=True, slots=True)
class Account:
    """A ServiceAccount by namespace and name."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token and until when the API server really takes it, which may be less than what was asked for."""

    value: str
    created: datetime
    expires: datetime


def add_verb(verbs: Any, connection: argparse.ArgumentParser) -> None:
    """Add the verb `kubeconfig` with its options."""
    verb = verbs.add_parser(
        "kubeconfig",
        parents=[connection],
        help="write a kubeconfig for a grant's ServiceAccount",
        description="Writes a complete kubeconfig for a ServiceAccount of a VMAccessGrant: the cluster with its CA, a fresh "
        "token, a context and a default namespace. You need the rights to get the grant and to create tokens of the "
        "ServiceAccount (create on serviceaccounts/token in its namespace).",
        epilog="Whoever has the file has the access until the token expires, the grant is suspended or the grant is deleted.",
    )
    verb.add_argument("grant", metavar="GRANT", help="name of the VMAccessGrant")
    verb.add_argument(
        "--service-account",
        metavar="NS/NAME",
        type=_account,
        help="which of the grant's ServiceAccounts; needed only where it has several",
    )
    verb.add_argument(
        "--lifetime",
        metavar="TIME",
        type=_lifetime,
        default=timedelta(hours=1),
        help="validity of the token, such as 30m, 8h or 7d, at least 10m; the API server may allow less (default: 1h)",
    )
    verb.add_argument(
        "-n",
        "--namespace",
        metavar="NS",
        type=_namespace,
        help="default namespace of the kubeconfig; without it the first one that is granted",
    )
    verb.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write, readable by you alone; - prints the kubeconfig, token included (default: NAME.kubeconfig)",
    )
    verb.add_argument("--force", action="store_true", help="replace the file where it exists")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out the verb; raises Failed."""
    with Connection.of(options) as api:
        grant = _read_grant(api, options.grant)
        account = choose(grant, options.service_account)
        output = options.output or f"{account.name}.kubeconfig"
        if output != STDOUT:
            _check_writable(Path(output), replace=options.force)
        namespace = options.namespace or default_namespace(grant) or _any_bound_namespace(api, grant)
        token = _request_token(api, account, options.lifetime)
        text = yaml.safe_dump(render(api.cluster, options.grant, account, token.value, namespace), sort_keys=False)

    if output == STDOUT:
        sys.stdout.write(text)
    else:
        _write(Path(output), text, replace=options.force)
    _tell(grant, account, token, output, namespace, asked=options.lifetime)


def choose(grant: Json, named: Account | None) -> Account:
    """The ServiceAccount that is meant, which exists and is the grant's own; raises Failed with the choice or the cause."""
    name = grant["metadata"]["name"]
    listed = [Account(entry["namespace"], entry["name"]) for entry in grant["spec"].get("serviceAccounts") or ()]
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
    status = grant.get("status") or {}
    owned = [Account(entry["namespace"], entry["name"]) for entry in status.get("serviceAccounts") or ()]
    if account not in owned:
        raise Failed(f"ServiceAccount {account} of VMAccessGrant {name!r} is not there: {_why_absent(status, account)}")
    return account


def default_namespace(grant: Json) -> str | None:
    """The first listed namespace that is not excluded and has not failed; None where the grant lists none."""
    spec, status = grant["spec"], grant.get("status") or {}
    failing = {failure["namespace"] for failure in status.get("failures") or ()}
    excluded = globs(tuple(spec.get("excludeNamespaces") or ()))
    usable = (namespace for namespace in spec.get("namespaces") or () if namespace not in failing and namespace not in excluded)
    return next(usable, None)


def render(cluster: ClusterEntry, grant: str, account: Account, token: str, namespace: str | None) -> Json:
    """The kubeconfig, which needs no other file."""
    entry: Json = {"server": cluster.server}
    if cluster.ca is not None:
        entry["certificate-authority-data"] = base64.b64encode(cluster.ca).decode()
    if cluster.tls_server_name:
        entry["tls-server-name"] = cluster.tls_server_name
    if cluster.proxy_url:
        entry["proxy-url"] = cluster.proxy_url
    context = {"cluster": cluster.name, "user": str(account)} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": entry}],
        "users": [{"name": str(account), "user": {"token": token}}],
        "contexts": [{"name": grant, "context": context}],
        "current-context": grant,
    }


def _read_grant(api: Connection, name: str) -> Json:
    try:
        return api.get(f"/apis/{API_VERSION}/{PLURAL}/{_segment(name)}")
    except Refused as refused:
        if refused.reason == "NotFound" and refused.status == 404 and PLURAL in refused.message:
            raise Failed(f"VMAccessGrant {name!r} does not exist: `kubectl get {PLURAL}` lists those that do") from refused
        if refused.status == 404:
            raise Failed(f"{api.cluster.server} knows no VMAccessGrants: is this the right cluster (--context)?") from refused
        if refused.status == 403:
            raise Failed(f"you may not read VMAccessGrant {name!r}: {refused.message}") from refused
        if refused.status == 401:
            raise Failed(f"{api.cluster.server} does not accept your credentials: log in again, or see --context") from refused
        raise


def _request_token(api: Connection, account: Account, lifetime: timedelta) -> Token:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": int(lifetime.total_seconds())},
    }
    path = f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token"
    try:
        answer = api.create(path, request)
    except Refused as refused:
        if refused.status == 403:
            raise Failed(
                f"you may not create tokens of ServiceAccount {account}: {refused.message}; ask for a Role in namespace "
                f"{account.namespace!r} that allows create on serviceaccounts/token for the name {account.name!r}"
            ) from refused
        if refused.status == 404:
            raise Failed(f"ServiceAccount {account} has just gone: look at `kubectl get {PLURAL}`") from refused
        raise
    status = answer["status"]
    return Token(
        status["token"], _time(answer["metadata"].get("creationTimestamp")), datetime.fromisoformat(status["expirationTimestamp"])
    )


def _any_bound_namespace(api: Connection, grant: Json) -> str | None:
    """For a grant that only selects: a namespace with a binding of it, where the caller may list those; else None."""
    query = {"labelSelector": f"{UID_LABEL}={grant['metadata']['uid']}", "limit": "1"}
    try:
        found = api.get("/apis/rbac.authorization.k8s.io/v1/rolebindings", **query)["items"]
    except Refused:
        return None
    return str(found[0]["metadata"]["namespace"]) if found else None


def _check_writable(path: Path, *, replace: bool) -> None:
    if path.is_dir():
        raise Failed(f"{path} is a folder: name a file with --output")
    if not path.parent.is_dir():
        raise Failed(f"the folder {path.parent} does not exist")
    if os.path.lexists(path) and not replace:
        raise Failed(f"{path} exists: name another file with --output, or replace it with --force")


def _write(path: Path, text: str, *, replace: bool) -> None:
    """Write the whole file or nothing, and never with a wider mode, not even for a moment."""
    target = path.with_name(f".{path.name}.{os.getpid()}") if replace else path
    try:
        with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            try:
                file.write(text)
            except BaseException:
                target.unlink()
                raise
        if replace:
            target.replace(path)  # a link is replaced, not followed
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror or error}") from error


def _tell(grant: Json, account: Account, token: Token, output: str, namespace: str | None, *, asked: timedelta) -> None:
    out = sys.stderr if output == STDOUT else sys.stdout
    where = "" if output == STDOUT else f"wrote {output}, readable by you alone: "
    print(f"{where}ServiceAccount {account}, default namespace {namespace or 'default'}", file=out)
    given = token.expires - token.created
    less = f"; {_words(asked)} was asked for" if given < asked - timedelta(seconds=5) else ""
    print(f"the token is valid until {token.expires:%Y-%m-%d %H:%M:%S} UTC, for {_words(given)}{less}", file=out)
    if namespace is None:
        print("note: no granted namespace is known: name one with --namespace, here or for kubectl", file=sys.stderr)
    conditions = {condition["type"]: condition for condition in grant["status"].get("conditions") or ()}
    for kind, meaning in (("Active", "the grant gives no access at present"), ("Ready", "the grant is not all it should be")):
        condition = conditions.get(kind)
        if condition is not None and condition["status"] != "True":
            print(f"note: {meaning}: {condition['reason']}: {condition['message']}", file=sys.stderr)
            return


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


def _namespace(text: str) -> str:
    if not DNS_LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a namespace")
    return text


def _lifetime(text: str) -> timedelta:
    if not text or not re.fullmatch(r"([0-9]{1,9}[dhms])+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: write for example 30m, 8h, 7d or 1h30m")
    total = sum((timedelta(**{_UNITS[unit]: int(count)}) for count, unit in re.findall(r"([0-9]+)([dhms])", text)), timedelta())
    if not MINIMUM <= total <= MAXIMUM:
        raise argparse.ArgumentTypeError(f"{text} is not possible: Kubernetes makes tokens for 10m up to {MAXIMUM.days}d")
    return total


def _segment(name: str) -> str:
    """A name as one segment of a URL path; what Kubernetes would not take as a name could address something else."""
    if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", name):
        raise Failed(f"{name!r} is not the name of a VMAccessGrant: lower case letters, digits, '-' and '.'")
    return name


def _time(text: str | None) -> datetime:
    return datetime.fromisoformat(text) if text else datetime.now(UTC)


def _words(length: timedelta) -> str:
    minutes = round(length.total_seconds() / 60)
    days, hours, minutes = minutes // 1440, minutes // 60 % 24, minutes % 60
    return " ".join(f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min")) if count) or "0 min"
