"""What is known of the cluster stays as new as the mirrors: a write that carries an old resourceVersion never succeeds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from kubernetes.aio.client import Configuration

from vmaccess.cluster import mirror
from vmaccess.cluster.api import Api, Resource
from vmaccess.cluster.world import World
from vmaccess.controller import Controller
from vmaccess.policy.children import GrantId, Kind, RoleContent, body
from vmaccess.policy.rules import Rule

GRANT = GrantId("team", "uid-1")
RULES = (Rule(("kubevirt.io",), ("virtualmachines",), ("get",)),)


def role(version: int, **changes: Any) -> dict[str, Any]:
    """The grant's Role in the namespace `ns`, as the API server would show it."""
    raw = body(Kind.ROLE, GRANT, "ns", GRANT.child_name, RoleContent(RULES))
    raw["metadata"] |= {"uid": "role-1", "resourceVersion": str(version), "creationTimestamp": "2026-01-01T00:00:00Z", **changes}
    return raw


async def world() -> tuple[Api, World]:
    """A world that has heard of nothing yet."""
    api = Api(Configuration())
    return api, Controller(api, protected=()).world


async def test_a_change_of_nothing_we_look_at_still_brings_the_new_version() -> None:
    api, known = await world()
    async with api:
        roles = known.children[Kind.ROLE]
        for version in (1, 2, 3):
            roles.observe(role(version, annotations={"somebody": f"else {version}"}))
            assert [child.version for child in known.related("team", "ns")] == [version]


async def test_an_older_state_that_arrives_late_is_ignored() -> None:
    api, known = await world()
    async with api:
        roles = known.children[Kind.ROLE]
        roles.observe(role(5))
        roles.observe(role(4, labels={}))
        assert [(child.version, child.label_uid) for child in known.related("team", "ns")] == [(5, GRANT.uid)]
        roles.forget(("ns", GRANT.child_name), "role-1")
        roles.observe(role(6))
        assert list(known.related("team")) == [], "what we deleted does not come back by an event that was under way"


async def test_a_child_that_lost_every_mark_is_still_found_by_its_name_and_its_past() -> None:
    api, known = await world()
    async with api:
        roles = known.children[Kind.ROLE]
        roles.observe(role(1))
        roles.observe(role(2, labels={}, ownerReferences=[]))
        (child,) = known.related("team", "ns")
        assert child.whose(GRANT).value == "ours"
        assert list(known.related_namespaces("team")) == ["ns"]


def listing(monkeypatch: pytest.MonkeyPatch, *lists: tuple[int, list[dict[str, Any]]]) -> asyncio.Event:
    """Lists with these objects at these resourceVersions, each after a watch that has expired; the event tells of the last."""
    left, done = deque(lists), asyncio.Event()

    async def pages(_: Api, __: Resource) -> AsyncIterator[dict[str, Any]]:
        version, items = left.popleft()
        yield {"metadata": {"resourceVersion": str(version)}, "items": items}

    async def watch(*_: object, **__: object) -> AsyncGenerator[dict[str, Any], None]:
        if not left:
            done.set()
            await asyncio.Event().wait()
        yield {"type": "ERROR", "object": {"code": 410}}

    monkeypatch.setattr(Api, "list", pages)
    monkeypatch.setattr(Api, "watch", watch)
    monkeypatch.setattr(mirror, "FIRST_DELAY", 0.01)
    return done


async def found(known: World, done: asyncio.Event) -> list[tuple[str, int]]:
    """Uids and versions of the Roles when all lists have been read."""
    task = asyncio.create_task(known.children[Kind.ROLE].run())
    await asyncio.wait_for(done.wait(), 10)
    task.cancel()
    return [(child.uid, child.version) for child in known.related("team")]


async def test_a_backup_that_was_restored_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    api, known = await world()
    async with api:
        done = listing(monkeypatch, (1000, [role(900)]), (500, [role(400, uid="role-0")]))
        assert await found(known, done) == [("role-0", 400)]
        known.children[Kind.ROLE].observe(role(501, uid="role-0"))
        assert [child.version for child in known.related("team")] == [501], "what is written after it counts as new"


async def test_what_was_taken_for_deleted_and_is_listed_later_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    api, known = await world()
    async with api:
        roles = known.children[Kind.ROLE]
        roles.observe(role(5))
        roles.forget(("ns", GRANT.child_name), "role-1")
        assert await found(known, listing(monkeypatch, (9, [role(5)]))) == [("role-1", 5)]
