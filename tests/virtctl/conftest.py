"""KubeVirt's virt-api and virtctl, with the operator as it is shipped, on a control plane of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from localcluster import LocalCluster, VirtApi, product, wait_until
from localcluster.virtapi import GROUP
from tests.stage import RBAC, Stage
from tests.virtctl.places import Place
from tests.virtctl.promises import CONFIG_READER

# ssh and scp, as far as virtctl needs them: they begin with running the ProxyCommand that they are given, another virtctl. So
# nothing has to be installed, and nobody's configuration matters.
SSH = """\
#!/bin/sh
for argument in "$@"; do
    case "$argument" in ProxyCommand=*) exec sh -c "${argument#ProxyCommand=}" </dev/null ;; esac
done
exit 255
"""
# What StorageView and NetworkView are about, and virtctl reads. Not CDI's DataSource: virt-api ends when that appears.
CRDS = """\
apiVersion: v1
kind: List
items:
  - apiVersion: apiextensions.k8s.io/v1
    kind: CustomResourceDefinition
    metadata: {name: datavolumes.cdi.kubevirt.io}
    spec:
      group: cdi.kubevirt.io
      scope: Namespaced
      names: {kind: DataVolume, plural: datavolumes, shortNames: [dv]}
      versions: [{name: v1beta1, served: true, storage: true, schema: &open {
        openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
  - apiVersion: apiextensions.k8s.io/v1
    kind: CustomResourceDefinition
    metadata: {name: network-attachment-definitions.k8s.cni.cncf.io}
    spec:
      group: k8s.cni.cncf.io
      scope: Namespaced
      names: {kind: NetworkAttachmentDefinition, plural: network-attachment-definitions, shortNames: [net-attach-def]}
      versions: [{name: v1, served: true, storage: true, schema: *open}]
"""
GATES = ("HotplugVolumes", "ObjectGraph")
CONFIGURED = {"spec": {"configuration": {"developerConfiguration": {"featureGates": GATES}}}}


def chosen(request: pytest.FixtureRequest, test: str) -> list[str]:
    """The `name`s with which a test was collected: what is not asked for is not run."""
    tests = (item for item in request.session.items if isinstance(item, pytest.Function) and item.originalname == test)
    return [str(item.callspec.params["name"]) for item in tests]


@pytest.fixture(scope="package")
def local() -> Iterator[LocalCluster]:
    """A control plane with KubeVirt's kinds, what is shipped, and the operator at work."""
    with product.own_cluster() as running:
        running.apply(CRDS)
        with product.Operator(running) as operator:
            yield running
            assert operator.page("/healthz")[0] == 200, operator.output()[-4000:]


@pytest.fixture(scope="package")
def virt(local: LocalCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtApi]:
    """virt-api, and a virtctl that finds an ssh."""
    programs = tmp_path_factory.mktemp("programs")
    for name in ("ssh", "scp"):
        (programs / name).write_text(SSH)
        (programs / name).chmod(0o755)
    with VirtApi(local) as running, pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", str(programs), prepend=":")
        # Thousands of processes that live for some milliseconds: a quarter of their work is spared.
        patched.setenv("GOMAXPROCS", "1")
        patched.setenv("GOGC", "off")
        yield running


@pytest.fixture(scope="package")
def stage(local: LocalCluster, virt: VirtApi) -> Stage:  # noqa: ARG001 - what it asks for must be there
    """Makes namespaces and grants; they go with the control plane. As with CDI, everybody may read its configuration."""
    made = Stage(local)
    made.request("PATCH", "/apis/kubevirt.io/v1/namespaces/kubevirt/kubevirts/kubevirt", CONFIGURED)
    made.request("POST", "/api/v1/nodes", {"metadata": {"name": "node-1"}})
    name = {"name": "cdi.kubevirt.io:config-reader"}
    made.request("POST", f"{RBAC}/clusterroles", {"metadata": name, "rules": CONFIG_READER})
    everybody = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:authenticated"}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", **name}
    made.request("POST", f"{RBAC}/clusterrolebindings", {"metadata": name, "roleRef": ref, "subjects": [everybody]})
    return made


@pytest.fixture(scope="package")
def furnished(stage: Stage, local: LocalCluster, virt: VirtApi) -> Callable[[], Place]:
    """Makes places; the first one is made when virt-api heeds its configuration."""

    def place() -> Place:
        return Place(stage, local, virt)

    first = place()
    path = f"/apis/{GROUP}/v1/namespaces/{first.namespace}/virtualmachines/db-1/objectgraph"
    wait_until(lambda: local.request("GET", path, headers={"Accept": "*/*"})[0] == 200, "virt-api to heed its configuration")
    return place


@pytest.fixture(scope="package")
def pool() -> Iterator[ThreadPoolExecutor]:
    """For commands of several identities at once: most of the time each waits for somebody."""
    with ThreadPoolExecutor(6) as threads:
        yield threads
        threads.shutdown(cancel_futures=True)
