"""The floor: the same writes, with the same identity, by a client that does nothing else, at its best concurrency."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from kubernetes.aio import config
from kubernetes.aio.client import Configuration

from vmaccess.cluster.api import ROLE_BINDINGS, ROLES, Api, Json, Resource

IN_FLIGHT = 128  # where an identity that must hold the rules it writes reaches its best rate


async def create_and_delete(kubeconfig: Path, bodies: Sequence[Json], namespaces: Sequence[str]) -> tuple[float, float]:
    """Seconds to create, and to delete, what `bodies` say (a RoleBinding last, its Role before it) in each of the namespaces."""
    resources = (ROLES, ROLE_BINDINGS)[-len(bodies) :]
    pairs = list(zip(resources, bodies, strict=True))
    configuration = Configuration()
    await config.load_kube_config(config_file=str(kubeconfig), client_configuration=configuration)
    async with Api(configuration, connections=IN_FLIGHT + 20) as api:
        uids: dict[tuple[str, str], str] = {}

        async def create(namespace: str) -> None:
            for resource, body in pairs:
                made = await api.create(resource.path(namespace), body)
                uids[resource.plural, namespace] = made["metadata"]["uid"]

        async def delete(namespace: str) -> None:
            for resource, body in reversed(pairs):
                await _delete(api, resource, namespace, body["metadata"]["name"], uids[resource.plural, namespace])

        return await _all(create, namespaces), await _all(delete, namespaces)


async def _delete(api: Api, resource: Resource, namespace: str, name: str, uid: str) -> None:
    await api.delete(resource.path(namespace, name), uid=uid)


async def _all(job: Callable[[str], Awaitable[None]], namespaces: Sequence[str]) -> float:
    slots = asyncio.Semaphore(IN_FLIGHT)

    async def one(namespace: str) -> None:
        async with slots:
            await job(namespace)

    started = time.monotonic()
    await asyncio.gather(*(one(namespace) for namespace in namespaces))
    return time.monotonic() - started
