"""Everything the operator knows of the cluster: one mirror for each kind, and which children relate to which grant."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Set
from functools import partial
from typing import Any, Protocol

from vmaccess.cluster.api import (
    CLUSTER_ROLES,
    GRANTS,
    NAMESPACES,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    Api,
    Json,
    Resource,
)
from vmaccess.cluster.mirror import Key, Mirror
from vmaccess.policy.children import BindingContent, Child, Kind, RoleContent, Whose, project, shared
from vmaccess.policy.grant import Grant, read_grant
from vmaccess.policy.namespaces import Namespace
from vmaccess.policy.rules import Rules


class Watcher(Protocol):
    """Who is told what changes; of a child also the names of the grants that it relates to, or did."""

    def grant_changed(self, old: Grant | None, new: Grant | None) -> None: ...
    def grant_ended(self, last: Grant) -> None: ...
    def namespace_changed(self, old: Namespace | None, new: Namespace | None) -> None: ...
    def cluster_role_changed(self, name: str) -> None: ...
    def child_changed(self, old: Child | None, new: Child | None, grants: Set[str]) -> None: ...


class World:
    """The mirrors, and an index of the children by grant and namespace."""

    def __init__(self, api: Api, watcher: Watcher) -> None:
        self._watcher = watcher
        # By name of the grant, then by namespace: where to find every child that has to do with it by name, label or
        # ownerReference. The children themselves stay in the mirrors: a copy here would miss a new resourceVersion.
        self._related: dict[str, dict[str, tuple[tuple[Kind, str], ...]]] = {}
        self.grants: Mirror[Grant] = Mirror(
            api, GRANTS, read_grant, lambda _, old, new: watcher.grant_changed(old, new), on_end=watcher.grant_ended
        )
        self.namespaces: Mirror[Namespace] = Mirror(
            api, NAMESPACES, _read_namespace, lambda _, old, new: watcher.namespace_changed(old, new)
        )
        kinds: dict[Kind, Resource] = {
            Kind.CLUSTER_ROLE: CLUSTER_ROLES,  # children, and all that grants may trim
            Kind.SERVICE_ACCOUNT: SERVICE_ACCOUNTS,
            Kind.ROLE: ROLES,
            Kind.ROLE_BINDING: ROLE_BINDINGS,
        }
        self.children: dict[Kind, Mirror[Child]] = {
            kind: Mirror(api, resource, partial(project, kind), self._child_changed) for kind, resource in kinds.items()
        }

    @property
    def mirrors(self) -> tuple[Mirror[Any], ...]:
        """Grants last: by the time they are known, everything they need is being read as well."""
        return (self.namespaces, *self.children.values(), self.grants)

    async def synced(self) -> None:
        """Wait until every mirror has been read once."""
        await asyncio.gather(*(mirror.synced.wait() for mirror in self.mirrors))

    def grant(self, name: str) -> Grant | None:
        """A grant by name."""
        return self.grants.get(("", name))

    def namespace(self, name: str) -> Namespace | None:
        """A namespace by name."""
        return self.namespaces.get(("", name))

    def base(self, name: str) -> Rules | None:
        """The rules of a ClusterRole, or None where there is none of that name."""
        role = self.cluster_role(name)
        return role.content.rules if role is not None and isinstance(role.content, RoleContent) else None

    def cluster_role(self, name: str) -> Child | None:
        """A ClusterRole, whoever it belongs to."""
        return self.children[Kind.CLUSTER_ROLE].get(("", name))

    def account(self, namespace: str, name: str) -> Child | None:
        """A ServiceAccount, whoever it belongs to."""
        return self.children[Kind.SERVICE_ACCOUNT].get((namespace, name))

    def related_grants(self) -> Iterable[str]:
        """Names of all grants, existing or not, that some child relates to."""
        return self._related.keys()

    def related_namespaces(self, grant: str) -> Iterable[str]:
        """Namespaces in which some child relates to the grant."""
        return self._related.get(grant, {}).keys() - {""}

    def related(self, grant: str, namespace: str | None = None) -> Iterable[Child]:
        """Children that relate to the grant: in one namespace, in none (its ClusterRoles: "") or all of them."""
        cells = self._related.get(grant, {})
        wanted = cells.items() if namespace is None else ((namespace, cells.get(namespace, ())),)
        found = (self.children[kind].get((where, name)) for where, cell in wanted for kind, name in cell)
        return (child for child in found if child is not None)

    def bindings(self, grant: Grant) -> Iterable[Child]:
        """RoleBindings that are the grant's own."""
        return (child for child in self.related_bindings(grant.id.name) if child.whose(grant.id) is Whose.OURS)

    def related_bindings(self, grant: str) -> Iterable[Child]:
        """RoleBindings that relate to the grant, whoever they belong to."""
        return (child for child in self.related(grant) if child.kind is Kind.ROLE_BINDING)

    def backing(self, binding: Child) -> Child | None:
        """The Role or ClusterRole that a RoleBinding points to; None where there is none, so that it gives nothing."""
        ref = binding.content
        if not isinstance(ref, BindingContent) or ref.role_kind not in (Kind.ROLE, Kind.CLUSTER_ROLE):
            return None
        namespace = binding.namespace if ref.role_kind == Kind.ROLE else ""
        return self.children[Kind(ref.role_kind)].get((namespace, ref.role_name))

    def _child_changed(self, key: Key, old: Child | None, new: Child | None) -> None:
        before = old.relates_to() if old is not None else frozenset()
        after = new.relates_to() if new is not None else frozenset()
        if old is not None:
            for grant in before - after:
                self._relate(grant, key[0], (old.kind, old.name), related=False)
        if new is not None:
            for grant in after - before:
                self._relate(grant, key[0], (new.kind, new.name), related=True)
        if (changed := new or old) is not None and changed.kind is Kind.CLUSTER_ROLE:
            self._watcher.cluster_role_changed(changed.name)
        self._watcher.child_changed(old, new, before | after)

    def _relate(self, grant: str, namespace: str, entry: tuple[Kind, str], *, related: bool) -> None:
        cells = self._related.setdefault(grant, {})
        others = tuple(known for known in cells.get(namespace, ()) if known != entry)
        if cell := (*others, entry) if related else others:
            cells[namespace] = shared(cell)  # the same in all namespaces of a grant
        else:
            cells.pop(namespace, None)
            if not cells:
                del self._related[grant]


def _read_namespace(raw: Json, known: Namespace | None) -> Namespace:  # noqa: ARG001 - a projection may look at what is known
    meta = raw["metadata"]
    return Namespace(
        name=sys.intern(meta["name"]),
        uid=meta["uid"],
        version=int(meta["resourceVersion"]),
        labels=tuple(sorted((sys.intern(key), sys.intern(value)) for key, value in (meta.get("labels") or {}).items())),
        terminating="deletionTimestamp" in meta,
    )
