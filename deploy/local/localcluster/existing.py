"""A cluster that is already there, for those who want the tests' answer on a Kubernetes of their own."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from localcluster.access import read_kubeconfig
from localcluster.api import Cluster
from localcluster.errors import ClusterError
from localcluster.local import LocalCluster

KUBECONFIG_VARIABLE = "VMACCESS_TEST_KUBECONFIG"

# The garbage collector's own period (30 s) and time for it to fill its caches.
_RESYNC_SECONDS = 35


class ExistingCluster(Cluster):
    """The cluster of a kubeconfig's current context. Its control plane is not ours: what would stop it is refused."""

    def __init__(self, kubeconfig: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="vmaccess-"))
        try:
            self.admin = read_kubeconfig(kubeconfig, self.directory)
        except BaseException:
            self.close()
            raise
        self.admin_kubeconfig = kubeconfig

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    def user_token(self, user: str) -> str:
        self._refuse(f"make a token for user {user!r}; the admin may impersonate it")

    def stop_apiserver(self) -> None:
        self._refuse("stop the API server")

    def start_apiserver(self) -> None:
        self._refuse("start the API server")

    def stop_controller_manager(self) -> None:
        self._refuse("stop the controller manager")

    def start_controller_manager(self) -> None:
        self._refuse("start the controller manager")

    def _learn_resources(self) -> None:
        status, crds = self.request("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")
        if status != 200:
            raise ClusterError(f"the CustomResourceDefinitions cannot be listed: {status} {crds}")
        newest = max(datetime.fromisoformat(crd["metadata"]["creationTimestamp"]) for crd in crds["items"])
        time.sleep(max(0.0, _RESYNC_SECONDS - (datetime.now(UTC) - newest).total_seconds()))

    def _refuse(self, what: str) -> NoReturn:
        raise ClusterError(f"an existing cluster ({self.url}): cannot {what}")


@contextlib.contextmanager
def cluster(*, audit: bool = False, users: Mapping[str, Sequence[str]] | None = None) -> Iterator[Cluster]:
    """The cluster named by VMACCESS_TEST_KUBECONFIG, else a fresh local one, for the length of a `with` block.

    `audit` and `users` are of the local one only; the existing one says so when they are needed.
    """
    if named := os.environ.get(KUBECONFIG_VARIABLE):
        with ExistingCluster(Path(named)) as existing:
            yield existing
    else:
        with LocalCluster(audit=audit, users=users) as local:
            yield local
