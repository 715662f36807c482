"""A long time of a cluster's life in a short one: grants come, change and go, and somebody tampers with what they made."""

from __future__ import annotations

import asyncio
import random
import time

from tests.bench import truth
from tests.bench.client import Json
from tests.bench.figures import Figure
from tests.bench.truth import Row
from tests.bench.world import KINDS, World, spec
from tests.stage import RBAC

NAMESPACES, GRANTS, EACH = 50, 30, 10  # all of them, grants over some of these, and the namespaces of one
PAUSE = 0.1  # seconds between two changes, each of which means some fifteen writes
RIGHTS = {"View": truth.VIEW, "Operate": truth.OPERATE}


def churn(world: World) -> None:
    """Memory at the start, after a third of the time, and at the end, when all is as it should be."""
    seconds, names = world.scale.churn, world.namespaces[:NAMESPACES]
    dice = random.Random(1)
    live = {name: _wish(dice, name, names) for name in (world.name("churn") for _ in range(GRANTS))}
    with world.operator() as operator:
        world.ready(live)
        since, started = world.audit.mark(), time.monotonic()
        for moment, share in (("start", 0.0), ("a third", 1 / 3), ("end", 1.0)):
            world.run(_live(world, dice, live, names, started + share * seconds))
            world.remember(f"churn: {moment}", operator, grants=GRANTS, children=sum(map(_children, live.values())))
        world.until_ready(*live)
        world.audit.quiet()
        rows = [
            Row(name, namespace, _rights(wanted, namespace))
            for name, wanted in truth.sample(list(live.items()))
            for namespace in truth.sample(names, 5)
        ]
        world.check("churn", rows)
        world.remove(*live)
        world.check("churn, deleted", [Row(row.user, row.namespace, truth.NOTHING) for row in rows])
        counts = world.audit.counts(since)
    world.found(Figure(scenario=f"churn: {seconds:g} s", counts=counts, reads_due=None))


async def _live(world: World, dice: random.Random, live: dict[str, Json], names: list[str], until: float) -> None:
    while time.monotonic() < until:
        name = dice.choice(list(live))
        match dice.choice(("replace", "change", "tamper", "tamper")):
            case "replace":
                del live[name]
                await world.delete(name)
                name = world.name("churn")
                live[name] = _wish(dice, name, names)
                await world.apply({name: live[name]})
            case "change":
                live[name] = _wish(dice, name, names)
                await world.apply({name: live[name]})
            case "tamper":
                await _tamper(world, dice, name, dice.choice(live[name]["namespaces"]))
        await asyncio.sleep(2 * PAUSE * dice.random())


def _wish(dice: random.Random, name: str, names: list[str]) -> Json:
    role = {**KINDS[dice.choice(list(KINDS))], "preset": dice.choice(list(RIGHTS))}
    return spec(name, namespaces=sorted(dice.sample(names, EACH)), role=role, suspend=dice.random() < 0.1)


async def _tamper(world: World, dice: random.Random, name: str, namespace: str) -> None:
    plural, field = dice.choice((("roles", "rules"), ("rolebindings", "subjects")))
    path, nobody = f"{RBAC}/namespaces/{namespace}/{plural}/vmaccess:{name}", (404, 409)  # another kind of grant, or not yet
    if dice.random() < 0.5:
        await world.client.request("DELETE", path, ignore=nobody)
    else:
        await world.client.request("PATCH", path, {field: []}, ignore=nobody)


def _rights(wanted: Json, namespace: str) -> frozenset[str]:
    given = namespace in wanted["namespaces"] and not wanted["suspend"]
    return RIGHTS[wanted["role"]["preset"]] if given else truth.NOTHING


def _children(wanted: Json) -> int:
    return 0 if wanted["suspend"] else EACH * (2 if wanted["role"]["kind"] == "Role" else 1)
