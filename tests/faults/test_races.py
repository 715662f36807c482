"""Answers that come late, watches that lag and people who keep changing things: none of it gives or keeps a right."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

import vmaccess.controller
from tests.faults.faulty import FaultyApi, Plan, Request, Send, at_work, running
from tests.faults.test_crash import is_ready, until, user
from tests.stage import GRANTS, Json, Stage, Who
from vmaccess.cluster.api import ApiError, Resource
from vmaccess.controller import Controller
from vmaccess.keys import Key, Part

ANN, EVE = Who("ann"), Who("eve")


async def do(action: Any, *arguments: Any, **options: Any) -> Any:
    """Do something to the cluster without holding up the controller in this very loop."""
    return await asyncio.to_thread(action, *arguments, **options)


class LaggingApi(FaultyApi):
    """The watch of grants stands still while `gate` is closed."""

    gate: asyncio.Event | None = None

    async def watch(self, resource: Resource, version: str, *, seconds: int) -> AsyncGenerator[Json, None]:
        stream = super().watch(resource, version, seconds=seconds)
        try:
            async for event in stream:
                if self.gate is not None and resource.plural == "vmaccessgrants":
                    await self.gate.wait()
                yield event
        finally:
            await stream.aclose()


@asynccontextmanager
async def lagging(kubeconfig: Path, plan: Plan) -> AsyncIterator[tuple[Controller, LaggingApi]]:
    """The controller over a LaggingApi."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    try:
        async with LaggingApi(configuration, plan) as api, at_work(api) as controller:
            yield controller, api
    finally:
        await asyncio.sleep(0.1)


async def test_a_late_answer_does_not_bring_a_deleted_grant_back(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    spaces = [stage.namespace() for _ in range(5)]
    hold, held, let_go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        answer = await send()
        if request.path.endswith("/status") and hold.is_set() and not held.is_set():
            held.set()
            await let_go.wait()
        return answer

    async with running(kubeconfig, plan) as (controller, api):
        name = await do(stage.grant, {"subjects": [user("ann")], "namespaces": spaces})
        await until(lambda: is_ready(stage, name), "ready")
        hold.set()
        await do(stage.respec, name, {"subjects": [user("ann")], "namespaces": spaces[:4]})
        await held.wait()
        await do(stage.delete, name)
        await until(lambda: controller.world.grant(name) is None and not stage.children(name), "all to be revoked")
        done = api.writes
        let_go.set()
        await asyncio.sleep(1)
        assert controller.world.grant(name) is None
        assert api.writes == done
        assert not stage.views(ANN, spaces[0])


async def test_a_late_answer_does_not_hide_that_a_binding_is_gone(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    namespace = stage.namespace()
    done = False

    async def plan(request: Request, send: Send) -> Json:
        nonlocal done
        answer = await send()
        if request.method == "POST" and request.path.endswith("/rolebindings") and not done:
            done = True
            await do(stage.request, "DELETE", stage.path("rolebindings", namespace, answer["metadata"]["name"]))
            await asyncio.sleep(0.5)  # the watch is faster than this answer
        return answer

    async with running(kubeconfig, plan):
        name = await do(stage.grant, {"subjects": [user("ann")], "namespaces": [namespace]})
        await until(lambda: done and stage.views(ANN, namespace), "the binding to be made again")
        await until(lambda: is_ready(stage, name), "ready")


async def test_no_status_says_ready_while_a_repair_cannot_be_begun(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    namespace = stage.namespace()
    broken = asyncio.Event()

    async def plan(request: Request, send: Send) -> Json:
        if broken.is_set() and request.method == "GET" and "vmaccessgrants/" in request.path:
            raise ApiError(500, "InternalError", "etcd has no leader")
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, {"subjects": [user("ann")], "namespaces": [namespace]})
        await until(lambda: is_ready(stage, name), "ready")
        broken.set()
        await do(stage.request, "DELETE", stage.path("rolebindings", namespace, f"vmaccess:{name}"))
        await until(lambda: not is_ready(stage, name), "the status to stop saying that all is well")
        broken.clear()
        await until(lambda: is_ready(stage, name) and stage.views(ANN, namespace), "the repair")


async def test_whoever_keeps_changing_a_binding_does_not_keep_a_right(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    namespace = stage.namespace()
    flood, count = asyncio.Event(), 0

    async def plan(request: Request, send: Send) -> Json:
        nonlocal count
        if request.method == "PATCH" and "/rolebindings/" in request.path and flood.is_set():
            count += 1
            path = request.path.split("?")[0]
            await do(stage.request, "PATCH", path, {"metadata": {"annotations": {"n": str(count)}}}, expect=None)
        return await send()

    async with running(kubeconfig, plan):
        name = await do(stage.grant, {"subjects": [user("ann"), user("eve")], "namespaces": [namespace]})
        await until(lambda: is_ready(stage, name), "ready")
        flood.set()
        await do(stage.respec, name, {"subjects": [user("ann")], "namespaces": [namespace]})
        await until(lambda: not stage.views(EVE, namespace), "eve to lose access")
        await until(lambda: is_ready(stage, name), "ready")
        assert stage.views(ANN, namespace)
    assert count > 1, "the patch was really made to fail"


async def test_whoever_keeps_changing_what_he_holds_does_not_outlive_the_grant(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    namespace = stage.namespace()
    flood, count, held = asyncio.Event(), 0, {"finalizers": ["example.com/mine"]}

    async def plan(request: Request, send: Send) -> Json:
        nonlocal count
        if request.method in ("PATCH", "DELETE") and "/rolebindings/" in request.path and flood.is_set():
            count += 1
            path = request.path.split("?")[0]
            await do(stage.request, "PATCH", path, {"metadata": held | {"annotations": {"n": str(count)}}}, expect=None)
        return await send()

    stage.cluster.stop_controller_manager()
    try:
        async with running(kubeconfig, plan):
            name = await do(stage.grant, {"subjects": [user("eve")], "namespaces": [namespace]})
            await until(lambda: is_ready(stage, name), "ready")
            flood.set()
            await do(stage.request, "PATCH", stage.path("rolebindings", namespace, f"vmaccess:{name}"), {"metadata": held})
            await do(stage.delete, name)
            await until(lambda: not stage.views(EVE, namespace), "eve to lose access")
    finally:
        stage.cluster.start_controller_manager()
    assert count > 1, "the patch was really made to fail"


async def test_a_stripped_owner_does_not_save_what_an_earlier_grant_of_the_name_gave(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, refusing = bare_stage, False
    one, two = stage.namespace(), stage.namespace()

    async def plan(request: Request, send: Send) -> Json:
        if refusing and request.method == "DELETE" and f"/{two}/rolebindings/" in request.path:
            raise ApiError(500, "InternalError", "failed calling webhook")
        return await send()

    stage.cluster.stop_controller_manager()
    try:
        async with running(kubeconfig, plan):
            name = await do(stage.grant, {"subjects": [user("eve")], "namespaces": [one, two]}, "again")
            await until(lambda: is_ready(stage, name), "ready")
            refusing = True
            await do(stage.delete, name)
            await do(stage.grant, {"subjects": [user("ann")], "namespaces": [one]}, "again")
            await until(lambda: "RevocationFailed" in str(stage.get(name).get("status")), "the failure to be told")
            for kind in ("rolebindings", "roles"):
                path = stage.path(kind, two, f"vmaccess:{name}")
                stage.request("PATCH", path, {"metadata": {"ownerReferences": None}}, expect=None)
            await asyncio.sleep(1)
            assert stage.views(EVE, two)
            assert not is_ready(stage, name)
            refusing = False
            await until(lambda: not stage.views(EVE, two), "eve to lose access")
            await until(lambda: is_ready(stage, name) and stage.views(ANN, one), "ready")
    finally:
        stage.cluster.start_controller_manager()


async def test_a_revocation_does_not_wait_as_long_as_what_failed_before_it(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, pushed_back = bare_stage, 0
    one = stage.namespace()

    async def plan(request: Request, send: Send) -> Json:
        nonlocal pushed_back
        if request.method == "POST" and f"/{one}/rolebindings" in request.path:
            raise ApiError(403, "Forbidden", "quota")
        if request.method == "DELETE" and f"/{one}/roles/" in request.path and not pushed_back:
            pushed_back += 1
            raise ApiError(429, "TooManyRequests", "slow down")
        return await send()

    async with running(kubeconfig, plan) as (controller, _):
        spec = {"subjects": [user("eve")], "namespaces": [one]}
        name = await do(stage.grant, spec)
        await until(lambda: "quota" in str(stage.get(name).get("status")), "the failure to be told")
        controller.queue._failures[Key(Part.NAMESPACE, name, one)] = 9  # as after some minutes
        await do(stage.respec, name, {**spec, "suspend": True})
        await until(lambda: not stage.children(name), "all to be gone")
    assert pushed_back


@pytest.mark.parametrize("number", range(3))
async def test_stripping_the_owner_in_a_loop_does_not_save_access(kubeconfig: Path, bare_stage: Stage, number: int) -> None:
    stage = bare_stage
    namespace = stage.namespace()
    over = threading.Event()
    async with running(kubeconfig):
        name = await do(stage.grant, {"subjects": [user("ann")], "namespaces": [namespace]})
        await until(lambda: is_ready(stage, name), "ready")

        def strip(kind: str) -> None:
            path = stage.path(kind, namespace, f"vmaccess:{name}")
            while not over.is_set():
                stage.request("PATCH", path, {"metadata": {"ownerReferences": None}}, expect=None)

        threads = [threading.Thread(target=strip, args=(kind,)) for kind in ("roles", "rolebindings")]
        for thread in threads:
            thread.start()
        await asyncio.sleep(0.3 + 0.2 * number)
        await do(stage.delete, name)
        await asyncio.sleep(0.3)
        over.set()
        for thread in threads:
            await do(thread.join)
        await until(lambda: not stage.views(ANN, namespace) and not stage.children(name), "everything to be revoked")


async def test_nothing_is_made_again_after_a_deletion_that_is_not_seen_yet(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    spaces = [stage.namespace() for _ in range(8)]
    dead, made = asyncio.Event(), []

    async def plan(request: Request, send: Send) -> Json:
        if dead.is_set() and request.method == "POST" and request.is_write:
            made.append(request.path)
        return await send()

    accounts = [{"name": "run", "namespace": namespace} for namespace in spaces]
    async with lagging(kubeconfig, plan) as (_, api):
        name = await do(stage.grant, {"serviceAccounts": accounts, "namespaces": spaces})
        await until(lambda: is_ready(stage, name), "ready")
        api.gate = asyncio.Event()
        dead.set()
        await do(stage.delete, name)
        for count in range(10):  # garbage collection goes on, and other events make every key be looked at
            for namespace in spaces:
                await do(stage.relabel, namespace, count=str(count))
        await until(lambda: not stage.children(name), "garbage collection")
        api.gate.set()
        api.gate = None
    assert not made


async def test_no_status_is_written_while_the_plan_is_half_made(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = bare_stage
    monkeypatch.setattr(vmaccess.controller, "SLICE", 4)
    spaces = [stage.namespace() for _ in range(12)]
    told: list[tuple[str, str]] = []

    async def plan(request: Request, send: Send) -> Json:
        answer = await send()
        if request.path.endswith("/status"):
            ready = next(one["status"] for one in answer["status"]["conditions"] if one["type"] == "Ready")
            told.append((ready, answer["status"]["namespaces"]["summary"]))
        return answer

    async with lagging(kubeconfig, plan) as (_, api):
        name = await do(stage.grant, {"subjects": [user("ann")], "namespaces": spaces[:11]})
        await until(lambda: is_ready(stage, name), "ready")
        for number in range(4):
            api.gate = asyncio.Event()
            await do(stage.respec, name, {"subjects": [user("ann")], "namespaces": spaces[: 11 + number % 2]})
            annotated = {"metadata": {"annotations": {"x": str(number)}}}
            await do(stage.request, "PATCH", f"{GRANTS}/{name}", annotated)
            await do(stage.request, "PATCH", f"{GRANTS}/{name}/status", {"status": {"role": {"rules": 90 + number}}})
            api.gate.set()
            api.gate = None
            await until(lambda: is_ready(stage, name), "ready")
            await asyncio.sleep(0.5)
    assert {summary for ready, summary in told if ready == "True"} <= {"11/11", "12/12"}
