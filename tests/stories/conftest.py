"""What the stories share: virtual machines to look at, and kubectl as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from localcluster import Cluster, kubevirt, wait_until
from localcluster.api import documents
from tests.stage import Stage

EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"

Shell = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def machines(cluster: Cluster) -> Iterator[Mapping[str, list[str]]]:
    """The demo's virtual machines, by namespace, in namespaces of the names that the first story tells."""
    there = {"default", *namespaces(cluster)}
    kubevirt.create_virtual_machines(cluster)
    found: dict[str, list[str]] = {}
    for item in documents(kubevirt.VIRTUAL_MACHINES.read_text()):
        if item["kind"] == "VirtualMachine":
            found.setdefault(item["metadata"]["namespace"], []).append(item["metadata"]["name"])
    yield found
    for namespace in found:
        cluster.request("DELETE", machines_path(namespace))
        if namespace not in there:
            cluster.request("DELETE", f"/api/v1/namespaces/{namespace}")
    wait_until(lambda: not (found.keys() - there) & namespaces(cluster), "the story's namespaces to be gone")


@pytest.fixture
def kubectl(cluster: Cluster, tmp_path: Path) -> Shell:
    """Runs kubectl, plugins included, with a kubeconfig in KUBECONFIG (the admin's without one) and nothing else of ours."""

    def run(*arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        programs = Path(sys.executable).parent
        environment = {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "KUBECONFIG": str(kubeconfig or cluster.admin_kubeconfig),
        }
        command = [str(programs / "kubectl"), *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    return run


def namespaces(cluster: Cluster) -> set[str]:
    """Names of all namespaces."""
    return {item["metadata"]["name"] for item in cluster.request("GET", "/api/v1/namespaces")[1]["items"]}


def machines_path(namespace: str, name: str = "") -> str:
    """URL path of a namespace's VirtualMachines, or of one."""
    return f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines" + (f"/{name}" if name else "")


def create_machine(stage: Stage, namespace: str, name: str) -> None:
    """Make one VirtualMachine, which nobody runs."""
    machine: dict[str, Any] = {
        "apiVersion": "kubevirt.io/v1",
        "kind": "VirtualMachine",
        "metadata": {"name": name},
        "spec": {"runStrategy": "Halted", "template": {"spec": {"domain": {"devices": {}}}}},
    }
    stage.request("POST", machines_path(namespace), machine)
