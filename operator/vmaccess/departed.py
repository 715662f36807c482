"""What grants that exist no more have left: removed where it was theirs, told of where it was meant to stay."""

from __future__ import annotations

import asyncio
import logging

from vmaccess.cluster.events import Events
from vmaccess.cluster.executor import DESPERATE, MAX_STEPS, PATIENCE, Executor, WriteFailed
from vmaccess.cluster.queue import WorkQueue
from vmaccess.cluster.world import World
from vmaccess.keys import Key, Part
from vmaccess.ownership import Ownership
from vmaccess.policy.access import release_step
from vmaccess.policy.children import Child, GrantId, Kind
from vmaccess.policy.steps import Write

log = logging.getLogger(__name__)

BINDINGS_FIRST = 0.1  # seconds after which a ServiceAccount that is still bound is looked at again
REVOKE_GRACE = 1.0  # seconds for which bindings wait for the end of the ClusterRole that revokes them all at once


class Departed:
    """Works on keys of grants that the mirror does not hold."""

    def __init__(self, world: World, ownership: Ownership, executor: Executor, queue: WorkQueue[Key], events: Events) -> None:
        self._world, self._ownership, self._executor, self._queue, self._events = world, ownership, executor, queue, events
        self._told: set[str] = set()  # names whose orphans have been told of

    def orphans(self) -> int:
        """How many children of grants that are gone were left behind on purpose, by --cascade=orphan."""
        gone = [name for name in self._world.related_grants() if self._world.grant(name) is None]
        return sum(len(self._left_behind(name)) for name in gone)

    async def look_at(self, key: Key) -> None:
        """Bring what is left of grants of this name to its end."""
        if key.part is Part.GRANT:
            await self._look_at_all(key)
        elif key.part is Part.STATUS:
            self._queue.forget(key)
        else:
            await self._release(key)

    async def _look_at_all(self, key: Key) -> None:
        """Find what is to go, after one read of the name: a partial list never revokes."""
        name, past = key.grant, self._ownership.past(key.grant)
        related = list(self._world.related(name))
        if not related:
            self._ownership.forget(name)
            self._told.discard(name)
            return
        owners = {uid for child in related for uid in child.end(past.revoked) if uid not in past.left}
        if owners - past.gone:
            if await self._ownership.confirm(name, owners):
                self._queue.forget(key)
            else:
                self._queue.retry(key)  # the mirror is behind; it will bring this grant
            namespaces = {child.namespace for child in related}
            log.info("%s: the grant is gone, removing its children in %d namespaces", name, len(namespaces))
        ending = [child for child in related if child.end(past.revoked) & past.gone]
        await self._revoke_at_once(name, ending)
        for child in ending:
            self._queue.add(_key(name, child), urgent=True)
        if (left := self._left_behind(name)) and name not in self._told:
            self._told.add(name)
            self.tell_orphaned(left[0])

    async def _revoke_at_once(self, name: str, ending: list[Child]) -> None:
        """A ClusterRole of the grant's own goes first: its end revokes everywhere. Should that fail or hang, the rest goes on."""
        for child in ending:
            if child.kind is Kind.CLUSTER_ROLE:
                try:
                    async with asyncio.timeout(REVOKE_GRACE):
                        await self._release(_key(name, child))
                except (WriteFailed, TimeoutError) as error:
                    log.warning("%s: ClusterRole %s still stands, removing the bindings to it: %s", name, child.name, error)

    async def _release(self, key: Key) -> None:
        """Remove the children, in one namespace or in none, of grants that exist no more: bindings, Roles, ServiceAccounts."""
        past = self._ownership.past(key.grant)
        if not past.gone:
            self._queue.forget(key)
            self._queue.add(Key(Part.GRANT, key.grant), urgent=True)
            return
        for tried in range(MAX_STEPS):
            if key.part is Part.ACCOUNT and any(
                child.kind is Kind.ROLE_BINDING and child.end(past.revoked) & past.gone and self._will_go(_key(key.grant, child))
                for child in self._world.related(key.grant)
            ):
                self._queue.put_off(key, BINDINGS_FIRST)
                return
            step = release_step(past.gone, past.revoked, self._here(key))
            if not isinstance(step, Write):
                self._queue.forget(key)
                return
            desperate = self._queue.failures(key) >= DESPERATE
            await self._executor.write(step, GrantId(key.grant, ""), insist=tried >= PATIENCE, desperate=desperate)
        self._queue.retry(key)

    def _will_go(self, key: Key) -> bool:
        """Whether it is worth to wait for: rather kill the tokens than wait for a binding that fails or hangs."""
        return not (self._queue.failures(key) or self._queue.hangs(key))

    def _here(self, key: Key) -> list[Child]:
        here = self._world.related(key.grant, key.namespace)
        if key.part is Part.ACCOUNT:
            return [child for child in here if (child.kind, child.name) == (Kind.SERVICE_ACCOUNT, key.account)]
        return [child for child in here if child.kind is not Kind.SERVICE_ACCOUNT]

    def _left_behind(self, name: str) -> list[GrantId]:
        """The marks of those children that carry the grant's label and end with nobody."""
        revoked = self._ownership.past(name).revoked
        return [
            mark
            for child in self._world.related(name)
            if not child.end(revoked) and (mark := child.marked_label) is not None and mark.name == name
        ]

    def tell_orphaned(self, grant: GrantId) -> None:
        """Say that children stay, and how to find them."""
        marks = (child.marked_label for child in self._world.related(grant.name))
        count = sum(1 for mark in marks if mark is not None and mark.name == grant.name)
        self._events.remark(
            grant,
            "Warning",
            "Orphaned",
            f"deleted with --cascade=orphan: {count} ServiceAccounts, Roles, ClusterRoles and RoleBindings stay, still grant "
            f"access and are no longer managed; find them by the label vmaccess.dev/grant={grant.name}",
        )


def _key(name: str, child: Child) -> Key:
    match child.kind:
        case Kind.SERVICE_ACCOUNT:
            return Key(Part.ACCOUNT, name, child.namespace, child.name)
        case Kind.CLUSTER_ROLE:
            return Key(Part.CLUSTER_ROLE, name)
    return Key(Part.NAMESPACE, name, child.namespace)
