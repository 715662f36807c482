"""What is known of the cluster stays as new as the mirrors: a write that carries an old resourceVersion never succeeds."""

from __future__ import annotations

from typing import Any

from kubernetes.aio.client import Configuration

from vmaccess.cluster.api import Api
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
