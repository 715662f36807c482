"""One ClusterRole behind the bindings of every namespace: a grant's own, or the one that all grants of a bare preset share.

What one write does to it, it does everywhere. So beside what is asked of the authorizer while things change, every state that
RBAC went through is looked at, one after each write.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pytest

from localcluster import Cluster, ClusterError, LocalCluster, product
from tests.access.helpers import (
    ALICE,
    ANYTHING,
    BOB,
    CONSOLE,
    DELETE_VMS,
    EVE,
    LIST_VMS,
    START_VMS,
    VMS,
    Watched,
    base_role,
    binding,
    events,
    managed,
    marks_of,
    remove_base_role,
    role,
    set_base_role,
    spec,
    subjects,
    until_event,
    writes_to_children,
)
from tests.access.test_deletion import is_gone, no_garbage_collection
from tests.access.test_foreign import conflict, labels
from tests.access.test_restart import QUIET, requests, until_idle
from tests.access.test_spec_changes import SECRETS, START, TYPOS, taking_away
from tests.stage import GRANTS, OPERATOR, RBAC, Json, Stage, Who

PRESETS = ("View", "Operate", "Edit", "Admin")
MANAGED_BY = {"app.kubernetes.io/managed-by": "vmaccess"}
AGGREGATE = "rbac.authorization.k8s.io/aggregate-to-view"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
ASKED = {
    "list": ("list", VMS),
    "get": ("get", VMS),
    "start": ("update", START),
    "delete": ("delete", VMS),
    "console": ("get", CONSOLE),
    "purge": ("deletecollection", VMS),
    "secrets": ("get", "/secrets"),
}
ROLES: dict[str, Json] = {
    "Role View": {},
    "Role custom": {"keep": [LIST_VMS, START_VMS]},
    "ClusterRole custom": {"kind": "ClusterRole", "keep": [LIST_VMS, DELETE_VMS]},
    "ClusterRole View": {"kind": "ClusterRole"},
    "ClusterRole Operate": {"kind": "ClusterRole", "preset": "Operate", "from": "kubevirt.io:admin"},
}
RIGHTS = {
    "Role View": {"list", "get"},
    "Role custom": {"list", "start"},
    "ClusterRole custom": {"list", "delete"},
    "ClusterRole View": {"list", "get"},
    "ClusterRole Operate": {"list", "get", "start", "console"},
}
OWN, SHARED = ROLES["ClusterRole custom"], ROLES["ClusterRole View"]
KINDS = [pytest.param(OWN, id="of its own"), pytest.param(SHARED, id="shared")]
TO_ROLE, TO_OWN, TO_VIEW, TO_OPERATE = "", ":cluster", ":View", ":Operate"


# --- looking at it ---


def cluster_role(stage: Stage, name: str) -> Json | None:
    """The ClusterRole of a grant, or of a preset."""
    return stage.child("clusterroles", "", f"vmaccess:{name}")


def cluster_path(stage: Stage, name: str) -> str:
    """Its URL path."""
    return stage.path("clusterroles", "", f"vmaccess:{name}")


def shared_roles(stage: Stage) -> set[str]:
    """The presets whose shared ClusterRole exists."""
    return {preset for preset in PRESETS if cluster_role(stage, preset) is not None}


def bound(stage: Stage, namespace: str, name: str, to: str) -> Json | None:
    """The RoleBinding of a grant to a target of this suffix."""
    return stage.child("rolebindings", namespace, f"vmaccess:{name}{to}")


def rewrite(stage: Stage, name: str, of: Json) -> None:
    """Replace the whole spec of a grant whose status is just being written: without asking which version it is."""
    patch = json.dumps([{"op": "replace", "path": "/spec", "value": of}])
    stage.request("PATCH", f"{GRANTS}/{name}", patch, content_type="application/json-patch+json")


def suffix(of: Json) -> str:
    """What the names of the RoleBindings end with, by the role that is asked for."""
    if of.get("kind") != "ClusterRole":
        return TO_ROLE
    bare = not any(field in of for field in ("keep", "drop", "include")) and of.get("from") in (None, "kubevirt.io:admin")
    return f":{of.get('preset', 'View')}" if bare else TO_OWN


def expected_children(name: str, of: Json, namespaces: list[str]) -> list[str]:
    """What Stage.children tells when nothing is missing and nothing is left behind."""
    to = suffix(of)
    found = [f"rolebindings {namespace}/vmaccess:{name}{to}" for namespace in namespaces]
    if to == TO_ROLE:
        found += [f"roles {namespace}/vmaccess:{name}" for namespace in namespaces]
    if to == TO_OWN:
        found.append(f"clusterroles /vmaccess:{name}")
    return sorted(found)


def rights(stage: Stage, who: Who, namespace: str) -> set[str]:
    """What of ASKED somebody may do, by the API server's own word."""
    return {right for right, (verb, resource) in ASKED.items() if stage.can(who, verb, resource, namespace)}


def assert_rights(stage: Stage, expected: dict[tuple[Who, str], set[str]]) -> None:
    """The same for many, all at once; the authorizer hears of a write a moment after the writer."""

    def actual() -> dict[tuple[Who, str], set[str]]:
        return {key: rights(stage, *key) for key in expected}

    try:
        stage.until(lambda: actual() == expected, "the rights", 5)
    except ClusterError:
        now = actual()
        wrong = {f"{who.user} in {where}": (now[who, where], then) for (who, where), then in expected.items()}
        raise AssertionError(f"is, expected: { {key: pair for key, pair in wrong.items() if pair[0] != pair[1]} }") from None


def until_left(stage: Stage, name: str, children: list[str], presets: set[str]) -> None:
    """Wait until these children of a grant and the shared ClusterRoles of these presets are all there is."""
    try:
        stage.until(lambda: (stage.children(name), shared_roles(stage)) == (sorted(children), presets), "what is to be left")
    except ClusterError:
        assert (stage.children(name), shared_roles(stage)) == (sorted(children), presets)


@dataclass(frozen=True)
class State:
    """All RBAC objects between two writes."""

    objects: dict[tuple[str, str, str], Json]

    def rights(self, who: Who, namespace: str) -> set[str]:
        """What of ASKED a user may do in a namespace by RoleBindings."""
        held: list[Json] = []
        for (kind, where, _), found in self.objects.items():
            if kind != "rolebindings" or where != namespace or who.user not in {s["name"] for s in found.get("subjects") or ()}:
                continue
            ref = found["roleRef"]
            key = ("roles", namespace, ref["name"]) if ref["kind"] == "Role" else ("clusterroles", "", ref["name"])
            held += self.objects.get(key, {}).get("rules") or ()
        return {right for right, (verb, resource) in ASKED.items() if any(_allows(rule, verb, resource) for rule in held)}


def _allows(rule: Json, verb: str, asked: str) -> bool:
    group, _, resource = asked.partition("/")
    wanted = (("verbs", verb), ("apiGroups", group), ("resources", resource))
    return "resourceNames" not in rule and all({value, "*"} & set(rule.get(field, ())) for field, value in wanted)


class History:
    """Every state that RBAC went through while the context lasted, one after each write, in the order of the writes.

    resourceVersions are the revisions of one etcd, so that they order the writes to different kinds too.
    """

    kinds = ("roles", "rolebindings", "clusterroles")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._before: dict[str, Json] = {}
        self.states: list[State] = []

    def __enter__(self) -> Self:
        self._before = {kind: self._stage.request("GET", f"{RBAC}/{kind}") for kind in self.kinds}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            return
        with ThreadPoolExecutor() as pool:
            written = [event for found in pool.map(self._written, self.kinds) for event in found]
        now = {_key(kind, item): item for kind, before in self._before.items() for item in before["items"]}
        self.states = [State(dict(now))]
        for _, kind_, event in sorted(written, key=lambda one: one[0]):
            if event["type"] == "DELETED":
                now.pop(_key(kind_, event["object"]))
            else:
                now[_key(kind_, event["object"])] = event["object"]
            self.states.append(State(dict(now)))

    def _written(self, kind: str) -> list[tuple[int, str, Json]]:
        """Version, kind and watch event of every write."""
        since = self._before[kind]["metadata"]["resourceVersion"]
        until = int(self._stage.request("GET", f"{RBAC}/{kind}?limit=1")["metadata"]["resourceVersion"])
        path = f"{RBAC}/{kind}?watch=1&resourceVersion={since}&timeoutSeconds=1&allowWatchBookmarks=true"
        events = [json.loads(line) for line in self._stage.cluster.kubectl("get", "--raw", path).stdout.splitlines()]
        versioned = [(int(event["object"]["metadata"]["resourceVersion"]), kind, event) for event in events]
        assert all(event["type"] != "ERROR" for event in events), events
        return [one for one in versioned if one[0] <= until and one[2]["type"] != "BOOKMARK"]


def _key(kind: str, item: Json) -> tuple[str, str, str]:
    return kind, item["metadata"].get("namespace", ""), item["metadata"]["name"]


def assert_every_moment(
    history: History, before: dict[tuple[Who, str], set[str]], after: dict[tuple[Who, str], set[str]]
) -> None:
    """Who stays always had what both give, nobody ever more than either, who leaves nothing new, who joins nothing old."""
    for (who, namespace), then in after.items():
        first = before[who, namespace]
        assert history.states[0].rights(who, namespace) == first, (who, namespace)
        for number, state in enumerate(history.states):
            now = state.rights(who, namespace)
            told = f"{who.user} in {namespace} after write {number} of {len(history.states) - 1}: {now}, {first} -> {then}"
            assert first & then <= now, f"a gap: {told}"
            assert now <= first | then, f"too much: {told}"
            assert then or now <= first, f"who leaves gained: {told}"
            assert first or now <= then, f"who joins has what is not for them: {told}"
        assert history.states[-1].rights(who, namespace) == then, (who, namespace)


@pytest.fixture(autouse=True)
def alone(cluster: Cluster) -> None:
    """Nothing that another test has left shares a ClusterRole with this one's grants."""
    with Stage(cluster) as stage:
        stage.until(lambda: not shared_roles(stage), "the shared ClusterRoles of other tests to be gone", 60)


@pytest.fixture
def base(stage: Stage) -> Iterator[str]:
    """A ClusterRole to be trimmed: list, start and delete VirtualMachines."""
    name = base_role(stage, LIST_VMS, START_VMS, DELETE_VMS)
    yield name
    remove_base_role(stage, name)


# --- access ---


@pytest.mark.parametrize("of", KINDS)
def test_access_in_every_namespace_of_the_grant_and_nowhere_else(stage: Stage, of: Json) -> None:
    home, *granted = (stage.namespace() for _ in range(4))
    outside, runner = stage.namespace(), Who.service_account(home, "runner")
    table = dict.fromkeys(granted, True) | dict.fromkeys((home, outside, ""), False)
    nothing = dict.fromkeys(table, False)
    stage.assert_access(ALICE, nothing)
    account = [{"name": "runner", "namespace": home}]
    name = stage.grant(spec(namespaces=granted, serviceAccounts=account, role=of))
    status = stage.until_ready(name)["status"]
    assert status["namespaces"]["summary"] == "3/3"
    for who in (ALICE, runner):
        stage.assert_access(who, table)
        assert not stage.can(who, "get", "migrations.kubevirt.io/migrationpolicies", ""), "nothing without a namespace"
        assert not stage.can(who, "get", "/secrets", granted[0])

    token = stage.cluster.service_account_token(home, "runner")

    def listing(namespace: str) -> int:
        scope = f"/namespaces/{namespace}" if namespace else ""
        return stage.cluster.request("GET", f"/apis/kubevirt.io/v1{scope}/virtualmachines", token=token)[0]

    assert [listing(namespace) for namespace in table] == [200 if allowed else 403 for allowed in table.values()]
    stage.delete(name)
    stage.until(lambda: not stage.children(name), "everything to be gone")
    for who in (ALICE, runner):
        stage.assert_access(who, nothing)
    assert all(listing(namespace) in (401, 403) for namespace in table)


@pytest.mark.parametrize(
    ("preset", "may", "may_not"),
    [
        ("View", {"list", "get"}, "start"),
        ("Operate", {"list", "get", "start", "console"}, "delete"),
        ("Edit", {"list", "get", "start", "console", "delete"}, "purge"),
        ("Admin", {"list", "get", "start", "console", "delete", "purge"}, "secrets"),
    ],
)
def test_every_preset_can_be_shared_and_gives_what_a_role_of_it_gives(
    stage: Stage, preset: str, may: set[str], may_not: str
) -> None:
    one, other = stage.namespace(), stage.namespace()
    assert rights(stage, ALICE, one) == set()
    shared = stage.grant(spec("alice", namespaces=[one], role={"kind": "ClusterRole", "preset": preset}))
    single = stage.grant(spec("bob", namespaces=[other], role={"kind": "Role", "preset": preset}))
    for name in (shared, single):
        assert stage.until_ready(name)["status"]["role"]["preset"] == preset
    assert_rights(stage, {(ALICE, one): may, (BOB, other): may, (ALICE, other): set(), (BOB, one): set()})
    assert may_not not in may
    theirs = stage.child("roles", other, f"vmaccess:{single}")
    assert (cluster_role(stage, preset) or {})["rules"] == (theirs or {})["rules"]
    hashes = {stage.get(name)["status"]["role"]["hash"] for name in (shared, single)}
    assert len(hashes) == 1


def test_the_objects_of_a_cluster_role_of_its_own(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(2)]
    name = stage.grant(spec(namespaces=namespaces, role=OWN), labels={"team": "a"}, annotations={"example.com/a": "b"})
    uid = stage.until_ready(name)["metadata"]["uid"]
    until_left(stage, name, expected_children(name, OWN, namespaces), set())
    owner = {
        "apiVersion": "vmaccess.dev/v1alpha1",
        "kind": "VMAccessGrant",
        "name": name,
        "uid": uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    found = cluster_role(stage, name) or {}
    assert found["metadata"]["labels"] == labels(name, uid)
    assert found["metadata"]["ownerReferences"] == [owner]
    assert "annotations" not in found["metadata"]
    assert "aggregationRule" not in found
    assert not any("nonResourceURLs" in rule for rule in found["rules"])
    for namespace in namespaces:
        made = bound(stage, namespace, name, TO_OWN) or {}
        assert made["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"vmaccess:{name}"}
        assert made["subjects"] == subjects("alice")
        assert made["metadata"]["labels"] == labels(name, uid)
        assert made["metadata"]["ownerReferences"] == [owner]


def test_the_objects_of_a_shared_cluster_role(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(2)]
    name = stage.grant(spec(namespaces=namespaces, role=SHARED))
    uid = stage.until_ready(name)["metadata"]["uid"]
    until_left(stage, name, expected_children(name, SHARED, namespaces), {"View"})
    found = cluster_role(stage, "View") or {}
    assert found["metadata"]["labels"] == MANAGED_BY | {"vmaccess.dev/preset": "View"}
    assert "ownerReferences" not in found["metadata"]
    assert "finalizers" not in found["metadata"]
    assert "aggregationRule" not in found
    for namespace in namespaces:
        made = bound(stage, namespace, name, TO_VIEW) or {}
        assert made["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "vmaccess:View"}
        assert made["metadata"]["labels"] == labels(name, uid)
        assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == [uid]


@pytest.mark.parametrize(
    "of",
    [
        {"kind": "ClusterRole", "drop": [{"resources": ["virtualmachineinstances"]}]},
        {"kind": "ClusterRole", "preset": "View", "include": ["Console"]},
        {"kind": "ClusterRole", "from": "kubevirt.io:edit"},
        {"kind": "ClusterRole", "keep": [LIST_VMS]},
    ],
    ids=["drop", "include", "another base", "keep"],
)
def test_what_is_no_bare_preset_of_the_default_base_has_a_cluster_role_of_its_own(stage: Stage, of: Json) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role=of))
    stage.until_ready(name)
    until_left(stage, name, expected_children(name, of, [namespace]), set())
    stage.assert_access(ALICE, {namespace: True, "": False})


# --- how much is written ---


def test_a_cluster_role_of_its_own_costs_one_write_and_one_for_each_namespace(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(5)]
    since = stage.mark()
    name = stage.grant(spec(namespaces=namespaces, role=OWN))
    stage.until_ready(name)
    made, *rest = writes_to_children(stage, since)
    assert made == f"create clusterroles /vmaccess:{name} 201"
    assert sorted(rest) == sorted(f"create rolebindings {namespace}/vmaccess:{name}:cluster 201" for namespace in namespaces)

    # other rules: one write; other people: one in each namespace; both: no more than both
    since = stage.mark()
    stage.respec(name, spec(namespaces=namespaces, role={**OWN, "keep": [LIST_VMS, START_VMS, DELETE_VMS]}))
    stage.until_ready(name)
    assert writes_to_children(stage, since) == [f"patch clusterroles /vmaccess:{name} 200"]
    since = stage.mark()
    stage.respec(name, spec("alice", "bob", namespaces=namespaces, role={**OWN, "keep": [LIST_VMS]}))
    stage.until_ready(name)
    patched = [f"patch rolebindings {namespace}/vmaccess:{name}:cluster 200" for namespace in namespaces]
    assert sorted(writes_to_children(stage, since)) == sorted([f"patch clusterroles /vmaccess:{name} 200", *patched])


def test_a_bare_preset_costs_one_write_for_each_namespace(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(5)]
    since = stage.mark()
    first = stage.grant(spec(namespaces=namespaces[:1], role=SHARED))
    stage.until_ready(first)
    one = f"create rolebindings {namespaces[0]}/vmaccess:{first}:View 201"
    assert writes_to_children(stage, since) == ["create clusterroles /vmaccess:View 201", one]
    since = stage.mark()
    second = stage.grant(spec("bob", namespaces=namespaces, role={**SHARED, "preset": "View"}))
    stage.until_ready(second)
    assert sorted(writes_to_children(stage, since)) == sorted(
        f"create rolebindings {namespace}/vmaccess:{second}:View 201" for namespace in namespaces
    )
    for namespace in namespaces:
        assert stage.views(BOB, namespace)


def test_a_restart_and_a_second_apply_write_nothing(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    namespaces = [stage.namespace() for _ in range(3)]
    names = {case: stage.unique(case) for case in ("own", "view", "admin", "idle", "idle-view", "typo", "taken", "wide")}
    base = base_role(stage, LIST_VMS, SECRETS)
    wanted: dict[str, tuple[Json, str, str]] = {
        "own": (spec(namespaces=namespaces, role=OWN), "Ready", "Granted"),
        "view": (spec(namespaces=namespaces, role=SHARED), "Ready", "Granted"),
        "admin": (spec(namespaces=namespaces, role={"kind": "ClusterRole", "preset": "Admin"}), "Ready", "Granted"),
        "idle": (spec(namespaces=namespaces, role=OWN, suspend=True), "Ready", "Suspended"),
        "idle-view": (spec(namespaces=namespaces, role=SHARED, suspend=True), "Ready", "Suspended"),
        "typo": (spec(namespaces=namespaces, role={**OWN, **TYPOS["a resource to drop"]}), "Stalled", "InvalidSpec"),
        "taken": (spec(namespaces=namespaces, role=OWN), "Stalled", "NameConflict"),
    }
    stage.request("POST", f"{RBAC}/clusterroles", role(f"vmaccess:{names['taken']}", ANYTHING))
    with product.Operator(own_cluster) as operator:
        for case, (of, condition, reason) in wanted.items():
            assert stage.grant(of, case) == names[case]
            stage.until_condition(names[case], condition, reason=reason)
        until_idle(operator, stage)
        since = stage.mark()
        for case in ("own", "view"):
            manifest = {
                "apiVersion": "vmaccess.dev/v1alpha1",
                "kind": "VMAccessGrant",
                "metadata": {"name": names[case]},
                "spec": wanted[case][0],
            }
            for manager in ("one", "another"):
                flags = ("--server-side", "--force-conflicts", f"--field-manager={manager}")
                own_cluster.kubectl("apply", *flags, "-f", "-", input=json.dumps(manifest))
        until_idle(operator, stage)
        assert requests(stage, since) == [], "applied again"
    before = {name: stage.children(name) for name in names.values()} | {"shared": sorted(shared_roles(stage))}
    since = stage.mark()
    with product.Operator(own_cluster) as operator:
        until_idle(operator, stage)
        assert requests(stage, since) == [], f"after a restart, within {QUIET} s"
    assert {name: stage.children(name) for name in names.values()} | {"shared": sorted(shared_roles(stage))} == before
    assert before["shared"] == ["Admin", "View"]
    remove_base_role(stage, base)
    stage.request("DELETE", cluster_path(stage, names["taken"]))


# --- the shared one comes and goes ---


@pytest.mark.parametrize("how", ["deleted", "to a Role", "to a ClusterRole of its own", "to another preset"])
def test_the_shared_cluster_role_goes_with_its_last_user(stage: Stage, how: str) -> None:
    one, two = stage.namespace(), stage.namespace()
    first = stage.grant(spec("alice", namespaces=[one, two], role=SHARED))
    second = stage.grant(spec("bob", namespaces=[two], role=SHARED))
    for name in (first, second):
        stage.until_ready(name)
    before = cluster_role(stage, "View")
    kept: dict[str, Json] = {
        "to a Role": ROLES["Role View"],
        "to a ClusterRole of its own": OWN,
        "to another preset": ROLES["ClusterRole Operate"],
    }

    def leave(name: str, who: str, namespaces: list[str]) -> None:
        if how == "deleted":
            stage.delete(name)
            stage.until(lambda: not stage.children(name), f"{name} to be revoked")
        else:
            stage.respec(name, spec(who, namespaces=namespaces, role=kept[how]))
            stage.until_ready(name)

    with Watched(stage, always=[(BOB, "list", VMS, two)]):
        leave(first, "alice", [one, two])
        assert_rights(stage, {(BOB, two): {"list", "get"}})
    assert cluster_role(stage, "View") == before, "it is not even written while somebody uses it"
    leave(second, "bob", [two])
    stage.until(lambda: shared_roles(stage) == ({"Operate"} if how == "to another preset" else set()), "it to be gone")
    for who, namespace in ((ALICE, one), (ALICE, two), (BOB, two)):
        stage.assert_access(who, {namespace: how != "deleted"})


def test_a_suspended_grant_gets_its_shared_access_back(stage: Stage) -> None:
    namespace = stage.namespace()
    wanted = spec(namespaces=[namespace], role=SHARED)
    name = stage.grant(wanted)
    stage.until_ready(name)
    for _ in range(2):
        stage.respec(name, {**wanted, "suspend": True})
        stage.until_condition(name, "Ready", reason="Suspended")
        assert_rights(stage, {(ALICE, namespace): set()})
        assert stage.children(name) == []
        stage.respec(name, wanted)
        stage.until_condition(name, "Ready", reason="Granted")
        assert_rights(stage, {(ALICE, namespace): RIGHTS["ClusterRole View"]})
    stage.delete(name)
    until_left(stage, name, [], set())


def test_one_goes_and_another_comes_at_once(stage: Stage) -> None:
    """The shared ClusterRole is removed and wanted in the same moment, again and again."""
    namespace, name = stage.namespace(), ""
    for number in range(8):
        previous, name = name, stage.grant(spec(("alice", "bob")[number % 2], namespaces=[namespace], role=SHARED))
        if number:
            stage.delete(previous)
        if number % 3:
            stage.until_ready(name)
    stage.until_ready(name)
    for _ in range(5):
        stage.delete(name)
        name = stage.grant(spec("bob", namespaces=[namespace], role=SHARED))
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): set(), (BOB, namespace): RIGHTS["ClusterRole View"]})
    stage.delete(name)
    until_left(stage, name, [], set())
    assert_rights(stage, {(BOB, namespace): set()})


@pytest.mark.parametrize("how", ["deleted", "switched"])
def test_the_last_user_left_while_the_operator_was_down(own_stage: Stage, own_cluster: LocalCluster, how: str) -> None:
    stage, namespace = own_stage, own_stage.namespace()
    with product.Operator(own_cluster):
        first, second = (stage.grant(spec(who, namespaces=[namespace], role=SHARED)) for who in ("alice", "bob"))
        stays = stage.grant(spec("eve", namespaces=[namespace], role=ROLES["ClusterRole Operate"]))
        for name in (first, second, stays):
            stage.until_ready(name)
    operate = cluster_role(stage, "Operate")
    for name in (first, second):
        if how == "deleted":
            stage.delete(name)
            stage.until(lambda name=name: not stage.children(name), "garbage collection", 30)
        else:
            stage.respec(name, spec("bob", namespaces=[namespace], role=ROLES["Role custom"]))
    assert shared_roles(stage) == {"View", "Operate"}
    with product.Operator(own_cluster):
        stage.until(lambda: shared_roles(stage) == {"Operate"}, "the one that nobody uses to be gone")
        if how == "switched":
            for name in (first, second):
                stage.until_ready(name)
                until_left(stage, name, expected_children(name, ROLES["Role custom"], [namespace]), {"Operate"})
        assert cluster_role(stage, "Operate") == operate
    bob = set() if how == "deleted" else RIGHTS["Role custom"]
    assert_rights(stage, {(ALICE, namespace): set(), (BOB, namespace): bob, (EVE, namespace): RIGHTS["ClusterRole Operate"]})


# --- from one kind to another ---


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(ROLES, 2)), ids=lambda case: case.replace(" ", "-"))
def test_switching_leaves_no_gap_gives_nothing_too_much_and_leaves_nothing_behind(stage: Stage, old: str, new: str) -> None:
    """Alice stays, bob leaves and eve joins; two namespaces stay, one leaves and one joins; all at once."""
    stay, also, leave, join = (stage.namespace() for _ in range(4))
    name = stage.grant(spec("alice", "bob", namespaces=[stay, also, leave], role=ROLES[old]))
    stage.until_ready(name)

    def table(people: tuple[Who, ...], namespaces: list[str], of: str) -> dict[tuple[Who, str], set[str]]:
        return {
            (who, namespace): RIGHTS[of] if who in people and namespace in namespaces else set()
            for who in (ALICE, BOB, EVE)
            for namespace in (stay, also, leave, join)
        }

    before, after = table((ALICE, BOB), [stay, also, leave], old), table((ALICE, EVE), [stay, also, join], new)
    assert_rights(stage, before)
    always = [(ALICE, *ASKED[right], where) for right in RIGHTS[old] & RIGHTS[new] for where in (stay, also)]
    never = [
        (who, *ASKED[right], where) for (who, where), then in after.items() if not then for right in set(ASKED) - RIGHTS[old]
    ]
    with History(stage) as history, Watched(stage, always=always, never=never[::3]):
        stage.respec(name, spec("alice", "eve", namespaces=[stay, also, join], role=ROLES[new]))
        stage.until_ready(name)
        to = suffix(ROLES[new])
        until_left(stage, name, expected_children(name, ROLES[new], [stay, also, join]), {to[1:]} & set(PRESETS))
    assert_every_moment(history, before, after)
    assert_rights(stage, after)


@pytest.mark.parametrize(("old", "new"), [("ClusterRole View", "Role View"), ("Role View", "ClusterRole View")])
def test_switching_the_kind_alone_never_interrupts_anybody(stage: Stage, old: str, new: str) -> None:
    """In many namespaces, there and back while it is still under way."""
    namespaces = [stage.namespace() for _ in range(20)]
    name = stage.grant(spec(namespaces=namespaces, role=ROLES[old]))
    stage.until_ready(name)
    all_along = {(ALICE, namespace): RIGHTS[old] for namespace in namespaces}
    with History(stage) as history, Watched(stage, always=[(ALICE, "list", VMS, namespace) for namespace in namespaces[::4]]):
        for of in (new, old, new):
            since = stage.mark()
            rewrite(stage, name, spec(namespaces=namespaces, role=ROLES[of]))
            stage.until(lambda since=since: stage.writes_so_far(since) > 5, "the switch to be under way")
        stage.until_ready(name)
        shared = {"View"} if new == "ClusterRole View" else set()
        until_left(stage, name, expected_children(name, ROLES[new], namespaces), shared)
    assert_every_moment(history, all_along, all_along)
    assert_rights(stage, all_along)


@pytest.mark.parametrize("of", ["ClusterRole custom", "ClusterRole View"])
def test_a_switch_that_the_operator_slept_through(own_stage: Stage, own_cluster: LocalCluster, of: str) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(3)]
    with product.Operator(own_cluster):
        name = stage.grant(spec("alice", "bob", namespaces=namespaces, role=ROLES["Role custom"]))
        stage.until_ready(name)
    for now in (of, "Role custom"):
        was = "Role custom" if now == of else of
        stage.respec(name, spec("alice", "bob", namespaces=namespaces, role=ROLES[now]))
        before = {(who, namespace): RIGHTS[was] for who in (ALICE, BOB) for namespace in namespaces}
        after = dict.fromkeys(before, RIGHTS[now])
        with History(stage) as history, product.Operator(own_cluster):
            stage.until_ready(name)
            shared = {suffix(ROLES[now])[1:]} & set(PRESETS)
            until_left(stage, name, expected_children(name, ROLES[now], namespaces), shared)
        assert_every_moment(history, before, after)
        assert_rights(stage, after)


# --- other rules, people and places under the same kind ---

WIDER = {**OWN, "keep": [LIST_VMS, DELETE_VMS, START_VMS]}
NARROWER = {**OWN, "keep": [LIST_VMS]}
BOTH = {**OWN, "keep": [LIST_VMS, START_VMS]}
GIVES = [
    pytest.param(WIDER, {"list", "delete", "start"}, id="wider"),
    pytest.param(NARROWER, {"list"}, id="narrower"),
    pytest.param(BOTH, {"list", "start"}, id="both"),
    pytest.param({**OWN, "keep": [START_VMS]}, {"start"}, id="something else"),
]


@pytest.mark.parametrize(("of", "gives"), GIVES)
@pytest.mark.parametrize("where", ["listed", "labelled"])
def test_rules_people_and_places_change_at_once(stage: Stage, of: Json, gives: set[str], where: str) -> None:
    """Nobody who leaves, and nobody in a namespace that leaves, ever gains by the one write that widens everywhere."""
    team = stage.unique("team")
    stay, leave = ([stage.namespace(team=team) for _ in range(4)] for _ in range(2))
    join = [stage.namespace() for _ in range(2)]
    selected: Json = {"namespaceSelector": {"matchLabels": {"team": team}}} if where == "labelled" else {}
    listed: Json = {} if where == "labelled" else {"namespaces": [*stay, *leave]}
    name = stage.grant(spec("alice", "bob", **selected, **listed, role=OWN))
    stage.until_ready(name)

    def table(people: tuple[Who, ...], namespaces: list[str], then: set[str]) -> dict[tuple[Who, str], set[str]]:
        whole = itertools.product((ALICE, BOB, EVE), (*stay, *leave, *join))
        return {(who, namespace): then if who in people and namespace in namespaces else set() for who, namespace in whole}

    before, after = table((ALICE, BOB), [*stay, *leave], RIGHTS["ClusterRole custom"]), table((ALICE, EVE), [*stay, *join], gives)
    assert_rights(stage, before)
    never = [(who, *ASKED["start"], namespace) for who, namespace in after if not after[who, namespace]]
    with History(stage) as history, Watched(stage, never=never[::4]):
        if where == "labelled":
            for namespace in leave:
                stage.relabel(namespace, team=None)
            rewrite(stage, name, spec("alice", "eve", **selected, role=of))
            for namespace in join:
                stage.relabel(namespace, team=team)
        else:
            stage.respec(name, spec("alice", "eve", namespaces=[*stay, *join], role=of))
        stage.until_ready(name)
        until_left(stage, name, expected_children(name, of, [*stay, *join]), set())
    assert_every_moment(history, before, after)
    assert_rights(stage, after)


def test_an_excluded_namespace_and_a_service_account_taken_off_the_list_never_gain(stage: Stage) -> None:
    home, stay, leave = (stage.namespace() for _ in range(3))
    accounts = [{"name": name, "namespace": home} for name in ("stays", "goes")]
    wanted = spec(namespaces=[stay, leave], serviceAccounts=accounts, role=OWN)
    name = stage.grant(wanted)
    stage.until_ready(name)
    stays, goes = (Who.service_account(home, account["name"]) for account in accounts)
    never = [(goes, *ASKED["start"], stay), *((who, *ASKED["start"], leave) for who in (ALICE, stays, goes))]
    with Watched(stage, always=[(stays, "list", VMS, stay), (ALICE, "list", VMS, stay)], never=never):
        stage.respec(name, {**wanted, "excludeNamespaces": [leave], "serviceAccounts": accounts[:1], "role": WIDER})
        stage.until_ready(name)
    wide = {"list", "delete", "start"}
    table: dict[tuple[Who, str], set[str]] = {(ALICE, stay): wide, (stays, stay): wide, (goes, stay): set()}
    assert_rights(stage, table | {(who, leave): set() for who in (ALICE, stays, goes)})


def test_a_namespace_that_leaves_and_cannot_be_let_go_at_once_never_gains(stage: Stage) -> None:
    """A finalizer holds its binding, and somebody keeps putting it there."""
    stay, leave = stage.namespace(), stage.namespace()
    name = stage.grant(spec("alice", "bob", namespaces=[stay, leave], role=OWN))
    stage.until_ready(name)
    path = stage.path("rolebindings", leave, f"vmaccess:{name}:cluster")
    hold = {"metadata": {"finalizers": ["example.com/hold"]}}
    with Watched(
        stage, always=[(ALICE, "list", VMS, stay)], never=[(ALICE, *ASKED["start"], leave), (BOB, *ASKED["start"], stay)]
    ):
        stage.request("PATCH", path, hold)
        rewrite(stage, name, spec("alice", namespaces=[stay], role=WIDER))
        for _ in range(20):
            stage.request("PATCH", path, hold, expect=None)
        stage.until_ready(name)
    none = set[str]()
    assert_rights(
        stage, {(ALICE, stay): {"list", "delete", "start"}, (BOB, stay): none, (ALICE, leave): none, (BOB, leave): none}
    )


@pytest.mark.parametrize("of", KINDS)
def test_suspended_and_resumed_in_quick_succession(stage: Stage, of: Json) -> None:
    namespaces = [stage.namespace() for _ in range(5)]
    wanted = spec(namespaces=namespaces, role=of)
    name = stage.grant(wanted)
    stage.until_ready(name)
    gives = RIGHTS["ClusterRole custom" if of is OWN else "ClusterRole View"]
    for last in (True, False):
        for number in range(5):
            since = stage.mark()
            rewrite(stage, name, {**wanted, "suspend": last is (number % 2 == 0)})
            stage.until(lambda since=since: stage.writes_so_far(since) >= 1, "it to be under way")
        stage.until_condition(name, "Ready", reason="Suspended" if last else "Granted")
        assert_rights(stage, {(ALICE, namespace): set() if last else gives for namespace in namespaces})
        assert stage.children(name) == ([] if last else expected_children(name, of, namespaces))


def test_every_change_of_a_random_walk_is_right_at_every_moment(stage: Stage) -> None:
    """Spec after spec, without waiting: whatever comes of it in between, the end is the last one's and nothing is left."""
    namespaces = [stage.namespace() for _ in range(3)]
    walk = [
        (OWN, ("alice", "bob"), namespaces),
        (SHARED, ("alice",), namespaces[:2]),
        (WIDER, ("alice", "eve"), namespaces),
        (ROLES["Role custom"], ("alice", "bob"), namespaces[1:]),
        (ROLES["ClusterRole Operate"], ("alice", "eve"), namespaces),
        (NARROWER, ("alice",), namespaces),
        (SHARED, ("alice", "bob"), namespaces[:1]),
        (OWN, ("alice", "eve"), namespaces[:2]),
    ]
    name = stage.grant(spec("alice", "bob", namespaces=namespaces, role=OWN))
    stage.until_ready(name)
    with Watched(stage, always=[(ALICE, "list", VMS, namespaces[1])], never=[(ALICE, "get", "/secrets", namespaces[1])]):
        for of, people, where in walk:
            if namespaces[1] in where:
                rewrite(stage, name, spec(*people, namespaces=where, role=of))
        stage.until_ready(name)
        until_left(stage, name, expected_children(name, OWN, namespaces[:2]), set())
    full, none = RIGHTS["ClusterRole custom"], set[str]()
    table = {
        (who, where): full if who is not BOB and where != namespaces[2] else none
        for who in (ALICE, BOB, EVE)
        for where in namespaces
    }
    assert_rights(stage, table)


# --- it ends ---


def until_nothing(stage: Stage, name: str, namespaces: list[str], *whose: Who, children: tuple[str, ...] = ()) -> None:
    """Wait until nothing of a grant is left but `children`, and nobody has any of its access."""
    stage.until(lambda: stage.children(name) == sorted(children), f"nothing but {children} to be left")
    assert_rights(stage, {(who, namespace): set() for who in whose for namespace in namespaces})


def revoke(stage: Stage, name: str, wanted: Json, how: str) -> None:
    """One of the ways to take all access away."""
    if how == "suspend":
        stage.respec(name, {**wanted, "suspend": True})
    else:
        stage.delete(name, how)


@pytest.mark.parametrize("how", ["suspend", "Background", "Foreground"])
def test_revoking_with_everything_running(stage: Stage, how: str) -> None:
    home, *namespaces = (stage.namespace() for _ in range(5))
    runner = Who.service_account(home, "runner")
    wanted = spec(namespaces=namespaces, serviceAccounts=[{"name": "runner", "namespace": home}], role=OWN)
    name = stage.grant(wanted)
    stage.until_ready(name)
    account = stage.child("serviceaccounts", home, "runner")
    since = stage.mark()
    revoke(stage, name, wanted, how)
    kept = (f"serviceaccounts {home}/runner",) if how == "suspend" else ()
    until_nothing(stage, name, namespaces, ALICE, runner, children=kept)
    writes = writes_to_children(stage, since)
    assert not [write for write in writes if write.startswith("create")]
    if how != "suspend":
        stage.until(lambda: is_gone(stage, name), "the grant to be gone", 30)
        return
    assert writes[0] == f"delete clusterroles /vmaccess:{name} 200", writes
    assert sorted(writes[1:]) == sorted(f"delete rolebindings {where}/vmaccess:{name}:cluster 200" for where in namespaces)
    stage.until_condition(name, "Ready", reason="Suspended")
    stage.until_condition(name, "Active", "False", "Suspended")
    assert stage.get(name)["status"]["namespaces"]["summary"] == "0/0"
    stage.respec(name, wanted)
    stage.until_condition(name, "Ready", reason="Granted")
    full = RIGHTS["ClusterRole custom"]
    assert_rights(stage, {(who, namespace): full for who in (ALICE, runner) for namespace in namespaces})
    assert stage.child("serviceaccounts", home, "runner") == account


@pytest.mark.parametrize("down", [False, True], ids=["operator up", "operator down meanwhile"])
@pytest.mark.parametrize("how", ["suspend", "Background", "Foreground"])
def test_the_first_write_revokes_everywhere(own_stage: Stage, own_cluster: LocalCluster, how: str, down: bool) -> None:  # noqa: FBT001
    """No garbage collector helps, or is faster."""
    stage = own_stage
    home, *namespaces = (stage.namespace() for _ in range(8))
    runner = Who.service_account(home, "runner")
    wanted = spec(namespaces=namespaces, serviceAccounts=[{"name": "runner", "namespace": home}], role=OWN)
    with product.Operator(own_cluster):
        name = stage.grant(wanted)
        stage.until_ready(name)
        everybody = {(who, namespace): RIGHTS["ClusterRole custom"] for who in (ALICE, runner) for namespace in namespaces}
        assert_rights(stage, everybody)
    with no_garbage_collection(own_cluster):
        before = nullcontext() if down else product.Operator(own_cluster)
        with before:
            since = stage.mark()
            revoke(stage, name, wanted, how)
            if not down:
                until_revoked(stage, name, namespaces, runner, how)
        if down:
            assert_rights(stage, everybody)
            with product.Operator(own_cluster):
                until_revoked(stage, name, namespaces, runner, how)
    first, *rest = writes_to_children(stage, since)
    assert first == f"delete clusterroles /vmaccess:{name} 200"
    bindings = [f"delete rolebindings {namespace}/vmaccess:{name}:cluster 200" for namespace in namespaces]
    account = [] if how == "suspend" else [f"delete serviceaccounts {home}/runner 200"]
    assert sorted(rest) == sorted([*bindings, *account])
    assert rest[len(bindings) :] == account, "whom the bindings name goes after them"


def until_revoked(stage: Stage, name: str, namespaces: list[str], runner: Who, how: str) -> None:
    """Wait for the end of one of the ways to take all access away."""
    home = runner.user.split(":")[2]
    kept = (f"serviceaccounts {home}/runner",) if how == "suspend" else ()
    until_nothing(stage, name, namespaces, ALICE, runner, children=kept)


def test_the_garbage_collector_revokes_alone(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(3)]
    with product.Operator(own_cluster):
        names = {kind: stage.grant(spec(namespaces=namespaces, role=of)) for kind, of in (("own", OWN), ("shared", SHARED))}
        for name in names.values():
            stage.until_ready(name)
    for name in names.values():
        stage.delete(name)
    for name in names.values():
        stage.until(lambda name=name: not stage.children(name), "garbage collection", 30)
    assert_rights(stage, {(ALICE, namespace): set() for namespace in namespaces})
    since = stage.mark()
    with product.Operator(own_cluster):
        stage.until(lambda: not shared_roles(stage), "what nobody uses any more to go")
    assert writes_to_children(stage, since) == ["delete clusterroles /vmaccess:View 200"]


@pytest.mark.parametrize("of", KINDS)
def test_orphaning_leaves_the_access_and_says_so(stage: Stage, of: Json) -> None:
    namespaces = [stage.namespace() for _ in range(2)]
    name = stage.grant(spec(namespaces=namespaces, role=of), "orphaned")
    uid = stage.until_ready(name)["metadata"]["uid"]
    before, since = stage.children(name), stage.mark()
    stage.delete(name, "Orphan")
    stage.until(lambda: is_gone(stage, name), "the grant to be gone")
    until_event(stage, name, "Orphaned")
    note = next(event["note"] for event in events(stage, name) if event["reason"] == "Orphaned")
    assert f"{len(before)} " in note
    other = stage.grant(spec("bob", namespaces=namespaces, role=of))
    stage.until_ready(other)
    stage.delete(other)
    stage.until(lambda: not stage.children(other), "the other grant to be revoked")
    assert stage.children(name) == before
    assert not [write for write in stage.writes(since) if name in write]
    stage.assert_access(ALICE, dict.fromkeys(namespaces, True))
    if of is SHARED:
        assert shared_roles(stage) == {"View"}, "somebody is bound to it still"

    # A new grant of the name says what is in its way, and how to find all of it.
    stage.grant(spec("bob", namespaces=namespaces, role=of), "orphaned")
    grant = stage.until_condition(name, "Stalled", reason="NameConflict")
    stage.assert_access(BOB, dict.fromkeys(namespaces, False))
    stage.cluster.kubectl("delete", "clusterroles,rolebindings", "-A", "-l", f"vmaccess.dev/grant-uid={uid}")
    stage.until_ready(name)
    stage.assert_access(ALICE, dict.fromkeys(namespaces, False))
    stage.assert_access(BOB, dict.fromkeys(namespaces, True))
    failures = grant["status"]["failures"]
    assert {failure["namespace"] for failure in failures} == {*namespaces, *([""] if of is OWN else [])}
    for failure in failures:
        assert f"vmaccess.dev/grant-uid={uid}" in failure["message"]


@pytest.mark.parametrize("of", KINDS)
def test_made_again_under_the_same_name(stage: Stage, of: Json) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    name = stage.grant(spec("alice", namespaces=namespaces, role=of), "again")
    stage.until_ready(name)
    for number in range(4):
        who, other = (("bob", ALICE), ("alice", BOB))[number % 2]
        stage.delete(name)
        stage.grant(spec(who, namespaces=namespaces[: 1 + number % 3], role=of), "again")
        stage.until_ready(name)
        assert_rights(stage, {(other, namespace): set() for namespace in namespaces})
        stage.assert_access(Who(who), {namespace: place < 1 + number % 3 for place, namespace in enumerate(namespaces)})
    until_left(stage, name, expected_children(name, of, namespaces[:1]), {"View"} if of is SHARED else set())


@pytest.mark.parametrize("how", ["suspend", "Background", "switch"])
def test_a_finalizer_on_the_cluster_role_does_not_hold_up_a_revocation(stage: Stage, how: str) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    wanted = spec(namespaces=namespaces, role=OWN)
    name = stage.grant(wanted)
    stage.until_ready(name)
    stage.request("PATCH", cluster_path(stage, name), {"metadata": {"finalizers": ["example.com/hold"]}})
    if how == "switch":
        stage.respec(name, {**wanted, "role": SHARED})
        stage.until_ready(name)
    else:
        revoke(stage, name, wanted, how)
    stage.until(lambda: cluster_role(stage, name) is None, "the ClusterRole to be gone")
    left = RIGHTS["ClusterRole View"] if how == "switch" else set()
    assert_rights(stage, {(ALICE, namespace): left for namespace in namespaces})


@pytest.mark.parametrize("how", ["suspend", "Background", "Foreground", "switch", "deselect"])
@pytest.mark.parametrize("of", KINDS)
def test_a_finalizer_on_a_binding_does_not_hold_up_a_revocation(stage: Stage, of: Json, how: str) -> None:
    """Kubernetes refuses to change a binding whose ClusterRole is gone already, with the words that the role is not found."""
    namespaces = [stage.namespace() for _ in range(2)]
    wanted = spec(namespaces=namespaces, role=of)
    name = stage.grant(wanted)
    stage.until_ready(name)
    held = f"vmaccess:{name}{suffix(of)}"
    stage.request("PATCH", stage.path("rolebindings", namespaces[0], held), {"metadata": {"finalizers": ["example.com/hold"]}})
    left: set[str] = set()
    match how:
        case "switch":
            left = RIGHTS["Role custom"]
            stage.respec(name, {**wanted, "role": ROLES["Role custom"]})
        case "deselect":
            stage.respec(name, {**wanted, "namespaces": namespaces[1:]})
        case _:
            revoke(stage, name, wanted, how)
    stage.until(lambda: stage.child("rolebindings", namespaces[0], held) is None, "the binding to be gone")
    assert_rights(stage, {(ALICE, namespaces[0]): left})
    if how in ("suspend", "switch", "deselect"):
        stage.until_ready(name)
    else:
        stage.until(lambda: is_gone(stage, name) and not stage.children(name), "everything to be gone")


@pytest.mark.parametrize("of", ["Role custom", "ClusterRole custom", "ClusterRole View"])
@pytest.mark.parametrize("then", ["the same", "suspended", "another kind"])
def test_a_role_vanishes_and_somebody_leaves_while_the_operator_is_down(
    own_stage: Stage, own_cluster: LocalCluster, of: str, then: str
) -> None:
    """A binding to a role that is not there cannot be changed; who stays must have access again all the same."""
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    with product.Operator(own_cluster):
        name = stage.grant(spec("alice", "bob", namespaces=namespaces, role=ROLES[of]))
        stage.until_ready(name)
    if of == "Role custom":
        for namespace in namespaces:
            stage.request("DELETE", stage.path("roles", namespace, f"vmaccess:{name}"))
    else:
        stage.request("DELETE", cluster_path(stage, name if of == "ClusterRole custom" else "View"))
    assert_rights(stage, {(who, namespace): set() for who in (ALICE, BOB) for namespace in namespaces})
    new = of if then != "another kind" else "ClusterRole View" if of == "Role custom" else "Role custom"
    wanted = spec("alice", "eve", namespaces=namespaces, role=ROLES[new])
    stage.respec(name, {**wanted, "suspend": True} if then == "suspended" else wanted)
    with product.Operator(own_cluster):
        stage.until_condition(name, "Ready", reason="Suspended" if then == "suspended" else "Granted")
        gives = set() if then == "suspended" else RIGHTS[new]
        table: dict[tuple[Who, str], set[str]] = {(who, where): gives for who in (ALICE, EVE) for where in namespaces}
        assert_rights(stage, table | {(BOB, namespace): set() for namespace in namespaces})
        stage.delete(name)
        until_left(stage, name, [], set())


@contextmanager
def undeletable(stage: Stage, name: str) -> Iterator[None]:
    """Admission refuses the operator's deletion of one ClusterRole for as long as the context lasts."""
    policy = stage.unique("undeletable")
    matching = [{"apiGroups": ["rbac.authorization.k8s.io"], "apiVersions": ["v1"], "operations": ["DELETE", "UPDATE"]}]
    validation = {"expression": f"request.name != 'vmaccess:{name}' || request.userInfo.username != '{OPERATOR}'"}
    body = {
        "metadata": {"name": policy},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{**matching[0], "resources": ["clusterroles"]}]},
            "validations": [validation],
        },
    }
    bound_to = {"metadata": {"name": policy}, "spec": {"policyName": policy, "validationActions": ["Deny"]}}
    stage.request("POST", f"{POLICIES}ies", body)
    stage.request("POST", f"{POLICIES}ybindings", bound_to)
    as_operator = {"Impersonate-User": OPERATOR}

    def refused() -> bool:
        status, _ = stage.cluster.request("DELETE", f"{cluster_path(stage, name)}?dryRun=All", headers=as_operator)
        return status == 422

    try:
        stage.until(refused, "the admission policy to be in force")
        yield
    finally:
        stage.request("DELETE", f"{POLICIES}ybindings/{policy}")
        stage.request("DELETE", f"{POLICIES}ies/{policy}")


@pytest.mark.parametrize("how", ["suspend", "Background"])
def test_a_cluster_role_that_will_not_go_does_not_keep_the_access_alive(stage: Stage, how: str) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    wanted = spec(namespaces=namespaces, role=OWN)
    name = stage.grant(wanted, finalizers=["example.com/hold"])
    stage.until_ready(name)
    with undeletable(stage, name):
        revoke(stage, name, wanted, how)
        until_nothing(stage, name, namespaces, ALICE, children=(f"clusterroles /vmaccess:{name}",))
        if how == "suspend":
            grant = stage.until_condition(name, "Reconciling", reason="RevocationFailed")
            assert [failure["namespace"] for failure in grant["status"]["failures"]] == [""]
            stage.until_condition(name, "Ready", "False", "RevocationFailed")
    stage.until(lambda: cluster_role(stage, name) is None, "the ClusterRole to be gone")
    if how == "suspend":
        stage.until_condition(name, "Ready", reason="Suspended")
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"finalizers": None}})


# --- what somebody else changes ---

STRIPPED: Json = {"labels": None, "ownerReferences": None}
PROBE: Json = {"nonResourceURLs": ["/metrics"], "verbs": ["get"]}
CHANGES: dict[str, Json] = {
    "rules widened": {"rules": ANYTHING},
    "rules emptied": {"rules": None},
    "rules narrowed": {"rules": [{**LIST_VMS, "verbs": ["watch"]}]},
    "nonResourceURLs added": {"rules": [LIST_VMS, DELETE_VMS, PROBE]},
    "aggregated into view": {"metadata": {"labels": {AGGREGATE: "true"}}},
    "labels stripped": {"metadata": {"labels": None}},
    "one label changed": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "another"}}},
    "owner stripped": {"metadata": {"ownerReferences": None}},
    "every mark stripped": {"metadata": STRIPPED},
    "every mark stripped and rules widened": {"metadata": STRIPPED, "rules": ANYTHING},
    "a finalizer": {"metadata": {"finalizers": ["example.com/hold"]}},
}


@dataclass(frozen=True)
class Granted:
    """Two grants for alice and bob over the same namespaces, Ready: both of a ClusterRole of their own, or sharing one."""

    stage: Stage
    names: tuple[str, str]
    namespaces: list[str]
    of: Json

    @property
    def role(self) -> str:
        """The name after `vmaccess:` of the first one's ClusterRole."""
        return self.names[0] if self.of is OWN else "View"

    @property
    def path(self) -> str:
        """Its URL path."""
        return cluster_path(self.stage, self.role)

    def rights(self) -> dict[tuple[Who, str], set[str]]:
        """Who shall hold what."""
        gives = RIGHTS["ClusterRole custom" if self.of is OWN else "ClusterRole View"]
        full = {(who, namespace): gives for who in (ALICE, BOB) for namespace in self.namespaces}
        return full | {(EVE, namespace): set() for namespace in self.namespaces}

    def until_as(self, before: Json | None) -> None:
        """Wait until the ClusterRole is as it was, and everybody holds what they shall."""
        stage = self.stage
        stage.until(
            lambda: managed(cluster_role(stage, self.role)) == managed(before) and _more(cluster_role(stage, self.role)) == [],
            f"the ClusterRole to be as before: {cluster_role(stage, self.role)}",
        )
        for name in self.names:
            stage.until_ready(name)
        assert_rights(stage, self.rights())
        for who in (ALICE, BOB):
            assert not stage.can(who, "list", VMS, "")


def _more(found: Json | None) -> list[str]:
    """What a ClusterRole has that ours never have."""
    return [field for field in ("aggregationRule",) if found is not None and field in found]


@pytest.fixture(params=KINDS)
def granted(stage: Stage, request: pytest.FixtureRequest) -> Granted:
    of: Json = request.param
    namespaces = [stage.namespace() for _ in range(2)]
    first, second = (stage.grant(spec(who, namespaces=namespaces, role=of)) for who in ("alice", "bob"))
    for name in (first, second):
        stage.until_ready(name)
    found = Granted(stage, (first, second), namespaces, of)
    assert_rights(stage, found.rights())
    return found


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_cluster_role_is_put_right(granted: Granted, change: Json) -> None:
    stage, before = granted.stage, cluster_role(granted.stage, granted.role)
    others = [cluster_role(stage, name) for name in granted.names[1:]]
    if granted.of is SHARED and "ownerReferences" in change.get("metadata", {}):
        change = {**change, "metadata": {"labels": None}}  # it has no owner
    since = stage.mark()
    stage.request("PATCH", granted.path, change)
    granted.until_as(before)
    assert len(stage.reads(since)) + len(writes_to_children(stage, since)) < 20, "it is not asked or written again and again"
    assert [cluster_role(stage, name) for name in granted.names[1:]] == others, "nobody else's is touched"


@pytest.mark.parametrize("selecting", [{"kubevirt.io": ""}, {"example.com/no-such": "label"}], ids=["wider roles", "no role"])
def test_an_aggregated_cluster_role_is_replaced(granted: Granted, selecting: Json) -> None:
    """Only a cluster admin may take an aggregationRule away, so it is made anew.

    Kubernetes' aggregation controller writes with server-side apply, which may make a ClusterRole that was just deleted once
    more, without any mark of ours: then that is somebody else's, and a person has to remove it.
    """
    stage, before = granted.stage, cluster_role(granted.stage, granted.role)
    nobody = {key: set[str]() for key in granted.rights()}
    with Watched(stage, never=[(who, "get", "/secrets", where) for who, where in nobody]):
        stage.request("PATCH", granted.path, {"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": selecting}]}})

        def is_ours() -> bool:
            found = cluster_role(stage, granted.role)
            if found is not None and not found["metadata"].get("labels") and "aggregationRule" not in found:
                first = [name for name in granted.names if suffix(granted.of) != TO_OWN or name == granted.role]
                for name in first:
                    conflict(stage, name, "")
                mine = {(ALICE if name == granted.names[0] else BOB, where) for name in first for where in granted.namespaces}
                assert_rights(stage, {key: nobody[key] for key in mine})
                stage.request("DELETE", granted.path)
            return found is not None and managed(found) == managed(before) and _more(found) == []

        stage.until(is_ours, "the ClusterRole to be ours", 30)
        granted.until_as(before)


def test_a_repair_is_one_write_and_is_told(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    name = stage.grant(spec(namespaces=namespaces, role=OWN))
    stage.until_ready(name)
    before = managed(cluster_role(stage, name))
    for count, change in enumerate(({"rules": ANYTHING}, {"metadata": {"labels": None}}, None), 1):
        since = stage.mark()
        if change is None:
            stage.request("DELETE", cluster_path(stage, name))
        else:
            stage.request("PATCH", cluster_path(stage, name), change)
        stage.until(lambda: managed(cluster_role(stage, name)) == before, "the ClusterRole to be as before")
        stage.until_ready(name)
        verb = "create" if change is None else "patch"
        code = 201 if change is None else 200
        assert writes_to_children(stage, since) == [f"{verb} clusterroles /vmaccess:{name} {code}"]
        until_event(stage, name, "DriftRepaired", count=1)
        noted = [event for event in events(stage, name) if event["reason"] == "DriftRepaired"]
        told = sum((event.get("series") or {}).get("count", 1) for event in noted)
        assert told <= count
        assert all(f"ClusterRole vmaccess:{name}" in event["note"] for event in noted)
        assert_rights(stage, {(ALICE, namespace): RIGHTS["ClusterRole custom"] for namespace in namespaces})


def test_every_kind_of_drift_is_told(stage: Stage) -> None:
    """Each in a grant of its own: a second Event of the same words may be counted in the first."""
    namespace = stage.namespace()
    for change in ({"rules": ANYTHING}, {"metadata": {"labels": None}}, {"metadata": {"finalizers": ["example.com/hold"]}}, None):
        name = stage.grant(spec(namespaces=[namespace], role=OWN))
        stage.until_ready(name)
        if change is None:
            stage.request("DELETE", cluster_path(stage, name))
        else:
            stage.request("PATCH", cluster_path(stage, name), change)
        until_event(stage, name, "DriftRepaired")


def test_view_gets_nothing_for_good_from_a_label_on_our_cluster_role(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role={**OWN, "keep": [START_VMS, DELETE_VMS]}))
    stage.until_ready(name)
    to_view = binding("viewers", subjects("eve"), "ClusterRole/view")
    stage.request("POST", stage.path("rolebindings", namespace), to_view)
    assert_rights(stage, {(EVE, namespace): {"list", "get"}})
    stage.request("PATCH", cluster_path(stage, name), {"metadata": {"labels": {AGGREGATE: "true"}}})
    stage.until(lambda: AGGREGATE not in (cluster_role(stage, name) or {})["metadata"]["labels"], "the label to be gone")
    assert_rights(stage, {(EVE, namespace): {"list", "get"}})
    stage.request("PATCH", cluster_path(stage, name), {"metadata": {"labels": {AGGREGATE: "false", "example.com/team": "a"}}})
    stage.request("PATCH", cluster_path(stage, name), {"rules": ANYTHING})
    stage.until(lambda: (cluster_role(stage, name) or {})["rules"] != ANYTHING, "the repair")
    worn = (cluster_role(stage, name) or {})["metadata"]["labels"]
    assert worn["example.com/team"] == "a", "what others add beside our fields stays"
    assert_rights(stage, {(EVE, namespace): {"list", "get"}, (ALICE, namespace): {"start", "delete"}})


@pytest.mark.parametrize("held", [False, True], ids=["deleted", "deleted and held by a finalizer"])
def test_a_deleted_cluster_role_comes_back(granted: Granted, held: bool) -> None:  # noqa: FBT001
    stage, before = granted.stage, cluster_role(granted.stage, granted.role)
    if held:
        stage.request("PATCH", granted.path, {"metadata": {"finalizers": ["example.com/hold"]}})
    stage.request("DELETE", granted.path)
    granted.until_as(before)


def test_all_of_it_deleted_at_once_comes_back(granted: Granted) -> None:
    stage, before = granted.stage, cluster_role(granted.stage, granted.role)
    stage.request("DELETE", granted.path)
    for namespace in granted.namespaces:
        stage.request("DELETE", f"{stage.path('rolebindings', namespace)}")
    granted.until_as(before)
    for name in granted.names:
        assert stage.children(name) == expected_children(name, granted.of, granted.namespaces)


@pytest.mark.parametrize("change", ["deleted", "another subject", "no subject", "labels stripped", "every mark stripped"])
def test_a_changed_binding_is_put_right(granted: Granted, change: str) -> None:
    stage, before = granted.stage, cluster_role(granted.stage, granted.role)
    name, namespace = f"vmaccess:{granted.names[0]}{suffix(granted.of)}", granted.namespaces[0]
    path = stage.path("rolebindings", namespace, name)
    was, since = managed(stage.child("rolebindings", namespace, name)), stage.mark()
    patches: dict[str, Json] = {
        "another subject": {"subjects": subjects("alice", "eve")},
        "no subject": {"subjects": None},
        "labels stripped": {"metadata": {"labels": None}},
        "every mark stripped": {"metadata": STRIPPED},
    }
    if change == "deleted":
        stage.request("DELETE", path)
    else:
        stage.request("PATCH", path, patches[change])
    stage.until(lambda: managed(stage.child("rolebindings", namespace, name)) == was, "the binding to be as before")
    granted.until_as(before)
    assert len(writes_to_children(stage, since)) == 1
    until_event(stage, granted.names[0], "DriftRepaired")


def test_a_binding_of_ours_that_points_elsewhere_is_replaced(granted: Granted) -> None:
    stage, before = granted.stage, cluster_role(granted.stage, granted.role)
    namespace, name = granted.namespaces[0], f"vmaccess:{granted.names[0]}{suffix(granted.of)}"
    ours = stage.child("rolebindings", namespace, name) or {}
    stronger = binding(name, subjects("eve"), **marks_of(ours))

    def replaced() -> bool:
        stage.request("DELETE", stage.path("rolebindings", namespace, name), expect=None)
        return bool(stage.cluster.request("POST", stage.path("rolebindings", namespace), stronger)[0] == 201)

    stage.until(replaced, "the binding to be replaced")
    stage.until(lambda: managed(stage.child("rolebindings", namespace, name)) == managed(ours), "the binding to be ours")
    granted.until_as(before)


@pytest.mark.parametrize("worn", ["labels", "ownerReferences", "both"])
def test_a_copy_of_our_cluster_role_under_another_name_is_nobodys(stage: Stage, worn: str) -> None:
    """Marks can be copied onto anything, also onto what others live by: by them alone no ClusterRole is ours."""
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role=OWN))
    stage.until_ready(name)
    marks, since = marks_of(cluster_role(stage, name) or {}), stage.mark()
    copied = f"vmaccess:{name}:copy"
    stage.request("POST", f"{RBAC}/clusterroles", role(copied, [], **(marks if worn == "both" else {worn: marks[worn]})))
    rewrite(stage, name, spec(namespaces=[namespace], role=OWN, suspend=True))
    stage.until_ready(name)
    assert not [write for write in stage.writes(since) if copied in write]
    assert stage.child("clusterroles", "", copied) is not None
    stage.request("DELETE", f"{RBAC}/clusterroles/{copied}")


def test_a_cluster_role_that_has_no_name_of_ours_is_never_deleted(stage: Stage) -> None:
    """Whoever may label a ClusterRole must not be able to have it deleted, least of all the one that grants trim."""
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role=OWN))
    stage.until_ready(name)
    marks = marks_of(cluster_role(stage, name) or {})
    base, since = base_role(stage, LIST_VMS), stage.mark()
    trimming = stage.grant(spec("bob", namespaces=[namespace], role={"from": base, "keep": [LIST_VMS]}))
    stage.until_ready(trimming)
    stage.request("PATCH", f"{RBAC}/clusterroles/{base}", {"metadata": {"labels": marks["labels"]}})
    other = stage.grant(spec("eve", namespaces=[namespace], role=OWN))
    stage.until_ready(other)
    stage.delete(name)
    stage.until(lambda: cluster_role(stage, name) is None, "the grant to be revoked")
    assert not [write for write in stage.writes(since) if write.startswith("delete") and base in write]
    stage.assert_access(BOB, {namespace: True})
    remove_base_role(stage, base)


def test_a_forged_owner_does_not_make_the_shared_cluster_role_somebodys(stage: Stage) -> None:
    namespace = stage.namespace()
    own, name = (stage.grant(spec(who, namespaces=[namespace], role=of)) for who, of in (("bob", OWN), ("alice", SHARED)))
    for each in (own, name):
        stage.until_ready(each)
    marks, before = marks_of(cluster_role(stage, own) or {}), managed(cluster_role(stage, "View"))
    stage.request("PATCH", cluster_path(stage, "View"), {"metadata": marks})
    stage.until(lambda: managed(cluster_role(stage, "View")) == before, f"it to be as before: {cluster_role(stage, 'View')}")
    stage.delete(own)
    stage.until(lambda: not stage.children(own), "the other grant to be gone")
    for each in (name,):
        stage.until_ready(each)
    assert_rights(stage, {(ALICE, namespace): RIGHTS["ClusterRole View"], (BOB, namespace): set()})


# --- what is not ours ---


@pytest.mark.parametrize("worn", ["nothing", "the label of another uid", "managed-by alone"])
def test_a_foreign_cluster_role_of_our_name_is_left_alone_and_not_bound_to(stage: Stage, worn: str) -> None:
    namespaces, name = [stage.namespace() for _ in range(2)], stage.unique("taken")
    wearing = {"nothing": {}, "the label of another uid": {"labels": labels(name)}, "managed-by alone": {"labels": MANAGED_BY}}
    stage.request("POST", f"{RBAC}/clusterroles", role(f"vmaccess:{name}", ANYTHING, **wearing[worn]))
    before, since = cluster_role(stage, name), stage.mark()
    with Watched(stage, never=[(ALICE, "get", "/secrets", namespace) for namespace in namespaces]):
        assert stage.grant(spec(namespaces=namespaces, role=OWN), "taken") == name
        message = conflict(stage, name, "")
        assert f"vmaccess:{name}" in message
        assert "once its origin is known" in message
        stage.until_condition(name, "Active", "False")
    assert writes_to_children(stage, since) == []
    assert cluster_role(stage, name) == before
    assert_rights(stage, {(ALICE, namespace): set() for namespace in namespaces})
    stage.delete(name)
    stage.until(lambda: is_gone(stage, name), "the grant to be gone")
    stage.grant(spec(namespaces=namespaces, role=OWN), "taken")
    conflict(stage, name, "")
    assert cluster_role(stage, name) == before, "nor is it removed with the grant"
    stage.request("DELETE", cluster_path(stage, name))
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): RIGHTS["ClusterRole custom"] for namespace in namespaces})


@pytest.mark.parametrize("worn", ["nothing", "managed-by alone", "another preset"])
def test_a_foreign_cluster_role_in_the_place_of_a_shared_one(stage: Stage, worn: str) -> None:
    one, two = stage.namespace(), stage.namespace()
    wearing: dict[str, Json] = {
        "nothing": {},
        "managed-by alone": {"labels": MANAGED_BY},
        "another preset": {"labels": MANAGED_BY | {"vmaccess.dev/preset": "Admin"}},
    }
    stage.request("POST", f"{RBAC}/clusterroles", role("vmaccess:View", ANYTHING, **wearing[worn]))
    try:
        before, since = cluster_role(stage, "View"), stage.mark()
        first, second = (stage.grant(spec(who, namespaces=[one, two], role=SHARED)) for who in ("alice", "bob"))
        third = stage.grant(spec("eve", namespaces=[one], role=ROLES["ClusterRole Operate"]))
        for name in (first, second):
            assert "vmaccess:View" in conflict(stage, name, "")
        stage.until_ready(third)
        assert [write for write in writes_to_children(stage, since) if third not in write and "Operate" not in write] == []
        assert cluster_role(stage, "View") == before
        assert_rights(stage, {(ALICE, one): set(), (BOB, two): set(), (EVE, one): RIGHTS["ClusterRole Operate"]})
    finally:
        stage.request("DELETE", cluster_path(stage, "View"))
    for name in (first, second):
        stage.until_ready(name)
    gives = RIGHTS["ClusterRole View"]
    assert_rights(stage, {(ALICE, one): gives, (BOB, two): gives, (EVE, one): RIGHTS["ClusterRole Operate"]})
    assert (cluster_role(stage, "View") or {})["metadata"]["labels"] == MANAGED_BY | {"vmaccess.dev/preset": "View"}


def test_a_forged_shared_cluster_role_is_no_danger_and_goes(stage: Stage) -> None:
    """It wears exactly our marks: it is made right before anything is bound to it, or removed."""
    namespace = stage.namespace()
    forged = role("vmaccess:View", ANYTHING, labels=MANAGED_BY | {"vmaccess.dev/preset": "View"})
    with Watched(stage, never=[(ALICE, "get", "/secrets", namespace)]):
        stage.request("POST", f"{RBAC}/clusterroles", forged)
        name = stage.grant(spec(namespaces=[namespace], role=SHARED))
        stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): RIGHTS["ClusterRole View"]})
    stage.delete(name)
    until_left(stage, name, [], set())
    stage.request("POST", f"{RBAC}/clusterroles", forged)
    stage.until(lambda: not shared_roles(stage), "what nobody uses to go")


@pytest.mark.parametrize("of", KINDS)
def test_a_binding_whose_name_is_taken_fails_in_its_namespace_alone(stage: Stage, of: Json) -> None:
    taken, free, name = stage.namespace(), stage.namespace(), stage.unique("taken")
    foreign = binding(f"vmaccess:{name}{suffix(of)}", subjects("eve"), "ClusterRole/view")
    stage.request("POST", stage.path("rolebindings", taken), foreign)
    stage.grant(spec(namespaces=[taken, free], role=of), "taken")
    assert suffix(of) in conflict(stage, name, taken)
    stage.assert_access(ALICE, {taken: False, free: True})
    stage.request("DELETE", stage.path("rolebindings", taken, foreign["metadata"]["name"]))
    stage.until_ready(name)
    stage.assert_access(ALICE, {taken: True, free: True})


def test_a_name_that_is_taken_for_one_target_is_in_no_other_targets_way(stage: Stage) -> None:
    """A Role or a binding under a name that this grant does not use at present is somebody else's business."""
    namespace, name = stage.namespace(), stage.unique("free")
    stage.request("POST", stage.path("roles", namespace), role(f"vmaccess:{name}", ANYTHING))
    stage.request("POST", stage.path("rolebindings", namespace), binding(f"vmaccess:{name}", subjects("eve"), "ClusterRole/view"))
    stage.grant(spec(namespaces=[namespace], role=OWN), "free")
    stage.until_ready(name)
    stage.assert_access(ALICE, {namespace: True})
    stage.request("DELETE", stage.path("roles", namespace, f"vmaccess:{name}"))
    stage.request("DELETE", stage.path("rolebindings", namespace, f"vmaccess:{name}"))

    other = stage.unique("other")
    stage.request("POST", f"{RBAC}/clusterroles", role(f"vmaccess:{other}", ANYTHING))
    before = cluster_role(stage, other)
    stage.grant(spec("bob", namespaces=[namespace], role=ROLES["Role View"]), "other")
    stage.until_ready(other)
    stage.delete(other)
    stage.until(lambda: not stage.children(other), "the grant to be revoked")
    stage.assert_access(BOB, {namespace: False})
    assert cluster_role(stage, other) == before
    stage.request("DELETE", cluster_path(stage, other))


@pytest.mark.parametrize(
    ("old", "left"),
    [
        pytest.param({"keep": [LIST_VMS, DELETE_VMS]}, {"list"}, id="Role"),
        pytest.param({"kind": "ClusterRole"}, set(), id="shared"),
        pytest.param({"kind": "ClusterRole", "preset": "Admin"}, set(), id="shared Admin"),
    ],
)
def test_a_switch_to_a_name_that_is_taken_leaves_nobody_more_than_is_wanted_now(stage: Stage, old: Json, left: set[str]) -> None:
    stay, leave, join, name = stage.namespace(), stage.namespace(), stage.namespace(), stage.unique("taken")
    stage.request("POST", f"{RBAC}/clusterroles", role(f"vmaccess:{name}", ANYTHING))
    stage.grant(spec("alice", "bob", namespaces=[stay, leave], role=old), "taken")
    stage.until_ready(name)
    everybody = list(itertools.product((ALICE, BOB, EVE), (stay, leave, join)))
    of = {"kind": "ClusterRole", "keep": [LIST_VMS, START_VMS]}
    with Watched(stage, never=[(who, "get", "/secrets", namespace) for who, namespace in everybody]):
        stage.respec(name, spec("alice", "eve", namespaces=[stay, join], role=of))
        conflict(stage, name, "")
        table: dict[tuple[Who, str], set[str]] = {key: set() for key in everybody}
        stage.until(lambda: rights(stage, ALICE, stay) == left, "alice to have no more than is wanted now")
        assert_rights(stage, table | {(ALICE, stay): left})
    stage.request("DELETE", cluster_path(stage, name))
    stage.until_ready(name)
    assert_rights(stage, table | {(who, where): {"list", "start"} for who in (ALICE, EVE) for where in (stay, join)})
    until_left(stage, name, expected_children(name, of, [stay, join]), set())


@pytest.mark.parametrize("of", KINDS)
def test_our_bindings_to_a_cluster_role_that_was_replaced_by_a_foreign_one_go(stage: Stage, of: Json) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    name = stage.grant(spec(namespaces=namespaces, role=of))
    stage.until_ready(name)
    target = name if of is OWN else "View"
    before = managed(cluster_role(stage, target))

    def replaced() -> bool:
        stage.request("DELETE", cluster_path(stage, target), expect=None)
        return bool(stage.cluster.request("POST", f"{RBAC}/clusterroles", role(f"vmaccess:{target}", ANYTHING))[0] == 201)

    stage.until(replaced, "the ClusterRole to be replaced")
    try:
        stage.until(lambda: not stage.children(name, ["rolebindings"]), "our bindings to go")
        assert_rights(stage, {(ALICE, namespace): set() for namespace in namespaces})
        conflict(stage, name, "")
        assert (cluster_role(stage, target) or {})["rules"] == ANYTHING, "it is left as it is"
    finally:
        stage.request("DELETE", cluster_path(stage, target))
    stage.until_ready(name)
    stage.until(lambda: managed(cluster_role(stage, target)) is not None, "ours to be there")
    if of is SHARED:
        assert managed(cluster_role(stage, target)) == before
    stage.assert_access(ALICE, dict.fromkeys(namespaces, True))


@pytest.mark.parametrize("of", KINDS)
def test_replaced_while_the_operator_was_down(own_stage: Stage, own_cluster: LocalCluster, of: Json) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    with product.Operator(own_cluster):
        name = stage.grant(spec(namespaces=namespaces, role=of))
        stage.until_ready(name)
    target = name if of is OWN else "View"
    stage.request("DELETE", cluster_path(stage, target))
    stage.request("POST", f"{RBAC}/clusterroles", role(f"vmaccess:{target}", ANYTHING))
    with product.Operator(own_cluster):
        stage.until(lambda: not stage.children(name, ["rolebindings"]), "our bindings to go")
        assert_rights(stage, {(ALICE, namespace): set() for namespace in namespaces})
        conflict(stage, name, "")
        stage.request("DELETE", cluster_path(stage, target))
        stage.until_ready(name)
        stage.assert_access(ALICE, dict.fromkeys(namespaces, True))


# --- what the operator does not hold ---


@pytest.fixture
def wide(stage: Stage) -> Iterator[str]:
    """A base with a right that the operator does not hold."""
    name = base_role(stage, LIST_VMS, DELETE_VMS, START_VMS, SECRETS, name="wide")
    yield name
    remove_base_role(stage, name)


def test_an_escalation_grants_nothing(stage: Stage, wide: str) -> None:
    namespaces = [stage.namespace() for _ in range(2)]
    of: Json = {"kind": "ClusterRole", "from": wide, "keep": [LIST_VMS, SECRETS]}
    name = stage.grant(spec(namespaces=namespaces, role=of))
    grant = stage.until_condition(name, "Stalled", reason="Escalation")
    assert [(failure["namespace"], failure["reason"]) for failure in grant["status"]["failures"]] == [("", "Escalation")]
    assert grant["status"]["namespaces"]["granted"] == 0
    assert stage.children(name) == []
    assert_rights(stage, {(ALICE, namespace): set() for namespace in namespaces})
    stage.respec(name, spec(namespaces=namespaces, role={**of, "keep": [LIST_VMS]}))
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): {"list"} for namespace in namespaces})


@pytest.mark.parametrize(
    ("old", "left"),
    [
        pytest.param({"kind": "ClusterRole", "keep": [LIST_VMS, DELETE_VMS]}, {"list"}, id="own"),
        pytest.param({"keep": [LIST_VMS, DELETE_VMS]}, {"list"}, id="Role"),
        pytest.param({"kind": "ClusterRole", "keep": [DELETE_VMS]}, set(), id="own, nothing shared"),
        pytest.param({"kind": "ClusterRole"}, set(), id="shared"),
        pytest.param({"kind": "ClusterRole", "preset": "Admin"}, set(), id="shared Admin"),
    ],
)
def test_after_an_escalation_nobody_keeps_more_than_is_wanted_now(stage: Stage, wide: str, old: Json, left: set[str]) -> None:
    """A Role or ClusterRole of the grant's own can be narrowed to what both give; a shared one cannot, so its bindings go."""
    stay, leave, join = (stage.namespace() for _ in range(3))
    from_ = {"from": wide} if "keep" in old else {}
    name = stage.grant(spec("alice", "bob", namespaces=[stay, leave], role={**old, **from_}))
    stage.until_ready(name)
    everywhere = (stay, leave, join)
    never = [(who, "get", "/secrets", namespace) for who in (ALICE, BOB, EVE) for namespace in everywhere]
    with Watched(stage, never=never):
        of = {"kind": "ClusterRole", "from": wide, "keep": [LIST_VMS, SECRETS]}
        stage.respec(name, spec("alice", "eve", namespaces=[stay, join], role=of))
        grant = stage.until_condition(name, "Stalled", reason="Escalation")
        table: dict[tuple[Who, str], set[str]] = {
            (who, namespace): set() for who in (ALICE, BOB, EVE) for namespace in everywhere
        }
        stage.until(lambda: rights(stage, ALICE, stay) == left, f"{left}: {rights(stage, ALICE, stay)}")
        assert_rights(stage, table | {(ALICE, stay): left})
    assert {failure["namespace"] for failure in grant["status"]["failures"]} == {""}
    stage.respec(name, spec("alice", "eve", namespaces=[stay, join], role={**of, "keep": [LIST_VMS]}))
    stage.until_ready(name)
    table |= {(who, namespace): {"list"} for who in (ALICE, EVE) for namespace in (stay, join)}
    assert_rights(stage, table)
    until_left(stage, name, expected_children(name, {**of, "keep": []}, [stay, join]), set())


def test_the_base_gains_what_the_operator_does_not_hold(stage: Stage, base: str) -> None:
    """What is kept by wildcard follows the base; what cannot be given does not cost what was given, unless the base lost it."""
    namespace = stage.namespace()
    everything: Json = {"kind": "ClusterRole", "from": base, "keep": [{"resources": ["*"], "verbs": ["*"]}]}
    name = stage.grant(spec(namespaces=[namespace], role=everything))
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): {"list", "start", "delete"}})
    with Watched(stage, always=[(ALICE, "list", VMS, namespace)], never=[(ALICE, "get", "/secrets", namespace)]):
        set_base_role(stage, base, LIST_VMS, START_VMS, SECRETS)
        stage.until_condition(name, "Stalled", reason="Escalation")
        assert_rights(stage, {(ALICE, namespace): {"list", "start"}})
        set_base_role(stage, base, LIST_VMS, DELETE_VMS)
        stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): {"list", "delete"}})


# --- what cannot be read, or has no base ---


@pytest.mark.parametrize("of", KINDS)
@pytest.mark.parametrize("typo", TYPOS.values(), ids=TYPOS.keys())
def test_an_invalid_spec_holds_what_is_there(stage: Stage, of: Json, typo: Json) -> None:
    namespace, later = stage.namespace(), stage.namespace()
    name = stage.grant(spec("alice", "bob", namespaces=[namespace], role=of))
    stage.until_ready(name)
    target = name if of is OWN else "View"
    before, told, since = cluster_role(stage, target), stage.get(name)["status"]["role"], stage.mark()
    assert told["preset"] == ("Custom" if of is OWN else "View")
    stage.respec(name, spec("alice", "eve", namespaces=[namespace, later], role={"kind": "ClusterRole", **typo}))
    stage.until_condition(name, "Stalled", reason="InvalidSpec")
    stage.until_condition(name, "Active")
    assert writes_to_children(stage, since) == []
    assert cluster_role(stage, target) == before
    gives = RIGHTS["ClusterRole custom" if of is OWN else "ClusterRole View"]
    assert_rights(stage, {(ALICE, namespace): gives, (BOB, namespace): gives, (EVE, namespace): set(), (ALICE, later): set()})
    stage.request("DELETE", stage.path("rolebindings", later), expect=None)

    # drift is not put right then, but what is there stays revocable
    stage.request("PATCH", cluster_path(stage, target), {"metadata": {"labels": None}})
    stage.until(lambda: (cluster_role(stage, target) or {})["metadata"].get("labels"), "the marks to be back")
    stage.respec(name, spec("alice", "eve", namespaces=[namespace, later], role=of))
    stage.until_ready(name)
    table: dict[tuple[Who, str], set[str]] = {(who, where): gives for who in (ALICE, EVE) for where in (namespace, later)}
    assert_rights(stage, table | {(BOB, namespace): set()})


@pytest.mark.parametrize("how", ["suspend", "exclusion", "deselection", "deletion"])
@pytest.mark.parametrize("of", KINDS)
def test_what_takes_access_away_works_in_an_invalid_spec(stage: Stage, of: Json, how: str) -> None:
    goes, stays = stage.namespace(), stage.namespace()
    name = stage.grant(spec(namespaces=[goes, stays], role=of))
    stage.until_ready(name)
    wanted = spec(namespaces=[goes, stays], role={"kind": "ClusterRole", **TYPOS["a resource to drop"]})
    taking_away(stage, name, wanted, how, goes, stays)
    stage.until(lambda: not stage.views(ALICE, goes), "access to go")
    stage.assert_access(ALICE, {goes: False, stays: how in ("exclusion", "deselection")})
    if how in ("suspend", "deletion"):
        stage.until(lambda: stage.children(name) == [], "everything to be gone")


def test_a_missing_base_role_gives_and_takes_nothing(stage: Stage, base: str) -> None:
    namespace, later = stage.namespace(), stage.namespace()
    of: Json = {"kind": "ClusterRole", "from": base, "keep": [LIST_VMS, START_VMS]}
    name = stage.grant(spec("alice", "bob", namespaces=[namespace], role=of))
    stage.until_ready(name)
    remove_base_role(stage, base)
    stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
    before, since = cluster_role(stage, name), stage.mark()
    stage.respec(name, spec("alice", namespaces=[namespace, later], role=of))
    stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
    assert_rights(stage, {(ALICE, namespace): {"list", "start"}, (BOB, namespace): {"list", "start"}, (ALICE, later): set()})
    assert cluster_role(stage, name) == before
    assert writes_to_children(stage, since) == []
    stage.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": base}, "rules": [LIST_VMS]})
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): {"list"}, (BOB, namespace): set(), (ALICE, later): {"list"}})


def test_a_role_that_the_base_leaves_empty_is_taken_away_by_the_first_write(stage: Stage, base: str) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    name = stage.grant(spec(namespaces=namespaces, role={"kind": "ClusterRole", "from": base, "keep": [START_VMS]}))
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): {"start"} for namespace in namespaces})
    since = stage.mark()
    set_base_role(stage, base, LIST_VMS)
    stage.until_condition(name, "Stalled", reason="RoleEmpty")
    stage.until_condition(name, "Active", "False")
    assert_rights(stage, {(ALICE, namespace): set() for namespace in namespaces})
    assert writes_to_children(stage, since)[0] == f"delete clusterroles /vmaccess:{name} 200"
    assert stage.children(name) == []
    set_base_role(stage, base, START_VMS)
    stage.until_ready(name)
    assert_rights(stage, {(ALICE, namespace): {"start"} for namespace in namespaces})


# --- namespaces that come and go ---


@pytest.mark.parametrize("of", KINDS)
def test_labels_and_namespaces_are_followed(stage: Stage, of: Json) -> None:
    team = stage.unique("team")
    first, second = stage.namespace(team=team), stage.namespace()
    wanted = spec(namespaceSelector={"matchLabels": {"team": team}}, role=of)
    name = stage.grant(wanted)
    stage.until_ready(name)
    stage.assert_access(ALICE, {first: True, second: False})
    stage.relabel(second, team=team)
    stage.until(lambda: stage.views(ALICE, second), "access to come with the label")
    stage.relabel(first, team=None)
    stage.until(lambda: not stage.views(ALICE, first), "access to go with the label")
    stage.delete_namespace(second)
    stage.until_condition(name, "Ready", reason="NoNamespaces")
    until_left(stage, name, ["clusterroles /vmaccess:" + name] if of is OWN else [], set() if of is OWN else {"View"})
    third = stage.namespace(team=team)
    stage.until(lambda: stage.views(ALICE, third), "access in a new namespace")
    stage.until_ready(name)
