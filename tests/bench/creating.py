"""From apply to Ready: one grant over many namespaces, against the bare client with the same writes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median

from tests.bench import bare, truth
from tests.bench.figures import Counts, Figure
from tests.bench.world import EACH, KINDS, SPARE, World, first, over, spec

GOALS = {"Role": 1.15, "preset": 1.25}
ONCE = {"Role": 0, "preset": 0, "ClusterRole": 1}  # the preset's ClusterRole is there already
USER = "ann"
IN_FLIGHT = 128


@dataclass(frozen=True)
class Round:
    """The operator, and after it the bare client with so many requests in flight. Seconds, of the clock and of CPU."""

    created: float
    cpu: float
    counts: Counts
    in_flight: int
    bare: bare.Writes


def create(world: World) -> None:
    """One grant over so many namespaces, of each kind."""
    for kind in KINDS:
        _race(world, kind, world.scale.namespaces, world.scale.in_flight * world.scale.rounds)


def converge(world: World) -> None:
    """The same over more and more namespaces: what is plotted."""
    for kind in GOALS:
        for count in world.scale.converge:
            if count not in world.curves.get(kind, {}):
                _race(world, kind, count, (IN_FLIGHT,))


def _race(world: World, kind: str, count: int, levels: tuple[int, ...]) -> None:
    """The two in turn, so that neither has the quieter half of the run. Of several rounds the median counts, and of the bare
    client that of the level at which it is the quickest.
    """
    rounds = [_round(world, kind, count, in_flight) for in_flight in levels]
    needed = EACH[kind] * count + ONCE[kind]
    seconds = median(each.created for each in rounds)
    floor = min(median(each.bare.create for each in rounds if each.in_flight == level) for level in set(levels))
    if kind in GOALS:
        world.curves.setdefault(kind, {})[count] = seconds
        world.curves.setdefault(f"{kind}, bare client", {})[count] = floor
    world.found(
        Figure(
            scenario=f"create: 1 grant x {count}, {kind}",
            seconds=seconds,
            floor=floor,
            goal=GOALS.get(kind),
            counts=next((each.counts for each in rounds if each.counts.writes != needed), rounds[-1].counts),
            needed=needed,
            details={"rounds": [asdict(each) for each in rounds]},
        )
    )


def _round(world: World, kind: str, count: int, in_flight: int) -> Round:
    chosen = world.namespaces[:count]
    seen = truth.sample(chosen)
    with world.operator() as operator:
        model, name = world.name(f"model-{kind.lower()}"), world.name(f"one-{kind.lower()}")
        world.ready({model: spec(USER, namespaces=[SPARE], role=KINDS[kind])})
        templates = world.templates(model, SPARE)
        world.audit.quiet()
        since, cpu = world.audit.mark(), world.cpu(operator)
        created = world.ready({name: spec(USER, role=KINDS[kind], **over(first(count)))})
        cpu = world.cpu(operator) - cpu
        counts = world.audit.counts(since)
        world.remember(f"1 grant x {count}, {kind}", operator, grants=2, children=counts.writes)
        world.check(f"create, {kind}", truth.rows(USER, seen, truth.VIEW))
        world.remove(name)
        world.check(f"create and delete, {kind}", truth.rows(USER, seen, truth.NOTHING))
    world.audit.quiet()
    floor = bare.write(world.kubeconfig, templates, chosen, in_flight)
    world.say(
        f"{kind} x {count}: {created:.2f} s ({cpu:.2f} s of CPU), "
        f"bare with {in_flight} in flight {floor.create:.2f} s ({floor.cpu:.2f} s)"
    )
    return Round(created, cpu, counts, in_flight, floor)
