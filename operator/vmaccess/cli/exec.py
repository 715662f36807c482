"""`kubectl vmaccess credential`: a credential plugin, by which kubectl and other clients renew their tokens themselves.

Nothing is kept on disk: each call asks for a token, with the rights of the kubeconfig that the `exec` block names. All are bound
to the one Secret of their credential, so that they can be taken back together.
Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from vmaccess.cli.caller import Caller
from vmaccess.cli.connection import Connection, caller_of
from vmaccess.cli.failed import Failed
from vmaccess.cli.grants import Account, add_account_option, add_grant_option, choose, end, possible_lifetime, read_grant
from vmaccess.cli.plugin import INFO_VARIABLE, V1
from vmaccess.cli.times import MINIMUM, lifetime, spelt
from vmaccess.cli.tokens import Credential, Revocable, Token, Unbound, request_token
from vmaccess.policy.times import in_words

Json = dict[str, Any]

PROGRAM = "kubectl-vmaccess"
VERB = "credential"
RENEWED_AT = 0.8  # of a token's life, as the kubelet does


def add_verb(verbs: Any, connection: argparse.ArgumentParser) -> None:
    """Add the verb `credential` with its options."""
    verb = verbs.add_parser(
        VERB,
        parents=[connection],
        help="print a fresh token for kubectl and other clients; `kubeconfig --exec` writes the file that calls it",
        description="Prints an ExecCredential (client.authentication.k8s.io/v1) with a fresh token. Not for people: the files "
        "that `kubectl vmaccess kubeconfig --exec` writes call it, time and again.",
        epilog="example: kubectl vmaccess credential runner --service-account default/mykubevirtrunner --credential 1a2b3c4d",
    )
    add_grant_option(verb)
    add_account_option(verb)
    verb.add_argument(
        "--credential",
        metavar="ID",
        help="credential that the token is bound to; without it the token cannot be revoked by itself",
    )
    verb.add_argument(
        "--lifetime", metavar="TIME", type=lifetime, default=timedelta(hours=1), help="as of `kubeconfig` (default: 1h)"
    )
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Carry out the verb; raises Failed."""
    _check_version(os.environ.get(INFO_VARIABLE))
    credential: Credential = Revocable(options.credential) if options.credential else Unbound("")
    caller = caller_of(options)
    check_not_ourselves(caller)
    with Connection(caller) as api:
        grant = read_grant(api, options.grant)
        account = choose(grant, options.service_account)
        token = request_token(api, account, credential, possible_lifetime(grant, options.lifetime, api.now))
    status = {"token": token.value, "expirationTimestamp": in_words(renewal(token, end(grant)))}
    print(json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status}))


def exec_block(caller: Caller, grant: str, account: Account, credential: Credential, asked: timedelta) -> Json:
    """What a kubeconfig says of its user so that `run` is called, as the same caller as now wherever that may be."""
    bound = ["--credential", credential.id] if isinstance(credential, Revocable) else []
    files = os.pathsep.join(map(str, caller.files))
    return {
        "apiVersion": V1,
        "command": PROGRAM if shutil.which(PROGRAM) else str(Path(sys.executable).with_name(PROGRAM)),
        "args": [
            *(VERB, grant, "--service-account", str(account), *bound, "--lifetime", spelt(asked)),
            *("--kubeconfig", files, "--context", caller.context),
        ],
        "installHint": "kubectl-vmaccess comes with the Python package vmaccess: install it, and have it on PATH",
        "interactiveMode": "Never",
        "provideClusterInfo": False,
    }


def check_not_ourselves(caller: Caller) -> None:
    """Raise Failed where the caller is known by this very plugin: it would call itself for ever."""
    block = caller.user.get("exec")
    if isinstance(block, dict) and Path(str(block.get("command"))).stem == PROGRAM:
        raise Failed(
            f"the context {caller.context!r} of {', '.join(map(str, caller.files))} is itself one that `kubectl vmaccess "
            f"kubeconfig --exec` wrote: name your own with --kubeconfig and --context"
        )


def renewal(token: Token, ends: datetime | None) -> datetime:
    """What a client is told of the token's end, so that it renews in time; the true end where no later token is to be had, since
    the grant ends with it or too soon after it.
    """
    early = token.created + RENEWED_AT * token.lifetime
    is_last = ends is not None and ends - max(early + MINIMUM, token.expires) < timedelta(minutes=1)
    return token.expires if is_last else early


def _check_version(info: str | None) -> None:
    if info is None:
        return
    try:
        asked = json.loads(info)["apiVersion"]
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"{INFO_VARIABLE} is not what a client sets: unset it") from error
    if asked != V1:
        raise Failed(f"the client asks for {asked}, and this answers {V1}: write that into the `exec` block of the kubeconfig")
