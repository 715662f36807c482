"""What probes and dashboards ask: /healthz, /readyz and /metrics."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from vmaccess.controller import Controller

log = logging.getLogger(__name__)

SILENCE_LIMIT = 200.0  # seconds: two idle watches in a row, each cut after 90 s, and a start anew
STUCK_LIMIT = 300.0  # seconds for which no key may wait for a worker


class CannotListen(Exception):
    """The address for the probes cannot be had; the message names the options."""


def ailments(controller: Controller) -> list[str]:
    """Why the process should be restarted; empty when it is well."""
    now = asyncio.get_running_loop().time()
    found = [
        f"the watch of {mirror.resource.plural} has been silent for {now - mirror.heard_at:.0f} s"
        for mirror in controller.world.mirrors
        if mirror.synced.is_set() and now - mirror.heard_at > SILENCE_LIMIT
    ]
    if (waiting := controller.queue.oldest()) > STUCK_LIMIT:
        found.append(f"work has been waiting for {waiting:.0f} s")
    return found


def lacks(controller: Controller) -> list[str]:
    """What is not there yet before the operator is ready."""
    unread = [f"{mirror.resource.plural} not listed yet" for mirror in controller.world.mirrors if not mirror.synced.is_set()]
    return unread or ([] if controller.started else ["not started yet"])


class _Gauges(Collector):
    """Read from the controller at the moment of the scrape."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    def collect(self) -> Iterable[Metric]:
        controller = self._controller
        states = GaugeMetricFamily("vmaccess_grants", "VMAccessGrants by what their Ready condition says.", labels=["ready"])
        ready = [
            next(
                (
                    condition.get("status")
                    for condition in grant.status.get("conditions") or ()
                    if condition.get("type") == "Ready"
                ),
                "Unknown",
            )
            for grant in controller.world.grants
        ]
        for state in ("True", "False", "Unknown"):
            states.add_metric([state], ready.count(state))
        yield states
        yield GaugeMetricFamily(
            "vmaccess_orphaned_children",
            "Children of grants that were deleted with --cascade=orphan: they still grant access and are not managed.",
            value=controller.departed.orphans(),
        )
        yield CounterMetricFamily(
            "vmaccess_drift_repairs",
            "Namespaces and ServiceAccounts put right after somebody else's change.",
            value=controller.repairs,
        )
        yield GaugeMetricFamily("vmaccess_queue_depth", "Pieces of work that wait for a worker.", value=len(controller.queue))
        yield GaugeMetricFamily(
            "vmaccess_queue_oldest_seconds", "How long the oldest of them has waited.", value=controller.queue.oldest()
        )
        flight = GaugeMetricFamily(
            "vmaccess_in_flight", "Pieces of work on their way; what hangs does not count against the level.", labels=["state"]
        )
        flight.add_metric(["moving"], controller.queue.in_flight - controller.queue.hanging)
        flight.add_metric(["hanging"], controller.queue.hanging)
        yield flight
        yield GaugeMetricFamily(
            "vmaccess_in_flight_level",
            "How many may be on their way at once: --max-in-flight, or less after the API server has pushed back.",
            value=int(controller.queue.level),
        )
        yield GaugeMetricFamily(
            "vmaccess_clock_skew_seconds",
            "How far the operator's clock is ahead of the API server's, by which grants begin and end.",
            value=controller.timing.clock.skew,
        )
        yield GaugeMetricFamily(
            "vmaccess_overdue_seconds",
            "How long access has outlived the end of its grant, at most of all grants; 0 where none has.",
            value=controller.timing.overdue(),
        )
        held = GaugeMetricFamily("vmaccess_mirrored_objects", "Objects held in memory.", labels=["resource"])
        silent = GaugeMetricFamily("vmaccess_watch_silence_seconds", "Time since a watch was last heard of.", labels=["resource"])
        now = asyncio.get_running_loop().time()
        for mirror in controller.world.mirrors:
            held.add_metric([mirror.resource.plural], len(mirror))
            if mirror.synced.is_set():
                silent.add_metric([mirror.resource.plural], now - mirror.heard_at)
        yield held
        yield silent


@asynccontextmanager
async def serve(controller: Controller, host: str, port: int) -> AsyncIterator[int]:
    """Serve the three pages for as long as the context lasts; yields the port."""
    registry = CollectorRegistry()
    registry.register(_Gauges(controller))

    async def healthz(_: web.Request) -> web.Response:
        return _page(ailments(controller))

    async def readyz(_: web.Request) -> web.Response:
        return _page(lacks(controller))

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise CannotListen(
                f"cannot serve on {host}:{port}: {error}; choose another --health-host or --health-port"
            ) from error
        bound: int = runner.addresses[0][1]
        log.info("serving /healthz, /readyz and /metrics on port %d", bound)
        yield bound
    finally:
        await runner.cleanup()


def _page(complaints: list[str]) -> web.Response:
    return web.Response(status=503 if complaints else 200, text="\n".join(complaints or ["ok"]) + "\n")
