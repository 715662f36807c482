"""Runs the credential plugin of the caller's own kubeconfig, as client-go does.

Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmaccess.cli.failed import Failed
from vmaccess.policy.kubeconfig import ClusterEntry

Json = dict[str, Any]

GROUP = "client.authentication.k8s.io"
V1 = f"{GROUP}/v1"
INFO_VARIABLE = "KUBERNETES_EXEC_INFO"
CLUSTER_CONFIG = f"{GROUP}/exec"  # name of the extension of a cluster that is passed on to plugins


@dataclass(frozen=True, slots=True)
class Answer:
    """What a plugin gave: a token, or a certificate with its key as PEM, or both."""

    token: str | None
    certificate: tuple[bytes, bytes] | None

    def __repr__(self) -> str:
        return "Answer(...)"  # nothing of it may get into a message


def run_plugin(block: Json, folder: Path, cluster_fields: Json, cluster: ClusterEntry) -> Answer:
    """Run the `exec` block of a kubeconfig in this folder. What the plugin says on stderr goes to the person. Raises Failed."""
    try:
        command, version = str(block["command"]), str(block["apiVersion"])
        mode = block.get("interactiveMode", "IfAvailable")
        variables = {str(each["name"]): str(each["value"]) for each in block.get("env") or ()}
        arguments = [str(each) for each in block.get("args") or ()]
    except (LookupError, TypeError, AttributeError) as error:
        raise Failed("no usable kubeconfig: its `exec` needs a command and an apiVersion, and env as names and values") from error
    # A plugin that is itself asked by a client must not ask the person.
    interactive = mode != "Never" and sys.stdin is not None and sys.stdin.isatty() and INFO_VARIABLE not in os.environ
    if mode == "Always" and not interactive:
        raise Failed(
            f"the credential plugin {command} has to ask you something, and there is no terminal: run kubectl once before"
        )
    spec: Json = {"interactive": interactive}
    if block.get("provideClusterInfo"):
        extensions = {each["name"]: each.get("extension") for each in cluster_fields.get("extensions") or ()}
        config = {"config": extensions[CLUSTER_CONFIG]} if CLUSTER_CONFIG in extensions else {}
        spec["cluster"] = cluster.render() | config
    info = {"apiVersion": version, "kind": "ExecCredential", "spec": spec}
    try:
        done = subprocess.run(
            [str(folder / command) if os.sep in command else command, *arguments],
            env=os.environ | variables | {INFO_VARIABLE: json.dumps(info)},
            stdin=None if interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        )
    except OSError as error:
        hint = f"; {block['installHint'].strip()}" if block.get("installHint") else ""
        raise Failed(
            f"the credential plugin {command} of your kubeconfig cannot be run: {error.strerror or error}{hint}"
        ) from error
    if done.returncode:
        raise Failed(f"the credential plugin {command} of your kubeconfig has failed with code {done.returncode}")
    return _answer(command, version, done.stdout)


def _answer(command: str, version: str, output: bytes) -> Answer:
    try:
        told = json.loads(output)
        status = told["status"]
        token, certificate, key = (status.get(field) for field in ("token", "clientCertificateData", "clientKeyData"))
        if told["apiVersion"] != version:
            raise Failed(f"the credential plugin {command} of your kubeconfig answers {told['apiVersion']}, not {version}")
        pair = (str(certificate).encode(), str(key).encode()) if certificate and key else None
    except (ValueError, LookupError, TypeError, AttributeError):
        told = None
    if told is None or not (token or pair):
        # Without its cause, which could hold the token.
        raise Failed(f"the credential plugin {command} of your kubeconfig gives no credentials that can be understood")
    return Answer(str(token).strip() if token else None, pair)
