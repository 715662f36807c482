"""What a change to one large grant costs, and what costs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.bench import truth
from tests.bench.figures import Figure
from tests.bench.world import World, added, deleted, first, over, spec, together
from vmaccess.cluster.api import ROLE_BINDINGS, ROLES

USER, SECOND = "ann", "bob"
APPLIED_AGAIN = 100  # times
ADDED = "added"


def changes(world: World) -> None:
    """One grant of kind Role: its rules, its subjects and its namespaces change, and then nothing does."""
    count = world.scale.namespaces
    chosen = truth.sample(world.namespaces[:count])
    name = world.name("changing")
    wanted = spec(USER, role={"preset": "View"}, **over(first(count)))

    def change(**fields: Any) -> float:
        wanted.update(fields)
        return world.ready({name: wanted})

    def appears() -> float:
        made = world.make_namespaces({ADDED: {first(count): "yes"}})
        return world.run(world.follow(made, ROLE_BINDINGS.path(ADDED), added))

    def leaves() -> float:
        unlabelled = world.label(ADDED, **{first(count): None})
        return world.run(world.follow(unlabelled, ROLES.path(ADDED), deleted))

    both = [*wanted["subjects"], {"kind": "User", "name": SECOND}]
    with world.operator():
        change()
        _counted(world, f"changes: the rules of {count} namespaces", count, lambda: change(role={"preset": "Operate"}))
        world.check("rule change", truth.rows(USER, chosen, truth.OPERATE))
        _counted(world, f"changes: one subject more in {count}", count, lambda: change(subjects=both))
        world.check("subject change", [row for user in (USER, SECOND) for row in truth.rows(user, chosen, truth.OPERATE)])
        _counted(world, "changes: a namespace appears", 2, appears)
        world.check("namespace added", truth.rows(USER, [ADDED], truth.OPERATE))
        _counted(world, "changes: a namespace loses its label", 2, leaves)
        world.check("namespace removed", truth.rows(USER, [ADDED], truth.NOTHING))
        world.audit.rest()
        again = f"changes: the same manifest {APPLIED_AGAIN} times"
        _silent(world, again, lambda: world.run(_apply_again(world, {name: wanted})))
        _silent(world, "changes: idle", lambda: time.sleep(world.scale.idle))
    world.audit.quiet()
    since = world.audit.mark()
    with world.operator():
        world.audit.rest()
        world.found(Figure(scenario="changes: restart", counts=world.audit.counts(since), needed=0, silent=True))
        world.check("restart", truth.rows(SECOND, chosen, truth.OPERATE))
        world.remove(name)
        world.check("deletion", [row for user in (USER, SECOND) for row in truth.rows(user, chosen, truth.NOTHING)])


def _counted(world: World, scenario: str, needed: int, action: Callable[[], float]) -> None:
    world.audit.quiet()
    since = world.audit.mark()
    seconds = action()
    world.found(Figure(scenario=scenario, seconds=seconds, counts=world.audit.counts(since), needed=needed))


def _silent(world: World, scenario: str, action: Callable[[], object]) -> None:
    since = world.audit.mark()
    action()
    world.found(Figure(scenario=scenario, counts=world.audit.counts(since), needed=0, silent=True))


async def _apply_again(world: World, specs: dict[str, dict[str, Any]]) -> None:
    await together((world.apply(specs) for _ in range(APPLIED_AGAIN)), at_once=1)
