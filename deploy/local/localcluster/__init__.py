"""A real Kubernetes control plane anywhere, so that tests, the benchmark and the demo need neither Docker nor a cluster.

with localcluster.cluster() as k8s:
    localcluster.kubevirt.install(k8s)
    status, machines = k8s.request("GET", "/apis/kubevirt.io/v1/virtualmachines")
"""

from localcluster import kubevirt
from localcluster.access import ANONYMOUS, Access, write_kubeconfig
from localcluster.api import Cluster
from localcluster.binaries import Binaries, VirtBinaries, find_or_build, find_or_build_virt
from localcluster.errors import BinariesError, ClusterError, ComponentError, KubectlError
from localcluster.existing import ExistingCluster, cluster
from localcluster.local import LocalCluster
from localcluster.virtapi import VirtApi
from localcluster.waiting import wait_until

__all__ = [
    "ANONYMOUS",
    "Access",
    "Binaries",
    "BinariesError",
    "Cluster",
    "ClusterError",
    "ComponentError",
    "ExistingCluster",
    "KubectlError",
    "LocalCluster",
    "VirtApi",
    "VirtBinaries",
    "cluster",
    "find_or_build",
    "find_or_build_virt",
    "kubevirt",
    "wait_until",
    "write_kubeconfig",
]
