"""Events are told without holding up anybody, and without filling the memory where very much happens at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from tests.access.helpers import events as told
from tests.faults.faulty import FaultyApi, Plan, Request, Send
from tests.stage import Json, Stage
from vmaccess.cluster import events
from vmaccess.cluster.api import ApiError
from vmaccess.cluster.events import AT_ONCE, Events
from vmaccess.policy.children import GrantId


@asynccontextmanager
async def posting(kubeconfig: Path, plan: Plan) -> AsyncIterator[Events]:
    """Events with the operator's own identity, over a client in which requests go as planned."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with FaultyApi(configuration, plan) as api:
        yield Events(api)


async def test_of_very_many_events_few_are_on_their_way_at_once_and_none_is_lost(
    kubeconfig: Path, bare_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage, grant = bare_stage, GrantId(bare_stage.unique("gone"), "uid")
    now = most = 0

    async def plan(_: Request, send: Send) -> Json:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        try:
            return await send()
        finally:
            now -= 1

    async with posting(kubeconfig, plan) as several:
        for number in range(10 * AT_ONCE):
            several.tell(grant, "Normal", "Tested", f"number {number}")
        await several.drain()
    assert not caplog.records
    assert most == AT_ONCE
    assert len(told(stage, grant.name)) == 10 * AT_ONCE


async def test_an_event_told_at_the_moment_in_which_all_others_are_answered_is_posted_too(kubeconfig: Path) -> None:
    answered, posted = asyncio.Event(), 0

    async def plan(_: Request, send: Send) -> Json:  # noqa: ARG001 - what is answered does not matter
        nonlocal posted
        await answered.wait()
        posted += 1
        return {}

    async with posting(kubeconfig, plan) as several:
        for number in range(AT_ONCE):
            several.tell(GrantId("gone", "uid"), "Normal", "Tested", f"number {number}")
        await asyncio.sleep(0.01)
        answered.set()
        asyncio.get_running_loop().call_soon(several.tell, GrantId("gone", "uid"), "Normal", "Tested", "one more")
        await asyncio.sleep(0.01)
        await several.drain()
    assert posted == AT_ONCE + 1


async def test_whatever_goes_wrong_with_one_event_the_others_are_posted(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, grant = bare_stage, GrantId(bare_stage.unique("gone"), "uid")
    errors = iter([ApiError(403, "Forbidden", "no"), *[ValueError("no JSON")] * AT_ONCE])

    async def plan(_: Request, send: Send) -> Json:
        if (error := next(errors, None)) is not None:
            raise error
        return await send()

    async with posting(kubeconfig, plan) as several:
        for number in range(3 * AT_ONCE):
            several.tell(grant, "Normal", "Tested", f"number {number}")
        await several.drain()
        several.tell(grant, "Normal", "Tested", "one after the end of all")
        await several.drain()
    assert len(told(stage, grant.name)) == 2 * AT_ONCE


async def test_where_no_event_is_taken_those_that_wait_have_an_end_and_end_with_the_process(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "MAX_WAITING", 20)
    monkeypatch.setattr(events, "DRAIN", 0.1)
    grant = GrantId(bare_stage.unique("gone"), "uid")
    in_flight = 0

    async def plan(_: Request, send: Send) -> Json:
        nonlocal in_flight
        in_flight += 1
        try:
            await asyncio.Event().wait()
            return await send()
        finally:
            in_flight -= 1

    async with posting(kubeconfig, plan) as several:
        for number in range(21):
            several.tell(grant, "Normal", "Tested", f"number {number}")
        await several.drain()
        assert in_flight == AT_ONCE
        await several.close()
        assert not in_flight
    logged = [record.message for record in caplog.records]
    assert [line for line in logged if "too many others" in line]
    assert [line for line in logged if "20 Events were not posted" in line]
