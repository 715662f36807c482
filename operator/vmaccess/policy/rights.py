"""What the operator has to be allowed in a namespace before it can keep kubeconfigs there: nothing of it is shipped."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vmaccess.model.spec import RBAC_GROUP
from vmaccess.policy.children import GROUP
from vmaccess.policy.kept import slots

RIGHTS_LABEL = (
    f"{GROUP}/kubeconfigs-of"  # name of the grant; not the operator's own marks, by which it would take them for its own
)
OPERATOR_NAMESPACE, OPERATOR_ACCOUNT = "vmaccess-system", "vmaccess-operator"


def removal(grant: str) -> str:
    """The command that takes away all rights for the kubeconfigs of a grant, which need not be there any more."""
    return f"kubectl delete role,rolebinding --all-namespaces -l {RIGHTS_LABEL}={grant}"


def kubeconfig_rights(
    grant: str, namespace: str, kubeconfigs: Iterable[tuple[str, str]], operator_namespace: str = OPERATOR_NAMESPACE
) -> list[dict[str, Any]]:
    """The Role and the RoleBinding for the kubeconfigs of one grant in one namespace: names of ServiceAccounts and of Secrets.

    Tokens of these ServiceAccounts alone, Secrets of these names alone. Only to create one cannot be restricted to a name, as the
    API server asks for that right before it knows the name.
    """
    listed = sorted(kubeconfigs)
    secrets = [name for _, secret in listed for name in (secret, *slots(secret))]
    name = f"vmaccess-kubeconfigs:{grant}"
    labels = {"app.kubernetes.io/name": "vmaccess", RIGHTS_LABEL: grant}
    rules = [
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": secrets, "verbs": ["get", "patch", "delete"]},
        {
            "apiGroups": [""],
            "resources": ["serviceaccounts/token"],
            "resourceNames": sorted({account for account, _ in listed}),
            "verbs": ["create"],
        },
    ]
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return [
        {"apiVersion": f"{RBAC_GROUP}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{RBAC_GROUP}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": RBAC_GROUP, "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": OPERATOR_ACCOUNT, "namespace": operator_namespace}],
        },
    ]
