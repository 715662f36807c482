"""The floor: the same requests, with the same identity, by a client that does nothing else.

Writes go through the operator's own `Api`, so that what is compared is what the operator does beside sending them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from localcluster import Access
from tests.bench.client import Client, Json
from tests.bench.loop import run
from vmaccess.cluster.api import CLUSTER_ROLES, GRANTS, NAMESPACES, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS, Api, Resource

MIRRORED = (NAMESPACES, CLUSTER_ROLES, SERVICE_ACCOUNTS, ROLES, ROLE_BINDINGS, GRANTS)  # vmaccess.cluster.world.World.mirrors


@dataclass(frozen=True)
class Writes:
    """Seconds to create and to delete everything, and of the client's own CPU to create it."""

    create: float
    delete: float
    cpu: float


def write(kubeconfig: Path, templates: Sequence[tuple[Resource, Json]], namespaces: Sequence[str], in_flight: int) -> Writes:
    """Create the templates, one after the other, in each of the namespaces, and delete them the other way round."""
    return run(_write(kubeconfig, templates, namespaces, in_flight))


def read(access: Access) -> float:
    """Seconds to list every kind the operator mirrors, all at once, in pages of 500 that are decoded."""
    return run(_read(access))


async def _write(
    kubeconfig: Path, templates: Sequence[tuple[Resource, Json]], namespaces: Sequence[str], in_flight: int
) -> Writes:
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with Api(configuration, connections=in_flight + 20) as api:
        uids: dict[tuple[str, str], str] = {}

        async def create(namespace: str) -> None:
            for resource, body in templates:
                made = await api.create(resource.path(namespace), body)
                uids[resource.plural, namespace] = made["metadata"]["uid"]

        async def delete(namespace: str) -> None:
            for resource, body in reversed(templates):
                await api.delete(resource.path(namespace, body["metadata"]["name"]), uid=uids[resource.plural, namespace])

        busy = time.process_time()
        created = await _everywhere(create, namespaces, in_flight)
        busy = time.process_time() - busy
        return Writes(created, await _everywhere(delete, namespaces, in_flight), busy)


async def _everywhere(job: Callable[[str], Awaitable[None]], namespaces: Sequence[str], in_flight: int) -> float:
    slots = asyncio.Semaphore(in_flight)

    async def one(namespace: str) -> None:
        async with slots:
            await job(namespace)

    started = time.monotonic()
    await asyncio.gather(*(one(namespace) for namespace in namespaces))
    return time.monotonic() - started


async def _read(access: Access) -> float:
    async with Client(access) as client:

        async def drain(resource: Resource) -> None:
            async for _ in client.pages(resource.path(), accept=resource.accept(listing=True)):
                pass

        started = time.monotonic()
        await asyncio.gather(*map(drain, MIRRORED))
        return time.monotonic() - started
