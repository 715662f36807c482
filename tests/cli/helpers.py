"""What the tests of the command share: grants with a ServiceAccount, callers of few rights, and what a token is good for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster import Cluster
from tests.stage import RBAC, Json, Stage


@dataclass(frozen=True)
class Said:
    """What a run of the command came to."""

    code: int
    out: str
    err: str


Cli = Callable[..., Said]


def runner(stage: Stage, **spec: Any) -> str:
    """A ready grant with one ServiceAccount `runner` in a namespace that it also grants."""
    mine = stage.namespace()
    name = stage.grant({"serviceAccounts": [{"namespace": mine, "name": "runner"}], "namespaces": [mine], **spec})
    stage.until_ready(name)
    return name


def of(grant: Json) -> str:
    """Namespace of the grant's first ServiceAccount."""
    return str(grant["spec"]["serviceAccounts"][0]["namespace"])


def user_in(kubeconfig: Path | str) -> Json:
    """What identifies the last user of a kubeconfig, a file or its text."""
    text = kubeconfig.read_text() if isinstance(kubeconfig, Path) else kubeconfig
    user: Json = yaml.safe_load(text)["users"][-1]["user"]
    return user


def claims(token: str) -> Json:
    """What a token says of itself."""
    payload: Json = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    return payload


def lists_machines(stage: Stage, namespace: str, token: str) -> int:
    """The API server's answer to who lists VirtualMachines with this token."""
    status: int = stage.cluster.request("GET", f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines", token=token)[0]
    return status


def credential_secrets(stage: Stage, namespace: str) -> list[Json]:
    """The Secrets of credentials in a namespace."""
    path = f"/api/v1/namespaces/{namespace}/secrets?labelSelector=vmaccess.dev/credential"
    items: list[Json] = stage.request("GET", path)["items"]
    return items


def acting_as(cluster: Cluster, path: Path, user: str) -> str:
    """A kubeconfig with which the admin acts as somebody else."""
    content = yaml.safe_load(cluster.kubeconfig(path).read_text())
    content["users"][0]["user"]["as"] = user
    path.write_text(yaml.safe_dump(content))
    return str(path)


def allow(stage: Stage, user: str, namespace: str, *rules: Json) -> None:
    """Give a user these rights in a namespace of the stage."""
    name = stage.unique()
    stage.request("POST", f"{RBAC}/namespaces/{namespace}/roles", {"metadata": {"name": name}, "rules": list(rules)})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    stage.request("POST", f"{RBAC}/namespaces/{namespace}/rolebindings", binding)


READ_GRANTS: Json = {"apiGroups": ["vmaccess.dev"], "resources": ["vmaccessgrants"], "verbs": ["get"]}
MAKE_TOKENS: Json = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "verbs": ["create"]}


def secrets(*verbs: str) -> Json:
    """A rule about Secrets."""
    return {"apiGroups": [""], "resources": ["secrets"], "verbs": list(verbs)}
