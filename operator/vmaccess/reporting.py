"""Writes the status of grants, only when it changes, and posts the Events that go with a change."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any

from vmaccess.cluster.api import GRANTS, Api, ApiError
from vmaccess.cluster.events import Events
from vmaccess.cluster.world import World
from vmaccess.delivery import Delivery
from vmaccess.policy.children import BindingContent, Child, Kind, PresetId, Whose
from vmaccess.policy.grant import Give, Grant, status_text
from vmaccess.policy.reasons import ConditionType
from vmaccess.policy.report import Facts, report
from vmaccess.policy.times import in_words
from vmaccess.policy.transitions import transitions
from vmaccess.progress import Progress
from vmaccess.shared import SharedRoles, shared_by
from vmaccess.timing import Timing

log = logging.getLogger(__name__)

STATUS_INTERVAL = 2.0  # seconds between two status writes while things are still moving
STATUSES = 10  # of all grants that are moving at once, in a second
MOST_INTERVAL = 30.0  # seconds between two, however many are moving
TOLD = 1.0  # seconds after which a status no longer says that all is well while it is not
STATUS_INTERVAL_AT_REST = 0.5  # the same when each has come to its end, such as for namespaces labelled one after the other


class Reporter:
    """Reports what has come of grants."""

    def __init__(self, api: Api, world: World, events: Events, shared: SharedRoles, timing: Timing, delivery: Delivery) -> None:
        self._api, self._world, self._events, self._shared, self._timing = api, world, events, shared, timing
        self._delivery = delivery
        self._moving: set[str] = set()  # grants whose last look found something on its way

    def due_in(self, progress: Progress) -> float:
        """Seconds until the status may be written: it shows how far things are, but not every step.

        The more grants are on their way at once, the longer: their statuses shall not hold up what they tell of.
        """
        name, since = progress.grant.id.name, asyncio.get_running_loop().time() - progress.reported_at
        if progress.unsettled:
            self._moving.add(name)
            if self._says_ready(progress.grant):
                return TOLD - since
            return min(max(STATUS_INTERVAL, len(self._moving) / STATUSES), MOST_INTERVAL) - since
        self._moving.discard(name)
        return STATUS_INTERVAL_AT_REST - since if progress.told_at_rest else 0.0

    def _says_ready(self, known: Grant) -> bool:
        """Whether the status says of this generation that all is well."""
        grant = self._world.grant(known.id.name)
        if grant is None or grant.status.get("observedGeneration") != known.generation:
            return False
        conditions = grant.status.get("conditions") or ()
        return any(each.get("type") == ConditionType.READY and each.get("status") == "True" for each in conditions)

    def forget(self, name: str) -> None:
        """The grant is gone."""
        self._moving.discard(name)

    async def write(self, progress: Progress) -> None:
        """Write the status if it has changed."""
        grant = self._world.grant(progress.grant.id.name)
        if grant is None or not progress.planned:
            return
        now = datetime.fromtimestamp(self._timing.clock.reading().latest, UTC)
        status = report(grant, self._facts(progress), in_words(now))
        if (text := status_text(status)) == grant.told:
            return
        progress.reported_at, progress.written = asyncio.get_running_loop().time(), text
        progress.told_at_rest = not progress.unsettled
        body = {"metadata": {"uid": grant.id.uid}, "status": _replacing(grant.status, status)}
        try:
            answer = await self._api.patch(f"{GRANTS.path(name=grant.id.name)}/status", body)
        except ApiError as error:
            if error.status not in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
                raise
            return  # it is gone, or another by now: the watch will tell
        held = self._world.grants.observe(answer)
        if held is not None and held.told == text:
            progress.written = held.told  # one of the two is enough to keep
        for note in transitions(grant.status, status):
            level = logging.WARNING if note.kind == "Warning" else logging.INFO
            log.log(level, "%s: %s: %s", grant.id.name, note.reason, note.message)
            self._events.tell(grant.id, note.kind, note.reason, note.message)

    def _facts(self, progress: Progress) -> Facts:
        grant = progress.grant
        accounts = (child for child in self._world.related(grant.id.name) if child.kind is Kind.SERVICE_ACCOUNT)
        intent = progress.intent
        bindings = list(self._world.bindings(grant))
        presets = {shared_by(binding.content) for binding in bindings}
        if isinstance(intent, Give) and isinstance(owner := intent.target.owner, PresetId):
            presets.add(owner.preset)
        shared = (self._shared.outcome(preset) for preset in sorted(filter(None, presets)))
        return Facts(
            intent=intent,
            namespaces=progress.namespaces,
            accounts=progress.accounts,
            cluster_roles=tuple(outcome for outcome in (progress.cluster_role, *shared) if outcome is not None),
            bound=len({child.namespace for child in bindings if _names_somebody(child) and self._world.backing(child)}),
            owned=tuple((child.namespace, child.name) for child in accounts if child.whose(grant.id) is Whose.OURS),
            base=progress.base,
            before=progress.before,
            kubeconfigs=progress.kubeconfigs,
            tokens=self._delivery.tokens(progress),
            phase=progress.phase,
            ends_soon=self._timing.ends_soon(grant),
            skewed=self._timing.clock.skewed,
        )


def _names_somebody(binding: Child) -> bool:
    return isinstance(binding.content, BindingContent) and bool(binding.content.subjects)


def _replacing(old: Any, new: dict[str, Any]) -> dict[str, Any]:
    """A merge patch that leaves nothing of `old` behind: what is not in `new` becomes null."""
    old = old if isinstance(old, dict) else {}
    removed: dict[str, Any] = dict.fromkeys(old.keys() - new.keys())
    return removed | {key: _replacing(old.get(key), value) if isinstance(value, dict) else value for key, value in new.items()}
