"""A control plane for the tests that stop the operator or the controllers: nobody else's operator may be at work there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from localcluster import LocalCluster, product
from tests.stage import Stage


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[LocalCluster]:
    """A control plane on which an operator runs only while a test runs one."""
    with product.own_cluster() as running:
        yield running


@pytest.fixture
def own_stage(own_cluster: LocalCluster) -> Iterator[Stage]:
    """A test's own corner of the control plane above. What the test leaves goes before the next one begins."""
    with Stage(own_cluster) as mine:
        yield mine
