"""`make bench`: the operator against a bare client in the same run, on the same control plane, with the same identity."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

import localcluster
from localcluster import Cluster, kubevirt, product, wait_until
from tests.bench import bare
from tests.stage import Stage
from vmaccess.model.spec import Role
from vmaccess.policy.children import GrantId
from vmaccess.policy.kubevirt import DEFAULT_BASE
from vmaccess.policy.role import trim
from vmaccess.policy.rules import parse

KINDS: dict[str, dict[str, Any]] = {
    "Role": {"role": {"kind": "Role"}},
    "preset": {"role": {"kind": "ClusterRole"}},
    "ClusterRole": {"role": {"kind": "ClusterRole", "include": ["Migrate"]}},
}
"""What bindings can point to: a Role in each namespace, the shared ClusterRole of a preset, one of the grant's own."""


@dataclass(frozen=True)
class Figure:
    """One line of the table. `floor` is the bare client's seconds; writes are counted in the API server's audit log."""

    scenario: str
    seconds: float
    floor: float | None
    writes: int
    needed: int

    @property
    def ratio(self) -> float | None:
        """Seconds over the floor's."""
        return self.seconds / self.floor if self.floor else None


def main() -> int:
    """Run, print the table, and fail where writes were made that were not needed; a time never fails."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--namespaces", type=int, default=500, help="namespaces of the one grant (default: 500)")
    parser.add_argument("--kind", choices=KINDS, action="append", help="what the bindings point to (default: each in turn)")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    with localcluster.cluster(audit=True) as cluster:
        kubevirt.install(cluster)
        product.install(cluster)
        with Stage(cluster) as stage:
            figures = run(cluster, stage, arguments.namespaces, arguments.kind or list(KINDS))
    show(figures)
    print(f"\ntrim of the full {DEFAULT_BASE}, View and all of it with drops: {', '.join(f'{each:.1f} ms' for each in trims())}")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(figure) | {"ratio": figure.ratio} for figure in figures], indent=2) + "\n")
    wasteful = [figure.scenario for figure in figures if figure.writes != figure.needed]
    if wasteful:
        print(f"\nmore or fewer writes than needed: {', '.join(wasteful)}", file=sys.stderr)
    return 1 if wasteful else 0


def run(cluster: Cluster, stage: Stage, count: int, kinds: list[str]) -> list[Figure]:
    """Every scenario, one after the other."""
    team = stage.unique("team")
    print(f"creating {count} namespaces ...", flush=True)
    with ThreadPoolExecutor(8) as pool:
        namespaces = list(pool.map(lambda number: stage.namespace(f"n{number}", team=team), range(count)))
    spec = {
        "subjects": [{"kind": "User", "name": "ann"}],
        "namespaceSelector": {"matchLabels": {"team": team}},
    }
    wait_until(lambda: _all_have_accounts(stage, namespaces), "a ServiceAccount in each", timeout=300)
    return [figure for kind in kinds for figure in _life(cluster, stage, {**spec, **KINDS[kind]}, namespaces, kind)]


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


def _life(cluster: Cluster, stage: Stage, spec: dict[str, Any], namespaces: list[str], kind: str) -> list[Figure]:
    """One grant: made, seen again after a restart, deleted."""
    count, each = len(namespaces), 2 if kind == "Role" else 1
    once = {"Role": 0, "preset": 1, "ClusterRole": 1}[kind]
    with product.Operator(cluster) as operator:
        print(f"{kind}: converging and revoking by the operator ...", flush=True)
        nowhere = {**spec, "namespaceSelector": {"matchLabels": {"team": "nobody"}}, "role": {}}
        stage.until_ready(warm := stage.grant(nowhere))
        stage.delete(warm)
        since, started = stage.mark(), time.monotonic()
        name = stage.grant(spec, f"bench-{kind.lower()}")
        wait_until(lambda: _is_ready(stage, name), "the grant to be Ready", timeout=600, interval=0.05)
        created = time.monotonic() - started
        made = _writes(stage, since, each * count + once)
        bare_grant = stage.grant({**spec, "suspend": True}, f"bare-{kind.lower()}")
        owner = GrantId(bare_grant, stage.get(bare_grant)["metadata"]["uid"])
        templates = [_template(stage, children, namespaces[0], name, owner) for children in ("roles", "rolebindings")[2 - each :]]

        operator.stop()
        print(f"{kind}: the same by a bare client ...", flush=True)
        kubeconfig = product.operator_kubeconfig(cluster, cluster.directory / "bare.kubeconfig")
        tries = [asyncio.run(bare.create_and_delete(kubeconfig, templates, namespaces)) for _ in range(2)]
        floor_create, floor_delete = (min(seconds) for seconds in zip(*tries, strict=True))
        since, started = stage.mark(), time.monotonic()
        with product.Operator(cluster):
            ready = time.monotonic() - started
            time.sleep(2)
            restart = Figure(f"{kind}: restart, to ready", ready, None, *_writes(stage, since, 0))

            since, started = stage.mark(), time.monotonic()
            stage.delete(name)
            wait_until(lambda: not _some(stage, "rolebindings", name), "the bindings to be gone", timeout=120, interval=0.02)
            revoked = time.monotonic() - started
            wait_until(lambda: not _some(stage, "roles", name), "the Roles to be gone", timeout=120, interval=0.02)
            removed = time.monotonic() - started
            # Garbage collection helps: what it was faster at, we did not write.
            deletes = len(stage.writes(since))

    stage.delete(bare_grant)
    return [
        Figure(f"{kind}: 1 grant x {count} namespaces, to Ready", created, floor_create, *made),
        restart,
        Figure(f"{kind}: deletion, to the last access gone", revoked, None, deletes, deletes),
        Figure(f"{kind}: deletion, to the last object gone", removed, floor_delete, deletes, deletes),
    ]


def show(figures: list[Figure]) -> None:
    """The table for a person."""
    print(f"\n{'scenario':48} {'seconds':>8} {'bare':>8} {'ratio':>6} {'writes':>7} {'needed':>7}")
    for figure in figures:
        floor = f"{figure.floor:8.2f}" if figure.floor else " " * 8
        ratio = f"{figure.ratio:6.2f}" if figure.ratio else " " * 6
        print(f"{figure.scenario:48} {figure.seconds:8.2f} {floor} {ratio} {figure.writes:7} {figure.needed:7}")


def _all_have_accounts(stage: Stage, namespaces: list[str]) -> bool:
    accounts = stage.request("GET", "/api/v1/serviceaccounts")["items"]
    return set(namespaces) <= {account["metadata"]["namespace"] for account in accounts}


def _is_ready(stage: Stage, name: str) -> bool:
    conditions = stage.get(name).get("status", {}).get("conditions", ())
    return any((condition["type"], condition["status"]) == ("Ready", "True") for condition in conditions)


def _some(stage: Stage, kind: str, name: str) -> bool:
    listed = stage.request("GET", f"/apis/rbac.authorization.k8s.io/v1/{kind}?limit=1&labelSelector=vmaccess.dev/grant={name}")
    return bool(listed["items"])


def _template(stage: Stage, kind: str, namespace: str, name: str, owner: GrantId) -> dict[str, Any]:
    """What the operator wrote, to be written again by the bare client under the name of another grant: the same work."""
    (raw,) = stage.request("GET", f"{stage.path(kind, namespace)}?labelSelector=vmaccess.dev/grant={name}")["items"]
    copied: dict[str, Any] = {key: raw[key] for key in ("rules", "roleRef", "subjects") if key in raw}
    if copied.get("roleRef", {}).get("kind") == "Role":
        copied["roleRef"] = {**copied["roleRef"], "name": owner.child_name}
    marks = {"labels": owner.labels(), "ownerReferences": owner.owner_references()}
    return {**copied, "metadata": {"name": f"{owner.child_name}:bare" if len(copied) > 1 else owner.child_name, **marks}}


def _writes(stage: Stage, since: int, needed: int) -> tuple[int, int]:
    """Writes to children since a mark, and how many there had to be; the status is not counted."""
    return len([write for write in stage.writes(since) if "vmaccessgrants" not in write]), needed


if __name__ == "__main__":
    sys.exit(main())
