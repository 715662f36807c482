"""The API server's clock, as the Date headers of its answers tell it; between answers the monotonic clock goes on.

Ours may be wrong, and nothing of what a grant says depends on it: it is only compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from functools import lru_cache

from vmaccess.policy.times import Reading

WINDOW = 300.0  # seconds; what was heard in this one and the last counts
STEP = 1.0  # seconds by which the latest time may rise as it becomes known better
SKEW_LIMIT = 5.0  # seconds by which two clocks may differ; a Date header has whole seconds


class Clock:
    """What time it is. `on_step` is called when it has become later than was known, `on_skew` when the two clocks have come to
    differ, or to agree again.

    A Date header is the time at which the answer was sent, cut to the second: what it says, counted on from its arrival, is late
    by up to a second and never early. So the latest of all is the nearest to the truth. It also holds through a step back of the
    API server's clock. The earliest forgets what is older than two windows: of a clock that was behind only once, as one is that
    stopped with its machine.
    """

    def __init__(self, *, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.on_step: Callable[[], None] = lambda: None
        self.on_skew: Callable[[], None] = lambda: None
        # Not the event loop's time, which stands still while a callback runs: an answer would seem to have come before its Date.
        self._wall, self._monotonic = wall, monotonic
        # Seconds since 1970, less the monotonic clock's.
        self._latest: float | None = None
        self._current = 0.0
        self._earliest = [0.0, 0.0]  # of this window and the last
        self._window_began = 0.0
        self._text = ""
        self.skew = 0.0  # seconds by which ours is ahead, at the last answer
        self.skewed = False
        self._skew_seen = [False, False]  # in this window and the last

    def heard(self, date: str) -> None:
        """Take in the Date header of an answer that has just come."""
        now = self._monotonic()
        if date == self._text and now - self._window_began < WINDOW:
            return  # the first answer of a second says most
        self._text = date
        if (server := _seconds(date)) is None:
            return
        offset = server - now
        if self._latest is None:
            self._latest, self._earliest, self._window_began = offset, [offset, offset], now
        self._current = offset
        stepped = offset > self._latest + STEP
        self._latest = max(self._latest, offset)
        self._turn(now, offset)
        self._earliest[0] = min(self._earliest[0], offset)
        self._compare(self._wall() - server)
        if stepped:
            self.on_step()

    @property
    def known(self) -> bool:
        """Whether any answer has told the time."""
        return self._latest is not None

    def reading(self) -> Reading:
        """The time now; our own clock's where no answer has told any."""
        if self._latest is None:
            ours = self._wall()
            return Reading(ours, ours, ours)
        now = self._monotonic()
        return Reading(now + min(self._earliest), now + self._current, now + self._latest)

    def _turn(self, now: float, offset: float) -> None:
        if now - self._window_began >= WINDOW:
            self._earliest = [offset, self._earliest[0]]
            self._skew_seen = [False, self._skew_seen[0]]
            self._window_began = now

    def _compare(self, ahead: float) -> None:
        self.skew = ahead - 0.5  # the half of what was cut off
        if abs(self.skew) > SKEW_LIMIT:
            self._skew_seen[0] = True
        skewed = any(self._skew_seen)
        if skewed != self.skewed:
            self.skewed = skewed
            self.on_skew()


@lru_cache(maxsize=8)
def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, IndexError):  # IndexError: of some texts the parser makes too short a list
        return None
