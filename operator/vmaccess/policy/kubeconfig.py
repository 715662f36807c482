"""A kubeconfig that needs no other file."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import dataclass
from typing import Any

import yaml


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


class _Dumper(yaml.SafeDumper):
    """Quotes what kubectl takes for a number or a boolean although PyYAML does not, such as 12345e67 and n."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"), list("-+.0123456789")
)
_Dumper.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"[yYnN]$"), list("yYnN"))


def dump(config: dict[str, Any]) -> str:
    """The text of a kubeconfig, as kubectl reads it."""
    return yaml.dump(config, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=math.inf)
