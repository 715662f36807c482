"""A control plane of its own: here the tests run the controller, and no other operator may do its work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import Cluster, product


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    """A control plane on which no operator runs."""
    with product.own_cluster() as running:
        yield running


@pytest.fixture(scope="package")
def kubeconfig(cluster: Cluster) -> Path:
    """The operator's own identity."""
    return product.operator_kubeconfig(cluster, cluster.directory / "faults.kubeconfig")
