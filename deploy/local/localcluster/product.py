"""This checkout's operator on a cluster: its CRD and rights installed as shipped, its process run as its own ServiceAccount."""

import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from localcluster import kubevirt
from localcluster.access import write_kubeconfig
from localcluster.api import Cluster
from localcluster.errors import ClusterError
from localcluster.local import LocalCluster
from localcluster.waiting import wait_until

ROOT = Path(__file__).resolve().parents[3]
CRD = ROOT / "crds" / "vmaccessgrants.yaml"
KUSTOMIZE = ROOT / "deploy" / "kustomize"
NAMESPACE, SERVICE_ACCOUNT = "vmaccess-system", "vmaccess-operator"


def install(cluster: Cluster, kustomize: Path = KUSTOMIZE) -> None:
    """Apply everything that is shipped; return when grants are served, their children collected and the rights in force."""
    cluster.apply(kustomize)
    cluster.wait_for_garbage_collector("vmaccess.dev", "vmaccessgrants")
    wait_until(lambda: _may_post_events(cluster), "the operator's rights to be in force")


def _may_post_events(cluster: Cluster) -> bool:
    """The authorizer hears of new rights a moment later, on a busy machine a long one."""
    events = {"verb": "create", "group": "events.k8s.io", "resource": "events", "namespace": "default"}
    review = {"spec": {"user": f"system:serviceaccount:{NAMESPACE}:{SERVICE_ACCOUNT}", "resourceAttributes": events}}
    _, answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return bool(answer["status"]["allowed"])


@contextmanager
def own_cluster() -> Iterator[LocalCluster]:
    """A fresh audited control plane with KubeVirt's kinds and everything that is shipped; no operator runs on it."""
    with LocalCluster(audit=True) as running:
        kubevirt.install(running)
        install(running)
        yield running


def operator_kubeconfig(cluster: Cluster, path: Path) -> Path:
    """Write a kubeconfig of the operator's own ServiceAccount, valid for a day."""
    token = cluster.service_account_token(NAMESPACE, SERVICE_ACCOUNT, seconds=24 * 3600)
    return write_kubeconfig(path, cluster.admin.identified_by(token), user=SERVICE_ACCOUNT)


class Operator:
    """The operator as a process of its own, with its own rights, ready when the constructor returns.

    Its log is `log`. Raises ClusterError with the end of the log where it does not become ready.
    """

    def __init__(self, cluster: Cluster, *options: str, log: Path | None = None) -> None:
        self.log = log or cluster.directory / "operator.log"
        kubeconfig = operator_kubeconfig(cluster, self.log.with_suffix(".kubeconfig"))
        command = [str(Path(sys.executable).with_name("vmaccess-operator")), "--kubeconfig", str(kubeconfig)]
        self._from = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as out:
            self._process = subprocess.Popen([*command, *options], stdout=out, stderr=out)
        try:
            wait_until(self._is_ready, "the operator to be ready")
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def output(self) -> str:
        """What this process has logged so far."""
        with self.log.open("rb") as file:
            file.seek(self._from)
            return file.read().decode(errors="replace")

    def page(self, path: str) -> tuple[int, str]:
        """Status and text of one of its pages: /healthz, /readyz or /metrics."""
        port = re.search(r"on port (\d+)", self.output())
        if port is None:
            return 0, ""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def stop(self) -> int:
        """End it as Kubernetes would, with SIGTERM; returns its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End it at once, wherever it is."""
        return self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> int:
        if self._process.poll() is None:
            self._process.send_signal(how)
        try:
            return self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ClusterError(f"the operator did not end within 15 s of {how.name}:\n{self.output()[-4000:]}") from None

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise ClusterError(f"the operator ended with code {self._process.returncode}:\n{self.output()[-4000:]}")
        return self.page("/readyz")[0] == 200
