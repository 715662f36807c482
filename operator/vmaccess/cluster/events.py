"""Kubernetes Events about grants: on transitions, and of what may happen very often only now and then."""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections import OrderedDict, deque
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from vmaccess.cluster.api import EVENTS, Api, ApiError, Json
from vmaccess.cluster.tasks import give_up
from vmaccess.policy.children import API_VERSION, KIND, GrantId

log = logging.getLogger(__name__)

CONTROLLER = "vmaccess.dev/operator"
NAMESPACE = "default"  # where Kubernetes expects the Events of cluster-scoped objects
QUIET = 60.0  # seconds in which `remark` does not say the same of the same grant again
EventType = Literal["Normal", "Warning"]
MAX_NOTE = 1024
MAX_REMEMBERED = 10_000
AT_ONCE = 8  # posts in flight: a connection takes 60 kB, and a thousand grants may end in one second
MAX_WAITING = 5_000  # that wait for their turn; where no post is answered there would be ever more
DRAIN = 10.0  # seconds at the end in which what was told may still be posted


class _Post(NamedTuple):
    grant: GrantId
    kind: EventType
    reason: str
    note: str
    happened: datetime


class Events:
    """Posts Events without holding up anybody: a lost one is logged, never retried."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._told: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._waiting: deque[_Post] = deque()
        self._posting: set[asyncio.Task[None]] = set()  # each posts one after the other while there are any

    def tell(self, grant: GrantId, kind: EventType, reason: str, note: str) -> None:
        """Say that something has happened to a grant."""
        if len(self._waiting) >= MAX_WAITING:
            log.warning("Event %s about %s was not posted: too many others wait for an answer", reason, grant.name)
            return
        self._waiting.append(_Post(grant, kind, reason, note, datetime.now(UTC)))
        if len(self._posting) < AT_ONCE:
            self._posting.add(asyncio.create_task(self._post()))

    def remark(self, grant: GrantId, kind: EventType, reason: str, note: str) -> None:
        """Say something that may hold a thousand times in a row: once a minute is enough."""
        now = asyncio.get_running_loop().time()
        key = (grant.uid, reason)
        if now - self._told.get(key, -QUIET) < QUIET:
            return
        self._told[key] = now
        self._told.move_to_end(key)
        while len(self._told) > MAX_REMEMBERED or now - next(iter(self._told.values())) >= QUIET:
            self._told.popitem(last=False)
        self.tell(grant, kind, reason, note)

    async def drain(self) -> None:
        """Wait until all that was told has been posted, or for as long as a process that ends may."""
        if self._posting:
            await asyncio.wait(self._posting, timeout=DRAIN)

    async def close(self) -> None:
        """Give up what has not been posted: the client is about to close, and a later request would open it anew."""
        unposted = len(self._waiting) + len(self._posting)
        self._waiting.clear()
        await give_up(self._posting)
        self._posting.clear()  # one that had not begun does not leave by itself
        if unposted:
            log.warning("%d Events were not posted before the end", unposted)

    async def _post(self) -> None:
        try:
            while self._waiting:
                post = self._waiting.popleft()
                try:
                    await self._api.create(EVENTS.path(NAMESPACE), _event(post))
                except ApiError as error:
                    log.warning("Event %s about %s was not posted: %s", post.reason, post.grant.name, error)
                except Exception:  # a bug: it must not keep back those that wait
                    log.exception("Event %s about %s was not posted", post.reason, post.grant.name)
        finally:
            self._posting -= {asyncio.current_task()}  # at once: a callback would come after the next `tell`


def _event(post: _Post) -> Json:
    grant, kind, reason, note, happened = post
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{grant.name}.{uuid.uuid4().hex[:16]}", "namespace": NAMESPACE},
        "eventTime": happened.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": CONTROLLER,
        "reportingInstance": os.environ.get("HOSTNAME", "vmaccess-operator"),
        "action": "Reconcile",
        "type": kind,
        "reason": reason,
        "note": note if len(note) <= MAX_NOTE else note[: MAX_NOTE - 1] + "…",
        "regarding": {"apiVersion": API_VERSION, "kind": KIND, "name": grant.name, "uid": grant.uid},
    }
