"""Nothing is lost when the process dies between any two requests: every single place is tried, none is sampled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from localcluster import wait_until
from tests.faults.faulty import FaultyApi, crash_at, running
from tests.stage import Json, Stage, Who
from vmaccess.model.spec import Preset

ANN, BOB, CID = Who("ann"), Who("bob"), Who("cid")
KEEP_LESS = [{"resources": ["virtualmachines"], "verbs": ["get", "list"]}]
KEEP_MORE = [{"resources": ["virtualmachines"], "verbs": ["get", "list", "delete"]}]
PATIENCE = 20.0


def user(name: str) -> Json:
    """A subject."""
    return {"kind": "User", "name": name}


async def until(probe: object, what: str) -> None:
    """Wait without holding up the controller in this very loop."""
    assert callable(probe)
    await asyncio.to_thread(wait_until, probe, what, timeout=PATIENCE)


async def converge(kubeconfig: Path, stage: Stage, name: str) -> int:
    """Run the controller without faults until the grant is Ready; returns the writes that were left to do."""
    async with running(kubeconfig) as (_, api):
        await until(lambda: is_done(stage, name), f"{name} to be ready, and what nobody shares any more to be gone")
        return api.writes


async def crashed(api: FaultyApi) -> None:
    """Wait until the planned crash has happened."""
    async with asyncio.timeout(PATIENCE):
        await api.crashed.wait()


def is_done(stage: Stage, name: str) -> bool:
    """Whether the grant is Ready, and the shared ClusterRoles are those that it asks for."""
    spec = stage.get(name)["spec"]
    role, ended = spec.get("role", {}), spec.get("suspend", False) or "expirationTime" in spec
    wanted = {role.get("preset", "View")} if role.get("kind") == "ClusterRole" and "keep" not in role else set()
    return is_ready(stage, name) and (shared(stage) == wanted or (ended and not shared(stage)))


def shared(stage: Stage) -> set[str]:
    """The presets whose ClusterRole exists."""
    return {preset for preset in get_args(Preset) if stage.child("clusterroles", "", f"vmaccess:{preset}") is not None}


def is_ready(stage: Stage, name: str) -> bool:
    """Whether the newest generation is Ready."""
    grant = stage.get(name)
    status = grant.get("status", {})
    current = status.get("observedGeneration") == grant["metadata"]["generation"]
    return current and any((c["type"], c["status"]) == ("Ready", "True") for c in status.get("conditions", ()))


def children(stage: Stage, name: str) -> list[Json]:
    """The children as they are, without what differs from run to run."""
    found = []
    for kind, namespaced in (child.split(" ") for child in stage.children(name)):
        raw = stage.child(kind, *namespaced.split("/", 1))
        assert raw is not None
        found.append({key: value for key, value in raw.items() if key not in ("metadata", "apiVersion")} | {"at": namespaced})
    return found


def never_wrong() -> bool:
    """Where nothing is to be said of the moment after a crash."""
    return True


async def try_every_crash(
    kubeconfig: Path, stage: Stage, name: str, forth: Json, back: Json, at_rest: Callable[[], bool] = never_wrong
) -> int:
    """From `back` to `forth` with a crash at each write, before and after it, then on to the end; always the same end.

    `at_rest` tells whether the access is as it may be while nobody is at work after the crash.
    """
    for spec in (forth, back):  # what a first time leaves for good, such as a shared ClusterRole, is no part of it
        stage.respec(name, spec)
        await converge(kubeconfig, stage, name)
    stage.respec(name, forth)
    writes = await converge(kubeconfig, stage, name)
    reference = children(stage, name)
    assert writes > 0
    for number in range(1, writes + 1):
        for answered in (False, True):
            stage.respec(name, back)
            await converge(kubeconfig, stage, name)
            stage.respec(name, forth)
            async with running(kubeconfig, crash_at(number, answered=answered)) as (_, api):
                await crashed(api)
            await until(at_rest, f"access as it may be after a crash at write {number}, answered={answered}")
            await converge(kubeconfig, stage, name)
            assert children(stage, name) == reference, f"crash at write {number}, answered={answered}"
            assert await converge(kubeconfig, stage, name) == 0, "and nothing is written twice"
    return writes


OWN: Json = {"kind": "ClusterRole", "keep": KEEP_MORE}
SHARED: Json = {"kind": "ClusterRole"}


@pytest.mark.parametrize(
    ("role", "writes"),
    [
        pytest.param({}, 5, id="Role: 2 Roles, 2 bindings, the status"),
        pytest.param(OWN, 4, id="ClusterRole: 1, 2 bindings, the status"),
        pytest.param(SHARED, 3, id="shared: 2 bindings, the status"),
    ],
)
@pytest.mark.parametrize("over", [{"suspend": True}, {"expirationTime": "2020-01-01T00:00:00Z"}], ids=["suspended", "expired"])
async def test_creating_and_ending(kubeconfig: Path, bare_stage: Stage, role: Json, writes: int, over: Json) -> None:
    stage = bare_stage
    one, two = stage.namespace(), stage.namespace()
    spec: Json = {"subjects": [user("ann")], "serviceAccounts": [{"name": "runner", "namespace": one}], "namespaces": [one, two]}
    spec["role"] = role
    name = stage.grant({**spec, **over})
    assert await try_every_crash(kubeconfig, stage, name, forth=spec, back={**spec, **over}) == writes
    stage.assert_access(ANN, {one: True, two: True})
    assert await try_every_crash(kubeconfig, stage, name, forth={**spec, **over}, back=spec) == writes
    stage.assert_access(ANN, {one: False, two: False})


CHANGES = [
    pytest.param({}, {"keep": KEEP_MORE}, id="the rules of a Role"),
    pytest.param({"kind": "ClusterRole", "keep": KEEP_LESS}, OWN, id="the rules of a ClusterRole"),
    pytest.param({"keep": KEEP_LESS}, OWN, id="Role to ClusterRole"),
    pytest.param(OWN, SHARED, id="ClusterRole to a shared one"),
    pytest.param(SHARED, {**SHARED, "preset": "Operate"}, id="one shared to another"),
    pytest.param({**SHARED, "preset": "Operate"}, {"keep": KEEP_LESS}, id="a shared one to Role"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
async def test_changing_everything_at_once(kubeconfig: Path, bare_stage: Stage, old: Json, new: Json) -> None:
    stage = bare_stage
    stays, leaves, joins = stage.namespace(), stage.namespace(), stage.namespace()
    before = {"subjects": [user("ann"), user("cid")], "namespaces": [stays, leaves], "role": old}
    after = {
        "subjects": [user("bob"), user("cid")],
        "serviceAccounts": [{"name": "runner", "namespace": stays}],
        "namespaces": [stays, joins],
        "role": new,
    }
    name = stage.grant(before)

    def at_rest() -> bool:
        """Who stays has access, who leaves and who joins has it where either is listed, and nobody may do what neither gives."""
        astray = [(ANN, joins), (BOB, leaves), (CID, "default")]
        return stage.views(CID, stays) and not any(
            stage.views(*where) or stage.can(who, "get", "/secrets", stays) for where in astray for who in (ANN, BOB, CID)
        )

    await try_every_crash(kubeconfig, stage, name, forth=after, back=before, at_rest=at_rest)
    stage.assert_access(ANN, {stays: False, leaves: False, joins: False})
    for who in (BOB, CID):
        stage.assert_access(who, {stays: True, leaves: False, joins: True})


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("role", "writes"),
    [
        pytest.param({}, 5, id="Role: 2 bindings, 2 Roles, the ServiceAccount"),
        pytest.param(OWN, 4, id="ClusterRole: 1, 2 bindings, the ServiceAccount"),
        pytest.param(SHARED, 4, id="shared: 2 bindings, the ServiceAccount, the ClusterRole"),
    ],
)
async def test_deleting(kubeconfig: Path, bare_stage: Stage, role: Json, writes: int, answered: bool) -> None:  # noqa: FBT001
    stage = bare_stage
    one, two = stage.namespace(), stage.namespace()
    spec: Json = {"subjects": [user("ann")], "serviceAccounts": [{"name": "runner", "namespace": one}], "namespaces": [one, two]}
    spec["role"] = role
    for number in range(1, writes + 1):
        name = stage.grant(spec)
        await converge(kubeconfig, stage, name)
        stage.cluster.stop_controller_manager()  # no garbage collector helps
        try:
            async with running(kubeconfig, crash_at(number, answered=answered)) as (_, api):
                await asyncio.to_thread(stage.delete, name)
                await crashed(api)
            async with running(kubeconfig):
                await until(lambda gone=name: not stage.children(gone) and not shared(stage), "all to be gone")
        finally:
            stage.cluster.start_controller_manager()
        stage.assert_access(ANN, {one: False, two: False})
