"""How late access ends that ends by itself."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from tests.bench import truth
from tests.bench.client import Json
from tests.bench.figures import Figure
from tests.bench.world import World, deleted, spec
from vmaccess.cluster.api import ROLE_BINDINGS
from vmaccess.policy.children import GRANT_LABEL
from vmaccess.policy.times import in_words

USER = "passing"
ALONE, TOGETHER = 1.0, 5.0  # seconds by which access may be late
READY_EACH, READY_ALL = 0.06, 10.0  # seconds after which grants are ready, for each of them and for all


def expiry(world: World) -> None:
    """Grants end: one after the other while nothing else is going on, and then very many in one second."""
    few, count = world.scale.endings, world.scale.namespaces
    with world.operator() as operator:
        _end(world, few, apart=1, scenario=f"expiry: the latest of {few}, one a second", goal=ALONE)
        _end(world, count, apart=0, scenario=f"expiry: the latest of {count} in one second", goal=TOGETHER)
        world.remember(f"{count} grants in one second", operator, grants=count, children=2 * count)


def _end(world: World, count: int, *, apart: int, scenario: str, goal: float) -> None:
    begun = time.time()
    first = math.ceil(begun + READY_ALL + READY_EACH * count)
    ends = {world.name("passing"): first + apart * number for number in range(count)}
    namespaces = dict(zip(ends, world.namespaces, strict=False))
    world.ready(
        {
            name: spec(USER, namespaces=[namespaces[name]], expirationTime=in_words(datetime.fromtimestamp(end, UTC)))
            for name, end in ends.items()
        }
    )
    world.audit.quiet()
    seen = truth.sample(tuple(namespaces.values()))
    world.check(f"before {scenario}", truth.rows(USER, seen, truth.VIEW))
    if time.time() > first:
        world.complain(
            f"{scenario}: grants were ready only {time.time() - begun:.0f} s after they were applied, after the first end"
        )
        return
    since = world.audit.mark()
    late = world.run(_lateness(world, ends))
    world.check(scenario, truth.rows(USER, seen, truth.NOTHING))
    if early := [seconds for seconds in late if seconds < 0]:
        world.complain(f"{scenario}: {len(early)} ended up to {-min(early):.2f} s too early")
    details = {"median": sorted(late)[len(late) // 2]}
    counts = world.audit.counts(since)
    world.found(Figure(scenario=scenario, seconds=max(late), goal=goal, counts=counts, needed=2 * count, details=details))
    world.remove(*ends)


async def _lateness(world: World, ends: Mapping[str, float]) -> list[float]:
    """Seconds after its end at which the watch tells that the binding of each grant is gone."""
    late: list[float] = []

    def note(event: Json) -> bool:
        name = (event["object"]["metadata"].get("labels") or {}).get(GRANT_LABEL, "")
        if not deleted(event) or name not in ends:
            return False
        late.append(time.time() - ends[name])
        return True

    await world.follow(asyncio.sleep(0), ROLE_BINDINGS.path(), note, count=len(ends))
    return late
