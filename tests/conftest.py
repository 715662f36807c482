"""One control plane for the whole run, and on it the operator as it is shipped: its own ServiceAccount, its own rights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import localcluster
from localcluster import Cluster, kubevirt, product
from tests.stage import Stage

settings.register_profile("vmaccess", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no test asserts a time
settings.load_profile("vmaccess")


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A control plane with KubeVirt's kinds and roles, our CRD and the shipped rights; no operator runs."""
    with localcluster.cluster(audit=True) as running:
        if not kubevirt.is_installed(running):
            kubevirt.install(running)
        product.install(running)
        yield running


@pytest.fixture(scope="session")
def operator(cluster: Cluster) -> Iterator[product.Operator]:
    """The operator, for tests that neither stop it nor change its options."""
    with product.Operator(cluster) as running:
        yield running


@pytest.fixture
def stage(cluster: Cluster, operator: product.Operator) -> Iterator[Stage]:
    """A test's own corner of the cluster, cleared afterwards; the operator runs."""
    with Stage(cluster) as mine:
        yield mine
    assert operator.page("/healthz")[0] == 200, operator.output()[-4000:]


@pytest.fixture
def bare_stage(cluster: Cluster) -> Iterator[Stage]:
    """A test's own corner of the cluster, for tests that run the operator themselves."""
    with Stage(cluster) as mine:
        yield mine
