"""Nothing is lost when the process dies between any two requests: every single place is tried, none is sampled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from localcluster import wait_until
from tests.faults.faulty import FaultyApi, crash_at, running
from tests.stage import Json, Stage, Who

ANN, BOB = Who("ann"), Who("bob")
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
        await until(lambda: is_ready(stage, name), f"{name} to be ready")
        return api.writes


async def crashed(api: FaultyApi) -> None:
    """Wait until the planned crash has happened."""
    async with asyncio.timeout(PATIENCE):
        await api.crashed.wait()


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


async def try_every_crash(kubeconfig: Path, stage: Stage, name: str, forth: Json, back: Json) -> int:
    """From `back` to `forth` with a crash at each write, before and after it, then on to the end; always the same end."""
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
            await converge(kubeconfig, stage, name)
            assert children(stage, name) == reference, f"crash at write {number}, answered={answered}"
            assert await converge(kubeconfig, stage, name) == 0, "and nothing is written twice"
    return writes


async def test_creating_and_suspending(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    one, two = stage.namespace(), stage.namespace()
    spec = {"subjects": [user("ann")], "serviceAccounts": [{"name": "runner", "namespace": one}], "namespaces": [one, two]}
    suspended = {**spec, "suspend": True}
    name = stage.grant(suspended)
    assert await try_every_crash(kubeconfig, stage, name, forth=spec, back=suspended) == 5  # 2 Roles, 2 bindings, the status
    stage.assert_access(ANN, {one: True, two: True})
    assert await try_every_crash(kubeconfig, stage, name, forth=suspended, back=spec) == 5
    stage.assert_access(ANN, {one: False, two: False})


async def test_changing_everything_at_once(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    stays, leaves, joins = stage.namespace(), stage.namespace(), stage.namespace()
    before = {"subjects": [user("ann")], "namespaces": [stays, leaves]}
    after = {
        "subjects": [user("bob")],
        "serviceAccounts": [{"name": "runner", "namespace": stays}],
        "namespaces": [stays, joins],
        "role": {"keep": KEEP_MORE},
    }
    name = stage.grant(before)
    await try_every_crash(kubeconfig, stage, name, forth=after, back=before)
    stage.assert_access(ANN, {stays: False, leaves: False, joins: False})
    stage.assert_access(BOB, {stays: True, leaves: False, joins: True})


@pytest.mark.parametrize("answered", [False, True], ids=["before", "after"])
async def test_deleting(kubeconfig: Path, bare_stage: Stage, answered: bool) -> None:  # noqa: FBT001
    stage = bare_stage
    one, two = stage.namespace(), stage.namespace()
    spec = {"subjects": [user("ann")], "serviceAccounts": [{"name": "runner", "namespace": one}], "namespaces": [one, two]}
    for number in range(1, 6):  # 2 bindings, 2 Roles, the ServiceAccount
        name = stage.grant(spec)
        await converge(kubeconfig, stage, name)
        stage.cluster.stop_controller_manager()  # no garbage collector helps
        try:
            async with running(kubeconfig, crash_at(number, answered=answered)) as (_, api):
                await asyncio.to_thread(stage.delete, name)
                await crashed(api)
            async with running(kubeconfig):
                await until(lambda gone=name: not stage.children(gone), "all to be gone")
        finally:
            stage.cluster.start_controller_manager()
        stage.assert_access(ANN, {one: False, two: False})
