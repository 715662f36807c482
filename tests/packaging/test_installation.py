"""docs/installation.md names what there is, and what it says about uninstalling holds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import Cluster, LocalCluster, kubevirt, product
from localcluster.product import ROOT
from tests.stage import RBAC, Stage, Who

PAGE = (ROOT / "docs" / "installation.md").read_text()
ALICE = Who("alice")


def test_every_option_is_documented_with_its_variable_and_default() -> None:
    program = str(Path(sys.executable).with_name("vmaccess-operator"))
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "1000"}
    help_ = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True, check=True).stdout
    options = re.findall(r"^  (--[\w-]+) .*\n? *(.*)\[(VMACCESS_\w+)\]$", help_, re.MULTILINE)
    documented = dict(re.findall(r"^\| `(--[\w-]+)` \| (.*)$", PAGE, re.MULTILINE))
    assert sorted(documented) == sorted(option for option, _, _ in options) != []
    for option, text, variable in options:
        assert f"`{variable}`" in documented[option]
        if default := re.search(r"Default: (.*)\. ", text):
            assert f"`{default[1]}`" in documented[option]


def test_every_metric_is_documented(operator: product.Operator) -> None:
    _, page = operator.page("/metrics")
    served = set(re.findall(r"^# TYPE (\w+)", page, re.MULTILINE))
    assert served == set(re.findall(r"^\| `(vmaccess_\w+)", PAGE, re.MULTILINE)) != set()


@pytest.fixture
def own_stage() -> Iterator[Stage]:
    """A control plane to uninstall everything from."""
    with LocalCluster() as cluster:
        kubevirt.install(cluster)
        product.install(cluster)
        yield Stage(cluster)


def _granted(stage: Stage) -> tuple[str, list[str]]:
    """A grant with a ServiceAccount, and the namespaces where alice has access by it."""
    namespaces = [stage.namespace() for _ in range(5)]
    accounts = [{"name": "runner", "namespace": namespaces[0]}]
    spec = {"serviceAccounts": accounts, "subjects": [{"kind": "User", "name": "alice"}], "namespaces": namespaces}
    name = stage.grant(spec)
    stage.until_ready(name)
    stage.assert_access(ALICE, dict.fromkeys(namespaces, True))
    return name, namespaces


def _nothing_is_left(cluster: Cluster) -> bool:
    answers = [cluster.request("GET", f"{RBAC}/{kind}")[1]["items"] for kind in ("clusterroles", "clusterrolebindings", "roles")]
    names = [item["metadata"]["name"] for items in answers for item in items]
    gone = cluster.request("GET", "/api/v1/namespaces/vmaccess-system")[0] == 404
    return gone and not [name for name in names if name.startswith("vmaccess")]


def test_uninstalling_in_the_documented_order_revokes_first(own_stage: Stage) -> None:
    cluster = own_stage.cluster
    with product.Operator(cluster):
        name, namespaces = _granted(own_stage)
        cluster.kubectl("delete", "vmaccessgrants", "--all")
        own_stage.until(lambda: not own_stage.children(name), "everything to be revoked", 5)
        own_stage.assert_access(ALICE, dict.fromkeys(namespaces, False))
    cluster.kubectl("delete", "-k", str(product.KUSTOMIZE))
    own_stage.until(lambda: _nothing_is_left(cluster), "the installation to be gone", 30)


def test_access_outlives_the_operator_and_ends_with_the_definition(own_stage: Stage) -> None:
    cluster = own_stage.cluster
    with product.Operator(cluster):
        name, namespaces = _granted(own_stage)
    own_stage.assert_access(ALICE, dict.fromkeys(namespaces, True))
    cluster.kubectl("delete", "-k", str(product.KUSTOMIZE))
    own_stage.until(lambda: not own_stage.children(name), "garbage collection to revoke everything", 60)
    own_stage.assert_access(ALICE, dict.fromkeys(namespaces, False))
    own_stage.until(lambda: _nothing_is_left(cluster), "the installation to be gone", 30)
