"""KubeVirt's own API server behind a local control plane, and its own client: who may do what to a machine is asked of them.

with LocalCluster() as cluster:
    kubevirt.install(cluster)
    with VirtApi(cluster) as virt:
        done = virt.virtctl("start", "web-1", kubeconfig=runner)

There is no virt-handler and no guest: a console is never opened. What is real is who is let through (403 by kube-apiserver,
401 by virt-api; anything else is past both, but for a 500 without a text, which is a failed access review) and what
virt-api does to the objects.
"""

import base64
import contextlib
import http.client
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from localcluster.access import Access, write_kubeconfig
from localcluster.binaries import VirtBinaries, find_or_build_virt
from localcluster.certificates import Authority
from localcluster.errors import ClusterError
from localcluster.kubevirt import DATA
from localcluster.local import LocalCluster, reserved_port
from localcluster.waiting import wait_until

MANIFEST = DATA / "virt-api.yaml"
NAMESPACE, SERVICE_ACCOUNT, SERVICE = "kubevirt", "kubevirt-apiserver", "virt-api"
VERSIONS = ("v1", "v1alpha3")
GROUP = "subresources.kubevirt.io"
_API_SERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"


class VirtApi:
    """Runs virt-api for a cluster with KubeVirt's kinds, ready when made; leaving it ends it and takes it out of discovery.

    It listens on loopback only, has the rights that KubeVirt gives it, and is verified by kube-apiserver like any
    aggregated server. As everywhere, it ends by itself when CDI's DataSource kind comes or goes. Raises ComponentError
    when it ends, ClusterError when it does not become ready, BinariesError when it can neither be found nor built.
    """

    access: Access
    """virt-api itself, past kube-apiserver and without credentials: nobody is believed there."""

    def __init__(self, cluster: LocalCluster, binaries: VirtBinaries | None = None) -> None:
        self._cluster = cluster
        self._programs = binaries or find_or_build_virt()
        # A folder of its own: virt-api reads its certificates again, and logs it, whenever anything changes beside them.
        self._directory = cluster.directory / "virt-api"
        self._directory.mkdir(exist_ok=True)
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as started:
            cluster.apply(MANIFEST)
            self._observe()
            self._until_front_proxy_is_published()
            port = started.enter_context(reserved_port())
            authority = Authority(self._directory, "virt-api-ca")
            self.access = Access(f"https://127.0.0.1:{port}", authority.ca_file)
            self._process = cluster.component("virt-api", self._programs.virt_api, self._flags(port, authority))
            started.callback(self._process.stop)
            self._process.start()
            self._until(self._answers, "virt-api to listen")
            started.callback(self._deregister)
            for version in VERSIONS:
                self._register(version, port, authority.ca_file)
            self._until(lambda: all(map(self._is_available, VERSIONS)), f"{GROUP} to be available")
            self._cleanup = started.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End it; calling it again does nothing."""
        self._cleanup.close()

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._process.pid

    @property
    def log(self) -> Path:
        """Where it logs: every request that reached it is in there, with its status."""
        return self._process.log

    def check(self) -> None:
        """Raise ComponentError when it has ended by itself."""
        self._process.check()

    def virtctl(self, *args: str, kubeconfig: Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run virtctl to its end, whatever its exit code; subprocess.TimeoutExpired when it has not ended by then."""
        # --kubeconfig would not do: `ssh` and `scp` start a second virtctl, which is not told of it; HOME is for known hosts.
        environment = os.environ | {"KUBECONFIG": str(kubeconfig), "HOME": str(self._cluster.directory)}
        command = [str(self._programs.virtctl), *args]
        return subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def refusals(self, user: str, *, since: int) -> list[str]:
        """Return what a user was refused after a position in the audit log: status, verb and URI of each request.

        403 is kube-apiserver's, 401 virt-api's. More reliable than what virtctl prints: `addvolume`, `guestfs` and
        `guestosinfo` say something else when they are refused. The cluster has to be one with audit=True.
        """
        return [
            f"{event['responseStatus']['code']} {event['verb']} {event['requestURI']}"
            for event in self._cluster.audit_events(user=user, since=since)
            if event.get("responseStatus", {}).get("code") in (401, 403)
        ]

    def _flags(self, port: int, authority: Authority) -> list[str]:
        certificate, key = authority.server(SERVICE, ["127.0.0.1", f"{SERVICE}.{NAMESPACE}.svc"])
        handler_certificate, handler_key = authority.client("virt-handler-client")
        token = self._cluster.service_account_token(NAMESPACE, SERVICE_ACCOUNT, seconds=24 * 3600)
        identity = self._cluster.admin.identified_by(token)
        kubeconfig = write_kubeconfig(self._directory / "virt-api.kubeconfig", identity, user=SERVICE_ACCOUNT)
        return [
            f"--kubeconfig={kubeconfig}",
            "--listen=127.0.0.1",
            f"--port={port}",
            f"--tls-cert-file={certificate}",
            f"--tls-key-file={key}",
            f"--handler-cert-file={handler_certificate}",
            f"--handler-key-file={handler_key}",
        ]

    def _observe(self) -> None:
        # virt-operator's part: virt-api heeds no configuration before it, nor can it tell what `virtctl guestfs` starts.
        path = f"/apis/kubevirt.io/v1/namespaces/{NAMESPACE}/kubevirts/kubevirt/status"
        observed = {"phase": "Deployed", "observedKubeVirtVersion": "none", "observedDeploymentConfig": "{}"}
        status, answer = self._cluster.request("PATCH", path, {"status": observed})
        if status != 200:
            raise ClusterError(f"the KubeVirt object's status cannot be written: {status} {answer}")

    def _until_front_proxy_is_published(self) -> None:
        # virt-api reads it once, when it starts, and ends without it.
        path = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication"

        def is_published() -> bool:
            status, answer = self._cluster.request("GET", path)
            return status == 200 and "requestheader-client-ca-file" in answer.get("data", {})

        wait_until(is_published, "kube-apiserver to publish whom its front proxy's certificate is signed by")

    def _answers(self) -> bool:
        # Refused until it listens, and the connection is closed until it has read its certificate.
        try:
            return self.access.request("GET", f"/apis/{GROUP}/{VERSIONS[0]}")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _register(self, version: str, port: int, ca_file: Path) -> None:
        spec = {
            "group": GROUP,
            "version": version,
            "service": {"namespace": NAMESPACE, "name": SERVICE, "port": port},
            "caBundle": base64.b64encode(ca_file.read_bytes()).decode(),
            "groupPriorityMinimum": 1000,
            "versionPriority": 15,
        }
        status, answer = self._cluster.request("POST", _API_SERVICES, {"metadata": {"name": f"{version}.{GROUP}"}, "spec": spec})
        if status != 201:
            raise ClusterError(f"APIService {version}.{GROUP} cannot be created: {status} {answer}")

    def _deregister(self) -> None:
        # Left there, they would be found unavailable, and no namespace could be deleted any more.
        for version in VERSIONS:
            self._cluster.request("DELETE", f"{_API_SERVICES}/{version}.{GROUP}")

    def _is_available(self, version: str) -> bool:
        _, answer = self._cluster.request("GET", f"{_API_SERVICES}/{version}.{GROUP}")
        conditions = answer.get("status", {}).get("conditions", [])
        return any(condition["type"] == "Available" and condition["status"] == "True" for condition in conditions)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        def holds() -> bool:
            self.check()
            return condition()

        wait_until(holds, what, timeout=60)
