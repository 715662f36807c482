"""How to reach an API server and as whom: kubeconfigs are read and written here, and plain requests sent."""

import base64
import http.client
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from localcluster.errors import ClusterError

ANONYMOUS = ""
"""Given as a token: the request carries no credentials at all."""


@dataclass(frozen=True)
class Access:
    """An API server's address, the CA it is verified against, and one identity's credentials."""

    url: str
    ca_file: Path
    token: str = ANONYMOUS
    certificate: tuple[Path, Path] | None = None
    """Client certificate and its key, as files."""

    def identified_by(self, token: str) -> "Access":
        """Return the same server reached with another bearer token and nothing else."""
        return replace(self, token=token, certificate=None)

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if self.certificate:
            context.load_cert_chain(*self.certificate)
        return context

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> tuple[int, Any]:
        """Send one request and return its status and the parsed JSON, or the text where the answer is none."""
        sent = {"Accept": "application/json"}
        if self.token != ANONYMOUS:
            sent["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            default = "application/merge-patch+json" if method == "PATCH" else "application/json"
            sent["Content-Type"] = content_type or default
        payload = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
        address = urlsplit(self.url)
        if address.hostname is None:
            raise ClusterError(f"the server's address {self.url!r} names no host")
        connection = http.client.HTTPSConnection(address.hostname, address.port, context=self._tls, timeout=timeout)
        try:
            connection.request(method, address.path + path, payload, {**sent, **(headers or {})})
            response = connection.getresponse()
            text = response.read().decode()
            is_json = (response.getheader("Content-Type") or "").startswith("application/json")
            return response.status, json.loads(text) if is_json else text
        finally:
            connection.close()


def write_kubeconfig(path: Path, access: Access, *, namespace: str | None = None, user: str = "user") -> Path:
    """Write a kubeconfig that needs no other file, readable by its owner only, and return its path."""
    context = {"cluster": "cluster", "user": user} | ({"namespace": namespace} if namespace else {})
    credentials: dict[str, str] = {"token": access.token} if access.token != ANONYMOUS else {}
    if access.certificate:
        certificate, key = access.certificate
        credentials |= {"client-certificate-data": _base64(certificate), "client-key-data": _base64(key)}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {
                "name": "cluster",
                "cluster": {"server": access.url, "certificate-authority-data": _base64(access.ca_file)},
            }
        ],
        "users": [{"name": user, "user": credentials}],
        "contexts": [{"name": user, "context": context}],
        "current-context": user,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # an older, wider mode would otherwise stay
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        yaml.safe_dump(content, file, sort_keys=False)
    return path


def read_kubeconfig(path: Path, directory: Path) -> Access:
    """Return the access that a kubeconfig's current context gives; embedded data becomes files in `directory`.

    Raises ClusterError for what cannot be used here: no CA, skipped TLS verification, credential plugins.
    """
    config = yaml.safe_load(path.read_text())
    context = _named(config["contexts"], config["current-context"])["context"]
    server = _named(config["clusters"], context["cluster"])["cluster"]
    user = _named(config["users"], context["user"])["user"]
    ca_file = _as_file(server, "certificate-authority", path.parent, directory / "ca.crt")
    if ca_file is None or server.get("insecure-skip-tls-verify"):
        raise ClusterError(f"{path}: the cluster needs a certificate-authority; TLS verification is never skipped here")
    token = user.get("token") or (Path(user["tokenFile"]).read_text().strip() if "tokenFile" in user else ANONYMOUS)
    certificate = _as_file(user, "client-certificate", path.parent, directory / "client.crt")
    key = _as_file(user, "client-key", path.parent, directory / "client.key")
    if not token and not (certificate and key):
        raise ClusterError(f"{path}: the user needs a token or a client certificate; credential plugins are not run here")
    return Access(server["server"].rstrip("/"), ca_file, token, (certificate, key) if certificate and key else None)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(entry for entry in entries if entry["name"] == name)


def _as_file(section: Mapping[str, str], field: str, base: Path, target: Path) -> Path | None:
    if data := section.get(f"{field}-data"):
        target.write_bytes(base64.b64decode(data))
        target.chmod(0o600)
        return target
    return base / section[field] if field in section else None


def _base64(file: Path) -> str:
    return base64.b64encode(file.read_bytes()).decode()
