"""The contract of the work queue."""

from __future__ import annotations

import asyncio

from vmaccess.cluster.queue import LAST_DELAY, WorkQueue


async def drain(queue: WorkQueue[str]) -> list[str]:
    """Everything that is ready, in order."""
    found = []
    while len(queue):
        key = await queue.get()
        found.append(key)
        queue.done(key)
    return found


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "a", "a"):
        queue.add(key)
    assert await drain(queue) == ["a", "b"]


async def test_urgent_keys_overtake_also_when_they_wait_already() -> None:
    queue: WorkQueue[str] = WorkQueue()
    for key in ("a", "b", "c"):
        queue.add(key)
    queue.add("c", urgent=True)
    queue.add("d", urgent=True)
    queue.add("d")  # does not lose its place
    assert await drain(queue) == ["c", "d", "a", "b"]


async def test_a_key_that_moved_to_the_urgent_lane_is_not_worked_on_twice() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    queue.add("a", urgent=True)
    assert await drain(queue) == ["a"]
    queue.add("a")
    assert await drain(queue) == ["a"]


async def test_a_key_added_while_worked_on_comes_back_after_done_and_never_meanwhile() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add("a")
    assert await queue.get() == "a"
    queue.add("a")
    assert len(queue) == 0
    queue.done("a")
    assert await drain(queue) == ["a"]


async def test_waiting_workers_are_woken_one_for_each_key() -> None:
    queue: WorkQueue[str] = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    queue.add("a")
    queue.add("b")
    done, pending = await asyncio.wait(workers, timeout=0.2)
    assert sorted(task.result() for task in done) == ["a", "b"]
    for task in pending:
        task.cancel()


async def test_delays_grow_with_failures_up_to_a_limit_and_shrink_when_forgotten() -> None:
    queue: WorkQueue[str] = WorkQueue()
    delays = [queue.retry("a")[0] for _ in range(12)]
    assert delays[0] < 0.5 < delays[3] < delays[6]
    assert delays[-1] <= LAST_DELAY * 1.1
    queue.forget("a")
    delay, tries = queue.retry("a")
    assert delay < 0.5
    assert tries == 1
    assert queue.retry("a", at_least=7.0)[0] >= 6.3
    queue.add("a")


async def test_a_key_that_fails_for_ever_is_retried_for_ever() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.failures("a") == 0
    delays = [queue.retry("a") for _ in range(5000)]
    assert queue.failures("a") == 5000
    assert delays[-1][1] == 5000
    assert all(LAST_DELAY * 0.9 <= delay <= LAST_DELAY * 1.1 for delay, _ in delays[20:])
    assert queue.failures("b") == 0
    queue.forget("a")
    assert queue.failures("a") == 0
    queue.add("a")


async def test_the_earlier_of_two_delayed_adds_wins_and_an_immediate_one_overtakes_both() -> None:
    queue: WorkQueue[str] = WorkQueue()
    queue.add_after("a", 60)
    queue.add_after("a", 0.01)
    queue.add_after("a", 30)
    async with asyncio.timeout(5):
        assert await queue.get() == "a"
    queue.done("a")
    queue.add_after("b", 60)
    queue.add("b")
    assert await drain(queue) == ["b"]
    await asyncio.sleep(0)
    assert not queue.busy


async def test_the_age_of_the_oldest_key_tells_of_a_queue_that_is_stuck() -> None:
    queue: WorkQueue[str] = WorkQueue()
    assert queue.oldest() == 0
    queue.add("a")
    await asyncio.sleep(0.05)
    queue.add("b")
    assert queue.oldest() >= 0.05
    await drain(queue)
    assert queue.oldest() == 0
