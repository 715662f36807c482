"""What deploy/kustomize applies, read from kustomize's own output."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from typing import Any

from localcluster.api import documents, kubectl_binary
from localcluster.product import KUSTOMIZE

Json = dict[str, Any]


@cache
def shipped() -> tuple[Json, ...]:
    """Every object, in the order in which kustomize writes them."""
    done = subprocess.run([kubectl_binary(), "kustomize", str(KUSTOMIZE)], capture_output=True, text=True, check=True)
    return tuple(documents(done.stdout))


def of_kind(*kinds: str) -> Iterator[Json]:
    """The objects of these kinds."""
    return (item for item in shipped() if item["kind"] in kinds)


def one(kind: str, name: str) -> Json:
    """The object of this kind and name."""
    (found,) = (item for item in of_kind(kind) if item["metadata"]["name"] == name)
    return found
