"""A kubeconfig that needs no other file."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """What a kubeconfig needs to know of the cluster. `ca` is PEM, None where the system's own trust is meant."""

    name: str
    server: str
    ca: bytes | None
    tls_server_name: str | None = None
    proxy_url: str | None = None

    def render(self) -> dict[str, Any]:
        """The entry under `cluster`."""
        entry: dict[str, Any] = {"server": self.server}
        if self.ca is not None:
            entry["certificate-authority-data"] = base64.b64encode(self.ca).decode()
        if self.tls_server_name:
            entry["tls-server-name"] = self.tls_server_name
        if self.proxy_url:
            entry["proxy-url"] = self.proxy_url
        return entry


def kubeconfig(cluster: ClusterEntry, context: str, account: str, user: dict[str, Any], namespace: str | None) -> dict[str, Any]:
    """The whole kubeconfig: `account` names the user, `user` is what identifies it, `namespace` the default one."""
    entry = {"cluster": cluster.name, "user": account} | ({"namespace": namespace} if namespace else {})
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster.name, "cluster": cluster.render()}],
        "users": [{"name": account, "user": user}],
        "contexts": [{"name": context, "context": entry}],
        "current-context": context,
    }
