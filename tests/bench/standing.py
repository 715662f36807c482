"""A grant over very many namespaces that is there already: one label flips, and the operator starts anew."""

from __future__ import annotations

import time
from dataclasses import dataclass

from localcluster import product
from tests.bench import bare, truth
from tests.bench.figures import Counts, Figure
from tests.bench.world import EACH, MANAGED, World, added, deleted, first, over, spec
from vmaccess.cluster.api import ROLE_BINDINGS, ROLES

USER = "stan"
NAME = "standing"
GOAL_FLIP, GOAL_RESTART = 1.0, 1.5


def flip(world: World) -> None:
    """One of the selected namespaces loses its label, and gets it back, while nothing else happens."""
    count = world.scale.standing
    namespace = world.namespaces[count // 2]
    neighbours = truth.sample([name for name in world.namespaces[:count] if name != namespace])
    with world.operator():
        _stand(world)
        world.audit.quiet()
        _flip(world, f"flip: one of {count} loses its label", namespace, None)
        world.check("flip, gone", truth.rows(USER, [namespace], truth.NOTHING) + truth.rows(USER, neighbours, truth.VIEW))
        _flip(world, f"flip: one of {count} gets its label", namespace, "yes")
        world.check("flip, back", truth.rows(USER, [namespace, *neighbours], truth.VIEW))


def restart(world: World) -> None:
    """The operator starts while everything is as it should be, against a client that lists the same and does nothing."""
    count = world.scale.standing
    with world.operator():
        _stand(world)
    token = world.cluster.service_account_token(product.NAMESPACE, product.SERVICE_ACCOUNT)
    floor = min(bare.read(world.cluster.admin.identified_by(token)) for _ in range(world.scale.rounds))
    starts = [_start(world) for _ in range(world.scale.rounds)]
    scenario = f"restart: {EACH['Role'] * count} children, first request to ready"
    busiest = max((start.counts for start in starts), key=lambda counts: sum(vars(counts).values()))
    world.found(
        Figure(
            scenario=scenario,
            seconds=min(start.ready for start in starts),
            floor=floor,
            goal=GOAL_RESTART,
            counts=busiest,
            needed=0,
            silent=True,
            details={"from_process_start": min(start.since_process for start in starts)},
        )
    )
    world.check("restart", truth.rows(USER, truth.sample(world.namespaces[:count]), truth.VIEW))


def _stand(world: World) -> None:
    """The grant of both scenarios, which the first of them makes."""
    if NAME not in [grant["metadata"]["name"] for grant in world.grants()]:
        count = world.scale.standing
        seconds = world.ready({NAME: spec(USER, **over(first(count)))})
        world.say(f"a grant over {count} namespaces, Ready after {seconds:.1f} s")
        world.audit.rest()


def _flip(world: World, scenario: str, namespace: str, value: str | None) -> None:
    since = world.audit.mark()
    label = world.label(namespace, **{first(world.scale.standing): value})
    seconds = world.run(world.follow(label, ROLE_BINDINGS.path(namespace), added if value else deleted))
    if value is None:
        world.until_none(ROLES.path(namespace), selector=MANAGED)
    counts, here = world.audit.counts(since), world.audit.counts(since, lambda ref: ref.get("namespace") == namespace)
    world.found(Figure(scenario=scenario, seconds=seconds, goal=GOAL_FLIP, counts=counts, needed=EACH["Role"]))
    if here.writes != counts.writes:
        world.complain(f"{scenario}: {counts.writes - here.writes} writes elsewhere")


@dataclass(frozen=True)
class _Start:
    """Seconds until the operator was ready: after its first request, and after its process was started."""

    ready: float
    since_process: float
    counts: Counts


def _start(world: World) -> _Start:
    children = EACH["Role"] * world.scale.standing
    since, begun = world.audit.mark(), time.time()
    with world.operator() as operator:
        ready = time.time()
        world.audit.rest()
        world.remember(f"restart with {children} children", operator, grants=1, children=children)
        start = _Start(ready - world.audit.first_request(since), ready - begun, world.audit.counts(since))
    world.say(f"ready {start.ready:.2f} s after its first request, {start.since_process:.2f} s after the process was started")
    return start
