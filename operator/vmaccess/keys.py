"""What a piece of work is about. A key says only where to look; what is to be done there is found out there."""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import NamedTuple


class Part(Enum):
    """The part of a grant's work that a key is about."""

    __hash__ = object.__hash__  # Enum's own is Python code, and each piece of work is looked up a dozen times

    GRANT = "the grant as a whole"
    NAMESPACE = "its Role and RoleBinding in one namespace"
    ACCOUNT = "one of its ServiceAccounts"
    CLUSTER_ROLE = "the ClusterRole of its own"
    KUBECONFIG = "the kubeconfig of one of its ServiceAccounts"
    STATUS = "its status"
    PRESET = "the ClusterRole that grants of a bare preset share; in place of a grant's name stands the preset's"


class Key(NamedTuple):
    """One piece of work."""

    part: Part
    grant: str
    namespace: str = ""
    account: str = ""

    @property
    def turn(self) -> Hashable:
        """Grants take turns, and how one fares is told while its namespaces are still waiting."""
        return (self.part is Part.STATUS, self.grant)

    @property
    def place(self) -> str:
        """Where writes may hang or be refused while they are not elsewhere."""
        return self.namespace

    def __str__(self) -> str:
        return "/".join(filter(None, (self.part.name.lower(), *self[1:])))
