"""The work queue: a key is worked on by one worker at a time, and however often it is added, once."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_DELAY, LAST_DELAY = 0.25, 60.0  # seconds of back-off after the first failure, and at most
DOUBLINGS = 10  # of the back-off, by which it has reached its end


class WorkQueue(Generic[K]):
    """Keys that wait for work, each at most once, the urgent ones first.

    A key added while it is being worked on is handed out again after `done`. `retry` adds it after a delay that doubles
    with every failure until `forget`. The first of several delayed adds wins; an immediate `add` overtakes them all.
    """

    def __init__(self) -> None:
        self._lanes: tuple[deque[K], deque[K]] = (deque(), deque())  # urgent, normal
        self._lane: dict[K, int] = {}  # every waiting key, and the lane in which its entry counts
        self._since: dict[K, float] = {}
        self._working: set[K] = set()
        self._again: dict[K, bool] = {}  # added while worked on; the value is whether it is urgent
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._failures: dict[K, int] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return len(self._lane)

    @property
    def busy(self) -> bool:
        """Whether anything waits or is worked on; delayed keys do not count."""
        return bool(self._lane or self._working)

    def oldest(self) -> float:
        """Seconds for which the longest-waiting key has been waiting, 0 where none is."""
        now = asyncio.get_running_loop().time()
        return max((now - since for since in self._since.values()), default=0.0)

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Have the key worked on as soon as possible; urgent ones overtake the others, also when they wait already."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._working:
            self._again[key] = self._again.get(key, False) or urgent
            return
        lane = 0 if urgent else 1
        if self._lane.get(key, 2) <= lane:
            return
        self._lane[key] = lane
        self._since.setdefault(key, asyncio.get_running_loop().time())
        self._lanes[lane].append(key)
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    def add_after(self, key: K, seconds: float) -> None:
        """Have the key worked on in a while, or earlier where it is already due earlier."""
        if key in self._lane or key in self._again:
            return
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry(self, key: K, *, at_least: float = 0.0) -> tuple[float, int]:
        """Have the key worked on after its back-off; returns that delay in seconds, and how often it has failed by now."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        doubled = FIRST_DELAY * 2 ** min(failures, DOUBLINGS)
        delay = max(at_least, min(doubled, LAST_DELAY)) * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        self.add_after(key, delay)
        return delay, failures + 1

    def failures(self, key: K) -> int:
        """How often the key has failed since it was last forgotten; more than 0 means that it comes back by itself."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """The key did not fail: its next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; the caller must call `done` with it."""
        while True:
            for number, lane in enumerate(self._lanes):
                while lane:
                    key = lane.popleft()
                    if self._lane.get(key) == number:  # else it has moved to the urgent lane meanwhile
                        del self._lane[key], self._since[key]
                        self._working.add(key)
                        return key
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter

    def done(self, key: K) -> None:
        """The key was worked on."""
        self._working.discard(key)
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)
