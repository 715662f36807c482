"""Watches that are cut, frozen, expired or forgetful: what was missed meanwhile is found, and access follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from tests.faults.faulty import at_work
from tests.faults.test_crash import is_ready, until, user
from tests.stage import Json, Stage, Who
from vmaccess.cluster import mirror
from vmaccess.cluster.api import Api, ApiError, Resource
from vmaccess.controller import Controller
from vmaccess.policy.namespaces import Namespace

ANN, EVE = Who("ann"), Who("eve")


class DeafApi(Api):
    """Watches of some resources hear nothing while `deaf` names them; `end` says how the silence ends."""

    def __init__(self, configuration: Configuration, end: ApiError | None) -> None:
        super().__init__(configuration)
        self.deaf: set[str] = set()
        self._end = end
        self.hearing = asyncio.Event()

    async def watch(self, resource: Resource, version: str, *, seconds: int) -> AsyncGenerator[Json, None]:
        stream = super().watch(resource, version, seconds=seconds)
        try:
            async for event in stream:
                if resource.plural in self.deaf:
                    await self.hearing.wait()
                    if self._end is not None:
                        raise self._end
                    return
                yield event
        finally:
            await stream.aclose()


ENDS = [
    pytest.param(None, id="cut"),
    pytest.param(ApiError(410, "Expired", "too old resource version"), id="expired"),
    pytest.param(ApiError(0, "Unreachable", "connection reset"), id="reset"),
    pytest.param(ApiError(500, "InternalError", "etcd has no leader"), id="error event"),
]


@pytest.mark.parametrize("end", ENDS)
async def test_what_a_deaf_watch_missed_is_found(kubeconfig: Path, bare_stage: Stage, end: ApiError | None) -> None:
    stage = bare_stage
    one, two = stage.namespace(), stage.namespace()
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with DeafApi(configuration, end) as api, at_work(api):
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one, two]})
        other = await asyncio.to_thread(stage.grant, {"subjects": [user("eve")], "namespaces": [one]})
        await until(lambda: is_ready(stage, name) and is_ready(stage, other), "both to be ready")

        api.deaf = {"vmaccessgrants", "roles", "rolebindings", "namespaces"}
        await asyncio.to_thread(stage.delete, other)
        stage.request("DELETE", stage.path("rolebindings", two, f"vmaccess:{name}"))
        later = await asyncio.to_thread(stage.namespace)
        await asyncio.to_thread(stage.respec, name, {"subjects": [user("ann")], "namespaces": [two, later]})
        api.deaf = set()
        api.hearing.set()

        await until(lambda: stage.views(ANN, two), "the deleted binding to be made again")
        await until(lambda: stage.views(ANN, later), "the namespace that appeared")
        await until(lambda: not stage.views(ANN, one), "the namespace that is no longer listed")
        await until(lambda: not stage.views(EVE, one) and not stage.children(other), "the deleted grant to be revoked")
    await asyncio.sleep(0.1)


async def test_a_watch_that_says_nothing_at_all_is_replaced(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = bare_stage
    monkeypatch.setattr(mirror, "IDLE_LIMIT", 1.0)
    one = stage.namespace()
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with DeafApi(configuration, None) as api, at_work(api):
        api.deaf = {"vmaccessgrants"}
        name = await asyncio.to_thread(stage.grant, {"subjects": [user("ann")], "namespaces": [one]})
        await asyncio.sleep(0.3)
        assert not stage.views(ANN, one), "the watch is deaf"
        api.deaf = set()  # the frozen stream stays frozen: only giving it up helps
        await until(lambda: is_ready(stage, name), "ready")
    await asyncio.sleep(0.1)


async def test_a_server_that_ends_each_watch_at_once_is_not_asked_all_the_time(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def brief(_: Api, resource: Resource, __: str, *, seconds: int) -> AsyncGenerator[Json, None]:
        asked.append(resource.plural)
        if seconds < 0:
            yield {}  # an async generator needs a yield

    monkeypatch.setattr(Api, "watch", brief)
    async with hearing(kubeconfig) as namespaces:
        await namespaces.synced.wait()
        await asyncio.sleep(1.5)
    assert 1 <= len(asked) <= 3
    assert bare_stage.tag


@pytest.mark.parametrize("code", [410, 500])
async def test_a_server_that_refuses_each_watch_is_listed_ever_less_often(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    listed: list[str] = []
    whole = Api.list

    async def refused(*_: object, **__: object) -> AsyncGenerator[Json, None]:
        raise ApiError(code, "Expired" if code == 410 else "InternalError", "no")
        yield {}

    def counted(api: Api, resource: Resource, *, limit: int = 200) -> AsyncIterator[Json]:
        listed.append(resource.plural)
        return whole(api, resource, limit=limit)

    monkeypatch.setattr(Api, "watch", refused)
    monkeypatch.setattr(Api, "list", counted)
    async with hearing(kubeconfig) as namespaces:
        await namespaces.synced.wait()
        await asyncio.sleep(2.0)
    assert 1 <= len(listed) <= 4
    assert bare_stage.tag


async def test_no_wish_of_the_server_keeps_a_mirror_deaf_for_long(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, asked = Api.list, 0

    def maintained(api: Api, resource: Resource, *, limit: int = 200) -> AsyncIterator[Json]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise ApiError(503, "ServiceUnavailable", "maintenance", retry_after=3600.0)
        return whole(api, resource, limit=limit)

    monkeypatch.setattr(mirror, "LAST_DELAY", 0.2)
    monkeypatch.setattr(Api, "list", maintained)
    async with hearing(kubeconfig) as namespaces, asyncio.timeout(20):
        await namespaces.synced.wait()
    assert asked == 2
    assert bare_stage.tag


@asynccontextmanager
async def hearing(kubeconfig: Path) -> AsyncIterator[mirror.Mirror[Namespace]]:
    """The mirror of namespaces at work."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with Api(configuration) as api:
        namespaces = Controller(api, protected=()).world.namespaces
        task = asyncio.create_task(namespaces.run())
        try:
            yield namespaces
        finally:
            task.cancel()
            await asyncio.wait([task])
    await asyncio.sleep(0.1)
