from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from localcluster import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from localcluster import Cluster

GRANTS = "/apis/vmaccess.dev/v1alpha1/vmaccessgrants"


@dataclass(frozen=True)
class Answer:
    """What the API server says to a grant."""

    status: int
    body: dict[str, Any]

    @property
    def accepted(self) -> bool:
        return self.status == 201

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(cause["field"] for cause in self.body["details"]["causes"])


@pytest.fixture(scope="session")
def admit(cluster: Cluster) -> Callable[[Mapping[str, Any]], Answer]:
    """Asks the API server whether it would create a grant, as kubectl asks."""
    return _asked(cluster, "Strict")


@pytest.fixture(scope="session")
def admit_unvalidated(cluster: Cluster) -> Callable[[Mapping[str, Any]], Answer]:
    """Asks as Flux and most controllers do: unknown fields are none of the API server's own business."""
    return _asked(cluster, "Ignore")


def _asked(cluster: Cluster, validation: str) -> Callable[[Mapping[str, Any]], Answer]:
    def dry_run(grant: Mapping[str, Any]) -> Answer:
        body = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant", **grant}
        return Answer(*cluster.request("POST", f"{GRANTS}?dryRun=All&fieldValidation={validation}", body))

    probe = {"metadata": {"name": "probe"}, "spec": {"subjects": [{"kind": "User", "name": "a"}], "namespaces": ["a"], "x": 1}}
    wait_until(lambda: not dry_run(probe).accepted, "the admission policy to be in force")
    return dry_run
