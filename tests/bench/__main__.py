"""`make bench`: how fast the operator is, against a client that does nothing else, and that it asks for nothing in vain.

What is compared. Every ratio is of two times from one run, on one fresh control plane (etcd, kube-apiserver and
kube-controller-manager as processes of this machine, no nodes), with nothing else going on:

- *bare*, the floor of `create`: a client with the operator's own identity sends the very same writes, so many at once, and does
  nothing else. It sends them through the operator's own `Api` and event loop; what is compared is all that the operator does
  beside sending. The two take turns, the bare client with 64, 128 and 256 requests in flight, and the best of each counts.
- of `restart`: a plain client lists every kind that the operator mirrors, all at once, in pages of 500, and decodes them as JSON.
- of `many`: one grant over as many namespaces as all of the many have together. Of `refuse` and `hang`: the same without the sick
  namespace, `hot`.

What is timed. From the first request of whoever applies until the watch brings the last grant as Ready; from a label's change
until the watch brings the binding, or its end; from the deletion until the watch brings the end of the last binding; and in
`priority`, from the API server's answer until the last of many SubjectAccessReviews refuses, asked ten times a second. In
`expiry` from the second at which a grant ends, by the one clock of this machine, until the watch brings the end of its binding.

What is counted. The operator's requests in the API server's audit log: writes to children, and reads of single objects (lists
and watches are how it follows the cluster). Writes of statuses and of Events are counted apart. `needed` is what any client would
have to write. In `deletion` and `priority` kube-controller-manager is down, so that no garbage collection does a part of it.

What fails. A count that is not what it has to be, and an access truth table (SubjectAccessReviews for a sample of namespaces, of
somebody granted and of somebody not, after each scenario and again after its end) that does not hold. A time never fails: it is
a figure of this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from localcluster import ClusterError, kubevirt, product
from tests.bench import loop, plot
from tests.bench.changing import changes
from tests.bench.churning import NAMESPACES, churn
from tests.bench.client import Refused
from tests.bench.creating import converge, create
from tests.bench.crowd import hang, hot, many, refuse
from tests.bench.expiring import expiry
from tests.bench.figures import HEADINGS, table
from tests.bench.revoking import deletion, priority
from tests.bench.scale import FULL, QUICK, Scale
from tests.bench.standing import flip, restart
from tests.bench.world import World
from vmaccess.model.spec import Role
from vmaccess.policy.kubevirt import DEFAULT_BASE
from vmaccess.policy.role import trim
from vmaccess.policy.rules import parse


@dataclass(frozen=True)
class Scenario:
    """What is run, and over how many namespaces."""

    run: Callable[[World], None]
    namespaces: Callable[[Scale], int]
    in_quick: bool = False
    after: str = ""
    """The scenario whose grants it works on, where that has just run."""


SCENARIOS = {
    "create": Scenario(create, lambda scale: scale.namespaces, in_quick=True),
    "changes": Scenario(changes, lambda scale: scale.namespaces, in_quick=True),
    "many": Scenario(many, lambda scale: scale.grants * scale.each),
    "hot": Scenario(hot, lambda scale: scale.each),
    "refuse": Scenario(refuse, lambda scale: scale.each, in_quick=True),
    "hang": Scenario(hang, lambda scale: scale.each),
    "deletion": Scenario(deletion, lambda scale: scale.deleted, in_quick=True),
    "expiry": Scenario(expiry, lambda scale: scale.namespaces, in_quick=True),
    "flip": Scenario(flip, lambda scale: scale.standing, in_quick=True),
    "restart": Scenario(restart, lambda scale: scale.standing, in_quick=True, after="flip"),
    "priority": Scenario(priority, lambda scale: scale.standing, in_quick=True),
    "churn": Scenario(churn, lambda _: NAMESPACES),
    "converge": Scenario(converge, lambda scale: max(scale.converge)),
}


def main() -> int:
    """Run, print the table, and fail where a count or a truth table is wrong."""
    options = _options()
    scale = _scale(options)
    chosen = [name for name, scenario in SCENARIOS.items() if _is_chosen(name, scenario, options)]
    started = time.monotonic()
    with product.own_cluster() as cluster:
        size = max(SCENARIOS[name].namespaces(scale) for name in chosen)
        print(f"a control plane after {time.monotonic() - started:.0f} s", flush=True)
        with World(cluster, scale, size) as world:
            with world.operator() as operator:
                world.remember(f"{size} namespaces, no grant", operator)
            for name, before in zip(chosen, [None, *chosen], strict=False):
                if SCENARIOS[name].after != before:
                    world.clear()
                print(f"\n{name}: {_says(SCENARIOS[name])} ({time.monotonic() - started:.0f} s so far)\n{HEADINGS}", flush=True)
                _run(world, name)
            environment = _environment(cluster.request("GET", "/version")[1])
    taken = trims()
    print(f"\n{table(world.figures, world.memory.values())}\n")
    print(f"trim of the full {DEFAULT_BASE}, View and all of it with drops: {', '.join(f'{each:.1f} ms' for each in taken)}")
    print(f"{time.monotonic() - started:.0f} s in all, on {environment['cpus']} CPUs, Kubernetes {environment['kubernetes']}")
    if options.json:
        found = {
            "environment": environment,
            "figures": [figure.as_json() for figure in world.figures],
            "memory": [each.as_json() for each in world.memory.values()],
            "curves": world.curves,
            "trims": taken,
            "wrong": world.wrong,
        }
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if options.plot and world.curves:
        options.plot.write_text(plot.draw(world.curves))
    for each in world.wrong:
        print(f"WRONG: {each}", file=sys.stderr)
    return 1 if world.wrong else 0


def trims() -> list[float]:
    """Milliseconds, the median of many, to cut a role out of the shipped admin role."""
    shipped = yaml.safe_load_all(kubevirt.ROLES.read_text())
    base = next(role for role in shipped if role["metadata"]["name"] == DEFAULT_BASE)
    rules, times = parse(base["rules"]), []
    drop = [{"resources": ["virtualmachineinstances/vnc"]}, {"verbs": ["delete", "deletecollection"]}]
    for role in (Role(), Role.model_validate({"preset": "Admin", "drop": drop})):
        taken = []
        for _ in range(100):
            started = time.perf_counter()
            trim(rules, role)
            taken.append(1000 * (time.perf_counter() - started))
        times.append(statistics.median(taken))
    return times


def _run(world: World, name: str) -> None:
    try:
        SCENARIOS[name].run(world)
    except (ClusterError, Refused, TimeoutError) as error:
        world.complain(f"{name} did not come to its end: {error}")


def _says(scenario: Scenario) -> str:
    return (scenario.run.__doc__ or "").splitlines()[0]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench",
        description=(__doc__ or "").splitlines()[0],
        epilog="Scenarios:\n" + "\n".join(f"  {name:9} {_says(scenario)}" for name, scenario in SCENARIOS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and fewer scenarios, in under two minutes")
    parser.add_argument("--scenario", choices=SCENARIOS, action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--namespaces", type=int, metavar="N", help="namespaces of the one grant in create and changes")
    parser.add_argument(
        "--scale", type=float, default=1.0, metavar="F", help="so many times the namespaces and grants, everywhere"
    )
    parser.add_argument("--churn", type=float, metavar="S", help="seconds of churn (default: 120)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="run converge too, and draw it as SVG")
    return parser.parse_args()


def _scale(options: argparse.Namespace) -> Scale:
    scale = (QUICK if options.quick else FULL).scaled(options.scale)
    if options.namespaces:
        scale = replace(scale, namespaces=options.namespaces)
    if options.churn:
        scale = replace(scale, churn=options.churn)
    return scale


def _is_chosen(name: str, scenario: Scenario, options: argparse.Namespace) -> bool:
    if name == "converge" and options.plot:
        return True
    if options.scenario:
        return name in options.scenario
    return name != "converge" and (scenario.in_quick or not options.quick)


def _environment(version: dict[str, Any]) -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "loop": loop.NAME,
        "kubernetes": version["gitVersion"],
    }


if __name__ == "__main__":
    sys.exit(main())
