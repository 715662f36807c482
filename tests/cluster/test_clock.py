"""The API server's clock, as its answers tell it."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from vmaccess.cluster.clock import SKEW_LIMIT, WINDOW, Clock

NOON = 1_800_000_000.0
HOUR = 3600.0


class World:
    """Three clocks: the true one runs monotonically, ours and the server's are off by what a test says."""

    def __init__(self) -> None:
        self.passed = 1000.0
        self.server_off = self.ours_off = 0.0
        self.clock = Clock(wall=lambda: NOON + self.passed + self.ours_off, monotonic=lambda: self.passed)
        self.news = self.steps = 0

        def news() -> None:
            self.news += 1

        def step() -> None:
            self.steps += 1

        self.clock.on_skew, self.clock.on_step = news, step

    @property
    def server(self) -> float:
        """What the API server's clock shows."""
        return NOON + self.passed + self.server_off

    def after(self, seconds: float, *, answers: int = 1, delay: float = 0.0) -> None:
        """Let time pass, with so many answers on the way, each of which takes `delay` to come."""
        for _ in range(answers):
            self.passed += seconds / answers
            date = formatdate(self.server, usegmt=True)
            self.passed += delay
            self.clock.heard(date)


@pytest.fixture
def world() -> World:
    return World()


def test_before_any_answer_our_own_clock_must_do(world: World) -> None:
    world.ours_off = 5.0
    reading = world.clock.reading()
    assert reading.earliest == reading.latest == NOON + world.passed + 5.0
    assert not world.clock.known


def test_the_time_is_never_ahead_of_the_servers_and_late_by_no_more_than_a_second(world: World) -> None:
    world.after(0.7)
    assert world.server - 1 < world.clock.reading().latest <= world.server
    world.after(20, answers=57)
    reading = world.clock.reading()
    assert world.server - 0.2 < reading.latest <= world.server
    assert world.server - 1 < reading.earliest <= reading.latest
    assert not world.steps


def test_between_answers_time_goes_on(world: World) -> None:
    world.after(3, answers=7)
    before = world.clock.reading()
    world.passed += HOUR
    after = world.clock.reading()
    assert (after.latest - before.latest, after.earliest - before.earliest) == (HOUR, HOUR)


def test_what_we_think_of_the_time_does_not_matter(world: World) -> None:
    world.ours_off = -HOUR
    world.after(5, answers=9)
    world.ours_off = HOUR
    world.after(5, answers=9)
    assert world.server - 1 < world.clock.reading().earliest <= world.clock.reading().latest <= world.server


def test_a_step_forward_is_the_latest_time_at_once_and_the_earliest_only_when_it_lasts(world: World) -> None:
    world.after(10, answers=9)
    world.server_off = HOUR
    world.after(1)
    reading = world.clock.reading()
    assert reading.latest > world.server - 1
    assert reading.earliest < world.server - HOUR + 1
    assert world.steps == 1
    world.after(3 * WINDOW, answers=50)
    assert world.clock.reading().earliest > world.server - 1


def test_a_step_back_is_the_earliest_time_at_once_and_never_the_latest(world: World) -> None:
    world.after(10, answers=9)
    world.server_off = -HOUR
    world.after(1)
    reading = world.clock.reading()
    assert reading.earliest <= world.server
    world.after(10 * WINDOW, answers=50)
    assert world.clock.reading().latest > world.server + HOUR - 1


def test_a_slow_answer_does_not_turn_the_time_back(world: World) -> None:
    world.after(20, answers=57)
    before = world.server - world.clock.reading().latest
    world.after(1, delay=30)
    assert world.server - world.clock.reading().latest <= before + 1e-6


def test_answers_that_do_not_come_for_long_leave_no_old_doubt(world: World) -> None:
    world.after(1, delay=25)
    world.after(10 * WINDOW)
    world.after(1)
    world.after(WINDOW)
    assert world.clock.reading().earliest > world.server - 1.1


@pytest.mark.parametrize("off", [-HOUR, -SKEW_LIMIT - 1, SKEW_LIMIT + 1, HOUR])
def test_a_clock_that_is_off_is_news_once_and_again_when_it_is_right(world: World, off: float) -> None:
    world.after(10, answers=9)
    assert not world.clock.skewed
    world.ours_off = off
    world.after(10, answers=9)
    assert world.clock.skewed
    assert world.clock.skew == pytest.approx(off, abs=0.6)
    assert world.news == 1
    world.ours_off = 0
    world.after(10, answers=9)
    assert world.clock.skewed, "for a while it may go to and fro"
    world.after(3 * WINDOW, answers=20)
    assert not world.clock.skewed
    assert world.news == 2


def test_a_little_is_no_skew(world: World) -> None:
    world.ours_off = SKEW_LIMIT - 1
    world.after(60, answers=50)
    assert not world.clock.skewed
    assert world.news == 0


@pytest.mark.parametrize("text", ["", "yesterday", "Mon, 99 Nov 2026 03:13:43 GMT", "0", "a b c d e f"])
def test_a_date_that_is_none_is_ignored(world: World, text: str) -> None:
    world.clock.heard(text)
    assert not world.clock.known
    world.after(1)
    world.clock.heard(text)
    assert world.server - 1 < world.clock.reading().latest <= world.server
