"""Very many grants and namespaces at once: nobody waits for what hangs or for who has more, and what is to end ends first."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.faults.faulty import Plan, Request, Send, running
from tests.faults.test_crash import is_ready, until, user
from tests.stage import Json, Stage, Who
from vmaccess import reporting
from vmaccess.cluster.api import ApiError
from vmaccess.reporting import STATUS_INTERVAL, STATUS_INTERVAL_AT_REST

ANN = Who("ann")


def slow(seconds: float, seen: list[str]) -> Plan:
    """Every write of a child takes that long; `seen` collects `METHOD path` of all of them in order."""

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and "vmaccessgrants" not in request.path:
            seen.append(f"{request.method} {request.path}")
            await asyncio.sleep(seconds)
        return await send()

    return plan


def creates(seen: list[str]) -> int:
    """How many children have been created so far."""
    return sum(1 for write in seen if write.startswith("POST"))


def spec_for(namespaces: list[str], **changes: object) -> Json:
    """A grant for ann."""
    return {"subjects": [user("ann")], "namespaces": namespaces, **changes}


def summary(stage: Stage, name: str) -> str | None:
    """In how many of its namespaces a grant is in effect, as its status says."""
    found: str | None = stage.get(name).get("status", {}).get("namespaces", {}).get("summary")
    return found


async def test_a_namespace_that_hangs_in_very_many_grants_holds_up_nothing_else(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    stuck, *fine = (stage.namespace() for _ in range(4))

    async def plan(request: Request, send: Send) -> Json:
        if request.method == "POST" and f"/{stuck}/" in request.path:
            await asyncio.Event().wait()
        return await send()

    before = await asyncio.to_thread(stage.grant, spec_for([stuck]))
    async with running(kubeconfig):
        await until(lambda: is_ready(stage, before), "a grant from before it hung")
    async with running(kubeconfig, plan, max_in_flight=4) as (controller, _):
        names = [await asyncio.to_thread(stage.grant, spec_for([stuck, *fine])) for _ in range(20)]
        for name in names:
            await until(lambda name=name: summary(stage, name) == "3/4", f"{name} everywhere else")
        assert controller.queue.hanging <= 4, "what hangs is bounded"
        await asyncio.to_thread(stage.delete, before)
        await until(lambda: not stage.children(before), "the end of the one that works there, where only creating hangs")


async def test_a_small_grant_does_not_wait_for_a_large_one(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, seen = bare_stage, list[str]()
    namespaces = [stage.namespace() for _ in range(40)]
    async with running(kubeconfig, slow(0.1, seen), max_in_flight=4):
        large = await asyncio.to_thread(stage.grant, spec_for(namespaces))
        await until(lambda: creates(seen) >= 4, "the large one to have begun")
        small = await asyncio.to_thread(stage.grant, spec_for(namespaces[:2]))
        await until(lambda: is_ready(stage, small), "the small one")
        assert not is_ready(stage, large)
        await until(lambda: is_ready(stage, large), "the large one")
    assert creates(seen) == 84


async def test_what_is_to_end_overtakes_all_that_is_to_begin(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, seen = bare_stage, list[str]()
    namespaces = [stage.namespace() for _ in range(60)]
    deleted = await asyncio.to_thread(stage.grant, spec_for(namespaces[:5]))
    narrowed = await asyncio.to_thread(stage.grant, spec_for(namespaces[5:10], role={"preset": "Operate"}))
    async with running(kubeconfig):
        await until(lambda: is_ready(stage, deleted) and is_ready(stage, narrowed), "both")
    stage.cluster.stop_controller_manager()  # no garbage collector helps
    try:
        async with running(kubeconfig, slow(0.1, seen), max_in_flight=4):
            large = await asyncio.to_thread(stage.grant, spec_for(namespaces))
            await until(lambda: creates(seen) >= 8, "the large one to have begun")
            begun = creates(seen)
            await asyncio.to_thread(stage.delete, deleted)
            await asyncio.to_thread(stage.respec, narrowed, spec_for(namespaces[5:10], role={"preset": "View"}))
            await until(lambda: not stage.children(deleted) and is_ready(stage, narrowed), "both changes")
            assert creates(seen) < 100, "the creates still wait"
            await until(lambda: is_ready(stage, large), "the large one")
    finally:
        stage.cluster.start_controller_manager()
    last = max(number for number, write in enumerate(seen) if not write.startswith("POST"))
    between = creates(seen[:last]) - begun
    assert between < 30, f"{between} creates came before the last of 15 revocations"
    assert creates(seen) == 120


async def test_a_long_converge_shows_how_far_it_is_and_not_every_step(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, seen = bare_stage, list[str]()
    namespaces = [stage.namespace() for _ in range(40)]
    told: list[tuple[float, int]] = []

    async def plan(request: Request, send: Send) -> Json:
        answer = await slow(0.3, seen)(request, send)
        if request.path.endswith("/status"):
            told.append((asyncio.get_running_loop().time(), int(answer["status"]["namespaces"]["summary"].split("/")[0])))
        return answer

    async with running(kubeconfig, plan, max_in_flight=4):
        name = await asyncio.to_thread(stage.grant, spec_for(namespaces))
        await until(lambda: is_ready(stage, name), "ready")
        await until(lambda: told[-1][1] == 40, "the answer to come back to who wrote it")
    counts = [ready for _, ready in told]
    assert counts == sorted(set(counts)), "each tells of more than the one before"
    assert counts[-1] == 40
    assert len(counts) >= 3, "and it was told on the way"
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(told[:-1])]
    assert all(gap >= STATUS_INTERVAL * 0.9 for gap in gaps), gaps


async def test_the_end_is_told_at_once_where_the_status_only_told_of_the_way(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, one, go = bare_stage, bare_stage.namespace(), asyncio.Event()
    monkeypatch.setattr(reporting, "STATUS_INTERVAL_AT_REST", 1000.0)

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and f"/{one}/rolebindings" in request.path:
            await go.wait()
        answer = await send()
        if request.path.endswith("/status"):
            go.set()
        return answer

    async with running(kubeconfig, plan):
        name = await asyncio.to_thread(stage.grant, spec_for([one]))
        await until(lambda: is_ready(stage, name), "ready")


async def test_an_api_server_that_pushes_back_gets_less_at_once_and_then_all_of_it(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    namespaces = [stage.namespace() for _ in range(30)]
    in_flight, most, refused = 0, 0, 0
    storm = True

    async def plan(request: Request, send: Send) -> Json:
        nonlocal in_flight, most, refused
        if not request.is_write or "vmaccessgrants" in request.path:
            return await send()
        in_flight += 1
        most = max(most, in_flight)
        try:
            await asyncio.sleep(0.05)
            if storm and in_flight > 4:
                refused += 1
                raise ApiError(429, "TooManyRequests", "slow down", retry_after=1.0)
            return await send()
        finally:
            in_flight -= 1

    async with running(kubeconfig, plan, max_in_flight=16) as (controller, _):
        name = await asyncio.to_thread(stage.grant, spec_for(namespaces))
        await until(lambda: refused >= 5, "the storm")
        await until(lambda: int(controller.queue.level) <= 8, "the level to sink")
        await until(lambda: is_ready(stage, name), "ready all the same")
        storm = False
        other = await asyncio.to_thread(stage.grant, spec_for(namespaces))
        await until(lambda: is_ready(stage, other), "another")
    assert 16 <= most <= 20, "with the reserve for what is urgent"
    assert refused < 60, "it was not asked again and again"
    stage.assert_access(ANN, dict.fromkeys(namespaces, True))


async def test_a_namespace_that_refuses_holds_up_nothing_else(kubeconfig: Path, bare_stage: Stage) -> None:
    stage = bare_stage
    closed, *fine = (stage.namespace() for _ in range(4))

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and f"/{closed}/" in request.path:
            raise ApiError(403, "Forbidden", "admission webhook denied the request")
        return await send()

    async with running(kubeconfig, plan, max_in_flight=2):
        names = [await asyncio.to_thread(stage.grant, spec_for([closed, *fine])) for _ in range(10)]
        for name in names:
            await until(lambda name=name: summary(stage, name) == "3/4", f"{name} everywhere else")
    stage.assert_access(ANN, {closed: False, **dict.fromkeys(fine, True)})


async def test_namespaces_that_join_one_after_the_other_do_not_make_a_status_each(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, told = bare_stage, list[float]()
    team = stage.unique("team")
    namespaces = [stage.namespace() for _ in range(30)]

    async def plan(request: Request, send: Send) -> Json:
        if request.path.endswith("/status"):
            told.append(asyncio.get_running_loop().time())
        return await send()

    async with running(kubeconfig, plan):
        spec = {"subjects": [user("ann")], "namespaceSelector": {"matchLabels": {"team": team}}}
        name = await asyncio.to_thread(stage.grant, spec)
        await until(lambda: is_ready(stage, name), "ready with none")
        told.clear()
        for namespace in namespaces:
            await asyncio.to_thread(stage.relabel, namespace, team=team)
            await asyncio.sleep(0.05)
        await until(lambda: summary(stage, name) == "30/30", "all of them")
    gaps = [later - earlier for earlier, later in itertools.pairwise(told)]
    assert len(told) < 15
    assert all(gap >= STATUS_INTERVAL_AT_REST * 0.9 for gap in gaps), gaps
