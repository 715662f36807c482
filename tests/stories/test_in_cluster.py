"""A client in a pod: a process of its own that knows nothing but the mounted credentials, counting virtual machines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from localcluster import Cluster
from tests.stage import Stage
from tests.stories.conftest import EXAMPLES, create_machine


class Pod:
    """The mounted layout of a ServiceAccount in a folder, and the example program run on it."""

    def __init__(self, cluster: Cluster, folder: Path, namespace: str, account: str) -> None:
        self._folder = folder
        address = urlsplit(cluster.url)
        self._environment = {
            "PATH": os.environ["PATH"],
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port),
        }
        folder.mkdir()
        (folder / "token").write_text(cluster.service_account_token(namespace, account))
        (folder / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
        (folder / "namespace").write_text(namespace)

    def count(self, *namespaces: str) -> tuple[int, str]:
        """Exit code of the program, and all that it printed."""
        command = [sys.executable, str(EXAMPLES / "count_vms.py"), "--mount", str(self._folder), *namespaces]
        done = subprocess.run(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60
        )
        return done.returncode, done.stdout


def test_an_existing_identity_counts_only_while_it_is_granted(stage: Stage, cluster: Cluster, tmp_path: Path) -> None:
    mine, other = stage.namespace("mine"), stage.namespace("other")
    for name in ("one", "two", "three"):
        create_machine(stage, mine, name)
    stage.request("POST", f"/api/v1/namespaces/{mine}/serviceaccounts", {"metadata": {"name": "counter"}})
    pod = Pod(cluster, tmp_path / "mounted", mine, "counter")
    assert pod.count() == (1, f"{mine}: 403 Forbidden\n")

    subject = {"kind": "ServiceAccount", "namespace": mine, "name": "counter"}
    name = stage.grant({"subjects": [subject], "namespaces": [mine]})
    stage.until_ready(name)
    assert pod.count() == (0, f"{mine}: 3\n")
    assert pod.count(mine, other) == (1, f"{mine}: 3\n{other}: 403 Forbidden\n")

    stage.delete(name)
    stage.until(lambda: not stage.children(name), "the grant's children to be gone")
    assert pod.count() == (1, f"{mine}: 403 Forbidden\n")
    assert stage.child("serviceaccounts", mine, "counter"), "an identity that was there before stays"


def test_an_identity_of_the_grant_lives_and_dies_with_it(stage: Stage, cluster: Cluster, tmp_path: Path) -> None:
    mine = stage.namespace()
    create_machine(stage, mine, "one")
    account = {"namespace": mine, "name": "counter", "automountServiceAccountToken": True}
    spec = {"serviceAccounts": [account], "namespaces": [mine]}
    name = stage.grant({**spec, "suspend": True})
    stage.until_ready(name)
    assert (stage.child("serviceaccounts", mine, "counter") or {})["automountServiceAccountToken"] is True
    pod = Pod(cluster, tmp_path / "mounted", mine, "counter")
    assert pod.count() == (1, f"{mine}: 403 Forbidden\n")

    stage.respec(name, spec)
    stage.until_ready(name)
    assert pod.count() == (0, f"{mine}: 1\n")

    stage.delete(name)
    stage.until(lambda: not stage.children(name), "the grant's children to be gone")
    refused = stage.until(
        lambda: (answer := pod.count())[1].endswith("401 Unauthorized\n") and answer, "a dead token", seconds=20
    )
    assert refused[0] == 1
