"""`kubectl vmaccess kubeconfig`: a kubeconfig for a grant's ServiceAccount, so that nobody copies a token by hand.

The token is asked for by the caller (TokenRequest), never stored in the cluster, and dies with its ServiceAccount, or before
that with the Secret of its credential.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from vmaccess.cli.connection import Connection, caller_of
from vmaccess.cli.exec import check_not_ourselves, exec_block
from vmaccess.cli.failed import Failed
from vmaccess.cli.files import MergedFile, Output, OwnFile, Printed, Written
from vmaccess.cli.grants import (
    Account,
    add_account_option,
    add_grant_option,
    any_bound_namespace,
    choose,
    default_namespace,
    end,
    grant_id,
    is_granted,
    lack,
    listed_accounts,
    no_access,
    possible_lifetime,
    read_grant,
)
from vmaccess.cli.marks import Issued, mark
from vmaccess.cli.times import in_words, lifetime, moment
from vmaccess.cli.tokens import Credential, Revocable, Token, Unbound, correct_expiry, new_credential, request_token
from vmaccess.policy.credentials import Route
from vmaccess.policy.kubeconfig import kubeconfig

Json = dict[str, Any]

STDOUT = "-"
SLACK = timedelta(seconds=5)  # by which a token may end otherwise than expected
DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def add_verb(verbs: Any, connection: argparse.ArgumentParser) -> None:
    """Add the verb `kubeconfig` with its options."""
    verb = verbs.add_parser(
        "kubeconfig",
        parents=[connection],
        formatter_class=argparse.RawDescriptionHelpFormatter,
        help="write a kubeconfig for a grant's ServiceAccount",
        description="""\
Writes a complete kubeconfig for a ServiceAccount of a VMAccessGrant: the cluster with its CA, a fresh token, a context
and a default namespace. You need the rights to get the grant, to create tokens of the ServiceAccount (create on
serviceaccounts/token in its namespace), and, so that the credential can be revoked by itself, to create Secrets there.""",
        epilog="""\
examples:
  kubectl vmaccess kubeconfig runner --lifetime 8h
  kubectl vmaccess kubeconfig runner --exec --merge --output "$KUBECONFIG"    # or ~/.kube/config, where that is not set
  umask 077; kubectl vmaccess kubeconfig runner --output - > runner.kubeconfig

Whoever has the file has the access until the token expires, its credential is revoked, the grant is suspended or
expires, or the grant is deleted. With --exec the file holds no token, and is of use only beside your own kubeconfig.""",
    )
    add_grant_option(verb)
    add_account_option(verb)
    verb.add_argument(
        "--lifetime",
        metavar="TIME",
        type=lifetime,
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
    verb.add_argument(
        "--exec", action="store_true", help="instead of a token, have kubectl ask for one with your rights whenever it needs one"
    )
    verb.add_argument(
        "--merge",
        action="store_true",
        help="add to the kubeconfig named by --output, and leave what else is in it: name the one that kubectl reads",
    )
    verb.add_argument("--force", action="store_true", help="replace the file where it exists; with --merge, what it wrote before")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out the verb; raises Failed."""
    caller = caller_of(options)
    if options.exec:
        check_not_ourselves(caller)
    with Connection(caller) as api:
        grant = read_grant(api, options.grant)
        account = choose(grant, options.service_account)
        output = _output(options, account)
        namespace = options.namespace or default_namespace(grant) or any_bound_namespace(api, grant)
        context, user = _names(grant, account, caller.cluster.name, output)

        def config(identity: Json) -> Json:
            return kubeconfig(caller.cluster, context, user, identity, namespace)

        output.check(config({}))
        possible = possible_lifetime(grant, options.lifetime, api.now)
        notes = tuple(_notes(api, grant, namespace))  # before anything is out that a failure could leave untold
        route, expires = (Route.EXEC, None) if options.exec else (Route.KUBECONFIG, api.now + possible)
        with ExitStack() as uninterrupted:
            with new_credential(api, grant_id(grant), account, route, expires) as credential:
                token = request_token(api, account, credential, possible)  # with --exec only to see that it can be had
                plugin = {"exec": exec_block(caller, options.grant, account, credential, options.lifetime)}
                named = mark(Issued(options.grant, credential.id if isinstance(credential, Revocable) else None))
                uninterrupted.enter_context(_no_interrupt())
                written = output.write(config((plugin if options.exec else {"token": token.value}) | named))
            out = sys.stderr if isinstance(output, Printed) else sys.stdout
            print(
                f"{_where(output, context, written)}ServiceAccount {account}, default namespace {namespace or 'default'}",
                file=out,
            )
            until = (
                f"each of its tokens is valid for {in_words(token.lifetime)}, and is asked for as your context {caller.context}"
            )
            print(until if options.exec else _until(token), _less(token, options.lifetime, end(grant)), sep="", file=out)
            print(_revocation(credential, options.grant, account), file=out)
            for each in written.credentials:
                print(_living_on(each), file=out)
            for note in notes:
                print(f"note: {note}", file=sys.stderr)
        if expires is not None and isinstance(credential, Revocable) and abs(token.expires - expires) > SLACK:
            try:
                correct_expiry(api, account, credential, token.expires)
            except (Failed, KeyboardInterrupt) as error:  # too late for it to have failed
                why = str(error) or "interrupted"
                print(f"note: `kubectl vmaccess credentials` will tell another end of it: {why}", file=sys.stderr)


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Overlook Ctrl-C: what is half handed over could neither be taken back nor told of."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _output(options: argparse.Namespace, account: Account) -> Output:
    if options.merge and options.output in (None, "", STDOUT):
        raise Failed('name the kubeconfig to merge into with --output: "$KUBECONFIG" where that is one file, else ~/.kube/config')
    if options.output == STDOUT:
        return Printed()
    path = Path(options.output or f"{account.name}.kubeconfig")
    return MergedFile(path, options.force) if options.merge else OwnFile(path, options.force)


def _names(grant: Json, account: Account, cluster: str, output: Output) -> tuple[str, str]:
    """Names of the context and of the user. Among others, they have to tell clusters and ServiceAccounts apart."""
    name = str(grant["metadata"]["name"])
    if not isinstance(output, MergedFile):
        return name, str(account)
    which = f":{account}" if len(listed_accounts(grant)) > 1 else ""
    return f"{name}{which}@{cluster}", f"{account}@{cluster}"


def _where(output: Output, context: str, written: Written) -> str:
    match output:
        case Printed():
            return ""
        case OwnFile(path):
            return f"{'replaced' if written.replaced else 'wrote'} {path}, readable by you alone: "
        case MergedFile(path):
            done = f"replaced context {context} in" if written.replaced else f"added context {context} to"
            return f"{done} {path}, readable by its owner alone: "


def _until(token: Token) -> str:
    return f"the token is valid until {moment(token.expires)}, for {in_words(token.lifetime)}"


def _less(token: Token, asked: timedelta, ends: datetime | None) -> str:
    if token.lifetime >= asked - SLACK:
        return ""
    why = f", and the grant ends at {moment(ends)}" if ends is not None and ends - token.expires < timedelta(minutes=1) else ""
    return f"; {in_words(asked)} was asked for{why}"


def _revocation(credential: Credential, grant: str, account: Account) -> str:
    match credential:
        case Revocable(name):
            return f"to revoke this credential: kubectl vmaccess revoke {grant} --credential {name}"
        case Unbound(why):
            return (
                f"this credential cannot be revoked by itself, because you may not create Secrets in namespace "
                f"{account.namespace}: {why}"
            )


def _living_on(replaced: Issued) -> str:
    return (
        f"credential {replaced.credential}, which was there before, is not revoked by this; to revoke it: kubectl vmaccess "
        f"revoke {replaced.grant} --credential {replaced.credential}"
    )


def _notes(api: Connection, grant: Json, namespace: str | None) -> Iterator[str]:
    if namespace is None:
        yield "no granted namespace is known: name one with --namespace, here or for kubectl"
    elif not is_granted(api, grant, namespace):
        yield (
            f"namespace {namespace!r} is not among those of the grant, which has no binding there: name another with "
            f"--namespace, here or for kubectl"
        )
    if (inactive := no_access(grant)) is not None:
        yield inactive
    elif (why := lack(grant, "Ready")) is not None:
        yield f"the grant is not all it should be: {why}"


def _namespace(text: str) -> str:
    if not DNS_LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a namespace")
    return text
