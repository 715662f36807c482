"""KubeVirt as far as authorization sees it: its kinds, its default roles and some machines, with nothing that runs them."""

from pathlib import Path

from localcluster.api import Cluster
from localcluster.waiting import wait_until

DATA = Path(__file__).resolve().parent.parent / "kubevirt"
CRDS = DATA / "crds.yaml"
ROLES = DATA / "roles.yaml"
VIRTUAL_MACHINES = DATA / "virtualmachines.yaml"


def install(cluster: Cluster) -> None:
    """Install KubeVirt's CRDs and default ClusterRoles; return when the CRDs are served and the roles are aggregated.

    Meant for a cluster without KubeVirt: on one that has it, its operator and this would write the same objects.
    """
    cluster.apply(CRDS)
    cluster.apply(ROLES)
    wait_until(lambda: _grants_virtual_machines(cluster, "admin"), "KubeVirt's roles to be aggregated into admin")


def is_installed(cluster: Cluster) -> bool:
    """Whether the cluster already knows VirtualMachines, KubeVirt's own or ours."""
    return cluster.request("GET", "/apis/kubevirt.io/v1/virtualmachines?limit=1")[0] == 200


def create_virtual_machines(cluster: Cluster) -> None:
    """Create the demo's VirtualMachines in default, myvms and othervms, with the two namespaces."""
    cluster.apply(VIRTUAL_MACHINES)


def _grants_virtual_machines(cluster: Cluster, role: str) -> bool:
    _, answer = cluster.request("GET", f"/apis/rbac.authorization.k8s.io/v1/clusterroles/{role}")
    return any("virtualmachines" in rule.get("resources", []) for rule in answer["rules"] or [])
