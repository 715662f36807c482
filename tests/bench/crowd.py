"""Many grants at once: over namespaces of their own, over the same ones, and with one among these that is sick."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from tests.bench import sickness, truth
from tests.bench.figures import Figure
from tests.bench.truth import Row
from tests.bench.world import EACH, MANAGED, World, added, first, over, spec
from vmaccess.cluster.api import ROLE_BINDINGS

GOAL = 1.2


def many(world: World) -> None:
    """So many grants with namespaces of their own, over one grant with all of those."""
    grants, each = world.scale.grants, world.scale.each
    total = grants * each
    everywhere = truth.sample(world.namespaces[:total])
    with world.operator() as operator:
        world.audit.quiet()
        floor = world.ready({"one": spec("one", **over(first(total)))})
        world.say(f"1 grant x {total}: {floor:.1f} s")
        world.remember(f"1 grant x {total}", operator, grants=1, children=EACH["Role"] * total)
        world.check("one", truth.rows("one", everywhere, truth.VIEW))
        world.remove("one")
        world.check("one, deleted", truth.rows("one", everywhere, truth.NOTHING))
    with world.operator() as operator:
        world.audit.quiet()
        since = world.audit.mark()
        names = [f"many-{number}" for number in range(grants)]
        seconds = world.ready({name: spec(name, **over("group", f"g{number}")) for number, name in enumerate(names)})
        counts = world.audit.counts(since)
        world.remember(f"{grants} grants x {each}", operator, grants=grants, children=EACH["Role"] * total)
        homes = {name: world.namespaces[number * each] for number, name in enumerate(names)}
        seen = [(name, homes[name], homes[other]) for name, other in zip(names, names[1:] + names[:1], strict=True)]
        rows = [
            row
            for name, own, other in truth.sample(seen)
            for row in (Row(name, own, truth.VIEW), Row(name, other, truth.NOTHING))
        ]
        world.check("many", rows)
        world.remove(*names)
        world.check("many, deleted", [Row(row.user, row.namespace, truth.NOTHING) for row in rows])
    scenario = f"many: {grants} grants x {each}, over 1 x {total}"
    world.found(Figure(scenario=scenario, seconds=seconds, floor=floor, goal=GOAL, counts=counts, needed=EACH["Role"] * total))


def hot(world: World) -> None:
    """All grants over the same namespaces."""
    _crowd(world, "hot", nullcontext())


def refuse(world: World) -> None:
    """The same, and in one namespace every binding is refused."""
    _crowd(world, "refuse", sickness.refusing(world, _sick(world)))


def hang(world: World) -> None:
    """The same, and in one namespace every binding hangs half a minute."""
    _crowd(world, "hang", sickness.hanging(world, _sick(world)))


def _sick(world: World) -> str:
    return world.namespaces[world.scale.each // 2]


def _crowd(world: World, scenario: str, sickens: AbstractContextManager[None]) -> None:
    """Seconds until every grant has its bindings in all namespaces but the one that may be sick."""
    if scenario != "hot" and "hot" not in world.floors:
        hot(world)
    grants, each, sick = world.scale.grants, world.scale.each, _sick(world)
    names = [f"{scenario}-{number}" for number in range(grants)]
    specs = {name: spec(name, **over("group", "g0")) for name in names}
    well = [name for name in world.namespaces[:each] if name != sick]
    rows = [
        row
        for name in truth.sample(names)
        for namespace in truth.sample(well, 2)
        for row in truth.rows(name, [namespace], truth.VIEW)
    ]
    with world.operator() as operator:
        world.audit.quiet()
        since = world.audit.mark()
        with sickens:
            seconds = world.run(
                world.follow(
                    world.apply(specs),
                    ROLE_BINDINGS.path(),
                    lambda event: added(event) and event["object"]["metadata"]["namespace"] != sick,
                    selector=MANAGED,
                    count=grants * len(well),
                )
            )
            world.check(scenario, rows)
            world.remember(
                f"{scenario}: {grants} grants x the same {each}", operator, grants=grants, children=EACH["Role"] * grants * each
            )
            if scenario == "hot":
                world.until_ready(*names)
            else:
                world.check(
                    f"{scenario}, in the sick namespace", [Row(name, sick, truth.NOTHING) for name in truth.sample(names)]
                )
            counts = world.audit.counts_so_far(since)
        world.remove(*names)
        world.check(f"{scenario}, deleted", [Row(row.user, row.namespace, truth.NOTHING) for row in rows])
    world.found(
        Figure(
            scenario=f"{scenario}: {grants} grants x the same {each}",
            seconds=seconds,
            floor=world.floors.get("hot"),
            counts=counts,
            needed=EACH["Role"] * grants * each if scenario == "hot" else None,
        )
    )
    world.floors.setdefault("hot", seconds)
