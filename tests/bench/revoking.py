"""How fast access ends: by a deletion, and in front of a long queue of creates."""

from __future__ import annotations

import time
from collections.abc import Coroutine, Sequence
from typing import Any

from tests.bench import truth
from tests.bench.audit import children_of
from tests.bench.figures import Figure
from tests.bench.world import EACH, KINDS, World, deleted, first, over, spec
from vmaccess.cluster.api import ROLE_BINDINGS

GOAL = 2.0  # seconds in which access is to end
GONE, NARROWED, FLOOD = "gone", "narrowed", "flood"  # grants of `priority`, and their users
ONCE = {"Role": 0, "preset": 1, "ClusterRole": 1}  # the ClusterRole, which nobody shares any more
VIEW, OPERATE = {"preset": "View"}, {"preset": "Operate"}


def deletion(world: World) -> None:
    """A grant over so many namespaces is deleted, and no garbage collection helps."""
    count = world.scale.deleted
    seen = truth.sample(world.namespaces[:count])
    for kind, role in KINDS.items():
        name = world.name(f"deleted-{kind.lower()}")
        with world.no_garbage_collection(), world.operator():
            world.ready({name: spec(GONE, role=role, **over(first(count)))})
            world.check(f"before the deletion, {kind}", truth.rows(GONE, seen, truth.VIEW))
            world.audit.quiet()
            since = world.audit.mark()
            mine = f"vmaccess.dev/grant={name}"
            ended = world.follow(world.delete(name), ROLE_BINDINGS.path(), deleted, selector=mine, count=count)
            seconds = world.run(ended)
            world.check(f"deletion, {kind}", truth.rows(GONE, seen, truth.NOTHING))
            world.remove(name)
            counts = world.audit.counts(since)
        scenario = f"deletion: 1 grant x {count}, {kind}, last binding"
        world.found(
            Figure(
                scenario=scenario,
                seconds=seconds,
                goal=GOAL,
                counts=counts,
                needed=EACH[kind] * count + ONCE[kind],
                reads_due=None,
            )
        )


def priority(world: World) -> None:
    """The creates of a large grant are in the queue when another grant is deleted, and then a third one is narrowed."""
    count, few = world.scale.standing, world.scale.bystanders
    gone, narrowed = world.namespaces[:few], world.namespaces[few : 2 * few]
    wanted = {
        GONE: spec(GONE, namespaces=gone, role=OPERATE),
        NARROWED: spec(NARROWED, namespaces=narrowed, role=OPERATE),
        FLOOD: spec(FLOOD, **over(first(count))),
    }
    with world.no_garbage_collection(), world.operator() as operator:
        world.ready({name: wanted[name] for name in (GONE, NARROWED)})
        world.check("before the flood", truth.rows(GONE, gone, truth.OPERATE) + truth.rows(NARROWED, narrowed, truth.OPERATE))
        world.audit.quiet()
        since, started = world.audit.mark(), time.monotonic()
        world.run(world.apply({FLOOD: wanted[FLOOD]}))
        time.sleep(world.scale.head_start)
        ended = world.run(_until_refused(world, world.delete(GONE), GONE, gone, "list"))
        narrow = world.apply({NARROWED: {**wanted[NARROWED], "role": VIEW}})
        cut = world.run(_until_refused(world, narrow, NARROWED, narrowed, "start"))
        done = world.audit.counts_so_far(since, children_of(FLOOD)).writes
        world.until_ready(FLOOD, NARROWED)
        flooded = time.monotonic() - started
        world.remember(f"{2 * count} creates in the queue", operator, grants=2, children=2 * (count + few))
        world.check(
            "after the flood",
            truth.rows(GONE, gone, truth.NOTHING)
            + truth.rows(NARROWED, narrowed, truth.VIEW)
            + truth.rows(FLOOD, truth.sample(world.namespaces[:count]), truth.VIEW),
        )
        world.say(f"{done} of {2 * count} creates were done when both had taken effect")
        counts = {name: world.audit.counts(since, children_of(name)) for name in wanted}
    queue = f"priority: {2 * count} creates"
    world.found(Figure(scenario=f"{queue}, deletion of {few}", seconds=ended, goal=GOAL, counts=counts[GONE], needed=2 * few))
    world.found(Figure(scenario=f"{queue}, narrowing of {few}", seconds=cut, goal=GOAL, counts=counts[NARROWED], needed=few))
    details = {"creates_done": done}
    world.found(Figure(scenario=queue, seconds=flooded, counts=counts[FLOOD], needed=2 * count, details=details))


async def _until_refused(
    world: World, action: Coroutine[Any, Any, object], user: str, namespaces: Sequence[str], question: str
) -> float:
    await action
    started = time.monotonic()
    await truth.until_refused(world.client, user, namespaces, question)
    return time.monotonic() - started
