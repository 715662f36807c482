"""The work queue: what is worked on next, how much of it at once, and when what has failed is tried again."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

FIRST_DELAY, LAST_DELAY = 0.25, 60.0  # seconds of back-off after the first failure, and at most
DOUBLINGS = 10  # of the back-off, by which it has reached its end
OVERDUE = 2.0  # seconds after which work counts as hanging: other work is not to wait for it
OK, TOO_MANY_REQUESTS = 200, 429  # as numbers: HTTPStatus looks its members up in Python code, for every piece of work
AT_A_SLOW_PLACE = (8, 1)  # pieces of work at once, urgent and other, where writes hang
CROWD = 4  # one place gets at most this part of what may be in flight
RESERVE = 4  # the part of it that what is urgent has on top


class Work(Hashable, Protocol):
    """What a key says of the work: whose turn it counts as, and where it is done (empty where no place can hang for long)."""

    @property
    def turn(self) -> Hashable: ...
    @property
    def place(self) -> str: ...


K = TypeVar("K", bound=Work)


@dataclass(frozen=True, slots=True)
class _Entry(Generic[K]):
    """A key in a lane. Of several entries of one key, which has moved between the lanes, the last one counts."""

    key: K
    lane: int


class Level:
    """How many pieces of work may be in flight, found as TCP finds its window: halved when the API server pushes back, then
    raised by one for every round of answers, up to `most`.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._now, self._halved_at = float(most), -1.0

    def __int__(self) -> int:
        return int(self._now)

    def answered(self) -> None:
        """The API server took a request."""
        self._now = min(self._now + 1 / self._now, self.most)

    def pushed_back(self, since: float, now: float) -> None:
        """It answered 429 to what was begun at `since`: what was sent before the last halving tells nothing new."""
        if since >= self._halved_at:
            self._now, self._halved_at = max(self._now / 2, 1.0), now


class _Lane(Generic[K]):
    """Entries in the order in which they came, except that all whose turn it is come round before anyone comes twice."""

    def __init__(self) -> None:
        self._turns: OrderedDict[Hashable, deque[_Entry[K]]] = OrderedDict()

    def append(self, entry: _Entry[K]) -> None:
        self._turns.setdefault(entry.key.turn, deque()).append(entry)

    def resume(self, entry: _Entry[K]) -> None:
        """Put in front of what has the same turn."""
        self._turns.setdefault(entry.key.turn, deque()).appendleft(entry)

    def pop(self) -> _Entry[K] | None:
        if not self._turns:
            return None
        turn, entries = next(iter(self._turns.items()))
        entry = entries.popleft()
        if entries:
            self._turns.move_to_end(turn)
        else:
            del self._turns[turn]
        return entry


class WorkQueue(Generic[K]):
    """Keys that wait for work, each at most once: the urgent ones first, and in turn within each of the two lanes.

    A key is worked on by one task at a time. One added meanwhile is handed out again after `done`. `retry` adds a key after a
    delay that doubles with every failure until `forget`. The first of several delayed adds wins; an immediate `add` overtakes
    them all. What was urgent when it was handed out stays so when it is put off or fails.

    As much is handed out at once as `level` says, not counting what hangs, and up to half as much again in all: a server
    that is stalled as a whole would not be helped by more, and each connection takes memory. A place gets its share of that, and
    next to nothing while work hangs there. What is urgent has a reserve on top.
    """

    def __init__(self, most: int = 128) -> None:
        self.level = Level(most)
        self._lanes: tuple[_Lane[K], _Lane[K]] = (_Lane(), _Lane())  # urgent, normal
        self._waiting: dict[K, _Entry[K]] = {}  # every waiting key, and which of its entries counts
        self._parked: defaultdict[tuple[int, str], deque[_Entry[K]]] = defaultdict(deque)  # until there is room at their place
        self._since: dict[K, float] = {}  # since when a key could be worked on
        self._working: dict[K, tuple[int, float]] = {}  # the lane it came from, and since when, in that order
        self._hanging: dict[K, tuple[int, float]] = {}  # those of them that are overdue
        self._at: Counter[tuple[int, str]] = Counter()  # how many are worked on at a place
        self._slow: set[tuple[int, str]] = set()  # places where work hangs, or the last did
        self._again: dict[K, bool] = {}  # added while worked on; the value is whether it is urgent
        self._raised: set[K] = set()  # those of them that became urgent, which who works on them has seen
        self._timers: dict[K, tuple[asyncio.TimerHandle, bool]] = {}  # with whether it will be urgent
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()  # there may be something to hand out
        self._idle = asyncio.Event()
        self._idle.set()

    def __len__(self) -> int:
        return len(self._waiting)

    def is_working(self, key: K) -> bool:
        """Whether somebody works on the key just now."""
        return key in self._working or key in self._hanging

    def hangs(self, key: K) -> bool:
        """Whether the key has been worked on for longer than a request should take, or waits at a place where others have."""
        return key in self._hanging or (key in self._waiting and key not in self._since)

    @property
    def in_flight(self) -> int:
        """How many keys are worked on."""
        return len(self._working) + len(self._hanging)

    @property
    def hanging(self) -> int:
        """How many of them have been for longer than a request should take."""
        return len(self._hanging)

    def oldest(self) -> float:
        """Seconds for which the longest-waiting key has been waiting, 0 where none is; not counted is a wait for a slow place."""
        now = asyncio.get_running_loop().time()
        return max((now - since for since in self._since.values()), default=0.0)

    def add(self, key: K, *, urgent: bool = False) -> None:
        """Have the key worked on as soon as possible; urgent ones overtake the others, also when they wait already."""
        if (timer := self._timers.pop(key, None)) is not None:
            timer[0].cancel()
            urgent = urgent or timer[1]
        if self.is_working(key):
            self._again[key] = self._again.get(key, False) or urgent
            return
        lane = 0 if urgent else 1
        if (waiting := self._waiting.get(key)) is not None and waiting.lane <= lane:
            return
        entry = self._waiting[key] = _Entry(key, lane)
        self._since.setdefault(key, asyncio.get_running_loop().time())
        self._idle.clear()
        self._lanes[lane].append(entry)
        self._changed.set()

    def add_after(self, key: K, seconds: float, *, urgent: bool = False) -> None:
        """Have the key worked on in a while, or earlier where it is already due earlier; as urgently as anybody wants it."""
        if key in self._again:
            self._again[key] = self._again[key] or urgent
            return
        if (waiting := self._waiting.get(key)) is not None and (waiting.lane == 0 or not urgent):
            return
        loop = asyncio.get_running_loop()
        when = loop.time() + seconds
        if (timer := self._timers.get(key)) is not None:
            if timer[0].when() <= when and timer[1] >= urgent:
                return
            timer[0].cancel()
            when, urgent = min(when, timer[0].when()), urgent or timer[1]
        self._timers[key] = loop.call_at(when, partial(self.add, key, urgent=urgent)), urgent

    def put_off(self, key: K, seconds: float) -> None:
        """Have the key, which is being worked on, worked on again in a while: as urgently as now."""
        lane, _ = self._working.get(key) or self._hanging.get(key) or (1, 0.0)
        self.add_after(key, seconds, urgent=lane == 0 or key in self._raised)

    def retry(self, key: K, *, at_least: float = 0.0) -> tuple[float, int]:
        """Have the key worked on after its back-off; returns that delay in seconds, and how often it has failed by now.

        Not before `at_least` seconds, the server's wish, within reason; and not all at once those who were told the same.
        """
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        doubled = min(FIRST_DELAY * 2 ** min(failures, DOUBLINGS), LAST_DELAY)
        delay = max(doubled * random.uniform(0.9, 1.1), min(at_least, LAST_DELAY) * random.uniform(1.0, 1.5))  # noqa: S311 - jitter
        self.put_off(key, delay)
        return delay, failures + 1

    def covered(self, key: K) -> None:
        """What the key was added for until now is seen by who works on it just now: it need not come back for that.

        Had it become urgent, it stays so should it fail.
        """
        if self._again.pop(key, False):
            self._raised.add(key)

    def forget_place(self, place: str) -> None:
        """The place is gone; should one of that name come, nothing is known of how fast it is."""
        self._slow -= {(lane, place) for lane in range(len(self._lanes))}

    def comes_back(self, key: K, *, within: float) -> bool:
        """Whether the key is added within so many seconds."""
        timer = self._timers.get(key)
        return timer is not None and timer[0].when() - asyncio.get_running_loop().time() <= within

    def failures(self, key: K) -> int:
        """How often the key has failed since it was last forgotten; more than 0 means that it comes back by itself."""
        return self._failures.get(key, 0)

    def forget(self, key: K) -> None:
        """The key did not fail: its next failure is its first."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key, when there is one and room for it; the caller must call `done` with it. For one caller at a time."""
        while True:
            self._changed.clear()
            wait = self._age()
            if (key := self._next()) is not None:
                return key
            timer = asyncio.get_running_loop().call_later(wait, self._changed.set) if wait is not None else None
            await self._changed.wait()
            if timer is not None:
                timer.cancel()

    async def idle(self) -> None:
        """Wait until no key waits or is worked on; those that come back after a while do not count."""
        await self._idle.wait()

    def done(self, key: K, status: int = OK) -> None:
        """The key was worked on; `status` is the HTTP code that a failure came with."""
        now = asyncio.get_running_loop().time()
        hung = self._hanging.pop(key, None)
        lane, since = hung or self._working.pop(key)
        spot = (lane, key.place)
        self._at[spot] -= 1
        if not self._at[spot]:
            del self._at[spot]
        (self._slow.add if hung or now - since >= OVERDUE else self._slow.discard)(spot)
        self._unpark(spot)
        if status == TOO_MANY_REQUESTS:
            self.level.pushed_back(since, now)
        elif status == OK:
            self.level.answered()
        self._raised.discard(key)
        urgent = self._again.pop(key, None)
        if urgent is not None:
            self.add(key, urgent=urgent)
        if not self._waiting and not self.in_flight:
            self._idle.set()
        self._changed.set()

    def _age(self) -> float | None:
        """See what hangs by now; returns the seconds after which the next does, None where nothing is worked on."""
        now = asyncio.get_running_loop().time()
        while self._working:
            key, (lane, since) = next(iter(self._working.items()))
            if now - since < OVERDUE:
                break
            del self._working[key]
            self._hanging[key] = (lane, since)
            self._slow.add((lane, key.place))
        return OVERDUE - (now - since) if self._working else None

    def _has_room(self, lane: int) -> bool:
        """Whether one more may be begun: what is to end must not wait for what hangs or is to begin."""
        level = int(self.level)
        reserve = max(level // RESERVE, 1) if lane == 0 else 0
        return len(self._working) < level + reserve and self.in_flight < level + max(level // 2, 1) + reserve

    def _next(self) -> K | None:
        for number, lane in enumerate(self._lanes):
            while self._has_room(number) and (entry := lane.pop()) is not None:
                key = entry.key
                spot = (number, key.place)
                if self._waiting.get(key) is not entry:
                    self._unpark(spot)  # it has moved to the other lane meanwhile, and leaves its room to another
                    continue
                if key.place and self._at[spot] >= self._width(spot):
                    self._parked[spot].append(entry)
                    self._since.pop(key, None)
                    continue
                del self._waiting[key]
                self._since.pop(key, None)
                self._working[key] = (number, asyncio.get_running_loop().time())
                self._at[spot] += 1
                return key
        return None

    def _width(self, spot: tuple[int, str]) -> int:
        """How much may be done at once at a place."""
        width = max(int(self.level) // CROWD, 1)
        return min(AT_A_SLOW_PLACE[spot[0]], width) if spot in self._slow else width

    def _unpark(self, spot: tuple[int, str]) -> None:
        if spot not in self._parked:
            return
        room, free = self._width(spot) - self._at[spot], list[_Entry[K]]()
        while len(free) < room and (parked := self._parked.get(spot)):
            entry = parked.popleft()
            if not parked:
                del self._parked[spot]
            if self._waiting.get(entry.key) is entry:
                free.append(entry)
        for entry in reversed(free):
            self._lanes[spot[0]].resume(entry)
            self._since[entry.key] = asyncio.get_running_loop().time()
