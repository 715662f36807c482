"""Clocks that step and processes that die do not prolong an access, nor bring it back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path

import pytest
from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from tests.faults.faulty import FaultyApi, Plan, Request, Send, at_work, untouched
from tests.stage import GRANTS, Json, Stage, Who
from vmaccess.cluster.api import Api
from vmaccess.cluster.clock import Clock
from vmaccess.controller import Controller

ANN = Who("ann")
HOUR = timedelta(hours=1)
HOUR_LONG = HOUR.total_seconds()


class Steps:
    """How far the API server's clock and ours are off, in seconds; to be changed at any time."""

    def __init__(self) -> None:
        self.servers = self.ours = 0.0


@asynccontextmanager
async def running(kubeconfig: Path, steps: Steps, plan: Plan = untouched) -> AsyncIterator[tuple[Controller, Api]]:
    """The controller at work on the real API server, through something that turns the hands of both clocks."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)

    class Turned(Clock):
        def heard(self, date: str) -> None:
            super().heard(format_datetime(parsedate_to_datetime(date) + timedelta(seconds=steps.servers), usegmt=True))

    async with FaultyApi(configuration, plan) as api:
        api.clock = Turned(wall=lambda: datetime.now(UTC).timestamp() + steps.ours)
        async with at_work(api) as controller:
            yield controller, api
    await asyncio.sleep(0.05)


def rfc(after: timedelta) -> str:
    """A whole second, so far from now."""
    return (datetime.now(UTC) + after).strftime("%Y-%m-%dT%H:%M:%SZ")


def spec(namespace: str, **times: str) -> Json:
    """Ann may look."""
    return {"subjects": [{"kind": "User", "name": "ann"}], "namespaces": [namespace], **times}


async def shown(stage: Stage, name: str, reason: str, *, ready: str = "True") -> None:
    """Wait until the grant is Ready for this reason."""
    await asyncio.to_thread(stage.until_condition, name, "Ready", ready, reason)


async def views(stage: Stage, namespace: str) -> bool:
    """Whether ann has access."""
    return await asyncio.to_thread(stage.views, ANN, namespace)


async def test_a_step_of_our_own_clock_changes_nothing_and_is_told(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, steps = bare_stage, Steps()
    namespace = stage.namespace()
    lives = stage.grant(spec(namespace, expirationTime=rfc(HOUR / 2)))
    waits = stage.grant(spec(stage.namespace(), notBeforeTime=rfc(HOUR / 2)))
    without = stage.grant(spec(namespace))
    async with running(kubeconfig, steps) as (_, api):
        await shown(stage, lives, "Granted")
        for step in (HOUR_LONG, -HOUR_LONG):
            steps.ours = step
            await api.ask_time()  # as it is asked every half a minute
            await asyncio.sleep(1.1)
            await api.ask_time()
            await asyncio.to_thread(stage.until, lambda: stage.condition(lives, "ClockSkewed"), "the condition")
            await asyncio.to_thread(stage.until, lambda: stage.condition(waits, "ClockSkewed"), "the condition")
            await shown(stage, lives, "Granted")
            await shown(stage, waits, "NotStarted")
            assert await views(stage, namespace)
        assert stage.condition(without, "ClockSkewed") is None


async def test_a_step_forward_of_the_api_server_ends_and_does_not_begin(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, steps = bare_stage, Steps()
    one, two = stage.namespace(), stage.namespace()
    ends = stage.grant(spec(one, expirationTime=rfc(HOUR / 2)))
    begins = stage.grant(spec(two, notBeforeTime=rfc(HOUR / 2)))
    async with running(kubeconfig, steps) as (_, api):
        await shown(stage, ends, "Granted")
        await shown(stage, begins, "NotStarted")
        steps.servers = HOUR_LONG
        await api.ask_time()
        await shown(stage, ends, "Expired")
        assert not await views(stage, one)
        await shown(stage, begins, "NotStarted")
        assert not await views(stage, two)
        steps.servers = 0.0
        await asyncio.sleep(1.1)
        await api.ask_time()
        stage.request("PATCH", f"/api/v1/namespaces/{one}", {"metadata": {"labels": {"touched": "yes"}}})
        await asyncio.sleep(1)
        assert not await views(stage, one), "what has expired has come back"


async def test_what_has_expired_stays_so_in_a_new_process_of_an_earlier_hour(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, steps = bare_stage, Steps()
    namespace = stage.namespace()
    name = stage.grant(spec(namespace, expirationTime=rfc(HOUR / 2)))
    async with running(kubeconfig, steps):
        await shown(stage, name, "Granted")
    steps.servers = HOUR_LONG
    async with running(kubeconfig, steps):
        await shown(stage, name, "Expired")
    steps.servers = 0.0
    async with running(kubeconfig, steps):
        await asyncio.sleep(2)
        assert not await views(stage, namespace)
        await shown(stage, name, "Expired")
        stage.respec(name, spec(namespace, expirationTime=rfc(HOUR)))
        await shown(stage, name, "Granted")
        assert await views(stage, namespace)


async def test_a_step_back_of_the_api_server_prolongs_nothing(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, steps = bare_stage, Steps()
    namespace = stage.namespace()
    name = stage.grant(spec(namespace, expirationTime=rfc(timedelta(seconds=6))))
    async with running(kubeconfig, steps) as (_, api):
        await shown(stage, name, "Granted")
        steps.servers = -HOUR_LONG
        await api.ask_time()
        await shown(stage, name, "Expired")
        assert not await views(stage, namespace)


async def test_a_step_back_does_not_take_away_what_has_begun(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, steps = bare_stage, Steps()
    namespace = stage.namespace()
    name = stage.grant(spec(namespace, notBeforeTime=rfc(-HOUR / 2)))
    async with running(kubeconfig, steps) as (_, api):
        await shown(stage, name, "Granted")
        steps.servers = -HOUR_LONG
        await api.ask_time()
        stage.request("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": {"touched": "yes"}}})
        await asyncio.sleep(1)
        assert await views(stage, namespace)
        await shown(stage, name, "Granted")


@pytest.mark.parametrize("answered", [True, False], ids=["answering", "not answering"])
async def test_the_end_does_not_wait_for_an_answer(
    kubeconfig: Path, bare_stage: Stage, monkeypatch: pytest.MonkeyPatch, *, answered: bool
) -> None:
    stage = bare_stage
    namespace = stage.namespace()
    name = stage.grant(spec(namespace, expirationTime=rfc(timedelta(seconds=5))))
    async with running(kubeconfig, Steps()) as (_, api):
        if not answered:

            async def silent() -> None:
                await asyncio.Event().wait()

            monkeypatch.setattr(api, "ask_time", silent)
        await shown(stage, name, "Granted")
        await shown(stage, name, "Expired")
        assert not await views(stage, namespace)


async def test_an_end_that_a_status_is_the_first_to_tell_of_is_not_missed(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, namespace, answered = bare_stage, bare_stage.namespace(), asyncio.Event()
    end = int(datetime.now(UTC).timestamp()) + 5

    async def at(moment: float) -> None:
        await asyncio.sleep(max(moment - datetime.now(UTC).timestamp(), 0.0))

    async def plan(request: Request, send: Send) -> Json:
        now = datetime.now(UTC).timestamp()
        if end - 1.5 < now < end + 0.5:
            if request.method != "PATCH" or not request.path.endswith("/status"):
                await answered.wait()
            await at(end + 0.01)
        answer = await send()
        if request.path.endswith("/status") and now > end - 1.5:
            answered.set()
        return answer

    name = stage.grant(spec(namespace, expirationTime=datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")))
    async with running(kubeconfig, Steps(), plan):
        await shown(stage, name, "Granted")
        await at(end - 1)
        stage.request("PATCH", f"{GRANTS}/{name}/status", {"status": {"namespaces": {"summary": "9/9"}}})
        await answered.wait()
        await shown(stage, name, "Expired")
        assert not await views(stage, namespace)


async def test_who_writes_into_the_status_that_it_has_expired_ends_it(kubeconfig: Path, bare_stage: Stage) -> None:
    stage, namespace = bare_stage, bare_stage.namespace()
    name = stage.grant(spec(namespace, expirationTime=rfc(HOUR)))
    async with running(kubeconfig, Steps()):
        await shown(stage, name, "Granted")
        stage.request("PATCH", f"{GRANTS}/{name}/status", {"status": {"expiredGeneration": 1}})
        await shown(stage, name, "Expired")
        assert not await views(stage, namespace)
