"""A start finds what there is: it writes nothing where nothing is to be done, and catches up with what happened meanwhile."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Iterator

import pytest

from localcluster import LocalCluster, product
from tests.access.helpers import (
    ALICE,
    ANYTHING,
    BOB,
    EVE,
    LIST_VMS,
    VMS,
    base_role,
    managed,
    own,
    remove_base_role,
    role,
    set_base_role,
    spec,
    subjects,
)
from tests.stage import GRANTS, OPERATOR, Json, Stage, Who

CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/vmaccessgrants.vmaccess.dev"
QUIET = 5.0  # seconds in which nothing may happen: longer than the interval between two status writes


def requests(stage: Stage, since: int) -> list[str]:
    """What the operator has asked for since a mark but lists, watches and discovery: writes, Events, reads of one object."""
    asked = stage.cluster.audit_events(user=OPERATOR, since=since)
    return [
        f"{event['verb']} {event['requestURI']}"
        for event in asked
        if event["verb"] not in ("list", "watch") and "objectRef" in event
    ]


def until_idle(operator: product.Operator, stage: Stage) -> None:
    """Wait until no key waits and the next STATUS_INTERVAL has brought nothing."""

    def idle() -> bool:
        since = stage.mark()
        time.sleep(QUIET / 2)  # nothing tells that a delayed key will not come
        return "vmaccess_queue_depth 0.0" in operator.page("/metrics")[1] and not requests(stage, since)

    stage.until(idle, "the operator to be idle", 30)


@pytest.fixture
def unvalidated(own_cluster: LocalCluster) -> Iterator[None]:
    """Admission knows none of the CRD's rules in CEL for as long as the test stores its grants."""
    _, before = own_cluster.request("GET", CRD)

    def put(spec_of: Json) -> None:
        _, now = own_cluster.request("GET", CRD)
        status, answer = own_cluster.request("PUT", CRD, {**now, "spec": spec_of})
        assert status == 200, answer

    put(_without_rules(before["spec"]))
    yield
    put(before["spec"])


def _without_rules(node: Json) -> Json:
    def strip(value: object) -> object:
        if isinstance(value, dict):
            return {key: strip(inner) for key, inner in value.items() if key != "x-kubernetes-validations"}
        return [strip(inner) for inner in value] if isinstance(value, list) else value

    stripped = strip(node)
    assert isinstance(stripped, dict)
    return stripped


def test_a_restart_and_idling_write_nothing_and_read_nothing(
    own_stage: Stage,
    own_cluster: LocalCluster,
    unvalidated: None,  # noqa: ARG001
) -> None:
    stage = own_stage
    team, home = stage.unique("team"), stage.namespace()
    namespaces = [stage.namespace(team=team) for _ in range(3)]
    accounts = [{"name": "runner", "namespace": home}]
    base = base_role(stage, LIST_VMS)
    stage.request("POST", stage.path("roles", namespaces[0]), role(f"vmaccess:{stage.unique('conflict')}", ANYTHING))
    stage.request("POST", stage.path("serviceaccounts", home), {"metadata": {"name": "foreign"}})
    typo = {"drop": [{"resources": ["virtualmachineinstances/vcn"]}]}
    wanted: dict[str, tuple[Json, str, str]] = {
        "ready": (spec("alice", "bob", namespaces=namespaces, serviceAccounts=accounts), "Ready", "Granted"),
        "selected": (spec(namespaceSelector={"matchLabels": {"team": team}}), "Ready", "Granted"),
        "custom": (spec(namespaces=namespaces, role={"from": base, "keep": [LIST_VMS]}), "Ready", "Granted"),
        "nowhere": (spec(namespaceSelector={"matchLabels": {"team": "nobody"}}), "Ready", "NoNamespaces"),
        "suspended": (
            spec(namespaces=namespaces, suspend=True, serviceAccounts=[{"name": "idle", "namespace": home}]),
            "Ready",
            "Suspended",
        ),
        "typo": (spec(namespaces=namespaces, role=typo), "Stalled", "InvalidSpec"),
        "missing": (spec(namespaces=[*namespaces, stage.unique("gone")]), "Reconciling", "NamespaceNotFound"),
        "baseless": (spec(namespaces=namespaces, role={"from": stage.unique("none")}), "Reconciling", "BaseRoleNotFound"),
        "conflict": (spec(namespaces=namespaces), "Stalled", "NameConflict"),
        "account": (
            spec(namespaces=namespaces, serviceAccounts=[{"name": "foreign", "namespace": home}]),
            "Stalled",
            "NameConflict",
        ),
        "protected": (spec(namespaces=[*namespaces, "kube-system"]), "Stalled", "ProtectedNamespace"),
    }

    def stored_unvalidated() -> bool:
        masters = {"subjects": [{"kind": "Group", "name": "system:masters"}], "namespaces": namespaces}
        grant = {
            "apiVersion": "vmaccess.dev/v1alpha1",
            "kind": "VMAccessGrant",
            "metadata": {"name": stage.unique("masters")},
            "spec": masters,
        }
        return bool(stage.cluster.request("POST", GRANTS, grant)[0] == 201)

    with product.Operator(own_cluster) as operator:
        names = {name: stage.grant(of, name) for name, (of, _, _) in wanted.items()}
        stage.until(stored_unvalidated, "admission to let a system: subject pass")
        for name, (_, condition, reason) in wanted.items():
            stage.until_condition(names[name], condition, reason=reason)
        stage.until_condition(stage.unique("masters"), "Stalled", reason="InvalidSpec")
        until_idle(operator, stage)
        since = stage.mark()
        time.sleep(QUIET)
        assert requests(stage, since) == [], "idling"
        assert operator.stop() == 0
    grants = {grant["metadata"]["name"]: grant for grant in stage.request("GET", GRANTS)["items"]}
    since = stage.mark()
    with product.Operator(own_cluster):
        time.sleep(QUIET)
        assert requests(stage, since) == [], "after a restart"
    after = {grant["metadata"]["name"]: grant for grant in stage.request("GET", GRANTS)["items"]}
    assert after == grants
    assert stage.children(stage.unique("masters")) == []
    stage.request("DELETE", f"{GRANTS}/{stage.unique('masters')}")
    remove_base_role(stage, base)


def test_changes_made_meanwhile_are_caught_up_with(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    team, base = stage.unique("team"), base_role(stage, LIST_VMS, {**LIST_VMS, "verbs": ["delete"]})
    home, changed, joins, leaves, drifts = (
        stage.namespace("home"),
        stage.namespace("changed"),
        stage.namespace("joins"),
        stage.namespace("leaves", team=team),
        stage.namespace("drifts", team=team),
    )
    runner = Who.service_account(home, "runner")
    with product.Operator(own_cluster):
        listed = stage.grant(spec("alice", "bob", namespaces=[changed, home]), "listed")
        selected = stage.grant(
            spec(namespaceSelector={"matchLabels": {"team": team}}, serviceAccounts=[{"name": "runner", "namespace": home}]),
            "selected",
        )
        based = stage.grant(
            spec("eve", namespaces=[changed], role={"from": base, "keep": [{"resources": ["*"], "verbs": ["*"]}]})
        )
        for name in (listed, selected, based):
            stage.until_ready(name)
        assert stage.can(EVE, "delete", VMS, changed)
        before = [managed(stage.child(*own(kind, drifts, selected))) for kind in ("roles", "rolebindings")]
    for who in (ALICE, runner):
        stage.assert_access(who, {leaves: True, drifts: True, joins: False})

    stage.respec(listed, spec("alice", namespaces=[changed]))
    stage.relabel(joins, team=team)
    stage.relabel(leaves, team=None)
    for kind in ("rolebindings", "roles"):
        stage.request("PATCH", stage.path(*own(kind, leaves, selected)), {"metadata": {"labels": None}})
    stage.request("PATCH", stage.path(*own("roles", drifts, selected)), {"rules": ANYTHING, "metadata": {"labels": None}})
    foreign = {"subjects": subjects("alice", "mallory"), "metadata": {"ownerReferences": None}}
    stage.request("PATCH", stage.path(*own("rolebindings", drifts, selected)), foreign)
    set_base_role(stage, base, LIST_VMS)

    with product.Operator(own_cluster):
        for name in (listed, selected, based):
            stage.until_ready(name)
        stage.until(lambda: not stage.views(ALICE, leaves), "access to go with the label of the namespace")
        stage.until(lambda: stage.views(runner, joins), "access to come with the label of the namespace")
        stage.until(lambda: not stage.can(EVE, "delete", VMS, changed), "what has left the base to go")
        stage.until(
            lambda: [managed(stage.child(*own(kind, drifts, selected))) for kind in ("roles", "rolebindings")] == before,
            "the drift to be repaired",
        )
        stage.until(lambda: not stage.views(ALICE, home), "access to go with the entry in the list")
    for who in (ALICE, runner):
        stage.assert_access(who, {leaves: False, drifts: True, joins: True})
        assert not stage.can(who, "delete", VMS, drifts)
    stage.assert_access(BOB, {changed: False, home: False})
    stage.assert_access(Who("mallory"), {drifts: False})
    for kind in ("roles", "rolebindings"):
        assert stage.child(*own(kind, leaves, selected)) is None
    remove_base_role(stage, base)


@pytest.mark.parametrize("flags", [[], ["--server-side", "--field-manager=pipeline"]], ids=["client-side", "server-side"])
def test_applying_the_same_manifest_again_and_again_writes_nothing(
    own_stage: Stage, own_cluster: LocalCluster, flags: list[str]
) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(3)]
    lines = [
        "apiVersion: vmaccess.dev/v1alpha1",
        "kind: VMAccessGrant",
        f"metadata: {{name: {stage.unique('applied')}}}",
        f"spec: {{subjects: [{{kind: User, name: alice}}], namespaces: [{', '.join(namespaces)}]}}",
    ]
    manifest, name = "\n".join(lines), stage.unique("applied")
    with product.Operator(own_cluster) as operator:
        own_cluster.kubectl("apply", *flags, "-f", "-", input=manifest)
        stage.until_ready(name)
        until_idle(operator, stage)
        since = stage.mark()
        for _ in range(2):
            own_cluster.kubectl("apply", *flags, "-f", "-", input=manifest)
        own_cluster.kubectl(
            "apply", "--server-side", "--force-conflicts", "--field-manager=another", "-f", "-", input="\n".join(lines)
        )
        own_cluster.kubectl("annotate", "vmaccessgrant", name, "example.com/note=seen")
        own_cluster.kubectl("label", "vmaccessgrant", name, "example.com/team=a")
        until_idle(operator, stage)
        assert requests(stage, since) == []
        stage.delete(name)
        stage.until(lambda: not stage.children(name), "the grant to be revoked")


def test_sigterm_ends_it_in_time_whatever_it_is_doing(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(20)]
    operator = product.Operator(own_cluster)
    name = stage.grant(spec(namespaces=namespaces))
    stage.until(lambda: stage.children(name), "the first child")
    began = time.monotonic()
    assert operator.stop() == 0
    assert time.monotonic() - began < 10
    with product.Operator(own_cluster) as again:
        stage.until_ready(name)
        stage.delete(name)
        stage.until(lambda: not stage.children(name), "the grant to be revoked")
        assert again.stop() == 0


def test_a_crash_anywhere_leaves_nothing_undone(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(60)]
    account = [{"name": "runner", "namespace": namespaces[0]}]
    name = stage.unique("crashing")

    def killed_after(writes: int) -> None:
        print(f"killed after {writes} writes")  # shown where the test fails
        since, operator = stage.mark(), product.Operator(own_cluster)
        try:
            stage.until(lambda: stage.writes_so_far(since) >= writes, f"{writes} writes", 30)
        finally:
            operator.kill()

    stage.grant(spec(namespaces=namespaces, serviceAccounts=account), "crashing")
    for writes in random.sample(range(1, 60), 2):
        killed_after(writes)
    with product.Operator(own_cluster):
        stage.until_ready(name)
    kinds = ("rolebindings", "roles")
    assert stage.children(name, kinds) == sorted(
        f"{kind} {namespace}/vmaccess:{name}" for kind, namespace in itertools.product(kinds, namespaces)
    )
    for namespace in namespaces:
        assert stage.views(ALICE, namespace)
        assert stage.views(Who.service_account(namespaces[0], "runner"), namespace)

    # Alice leaves, bob joins, a third of the namespaces goes: killed on the way, no namespace keeps the old access.
    stage.respec(name, spec("bob", namespaces=namespaces[:40], serviceAccounts=account))
    killed_after(random.randrange(1, 60))
    with product.Operator(own_cluster):
        stage.until_ready(name)
    for number, namespace in enumerate(namespaces):
        assert [stage.views(who, namespace) for who in (ALICE, BOB)] == [False, number < 40]

    own_cluster.stop_controller_manager()
    try:
        stage.delete(name)
        killed_after(random.randrange(1, 60))
        with product.Operator(own_cluster):
            stage.until(lambda: not stage.children(name), "nothing to be left over")
    finally:
        own_cluster.start_controller_manager()
    for namespace in namespaces:
        assert not stage.views(BOB, namespace)
