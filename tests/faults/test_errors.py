"""Requests that fail in every way a network and an API server know: the end is the same, and nothing is written twice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.faults.faulty import Plan, Request, Send, failing, running
from tests.faults.test_crash import is_ready, until, user
from tests.stage import Json, Stage, Who
from vmaccess.cluster.api import ApiError

ANN = Who("ann")
UNAVAILABLE = ApiError(503, "ServiceUnavailable", "try again")
LOST = ApiError(0, "Timeout", "no answer")


@pytest.mark.parametrize(
    "plan",
    [
        pytest.param(lambda: failing(UNAVAILABLE, times=4), id="503 four times"),
        pytest.param(lambda: failing(LOST, times=5, sent=True), id="done, but every answer is lost"),
        pytest.param(lambda: failing(LOST, times=3), id="never sent"),
        pytest.param(lambda: failing(ApiError(409, "Conflict", "the object has been modified"), times=3), id="409 three times"),
        pytest.param(
            lambda: failing(ApiError(500, "InternalError", "etcd has no leader"), times=3, where="/roles"), id="500 on Roles"
        ),
    ],
)
async def test_the_end_is_the_same(kubeconfig: Path, bare_stage: Stage, plan: object) -> None:
    stage = bare_stage
    one, two, three = (stage.namespace() for _ in range(3))
    spec = {"subjects": [user("ann")], "serviceAccounts": [{"name": "runner", "namespace": one}], "namespaces": [one, two, three]}
    assert callable(plan)
    async with running(kubeconfig, plan()) as (_, api):
        name = await asyncio.to_thread(stage.grant, spec)
        await until(lambda: is_ready(stage, name), "ready")
        stage.assert_access(ANN, {one: True, two: True, three: True})
        assert len(stage.children(name)) == 7
        stage.assert_access(ANN, {"default": False})
        await asyncio.to_thread(stage.delete, name)
        await until(lambda: not stage.children(name), "all to be gone")
        done = api.writes
        await asyncio.sleep(0.5)
        assert api.writes == done, "and then there is nothing left to write"


@pytest.mark.parametrize("code", [404, 409], ids=["not found", "conflict"])
async def test_a_deletion_that_a_webhook_refuses_is_never_taken_for_done(kubeconfig: Path, bare_stage: Stage, code: int) -> None:
    stage = bare_stage
    one, refusing = stage.namespace(), False

    async def plan(request: Request, send: Send) -> Json:
        if refusing and request.method == "DELETE" and "/rolebindings/" in request.path:
            raise ApiError(code, "NotFound", 'admission webhook "w" denied the request: rolebindings "x" not found')
        return await send()

    spec = {"subjects": [user("ann")], "namespaces": [one]}
    async with running(kubeconfig, plan):
        name = await asyncio.to_thread(stage.grant, spec)
        await until(lambda: is_ready(stage, name), "ready")
        refusing = True
        await asyncio.to_thread(stage.respec, name, {**spec, "suspend": True})
        await until(lambda: "RevocationFailed" in str(stage.get(name)["status"]), "the status to say so")
        assert stage.views(ANN, one)
        refusing = False
        await until(lambda: not stage.views(ANN, one), "the revocation")


async def test_a_narrowing_that_a_webhook_answers_with_a_conflict_comes_to_the_next_best(
    kubeconfig: Path, bare_stage: Stage
) -> None:
    stage = bare_stage
    one, eve = stage.namespace(), Who("eve")

    async def plan(request: Request, send: Send) -> Json:
        if request.method == "PATCH" and "/rolebindings/" in request.path:
            raise ApiError(409, "Conflict", 'admission webhook "w" denied the request: not now')
        return await send()

    async with running(kubeconfig, plan):
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann"), user("eve")], "namespaces": [one]})
        await until(lambda: is_ready(stage, name), "ready")
        assert stage.views(eve, one)
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: not stage.views(eve, one), "who left to be without access")
        await until(lambda: is_ready(stage, name) and stage.views(ANN, one), "who stays to have it")


async def test_the_servers_wish_to_wait_is_respected(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    one = stage.namespace()
    tries: list[float] = []

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and "/roles" in request.path:
            tries.append(time.monotonic())
            if len(tries) == 1:
                raise ApiError(429, "TooManyRequests", "slow down", retry_after=2.0)
        return await send()

    async with running(kubeconfig, plan):
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one]})
        await until(lambda: is_ready(stage, name), "ready")
    assert len(tries) == 2
    assert tries[1] - tries[0] >= 1.8, "Retry-After, less the jitter"


def hanging(where: str) -> Plan:
    """Writes to this namespace are never answered."""

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and f"/{where}/" in request.path:
            await asyncio.Event().wait()
        return await send()

    return plan


async def test_a_namespace_that_hangs_holds_up_no_other(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    stuck, *fine = (stage.namespace() for _ in range(6))
    async with running(kubeconfig, hanging(stuck)):
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [stuck, *fine]})
        other = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": fine[:2]})
        await until(lambda: all(stage.views(ANN, namespace) for namespace in fine), "all the others")
        await until(lambda: is_ready(stage, other), "a grant that has nothing to do with it")
        await until(lambda: stage.get(name)["status"].get("namespaces", {}).get("summary") == "5/6", "the status to tell 5/6")
        # A change of the grant is followed everywhere else, and its end as well.
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [stuck, *fine[2:]]})
        await asyncio.to_thread(stage.delete, other)
        await until(lambda: not stage.views(ANN, fine[0]), "the revocation elsewhere")


async def test_a_service_account_that_hangs_holds_up_its_own_access_only(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    stuck, fine = stage.namespace(), stage.namespace()
    spec = {"subjects": [user("ann")], "serviceAccounts": [{"name": "runner", "namespace": stuck}], "namespaces": [fine]}
    async with running(kubeconfig, hanging(stuck)):
        await asyncio.to_thread(stage.grant, spec)
        await until(lambda: stage.views(ANN, fine), "the others to be bound without it")
        assert not stage.views(Who.service_account(stuck, "runner"), fine)
