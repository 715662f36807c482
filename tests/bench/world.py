"""The cluster under measurement: its namespaces, the grants over them, and what the audit log says of the operator."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

from localcluster import Cluster, product, wait_until
from tests.bench import truth
from tests.bench.audit import Audit
from tests.bench.client import APPLY_PATCH, Client, Json
from tests.bench.figures import Figure, Memory
from tests.bench.loop import runner
from tests.bench.scale import Scale
from tests.stage import GRANTS
from vmaccess.cluster.api import CLUSTER_ROLES, ROLE_BINDINGS, ROLES, Resource

T = TypeVar("T")

MANAGED = "app.kubernetes.io/managed-by=vmaccess"
CHILDREN = ROLE_BINDINGS.path(), ROLES.path(), CLUSTER_ROLES.path()
SPARE = "spare"  # a namespace that no scenario's grant selects
KINDS: Mapping[str, Json] = {
    "Role": {"kind": "Role"},
    "preset": {"kind": "ClusterRole"},
    "ClusterRole": {"kind": "ClusterRole", "include": ["Migrate"]},
}
"""What bindings can point to: a Role in each namespace, the shared ClusterRole of a preset, one of the grant's own."""
EACH = {"Role": 2, "preset": 1, "ClusterRole": 1}
"""Children in a namespace."""


class World:
    """Sets the cluster up, does what an admin does, and collects what was found.

    Everything here is synchronous: while the operator works, this process waits, and takes none of its CPU.
    """

    def __init__(self, cluster: Cluster, scale: Scale, namespaces: int) -> None:
        self.cluster, self.scale = cluster, scale
        self.audit = Audit(cluster, scale.patience)
        self.figures: list[Figure] = []
        self.memory: dict[str, Memory] = {}
        self.wrong: list[str] = []
        self.floors: dict[str, float] = {}  # seconds that one scenario measured and another compares with
        self.curves: dict[str, dict[int, float]] = {}  # seconds to converge, by series and namespaces
        self.namespaces = [f"team-{number:05}" for number in range(namespaces)]
        self.kubeconfig = product.operator_kubeconfig(cluster, cluster.directory / "bare.kubeconfig")
        self._count = itertools.count(1)

    def __enter__(self) -> Self:
        self._runner = runner()
        self.client: Client = self.run(Client(self.cluster.admin).__aenter__())
        scale = self.scale
        sizes = {scale.namespaces, scale.grants * scale.each, scale.standing, scale.deleted, *scale.converge}
        wanted = {
            name: {first(size): "yes" for size in sizes if number < size} | {"group": f"g{number // scale.each}"}
            for number, name in enumerate(self.namespaces)
        }
        started = time.monotonic()
        self.run(self.make_namespaces(wanted | {SPARE: {}}))
        self.say(f"{len(self.namespaces)} namespaces after {time.monotonic() - started:.0f} s")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.run(self.client.__aexit__(kind, error, trace))
        self._runner.close()

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        """Run something asynchronous to its end."""
        return self._runner.run(job)

    # --- what was found ---

    @staticmethod
    def say(text: str) -> None:
        """A line of progress."""
        print(f"  {text}", flush=True)

    def found(self, figure: Figure) -> None:
        """Keep a figure, and show it."""
        self.figures.append(figure)
        self.wrong += figure.wrong()
        print(figure.line(), flush=True)

    def remember(self, moment: str, operator: product.Operator, *, grants: int = 0, children: int = 0) -> None:
        """Keep what memory the operator has; of several of one moment the one with the highest peak."""
        status = dict(line.split(":", 1) for line in Path(f"/proc/{operator.pid}/status").read_text().splitlines())
        resident, peak = (int(status[field].split()[0]) * 1024 / 1e6 for field in ("VmRSS", "VmHWM"))
        memory = Memory(moment, resident, peak, grants, children)
        self.memory[moment] = max(memory, self.memory.get(moment, memory), key=lambda each: each.peak)
        self.say(f"memory, {moment}: {resident:.0f} MB, at most {peak:.0f} MB of {memory.budget:.0f} MB")

    def check(self, scenario: str, table: Iterable[truth.Row]) -> None:
        """The access truth table; what of it does not hold is kept as wrong."""
        found = self.run(truth.wrong(self.client, table))
        if found:
            self.complain(f"{scenario}: {len(found)} wrong answers: {'; '.join(found[:5])}")

    def complain(self, text: str) -> None:
        """Keep what fails the run."""
        self.wrong.append(text)
        self.say(f"WRONG: {text}")

    # --- the operator ---

    def operator(self) -> product.Operator:
        """The operator, ready; a context manager."""
        return product.Operator(self.cluster)

    @contextmanager
    def no_garbage_collection(self) -> Iterator[None]:
        """kube-controller-manager is down for as long as the context lasts: what is deleted, the operator deletes."""
        self.cluster.stop_controller_manager()
        try:
            yield
        finally:
            self.cluster.start_controller_manager()

    @staticmethod
    def cpu(operator: product.Operator) -> float:
        """Seconds of CPU that the operator has used."""
        fields = Path(f"/proc/{operator.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- what an admin does ---

    async def make_namespaces(self, labels: Mapping[str, Mapping[str, str]]) -> None:
        """Create namespaces, with the ServiceAccount that kube-controller-manager would make in each at 20 a second."""

        async def make(name: str) -> None:
            await self.client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name, "labels": dict(labels[name])}})
            account = {"metadata": {"name": "default"}}
            await self.client.request("POST", f"/api/v1/namespaces/{name}/serviceaccounts", account, ignore=(409,))

        await together(map(make, labels))

    def label(self, namespace: str, **labels: str | None) -> Coroutine[Any, Any, Json]:
        """Change labels of a namespace; None removes one."""
        return self.client.request("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})

    def name(self, what: str) -> str:
        """A name that no other grant has."""
        return f"{what}-{next(self._count)}"

    def ready(self, specs: Mapping[str, Json]) -> float:
        """Apply grants at once; seconds from the first request until all of them are Ready in their newest generation."""
        return self.run(self._ready(specs))

    async def _ready(self, specs: Mapping[str, Json]) -> float:
        started = time.monotonic()
        waiting = await self.apply(specs)

        def look(grant: Json) -> bool:
            name = grant["metadata"]["name"]
            if waiting.get(name, LATEST) <= _ready_generation(grant):
                del waiting[name]
            return not waiting

        # What has come of very many since the first of them was applied may be more than the API server remembers for a watch.
        found = await self.client.request("GET", GRANTS)
        if any(look(grant) for grant in found["items"]):
            return time.monotonic() - started
        await self._until(GRANTS, found["metadata"]["resourceVersion"], lambda event: look(event["object"]))
        return time.monotonic() - started

    async def apply(self, specs: Mapping[str, Json]) -> dict[str, int]:
        """Apply grants at once as `kubectl apply --server-side` does; returns their generations."""

        async def one(name: str) -> tuple[str, int]:
            body = {
                "apiVersion": "vmaccess.dev/v1alpha1",
                "kind": "VMAccessGrant",
                "metadata": {"name": name},
                "spec": specs[name],
            }
            path = f"{GRANTS}/{name}?fieldManager=bench&force=true"
            return name, (await self.client.request("PATCH", path, body, content_type=APPLY_PATCH))["metadata"]["generation"]

        return dict(await together(map(one, specs)))

    async def follow(
        self, action: Coroutine[Any, Any, object], path: str, seen: Callable[[Json], bool], *, selector: str = "", count: int = 1
    ) -> float:
        """Do something; seconds from its start until a watch has brought so many events for which `seen` is true."""
        version = (await self.client.request("GET", f"{path}?limit=1"))["metadata"]["resourceVersion"]
        started = time.monotonic()
        await action
        await self._until(path, version, seen, selector=selector, count=count)
        return time.monotonic() - started

    async def _until(self, path: str, version: str, seen: Callable[[Json], bool], *, selector: str = "", count: int = 1) -> None:
        """Return when a watch has brought so many events. The API server ends one when it loads a CRD anew: it is taken up."""
        async with asyncio.timeout(self.scale.patience):
            while True:
                async for event in self.client.watch(path, version, {"labelSelector": selector}):
                    version = event["object"]["metadata"]["resourceVersion"]
                    count -= seen(event)
                    if not count:
                        return
                await asyncio.sleep(0.01)

    def until_ready(self, *names: str) -> None:
        """Return when these grants are Ready in their newest generation."""

        def are_ready() -> bool:
            grants = {grant["metadata"]["name"]: grant for grant in self.grants()}
            return all(_ready_generation(grants[name]) == grants[name]["metadata"]["generation"] for name in names)

        wait_until(are_ready, "grants to be Ready", timeout=self.scale.patience, interval=0.5)

    def grants(self) -> list[Json]:
        """All grants."""
        found: list[Json] = self.run(self.client.request("GET", GRANTS))["items"]
        return found

    async def delete(self, *names: str) -> None:
        """Delete grants at once."""
        await together(self.client.request("DELETE", f"{GRANTS}/{name}", ignore=(404,)) for name in names)

    def remove(self, *names: str) -> None:
        """Delete grants and return when nothing is left of them; of the last ones, no shared ClusterRole either."""
        self.run(self.delete(*names))
        self.until_none(*CHILDREN, selector=f"vmaccess.dev/grant in ({','.join(names)})" if self.grants() else MANAGED)

    def until_none(self, *paths: str, selector: str) -> None:
        """Return when these collections hold nothing that the selector matches."""
        query = f"limit=1&labelSelector={quote(selector)}"

        def are_empty() -> bool:
            return not any(self.run(self.client.request("GET", f"{path}?{query}"))["items"] for path in paths)

        wait_until(are_empty, f"nothing to be left of {selector[:100]}", timeout=self.scale.patience, interval=0.2)

    def templates(self, grant: str, namespace: str) -> list[tuple[Resource, Json]]:
        """What the operator wrote for a grant in one namespace, to be written elsewhere: Roles first, bindings last."""
        found = []
        for resource in (ROLES, ROLE_BINDINGS):
            path = f"{resource.path(namespace)}?labelSelector=vmaccess.dev/grant={grant}"
            for raw in self.run(self.client.request("GET", path))["items"]:
                kept = {field: raw[field] for field in ("rules", "roleRef", "subjects") if field in raw}
                marks = {field: raw["metadata"][field] for field in ("name", "labels", "ownerReferences")}
                found.append((resource, {"metadata": marks, **kept}))
        return found

    def clear(self) -> None:
        """Delete every grant, return when nothing is left of them and the control plane is at rest.

        kube-controller-manager is started anew: its garbage collector would go on for minutes, at 20 a second, asking after
        objects that the operator has deleted.
        """
        if names := [grant["metadata"]["name"] for grant in self.grants()]:
            with self.operator():
                self.remove(*names)
        with self.no_garbage_collection():
            pass
        self.audit.quiet()


LATEST = 1 << 62  # a generation that no grant reaches: what it was applied as is not known yet


def first(size: int) -> str:
    """The label of the first so many namespaces."""
    return f"first-{size}"


def spec(user: str, **fields: Any) -> Json:
    """The spec of a grant for one user."""
    return {"subjects": [{"kind": "User", "name": user}], **fields}


def over(label: str, value: str = "yes") -> Json:
    """The namespaces with this label, as a field of a spec."""
    return {"namespaceSelector": {"matchLabels": {label: value}}}


async def together(jobs: Iterable[Coroutine[Any, Any, T]], at_once: int = 48) -> Sequence[T]:
    """What all of them return, in their order; so many at once."""
    slots = asyncio.Semaphore(at_once)

    async def one(job: Coroutine[Any, Any, T]) -> T:
        async with slots:
            return await job

    return await asyncio.gather(*map(one, jobs))


def added(event: Json) -> bool:
    """Whether the event of a watch is that something is new."""
    return bool(event["type"] == "ADDED")


def deleted(event: Json) -> bool:
    """Whether the event of a watch is that something is gone."""
    return bool(event["type"] == "DELETED")


def _ready_generation(grant: Json) -> int:
    """The generation in which a grant is Ready, -1 where it is not."""
    status = grant.get("status") or {}
    is_ready = any((each["type"], each["status"]) == ("Ready", "True") for each in status.get("conditions", ()))
    return status.get("observedGeneration", -1) if is_ready else -1
