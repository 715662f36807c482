"""The contract of the work queue."""

from __future__ import annotations

import asyncio
import random
from http import HTTPStatus
from typing import NamedTuple

import pytest

from vmaccess.cluster import queue as module
from vmaccess.cluster.queue import AT_A_SLOW_PLACE, LAST_DELAY, WorkQueue


class Key(NamedTuple):
    """A piece of work: by its name alone for its own turn and nowhere in particular."""

    name: str
    turn: str = ""
    place: str = ""


def key(name: str) -> Key:
    """Work of a grant with the letter, in a place with the digits: "a1"."""
    return Key(name, turn=name[:1], place=name[1:])


A, B, C, D = (Key(name) for name in "abcd")


async def take(queue: WorkQueue[Key], count: int) -> list[Key]:
    """So many keys, none of them done yet."""
    async with asyncio.timeout(5):
        return [await queue.get() for _ in range(count)]


async def drain(queue: WorkQueue[Key]) -> list[Key]:
    """Everything that is ready, in order."""
    found = []
    while len(queue):
        found += await take(queue, 1)
        queue.done(found[-1])
    return found


async def nothing(queue: WorkQueue[Key], seconds: float = 0.05) -> bool:
    """Whether there is nothing to be had now."""
    try:
        async with asyncio.timeout(seconds):
            got = await queue.get()
    except TimeoutError:
        return True
    pytest.fail(f"{got} was handed out")


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    for each in (A, B, A, A):
        queue.add(each)
    assert await drain(queue) == [A, B]


async def test_urgent_keys_overtake_also_when_they_wait_already() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    for each in (A, B, C):
        queue.add(each)
    queue.add(C, urgent=True)
    queue.add(D, urgent=True)
    queue.add(D)  # does not lose its place
    assert await drain(queue) == [C, D, A, B]


async def test_a_key_that_moved_to_the_urgent_lane_is_not_worked_on_twice() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A)
    queue.add(A, urgent=True)
    assert await drain(queue) == [A]
    queue.add(A)
    assert await drain(queue) == [A]


async def test_a_key_added_while_worked_on_comes_back_after_done_and_never_meanwhile() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A)
    assert await take(queue, 1) == [A]
    queue.add(A)
    assert len(queue) == 0
    assert await nothing(queue)
    queue.done(A)
    assert await drain(queue) == [A]


async def test_what_the_work_has_covered_does_not_come_back_and_what_came_later_does() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A)
    await take(queue, 1)
    queue.add(A)
    queue.covered(A)
    queue.done(A)
    assert len(queue) == 0
    queue.add(A)
    await take(queue, 1)
    queue.covered(A)
    queue.add(A)
    queue.done(A)
    assert await drain(queue) == [A]


async def test_who_waits_for_work_is_woken() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add(A)
    async with asyncio.timeout(5):
        assert await waiting == A


async def test_grants_take_turns() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
        queue.add(key(name))
    assert [each.name for each in await drain(queue)] == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


async def test_turns_are_taken_among_urgent_keys_too_and_before_all_others() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    for name in ("a1", "a2", "a3"):
        queue.add(key(name))
    for name in ("b1", "b2", "c1"):
        queue.add(key(name), urgent=True)
    assert [each.name for each in await drain(queue)] == ["b1", "c1", "b2", "a1", "a2", "a3"]


async def test_no_more_is_handed_out_than_may_be_in_flight() -> None:
    queue: WorkQueue[Key] = WorkQueue(3)
    for number in range(5):
        queue.add(Key(str(number)))
    working = await take(queue, 3)
    assert await nothing(queue)
    assert queue.in_flight == 3
    queue.done(working[0])
    assert [each.name for each in await take(queue, 1)] == ["3"]
    assert await nothing(queue)


async def test_a_push_back_halves_what_is_in_flight_once_for_a_round_and_answers_raise_it_again() -> None:
    queue: WorkQueue[Key] = WorkQueue(8)
    for number in range(100):
        queue.add(Key(str(number)))
    for each in await take(queue, 8):
        queue.done(each, HTTPStatus.TOO_MANY_REQUESTS)  # they were sent together: one push-back
    assert int(queue.level) == 4
    await asyncio.sleep(0.001)
    for each in await take(queue, 4):
        queue.done(each, HTTPStatus.TOO_MANY_REQUESTS)
    assert int(queue.level) == 2
    for expected in (3, 4):
        for each in await take(queue, int(queue.level)):
            queue.done(each)
        assert int(queue.level) in (expected - 1, expected)
    for expected in (5, 6, 7, 8, 8):
        for each in await take(queue, int(queue.level)):
            queue.done(each)
        assert int(queue.level) in (expected - 1, expected)
    for _ in range(10):
        for each in await take(queue, 1):
            queue.done(each)
    assert int(queue.level) == 8, "never above the most"


async def test_a_place_gets_its_share_and_no_more() -> None:
    queue: WorkQueue[Key] = WorkQueue(8)
    for number in range(6):
        queue.add(Key(f"hot{number}", place="hot"))
    queue.add(Key("other", place="elsewhere"))
    names = [each.name for each in await take(queue, 3)]
    assert names == ["hot0", "hot1", "other"]
    assert await nothing(queue)
    queue.done(Key("hot1", place="hot"))
    assert [each.name for each in await take(queue, 1)] == ["hot2"]
    assert await nothing(queue)
    for name in ("hot0", "hot2"):
        queue.done(Key(name, place="hot"))
    assert {each.name for each in await take(queue, 2)} < {"hot3", "hot4", "hot5"}
    assert await nothing(queue)


async def test_work_that_hangs_holds_up_neither_other_places_nor_what_is_urgent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.1)
    queue: WorkQueue[Key] = WorkQueue(4)
    for number in range(4):
        queue.add(Key(f"stuck{number}", place=f"p{number}"))
    for name, place in (("again", "p0"), ("fine", "q")):
        queue.add(Key(name, place=place))
    stuck = await take(queue, 4)
    started = asyncio.get_running_loop().time()
    assert [each.name for each in await take(queue, 1)] == ["fine"]
    assert 0.05 < asyncio.get_running_loop().time() - started < 4
    assert queue.hanging == 4
    assert await nothing(queue), "one more piece of work at a place where one hangs"
    queue.add(revocation := Key("revoke", place="p0"), urgent=True)
    assert await take(queue, 1) == [revocation]
    queue.done(stuck[0])
    assert [each.name for each in await take(queue, 1)] == ["again"]


async def test_a_slow_place_is_served_a_little_until_it_is_quick_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.05)
    queue: WorkQueue[Key] = WorkQueue(32)
    keys = [Key(str(number), place="slow") for number in range(12)]
    for each in keys:
        queue.add(each)
    first = await take(queue, 8)
    await asyncio.sleep(0.1)
    for each in first:
        queue.done(each)
    assert await take(queue, AT_A_SLOW_PLACE[1]) == keys[8:9]
    assert await nothing(queue, 0.01)
    queue.done(keys[8])
    assert await take(queue, 3) == keys[9:]


async def test_hanging_work_is_not_without_limit_and_what_is_urgent_waits_for_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.01)
    queue: WorkQueue[Key] = WorkQueue(4)
    for number in range(20):
        queue.add(Key(str(number), place=str(number)))
    await take(queue, 6)
    assert await nothing(queue, 0.1)
    assert queue.in_flight == 6
    queue.add(D, urgent=True)
    assert await take(queue, 1) == [D]


async def test_one_at_a_time_does_not_mean_to_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.01)
    queue: WorkQueue[Key] = WorkQueue(1)
    for name in ("a1", "b2", "c3"):
        queue.add(key(name))
    await take(queue, 2)
    assert await nothing(queue, 0.1)


async def test_whether_a_key_comes_back_soon() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    assert not queue.comes_back(A, within=60)
    queue.add_after(A, 30)
    assert not queue.comes_back(A, within=20)
    assert queue.comes_back(A, within=40)
    queue.add(A)
    assert not queue.comes_back(A, within=60), "it is there already"


async def test_what_waits_behind_work_that_hangs_counts_as_hanging_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would rather not wait for one that hangs must not wait for a hundred behind it either."""
    monkeypatch.setattr(module, "OVERDUE", 0.01)
    queue: WorkQueue[Key] = WorkQueue(32)
    keys = [Key(str(number), place="slow") for number in range(9)]
    queue.add(keys[0])
    assert not queue.hangs(keys[0]), "it is its turn"
    for each in keys[1:]:
        queue.add(each)
    await take(queue, 8)
    assert await nothing(queue, 0.05)
    assert [each for each in keys if not queue.hangs(each)] == []


async def test_a_place_that_comes_anew_is_not_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.01)
    queue: WorkQueue[Key] = WorkQueue(32)
    queue.add(Key("first", place="slow"))
    [first] = await take(queue, 1)
    await asyncio.sleep(0.02)
    queue.done(first)
    queue.forget_place("slow")
    keys = [Key(str(number), place="slow") for number in range(3)]
    for each in keys:
        queue.add(each)
    assert await take(queue, 3) == keys


async def test_what_waits_for_a_slow_place_does_not_make_the_queue_look_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "OVERDUE", 0.02)
    queue: WorkQueue[Key] = WorkQueue(8)
    keys = [Key(str(number), place="slow") for number in range(5)]
    for each in keys:
        queue.add(each)
    await take(queue, 2)
    await nothing(queue)
    assert queue.oldest() == 0
    assert len(queue) == 3


async def test_a_key_that_waits_for_its_place_can_become_urgent() -> None:
    queue: WorkQueue[Key] = WorkQueue(4)
    keys = [Key(str(number), place="hot") for number in range(3)]
    for each in keys:
        queue.add(each)
    await take(queue, 1)
    await nothing(queue)
    queue.add(keys[2], urgent=True)
    assert await take(queue, 1) == keys[2:]
    for each in (keys[0], keys[2]):
        queue.done(each)
    assert await drain(queue) == keys[1:2]


async def test_delays_grow_with_failures_up_to_a_limit_and_shrink_when_forgotten() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    delays = [queue.retry(A)[0] for _ in range(12)]
    assert delays[0] < 0.5 < delays[3] < delays[6]
    assert delays[-1] <= LAST_DELAY * 1.1
    queue.forget(A)
    delay, tries = queue.retry(A)
    assert delay < 0.5
    assert tries == 1
    queue.add(A)


async def test_the_wish_of_the_server_is_kept_and_not_by_all_at_the_same_moment() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    delays = [queue.retry(Key(str(number)), at_least=7.0)[0] for number in range(100)]
    assert min(delays) >= 7.0
    assert max(delays) - min(delays) > 1.0
    for number in range(100):
        queue.add(Key(str(number)))


async def test_a_key_that_fails_for_ever_is_retried_for_ever() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    assert queue.failures(A) == 0
    delays = [queue.retry(A) for _ in range(5000)]
    assert queue.failures(A) == 5000
    assert delays[-1][1] == 5000
    assert all(LAST_DELAY * 0.9 <= delay <= LAST_DELAY * 1.1 for delay, _ in delays[20:])
    assert queue.failures(B) == 0
    queue.forget(A)
    assert queue.failures(A) == 0
    queue.add(A)


async def test_the_earlier_of_two_delayed_adds_wins_and_an_immediate_one_overtakes_both() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add_after(A, 60)
    queue.add_after(A, 0.01)
    queue.add_after(A, 30)
    assert await take(queue, 1) == [A]
    queue.done(A)
    queue.add_after(B, 60)
    queue.add(B)
    assert await drain(queue) == [B]
    assert await nothing(queue)


async def test_what_is_urgent_stays_so_when_it_fails_or_has_to_wait() -> None:
    """What is to end must not come back behind ten thousand creates because somebody's answer was not there yet."""
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A, urgent=True)
    queue.add(B, urgent=True)
    await take(queue, 2)
    queue.put_off(A, 0.001)
    queue.retry(B)
    queue.done(A)
    queue.done(B)
    queue.add(C)
    await asyncio.sleep(0.4)
    assert (await drain(queue))[-1] == C


async def test_what_becomes_urgent_while_it_is_worked_on_is_so_when_it_fails() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A)
    await take(queue, 1)
    queue.add(A, urgent=True)
    queue.covered(A)
    queue.retry(A)
    queue.done(A)
    for each in (B, C):
        queue.add(each)
    await asyncio.sleep(0.4)
    assert await drain(queue) == [A, B, C]
    queue.add(A)
    queue.add(B, urgent=True)
    assert await drain(queue) == [B, A], "and not for ever"


async def test_a_plain_add_takes_no_urgency_from_what_is_to_come_back() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A, urgent=True)
    await take(queue, 1)
    queue.retry(A)
    queue.done(A)
    for each in (B, C, A):
        queue.add(each)
    assert await drain(queue) == [A, B, C]


async def test_what_was_urgent_once_is_not_so_for_ever() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(A, urgent=True)
    await take(queue, 1)
    queue.add_after(A, 0.001)  # its next look, whatever this one was for
    queue.done(A)
    queue.add(B)
    await asyncio.sleep(0.02)
    assert await drain(queue) == [B, A]


async def test_a_delayed_add_can_be_urgent_whether_another_comes_earlier_or_later() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add_after(A, 0.001)
    queue.add_after(A, 0.05, urgent=True)
    queue.add_after(B, 0.05, urgent=True)
    queue.add_after(B, 0.001)
    queue.add(C)
    await asyncio.sleep(0.02)
    assert await drain(queue) == [A, B, C]


async def test_a_delayed_urgent_add_moves_a_key_that_waits_among_the_others() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    queue.add(C)
    queue.add(A)
    queue.add_after(A, 0.001, urgent=True)
    await asyncio.sleep(0.02)
    assert await drain(queue) == [A, C]


async def test_the_age_of_the_oldest_key_tells_of_a_queue_that_is_stuck() -> None:
    queue: WorkQueue[Key] = WorkQueue()
    assert queue.oldest() == 0
    queue.add(A)
    await asyncio.sleep(0.05)
    queue.add(B)
    assert queue.oldest() >= 0.05
    await drain(queue)
    assert queue.oldest() == 0


async def test_keys_that_move_between_lanes_while_their_place_is_full_are_neither_lost_nor_doubled() -> None:
    """An entry that does not count any more gives its room at the place to the next."""
    queue: WorkQueue[Key] = WorkQueue(4)  # one at a place
    one, two, three = (Key(str(number), place="hot") for number in range(3))
    for each in (one, two, three):
        queue.add(each)
    assert await take(queue, 1) == [one]
    assert await nothing(queue)
    queue.done(one)
    queue.add(two, urgent=True)
    assert await take(queue, 2) == [two, three]
    queue.add(two)  # again, while its old entries are still about
    queue.done(two)
    assert await nothing(queue)
    queue.done(three)
    assert await drain(queue) == [two]


@pytest.mark.parametrize("seed", range(60))
async def test_whatever_happens_every_key_has_its_work_done(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never two at once for one key, never one that waits for ever, and at the end nothing is counted that is not there."""
    monkeypatch.setattr(module, "OVERDUE", 0.002)
    chance = random.Random(seed)
    queue: WorkQueue[Key] = WorkQueue(chance.choice((1, 4, 16)))
    keys = [Key(f"{turn}{place}", turn, place) for turn in "abcd" for place in ("", "p", "q", "r")]
    due: set[Key] = set()  # added, and not begun since
    working: set[Key] = set()

    async def work() -> None:
        while True:
            key = await queue.get()
            assert key not in working
            due.discard(key)
            working.add(key)
            asyncio.get_running_loop().call_later(chance.choice((0, 0, 0.001, 0.004)), end, key)

    def end(key: Key) -> None:
        working.discard(key)
        queue.done(key, chance.choice((200, 200, 500, HTTPStatus.TOO_MANY_REQUESTS)))

    worker = asyncio.create_task(work())
    for _ in range(300):
        key = chance.choice(keys)
        due.add(key)
        queue.add(key, urgent=chance.random() < 0.4)
        if chance.random() < 0.5:
            await asyncio.sleep(chance.choice((0, 0, 0.001)))
    async with asyncio.timeout(20):
        while due or working:
            assert not worker.done(), worker.exception()
            await asyncio.sleep(0.002)
    worker.cancel()
    assert (len(queue), queue.in_flight, queue.hanging, queue.oldest()) == (0, 0, 0, 0)
    assert not queue._at
    assert not queue._parked
