from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

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
    """Asks the API server whether it would create a grant."""

    def dry_run(grant: Mapping[str, Any]) -> Answer:
        body = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant", **grant}
        return Answer(*cluster.request("POST", f"{GRANTS}?dryRun=All&fieldValidation=Strict", body))

    return dry_run
