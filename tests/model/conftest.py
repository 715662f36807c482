from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from localcluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from localcluster import Cluster

CRD = Path(__file__).parents[2] / "crds" / "vmaccessgrants.yaml"
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
def grants_api() -> Iterator[Cluster]:
    """A control plane that knows VMAccessGrants and has nobody who acts on them."""
    with LocalCluster() as cluster:
        cluster.apply(CRD)
        yield cluster


@pytest.fixture(scope="session")
def admit(grants_api: Cluster) -> Callable[[Mapping[str, Any]], Answer]:
    """Asks the API server whether it would create a grant."""

    def dry_run(grant: Mapping[str, Any]) -> Answer:
        body = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant", **grant}
        return Answer(*grants_api.request("POST", f"{GRANTS}?dryRun=All&fieldValidation=Strict", body))

    return dry_run
