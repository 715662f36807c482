"""How the command reaches the API server: the caller's own kubeconfig, plain JSON, and errors in a person's words."""

from __future__ import annotations

import json
from argparse import Namespace, _ArgumentGroup
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import urllib3
import yaml
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration

Json = dict[str, Any]

CONNECT_SECONDS, ANSWER_SECONDS = 10, 30


class Failed(Exception):
    """What the command cannot do; the message names the object and the cure."""


class Refused(Failed):
    """The API server's refusal: `status` is its HTTP code, `reason` its word for it, `message` its sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"the API server answers {status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


@dataclass(frozen=True, slots=True)
class ClusterEntry:
    """What a kubeconfig needs to know of the cluster. `ca` is PEM, None where the system's own trust is meant."""

    name: str
    server: str
    ca: bytes | None
    tls_server_name: str | None
    proxy_url: str | None


class Connection:
    """The API server of one context of a kubeconfig, for as long as the `with` block lasts."""

    def __init__(self, cluster: ClusterEntry, client: ApiClient) -> None:
        self.cluster = cluster
        self._client = client

    @classmethod
    def of(cls, options: Namespace) -> Self:
        """The connection that `add_connection_options` and KUBECONFIG name; Failed where it cannot be used."""
        loaded = Configuration()
        try:
            contexts, current = config.list_kube_config_contexts(options.kubeconfig)
            context = next((entry for entry in contexts if entry["name"] == options.context), current)
            config.load_kube_config(options.kubeconfig, options.context, loaded)
        except (config.ConfigException, OSError, ValueError, yaml.YAMLError) as error:
            why = str(error).rstrip(".")
            raise Failed(f"no usable kubeconfig: {why}; name one with --kubeconfig or KUBECONFIG") from error
        if not loaded.host.startswith("https://"):
            raise Failed(f"the server {loaded.host} is not reached by https: a token would travel in the open")
        if not loaded.verify_ssl:
            raise Failed(
                f"the kubeconfig skips the verification of {loaded.host} (insecure-skip-tls-verify), so a token could go to "
                f"anybody: give the cluster its certificate-authority instead"
            )
        loaded.retries = False
        entry = ClusterEntry(
            name=context["context"]["cluster"],
            server=loaded.host,
            ca=Path(loaded.ssl_ca_cert).read_bytes() if loaded.ssl_ca_cert else None,
            tls_server_name=loaded.tls_server_name,
            proxy_url=loaded.proxy,
        )
        return cls(entry, ApiClient(loaded))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> Json:
        """Read an object or a list; raises Refused."""
        return self._request("GET", path + (f"?{urlencode(query)}" if query else ""), None)

    def create(self, path: str, body: Json) -> Json:
        """POST an object; raises Refused."""
        return self._request("POST", path, body)

    def _request(self, method: str, path: str, body: Json | None) -> Json:
        try:
            sent = self._client.param_serialize(
                method,
                path,
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self._client.call_api(*sent, _request_timeout=(CONNECT_SECONDS, ANSWER_SECONDS))
            content = answer.read()
        except (urllib3.exceptions.HTTPError, ApiException, OSError) as error:
            why = " ".join(str(getattr(error, "reason", None) or error).split())
            raise Failed(f"no answer from {self.cluster.server}: {why}") from error
        if answer.status >= 400:
            raise _refusal(answer.status, str(answer.reason), content)
        parsed: Json = json.loads(content)
        return parsed


def add_connection_options(group: _ArgumentGroup) -> None:
    """The options by which every verb finds the cluster, kubectl's own words."""
    group.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig to use; without it KUBECONFIG, then ~/.kube/config")
    group.add_argument("--context", metavar="NAME", help="context of the kubeconfig; without it the current one")


def _refusal(status: int, reason: str, content: bytes) -> Refused:
    try:
        told = json.loads(content)
        return Refused(status, str(told["reason"]), str(told["message"]))
    except (ValueError, LookupError, TypeError):
        return Refused(status, reason, content[:500].decode(errors="replace").strip() or "without a word")
