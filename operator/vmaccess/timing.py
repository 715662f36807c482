"""Knows where every grant is in its time, and wakes each at the second at which that changes."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

from vmaccess.cluster.api import Api
from vmaccess.cluster.tasks import give_up
from vmaccess.cluster.world import World
from vmaccess.policy.grant import Grant
from vmaccess.policy.times import SOON, Phase, is_active, phase_of

log = logging.getLogger(__name__)

ASKED_EVERY = 30.0  # seconds between two looks at the API server's clock while any grant waits for its time: either may step
NEAR = 1.0  # seconds before an end from which the clock is asked until it is there: what it tells is late by up to a second
ASKED_NEAR = 0.1  # seconds between two of those looks


class _Schedule:
    """When each of some names is due."""

    def __init__(self) -> None:
        self._due: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []  # what is not in `_due` any more is left until it comes up

    def set(self, name: str, due: float | None) -> None:
        """Have the name come up at that time, and at no other; None takes it off."""
        if self._due.get(name) == due:
            return
        if due is None:
            self._due.pop(name, None)
            return
        self._due[name] = due
        heapq.heappush(self._heap, (due, name))
        if len(self._heap) > 2 * len(self._due) + 100:
            self._heap = sorted((when, who) for who, when in self._due.items())

    def next(self) -> float | None:
        """When the next one is due."""
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def reached(self, now: float) -> Iterator[str]:
        """Take off those that are due."""
        while (due := self.next()) is not None and due <= now:
            _, name = heapq.heappop(self._heap)
            del self._due[name]
            yield name


class Timing:
    """The times of all grants by the API server's clock. `wake` looks at a grant again."""

    def __init__(self, api: Api, world: World, wake: Callable[[str], None]) -> None:
        self._api, self._world, self._wake = api, world, wake
        self.clock = api.clock
        self._begins, self._ends = _Schedule(), _Schedule()
        self._begun: dict[str, tuple[str, int]] = {}  # uid and generation of what has begun, which does not go back
        self._ended: dict[str, tuple[str, int]] = {}  # and of what has ended
        self._changed = asyncio.Event()
        self.clock.on_step, self.clock.on_skew = self._changed.set, self._tell_of_skew

    def phase(self, grant: Grant) -> Phase:
        """Where the grant is in its time."""
        limits, name, this = grant.limits, grant.id.name, (grant.uid, grant.generation)
        if limits.begins is None and limits.ends is None:
            return Phase.DURING
        if self._ended.get(name) == this:
            return Phase.AFTER
        begun = self._begun.get(name) == this
        phase = phase_of(limits, grant.status, grant.generation, self.clock.reading(), begun=begun)
        if phase is Phase.DURING and limits.begins is not None:
            self._begun[name] = this
        if phase is Phase.AFTER:
            self._ended[name] = this
        if phase is Phase.BEFORE and limits.begins is not None:  # an earlier time may have been heard since it was its turn
            self._begins.set(name, limits.begins.timestamp())
            self._changed.set()
        return phase

    def ends_soon(self, grant: Grant) -> bool:
        """Whether the access ends within the hour."""
        ends = grant.limits.ends
        return ends is not None and ends.timestamp() - SOON <= self.clock.reading().latest

    def overdue(self) -> float:
        """Seconds for which the access of some grant has outlived its end, as far as the statuses tell; the longest of them."""
        now = self.clock.reading().latest
        ending = ((grant, end) for grant in self._world.grants if (end := grant.limits.ends) is not None)
        return max((now - end.timestamp() for grant, end in ending if is_active(grant.status)), default=0.0)

    def watch(self, grant: Grant) -> None:
        """Have the grant looked at when its next time has come."""
        now, limits, name = self.clock.reading(), grant.limits, grant.id.name
        ends = limits.ends.timestamp() if limits.ends is not None else None
        stations = (ends - SOON, ends) if ends is not None else ()
        begins = limits.begins.timestamp() if limits.begins is not None else None
        self._ends.set(name, next((time for time in stations if time > now.latest), None))
        self._begins.set(name, begins if begins is not None and begins > now.earliest else None)
        self._changed.set()

    def forget(self, name: str) -> None:
        """The grant is gone."""
        self._ends.set(name, None)
        self._begins.set(name, None)
        self._begun.pop(name, None)
        self._ended.pop(name, None)

    async def run(self) -> None:
        """Wake grants for ever. The clock is asked beside that: should no answer come, ours goes on."""
        asking: asyncio.Task[None] | None = None
        try:
            while True:
                now = self.clock.reading()
                for name in (*self._ends.reached(now.latest), *self._begins.reached(now.earliest)):
                    if (grant := self._world.grant(name)) is not None:
                        self.watch(grant)
                        self._wake(name)
                self._changed.clear()
                wait = self._wait()
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._changed.wait()
                        continue
                if asking is None or asking.done():
                    asking = asyncio.create_task(self._api.ask_time())
        finally:
            if asking is not None:
                await give_up((asking,))

    def _wait(self) -> float | None:
        """Seconds until something may be due, None where nothing ever is."""
        now, begin, end = self.clock.reading(), self._begins.next(), self._ends.next()
        waits = [ASKED_EVERY] if begin is not None or end is not None else []
        if begin is not None:
            waits.append(max(begin - now.earliest, 0.0))
        if end is not None:
            waits.append(min(max(end - now.latest, 0.0), max(end - now.latest - NEAR, ASKED_NEAR)))
        return min(waits, default=None)

    def _tell_of_skew(self) -> None:
        news = "differ from" if self.clock.skewed else "agree again with"
        log.warning("the clock has come to %s the API server's: it is %.0f s ahead", news, self.clock.skew)
        for grant in self._world.grants:
            if grant.limits.begins is not None or grant.limits.ends is not None:
                self._wake(grant.id.name)
