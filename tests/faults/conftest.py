"""A control plane of its own: here the tests run the controller, and no other operator may do its work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import Cluster, LocalCluster, kubevirt, product


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A control plane on which no operator runs."""
    with LocalCluster(audit=True) as running:
        kubevirt.install(running)
        product.install(running)
        yield running


@pytest.fixture(scope="package")
def kubeconfig(cluster: Cluster) -> Path:
    """The operator's own identity."""
    return product.operator_kubeconfig(cluster, cluster.directory / "faults.kubeconfig")
