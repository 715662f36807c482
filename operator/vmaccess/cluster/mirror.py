"""A copy of one kind of object, kept by list and watch, that also notices what was deleted while no watch was up.

kopf reports no deletion that fell into a gap of the watch, and its index is quadratic at start-up; here every (re)list is
compared with what is held. Should the cluster's data have been restored from a backup, the list is believed, as old as it is.
Our own writes are fed back through `observe` and `forget`, so that a decision taken right
after a write sees it; an older state that the watch still delivers is ignored.
"""

from __future__ import annotations

import asyncio
import logging
import random
import sys
from collections.abc import Callable, Iterator
from math import inf
from typing import Any, Generic, Protocol, TypeVar

from vmaccess.cluster.api import Api, ApiError, Json, Resource

log = logging.getLogger(__name__)

Key = tuple[str, str]  # namespace (empty for what is cluster-scoped) and name

IDLE_LIMIT = 90.0  # seconds without an event or a bookmark (they come every minute) after which a watch counts as dead
WATCH_SECONDS = 300
FIRST_DELAY, LAST_DELAY = 0.5, 30.0  # seconds until it is listed again, doubled while no watch brings anything
FORBIDDEN, GONE = 403, 410


class Mirrored(Protocol):
    """What a projection must keep of an object."""

    @property
    def uid(self) -> str: ...
    @property
    def version(self) -> int: ...


T = TypeVar("T", bound=Mirrored)
Project = Callable[[Json, T | None], T | None]
OnChange = Callable[[Key, T | None, T | None], None]


class Expired(Exception):
    """The resourceVersion is too old to watch from: list again."""

    def __str__(self) -> str:
        return "the watch has expired"


class Mirror(Generic[T]):
    """All objects of `resource` that `project` keeps, by namespace and name.

    `project(raw, known)` reduces an object to what is needed, or to None; `on_change(key, old, new)` is called for every
    difference (compared with ==), also for those found by a list. `on_end(last)` is called before it with the last state of an
    object whose deletion the watch has shown, and not for one that a list merely lacks. `synced` is set after the first list.
    """

    def __init__(
        self, api: Api, resource: Resource, project: Project[T], on_change: OnChange[T], on_end: Callable[[T], None] | None = None
    ) -> None:
        self._api, self.resource, self._project, self._on_change, self._on_end = api, resource, project, on_change, on_end
        self._held: dict[Key, T] = {}
        self._deleted: set[str] = set()  # uids we deleted ourselves and that the watch may still show
        self.synced = asyncio.Event()
        self.heard_at = 0.0  # loop time of the last answer, event or bookmark
        self._known_to = 0  # everything up to this resourceVersion has been heard

    def get(self, key: Key) -> T | None:
        """The object as last seen, or None."""
        return self._held.get(key)

    def __iter__(self) -> Iterator[T]:
        return iter(self._held.values())

    def __len__(self) -> int:
        return len(self._held)

    def observe(self, raw: Json) -> T | None:
        """Take in an object that the API server has just answered with.

        An answer can be overtaken by the watch: what is not held although the watch is past its version is deleted by now.
        """
        key = _key(raw)
        if key not in self._held and int(raw["metadata"]["resourceVersion"]) <= self._known_to:
            return None
        return self._put(key, raw)

    def forget(self, key: Key, uid: str) -> None:
        """Take in that the object of this uid is gone."""
        held = self._held.get(key)
        if held is not None and held.uid == uid:
            self._deleted.add(uid)
            self._drop(key)

    async def run(self) -> None:
        """List and watch for ever. Raises only what is a bug; a server that cannot be reached is asked again."""
        delay = FIRST_DELAY
        while True:
            listed = inf
            try:
                version = await self._list()
                listed = asyncio.get_running_loop().time()
                self.synced.set()
                while True:
                    version = await self._watch(version)
            except (Expired, ApiError) as error:
                if self.heard_at > listed:
                    delay = FIRST_DELAY
                wish = error.retry_after if isinstance(error, ApiError) else 0.0
                pause = max(min(wish, LAST_DELAY), delay) * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
                level = logging.WARNING if isinstance(error, ApiError) else logging.INFO
                log.log(level, "%s: listing again in %.1f s: %s%s", self.resource.plural, pause, error, _hint(error))
                await asyncio.sleep(pause)
                delay = min(delay * 2, LAST_DELAY)

    async def _list(self) -> str:
        seen: set[Key] = set()
        uids: set[str] = set()
        version, restored = "0", False
        self._deleted.clear()  # a list that begins now shows what is there: should one of them be, it is not deleted
        try:
            async for page in self._api.list(self.resource):
                version = page["metadata"]["resourceVersion"]
                if not restored and int(version) < self._known_to:
                    restored = True
                    log.warning("%s: the cluster's data is older than what was seen of it: it is read anew", self.resource.plural)
                for raw in page["items"]:
                    key = _key(raw)
                    uids.add(raw["metadata"]["uid"])
                    seen.add(key)
                    self._put(key, raw, whatever_is_held=restored)
                self._heard()
        except ApiError as error:
            if error.status == GONE:
                raise Expired from error
            raise
        self._deleted &= uids
        for key in [key for key, held in self._held.items() if key not in seen and (restored or held.version <= int(version))]:
            self._drop(key)
        self._known_to = int(version)
        return version

    async def _watch(self, version: str) -> str:
        started = asyncio.get_running_loop().time()
        stream = self._api.watch(self.resource, version, seconds=WATCH_SECONDS)
        try:
            async with asyncio.timeout(IDLE_LIMIT) as limit:
                async for event in stream:
                    version = self._take(event)
                    limit.reschedule(self._heard() + IDLE_LIMIT)
        except TimeoutError:
            log.info("%s: nothing heard for %.0f s, watching anew", self.resource.plural, IDLE_LIMIT)
        except ApiError as error:
            if error.status == GONE:
                raise Expired from error
            if error.status:
                raise
            log.info("%s: the watch was cut, watching anew: %s", self.resource.plural, error)
        finally:
            await stream.aclose()
        if asyncio.get_running_loop().time() - started < 1.0:
            await asyncio.sleep(1.0)  # a server that ends each watch at once must not be asked thousands of times a second
        return version

    def _take(self, event: Json) -> str:
        kind, raw = event["type"], event["object"]
        if kind == "ERROR":
            raise ApiError(raw.get("code", 0), raw.get("reason", "Unknown"), raw.get("message", ""))
        if kind == "DELETED":
            self._end(_key(raw), raw)
        elif kind != "BOOKMARK":
            self._put(_key(raw), raw)
        version: str = raw["metadata"]["resourceVersion"]
        self._known_to = max(self._known_to, int(version))
        return version

    def _end(self, key: Key, raw: Json) -> None:
        uid = raw["metadata"]["uid"]
        self._deleted.discard(uid)
        held = self._held.get(key)
        if held is None or held.uid != uid:
            return
        if self._on_end is not None and (last := self._project(raw, held)) is not None:
            self._on_end(last)
        self._drop(key)

    def _put(self, key: Key, raw: Json, *, whatever_is_held: bool = False) -> T | None:
        meta: dict[str, Any] = raw["metadata"]
        old = self._held.get(key)
        # Comparing resourceVersions as numbers is promised since Kubernetes 1.35 and was true of etcd before.
        newer = whatever_is_held or old is None or old.version < int(meta["resourceVersion"])
        if not newer or meta["uid"] in self._deleted:
            return old
        new = self._project(raw, old)
        if new is None:
            if old is not None:
                self._drop(key)
            return None
        self._held[key] = new
        if old != new:
            self._on_change(key, old, new)
        return new

    def _drop(self, key: Key) -> None:
        old = self._held.pop(key)
        self._on_change(key, old, None)

    def _heard(self) -> float:
        self.heard_at = asyncio.get_running_loop().time()
        return self.heard_at


def _hint(error: Exception) -> str:
    forbidden = isinstance(error, ApiError) and error.status == FORBIDDEN
    return "; are the operator's rights (deploy/kustomize/rights.yaml) applied?" if forbidden else ""


def _key(raw: Json) -> Key:
    meta: dict[str, Any] = raw["metadata"]
    return sys.intern(meta.get("namespace", "")), sys.intern(meta["name"])  # each is in very many objects
