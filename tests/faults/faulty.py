"""The real controller against the real API server over a client in which requests fail as a test plans it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from vmaccess.cluster.api import Api, ApiError, Json
from vmaccess.cluster.tasks import give_up
from vmaccess.controller import Controller

Send = Callable[[], Awaitable[Json]]


class Crash(BaseException):
    """The process dies here. Not an Exception: nothing may catch and survive it."""


@dataclass(frozen=True)
class Request:
    """A request as a fault plan sees it; `number` counts the writes of one run from 1, Events left out."""

    number: int
    method: str
    path: str

    @property
    def is_write(self) -> bool:
        """Whether it changes anything but Events."""
        return self.method != "GET" and "/events" not in self.path


Plan = Callable[[Request, Send], Awaitable[Json]]


async def untouched(request: Request, send: Send) -> Json:  # noqa: ARG001
    """The plan without faults."""
    return await send()


class FaultyApi(Api):
    """Every request with one answer goes through `plan`; the watches are left alone."""

    def __init__(self, configuration: Configuration, plan: Plan) -> None:
        super().__init__(configuration)
        self._plan = plan
        self.writes = 0
        self.crashed = asyncio.Event()

    async def _json(self, method: str, path: str, **options: Any) -> Json:
        request = Request(self.writes + 1, method, path)
        if request.is_write:
            self.writes += 1
        if self.crashed.is_set():
            await asyncio.Event().wait()  # a dead process sends nothing more
        try:
            return await self._plan(request, lambda: super(FaultyApi, self)._json(method, path, **options))
        except Crash:
            self.crashed.set()
            await asyncio.Event().wait()
            raise


def crash_at(number: int, *, answered: bool) -> Plan:
    """Die at the write of this number: before it is sent, or when it is done and its answer is lost."""

    async def plan(request: Request, send: Send) -> Json:
        if request.is_write and request.number == number:
            if answered:
                await send()
            raise Crash
        return await send()

    return plan


def failing(error: ApiError, *, times: int, where: str = "", sent: bool = False) -> Plan:
    """The first `times` writes whose path contains `where` fail with `error`; with `sent` they happen all the same."""
    left = times

    async def plan(request: Request, send: Send) -> Json:
        nonlocal left
        if request.is_write and where in request.path and left > 0:
            left -= 1
            if sent:
                await send()
            raise error
        return await send()

    return plan


@asynccontextmanager
async def running(
    kubeconfig: Path, plan: Plan = untouched, *, max_in_flight: int = 8
) -> AsyncIterator[tuple[Controller, FaultyApi]]:
    """The controller at work for as long as the context lasts."""
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    try:
        async with FaultyApi(configuration, plan) as api, at_work(api, max_in_flight) as controller:
            yield controller, api
    finally:
        await asyncio.sleep(0.05)  # aiohttp closes TLS connections a little later than its session


@asynccontextmanager
async def at_work(api: Api, max_in_flight: int = 8) -> AsyncIterator[Controller]:
    """The controller with its mirrors, for as long as the context lasts."""
    controller = Controller(api, protected=("kube-*", "vmaccess-system"), max_in_flight=max_in_flight)
    tasks = [asyncio.create_task(mirror.run()) for mirror in controller.world.mirrors]
    tasks += [asyncio.create_task(controller.timing.run()), asyncio.create_task(controller.work())]
    try:
        await controller.start()
        yield controller
    finally:
        results = await give_up(tasks)
        failures = [result for result in results if isinstance(result, Exception)]
        assert not failures, failures
