"""The process: kopf for its life cycle and for the watch on grants, and the tasks that do the work, all supervised.

kopf gets one low-level handler that only wakes the queue: with its other kinds of handlers it would patch every grant (a
finalizer and an annotation holding a copy of the spec), and it never reports what was deleted while its watch was down.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import random
from collections.abc import Callable, Coroutine, Iterator
from http import HTTPStatus
from typing import Any

import kopf

from vmaccess.cluster.api import Api, ApiError
from vmaccess.cluster.credentials import Configuration, bearer, load
from vmaccess.cluster.tasks import give_up
from vmaccess.controller import Controller
from vmaccess.delivery import Offer
from vmaccess.health import serve
from vmaccess.policy.children import API_VERSION, GROUP, PLURAL, VERSION
from vmaccess.progress import loop_time
from vmaccess.settings import IN_POD, Settings

log = logging.getLogger(__name__)


# Used for peering, which is off. Without it kopf asks for the user's name, and a uid without a passwd entry ends the process.
KOPF_IDENTITY: Any = "vmaccess-operator"
KOPF_HOME = os.path.dirname(kopf.__file__) + os.sep

PASSING = ("start",)  # tasks that are meant to end
FIRST_PAUSE, LAST_PAUSE = 1.0, 15.0  # seconds between two tries of what must come right sooner or later
WELL = 60.0  # seconds after which what fails counts as having been well
LOGINS = 5  # times in a row that the API server may refuse who we are


class Unusable(Exception):
    """The cluster lacks what the operator cannot do without; the message says what and how to get it."""


async def run(settings: Settings, stop: asyncio.Event, *, obey_signals: Callable[[], None]) -> None:
    """Run until `stop` is set. Raises what ended any of the tasks: one that ends, ends the process.

    `obey_signals` is called when kopf has taken over the signals, to take them back: a kopf that ends on a signal could not
    be told from one that ends by itself.
    """
    config = await load(settings)
    async with Api(config, connections=2 * settings.max_in_flight + 20) as api:
        offer = Offer(settings.kubeconfig_server or _own_server(config), config.ssl_ca_cert)
        controller = Controller(api, protected=settings.protected, max_in_flight=settings.max_in_flight, offer=offer)
        async with serve(controller, settings.health_host, settings.health_port):
            if not await _usable(api, stop):
                return
            work: dict[str, Coroutine[Any, Any, None]] = {
                "kopf": _kopf(controller, config, obey_signals),
                "start": controller.start(),
                **{f"mirror of {mirror.resource.plural}": mirror.run() for mirror in controller.world.mirrors},
                "timing": controller.timing.run(),
                "work": controller.work(),
            }
            try:
                await _supervise(work, stop)
                await controller.events.drain()
            finally:
                await controller.events.close()


def _own_server(config: Configuration) -> str | None:
    """The address that we use ourselves; in a pod it is one of the cluster's own network."""
    return config.host if IN_POD not in os.environ and config.host.startswith("https://") else None


async def _kopf(controller: Controller, config: Configuration, obey_signals: Callable[[], None]) -> None:
    """kopf, once everything has been read: until then it would only wake what is not there yet.

    It ends by faults that the mirrors wait out, such as an API server that answers 503 for 20 seconds; then it is started again,
    and what it would have told meanwhile they have seen. It returns where kopf ends by itself.
    """
    await controller.world.synced()
    pauses, refused = _pauses(), 0
    while True:
        began = loop_time()
        try:
            tasks = await kopf.spawn_tasks(
                registry=_registry(controller, config),
                settings=_kopf_settings(),
                clusterwide=True,
                standalone=True,
                identity=KOPF_IDENTITY,
            )
            obey_signals()
            await kopf.run_tasks(tasks, ignored=_AllButKopfs())
        except Exception as error:
            refused = refused + 1 if isinstance(error, kopf.LoginError) else 0
            if refused >= LOGINS:
                raise
            if loop_time() - began > WELL:
                pauses = _pauses()
            pause = next(pauses)
            log.warning("kopf's watch has ended and begins again in %.1f s, ours go on: %r", pause, error)
            await asyncio.sleep(pause)
        else:
            return


class _AllButKopfs(frozenset[asyncio.Task[Any]]):
    """The tasks that kopf is to leave alone where it ends.

    It waits five seconds for all that have begun after itself, and cancels them then: ours would be revocations on their way.
    """

    def __contains__(self, task: object) -> bool:
        """Whether the task runs no code of kopf's. It knows no other mark of those that it began itself."""
        coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
        return not (inspect.iscoroutine(coroutine) and coroutine.cr_code.co_filename.startswith(KOPF_HOME))


def _pauses() -> Iterator[float]:
    """Seconds until the next try, and the one after it: ever longer."""
    pause = FIRST_PAUSE
    while True:
        yield pause * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
        pause = min(2 * pause, LAST_PAUSE)


async def _supervise(work: dict[str, Coroutine[Any, Any, None]], stop: asyncio.Event) -> None:
    stopping = asyncio.create_task(stop.wait(), name="stop")
    tasks = {asyncio.create_task(coroutine, name=name) for name, coroutine in work.items()}
    try:
        running = {stopping, *tasks}
        while True:
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                if (error := task.exception()) is not None:
                    raise RuntimeError(f"the task {task.get_name()!r} failed: {error!r}") from error
                if task.get_name() not in PASSING:
                    raise RuntimeError(f"the task {task.get_name()!r} ended by itself")
            if stopping in done:
                return
    finally:
        await give_up((stopping, *tasks))


async def _usable(api: Api, stop: asyncio.Event) -> bool:
    """Whether all is there that the operator cannot do without; False where it is told to stop before that is known."""
    check, stopping = asyncio.create_task(_check(api)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((check, stopping), return_when=asyncio.FIRST_COMPLETED)
        if check.done():
            check.result()
        return check.done()
    finally:
        await give_up((check, stopping))


async def _check(api: Api) -> None:
    """Fail at once where the CRD is missing: kopf would only warn, and then serve nothing. An API server that does not answer, or
    that is not well, is waited for.
    """
    for pause in _pauses():
        try:
            found = await api.get(f"/apis/{API_VERSION}")
            break
        except ApiError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise Unusable(
                    f"the CustomResourceDefinition {PLURAL}.{GROUP} is not installed: apply crds/{PLURAL}.yaml first"
                ) from error
            if 0 < error.status < 500 and error.status != HTTPStatus.TOO_MANY_REQUESTS:
                raise Unusable(f"the API server cannot be used: {error}") from error
            log.warning("the API server cannot be used yet, it is asked again in %.1f s: %s", pause, error)
            await asyncio.sleep(pause)
    if not any(resource["name"] == PLURAL for resource in found["resources"]):
        raise Unusable(f"the API server does not serve {PLURAL} in {API_VERSION}: apply crds/{PLURAL}.yaml of this version")


def _registry(controller: Controller, config: Configuration) -> kopf.OperatorRegistry:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        """The same identity as our own client's, asked again whenever the API server refuses the old token."""
        scheme, token = await bearer(config)
        return kopf.ConnectionInfo(
            server=config.host,
            ca_path=config.ssl_ca_cert,
            scheme=scheme or None,
            token=token or None,
            certificate_path=config.cert_file,
            private_key_path=config.key_file,
            proxy_url=config.proxy,
        )

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def heard(meta: kopf.Meta, **_: Any) -> None:
        """Only wake: the mirror is the truth, also about what was deleted unseen."""
        controller.heard_of(meta["name"], meta["uid"], meta.get("generation", 0))

    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # our Events are our own
    settings.peering.standalone = True
    settings.scanning.disabled = True  # no watch of every CRD and namespace: the one resource is named
    settings.networking.request_timeout = 30
    settings.networking.connect_timeout = 10
    settings.networking.error_backoffs = (0.5, 1, 2, 4, 8)
    settings.watching.server_timeout = 300
    settings.watching.inactivity_timeout = 90
    settings.queueing.idle_timeout = 0.1  # each grant it hears of has a task of 6 kB until then
    settings.persistence.finalizer = f"{GROUP}/unused"  # never set; kopf's default name is shared by all its operators
    settings.process.ultimate_exiting_timeout = None  # else it sends this process SIGKILL so long after each of its ends
    return settings
