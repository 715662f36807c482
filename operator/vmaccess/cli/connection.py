"""How the command reaches the API server: as the caller, by verified TLS alone, with plain JSON, and errors in plain words."""

from __future__ import annotations

import json
import os
import ssl
import tempfile
from argparse import Namespace, _ArgumentGroup
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode

import urllib3

from vmaccess.cli.caller import Caller, Identity, identify, read_caller
from vmaccess.cli.failed import Failed
from vmaccess.cli.proxy import proxy_for
from vmaccess.policy.kubeconfig import ClusterEntry

Json = dict[str, Any]

TIMEOUT = urllib3.Timeout(connect=10, read=30)
METADATA, METADATA_LIST = (f"application/json;as=PartialObjectMetadata{of};g=meta.k8s.io;v=v1" for of in ("", "List"))


class Refused(Failed):
    """The API server's refusal: `status` is its HTTP code, `reason` its word for it, `message` its sentence."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"the API server answers {status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message


class Connection:
    """The API server as a caller reaches it, for as long as the `with` block lasts; Failed where it cannot be reached so."""

    def __init__(self, caller: Caller) -> None:
        identity = identify(caller)
        self.server = caller.cluster.server
        self.now = datetime.now(UTC)
        """What time it is for the API server, as of its last answer."""
        self._headers = identity.headers
        self._pool = _pool(caller.cluster, identity)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.clear()

    def get(self, path: str, **query: str) -> Json:
        """Read an object or a list; raises Refused."""
        return self._request("GET", _with(path, query))

    def get_metadata(self, path: str) -> Json:
        """Name, labels and annotations of an object, and nothing of what it holds; raises Refused."""
        return self._request("GET", path, accept=METADATA)

    def list_metadata(self, path: str, **query: str) -> list[Json]:
        """Names, labels and annotations of what is in a list, and nothing of what it holds; raises Refused."""
        items: list[Json] | None = self._request("GET", _with(path, query), accept=METADATA_LIST)["items"]
        return items or []  # null where there are none

    def create(self, path: str, body: Json) -> Json:
        """POST an object; raises Refused."""
        return self._request("POST", path, body)

    def patch(self, path: str, body: Json) -> Json:
        """Change fields of an object by a merge patch; raises Refused."""
        return self._request("PATCH", path, body, sent="application/merge-patch+json")

    def delete(self, path: str, uid: str) -> Json | None:
        """Delete the object of this uid and no other; it is no error where it is gone. Returns what is left of it: the object,
        where its finalizers hold it, else None. Raises Refused.
        """
        try:
            answer = self._request("DELETE", path, {"preconditions": {"uid": uid}})
        except Refused as refused:
            if refused.status not in (404, 409):
                raise
            return None
        return answer if "deletionTimestamp" in answer["metadata"] else None

    def _request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        sent: str = "application/json",
        accept: str = "application/json",
    ) -> Json:
        headers = urllib3.HTTPHeaderDict({"Accept": accept, "Content-Type": sent})
        for name, value in self._headers:
            headers.add(name, value)
        try:
            answer = self._pool.request(
                method,
                self.server + path,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=TIMEOUT,
                retries=False,
                redirect=False,  # credentials go where the kubeconfig says
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Failed(f"no answer from {self.server}: {_why(error)}") from error
        if answer.status >= 300:
            raise _refusal(answer.status, str(answer.reason), answer.data)
        with suppress(KeyError, ValueError):
            self.now = parsedate_to_datetime(answer.headers["Date"])
        try:
            parsed: Json = json.loads(answer.data)
        except ValueError as error:
            raise Failed(f"{self.server} does not answer as an API server does: is the address right (--context)?") from error
        return parsed


def add_connection_options(group: _ArgumentGroup) -> None:
    """The options by which every verb finds the cluster, kubectl's own words."""
    group.add_argument("--kubeconfig", metavar="FILE", help="kubeconfig to use; without it KUBECONFIG, then ~/.kube/config")
    group.add_argument("--context", metavar="NAME", help="context of the kubeconfig; without it the current one")


def caller_of(options: Namespace) -> Caller:
    """The caller that these options and KUBECONFIG name; raises Failed."""
    return read_caller(options.kubeconfig, options.context)


def _pool(cluster: ClusterEntry, identity: Identity) -> urllib3.PoolManager:
    try:
        context = ssl.create_default_context(cadata=cluster.ca.decode() if cluster.ca is not None else None)
    except (ssl.SSLError, ValueError) as error:
        raise Failed(f"no usable kubeconfig: the certificate-authority of {cluster.server} is no certificate: {error}") from error
    # As kubectl has it: a CA need not be as RFC 5280 wants it (from 3.13 on Python insists), nor be its own issuer.
    context.verify_flags = context.verify_flags & ~ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    if identity.certificate is not None:
        _present(context, *identity.certificate)
    proxy, name = proxy_for(cluster, os.environ), cluster.tls_server_name
    if proxy is None:
        return urllib3.PoolManager(ssl_context=context, server_hostname=name)
    return urllib3.ProxyManager(proxy.url, proxy_headers=proxy.headers, ssl_context=context, server_hostname=name)


def _present(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    # Python reads it from a file alone; this one nobody else can read, and it is gone at once.
    try:
        handle, name = tempfile.mkstemp()
    except OSError as error:
        raise Failed(f"your client-certificate cannot be used: {error.strerror or error}; see TMPDIR") from error
    try:
        with open(handle, "wb") as file:
            file.write(certificate + b"\n" + key)
        context.load_cert_chain(name, password="")  # instead of asking for one
    except (OSError, ValueError) as error:
        raise Failed(
            "no usable kubeconfig: its client-certificate and client-key do not belong together, or the key has a password"
        ) from error
    finally:
        os.unlink(name)


def _with(path: str, query: dict[str, str]) -> str:
    return path + (f"?{urlencode(query)}" if query else "")


def _why(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split())


def _refusal(status: int, reason: str, content: bytes) -> Refused:
    try:
        told = json.loads(content)
        return Refused(status, str(told["reason"]), str(told["message"]))
    except (ValueError, LookupError, TypeError):
        return Refused(status, reason, content[:500].decode(errors="replace").strip() or "without a word")
