"""A changed spec or base role becomes the new access; on the way nobody has more than either gives, nor less than both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.access.helpers import (
    ALICE,
    BOB,
    DELETE_VMS,
    EVE,
    LIST_VMS,
    START_VMS,
    VMS,
    Watched,
    base_role,
    managed,
    own,
    remove_base_role,
    set_base_role,
    spec,
    subjects,
    users,
)
from tests.stage import RBAC, Json, Stage, Who

START = "subresources.kubevirt.io/virtualmachines/start"
SECRETS: Json = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}


@pytest.fixture
def base(stage: Stage) -> Iterator[str]:
    """A ClusterRole to be trimmed: list, start and delete VirtualMachines."""
    name = base_role(stage, LIST_VMS, START_VMS, DELETE_VMS)
    yield name
    remove_base_role(stage, name)


def rights(stage: Stage, who: Who, namespace: str) -> set[str]:
    """What of list, start and delete somebody may do."""
    asked = {"list": ("list", VMS), "start": ("update", START), "delete": ("delete", VMS)}
    return {right for right, (verb, resource) in asked.items() if stage.can(who, verb, resource, namespace)}


def children(stage: Stage, name: str, namespace: str) -> list[Json | None]:
    """The Role and the RoleBinding, with their resourceVersions: equal means not written."""
    return [stage.child(*own(kind, namespace, name)) for kind in ("roles", "rolebindings")]


def test_subjects_join_and_leave_while_others_stay(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(5)]
    name = stage.grant(spec("alice", "bob", namespaces=namespaces))
    stage.until_ready(name)
    stays = [(ALICE, "list", VMS, namespace) for namespace in namespaces]
    with Watched(stage, always=stays, never=[(ALICE, "delete", VMS, namespaces[0])]):
        for second in ("eve", "bob", "eve"):
            stage.respec(name, spec(second, "alice", namespaces=namespaces))
            stage.until_ready(name)
    for namespace in namespaces:
        assert [stage.views(who, namespace) for who in (ALICE, BOB, EVE)] == [True, False, True]


def test_a_role_is_widened_and_narrowed_in_place(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role={"keep": [LIST_VMS]}))
    stage.until_ready(name)
    assert rights(stage, ALICE, namespace) == {"list"}
    with Watched(stage, always=[(ALICE, "list", VMS, namespace)], never=[(BOB, "list", VMS, namespace)]):
        for keep, drop, expected in (
            ([LIST_VMS, START_VMS], None, {"list", "start"}),
            ([LIST_VMS, DELETE_VMS], None, {"list", "delete"}),
            ([LIST_VMS, START_VMS, DELETE_VMS], [{"verbs": ["delete"]}], {"list", "start"}),
            ([LIST_VMS], [{"resources": ["virtualmachines/start"]}], {"list"}),
        ):
            stage.respec(name, spec(namespaces=[namespace], role={"keep": keep, **({"drop": drop} if drop else {})}))
            stage.until_ready(name)
            assert rights(stage, ALICE, namespace) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [([LIST_VMS, DELETE_VMS], [LIST_VMS]), ([LIST_VMS], [LIST_VMS, START_VMS]), ([LIST_VMS, DELETE_VMS], [LIST_VMS, START_VMS])],
    ids=["narrower", "wider", "both"],
)
def test_role_and_subjects_change_at_once(stage: Stage, before: list[Json], after: list[Json]) -> None:
    """Alice stays, bob leaves, eve joins: bob never has the new rights, eve never the old ones, alice always what both give."""
    namespaces = [stage.namespace() for _ in range(5)]
    name = stage.grant(spec("alice", "bob", namespaces=namespaces, role={"keep": before}))
    stage.until_ready(name)
    always = [(ALICE, "list", VMS, namespace) for namespace in namespaces]
    never = [(who, "get", VMS, namespace) for who in (ALICE, BOB, EVE) for namespace in namespaces[:1]]
    for namespace in namespaces:
        if DELETE_VMS not in after:
            never.append((EVE, "delete", VMS, namespace))
        if START_VMS in after:
            never.append((BOB, "update", START, namespace))
    with Watched(stage, always=always, never=never):
        stage.respec(name, spec("alice", "eve", namespaces=namespaces, role={"keep": after}))
        stage.until_ready(name)
    expected = {"list"} | ({"start"} if START_VMS in after else set())
    for namespace in namespaces:
        assert rights(stage, ALICE, namespace) == rights(stage, EVE, namespace) == expected
        assert rights(stage, BOB, namespace) == set()


def test_suspending_takes_the_access_and_leaves_the_service_accounts(stage: Stage) -> None:
    home, one, two = stage.namespace(), stage.namespace(), stage.namespace()
    wanted = spec(namespaces=[one, two], serviceAccounts=[{"name": "runner", "namespace": home}])
    runner, name = Who.service_account(home, "runner"), stage.grant(wanted)
    stage.until_ready(name)
    before = stage.child("serviceaccounts", home, "runner")
    for _ in range(2):
        stage.respec(name, {**wanted, "suspend": True})
        grant = stage.until_condition(name, "Ready", reason="Suspended")
        stage.until_condition(name, "Active", "False", "Suspended")
        assert grant["status"]["namespaces"]["granted"] == 0
        assert stage.children(name) == [f"serviceaccounts {home}/runner"]
        for who in (ALICE, runner):
            stage.assert_access(who, {one: False, two: False})
        stage.respec(name, wanted)
        stage.until_condition(name, "Ready", reason="Granted")
        for who in (ALICE, runner):
            stage.assert_access(who, {one: True, two: True})
    assert stage.child("serviceaccounts", home, "runner") == before


def test_a_service_account_taken_off_the_list_goes_after_its_bindings(stage: Stage) -> None:
    home = stage.namespace()
    namespaces = [stage.namespace() for _ in range(5)]
    wanted = spec(namespaces=namespaces, serviceAccounts=[{"name": name, "namespace": home} for name in ("stays", "goes")])
    name = stage.grant(wanted)
    stage.until_ready(name)
    stays, goes = (Who.service_account(home, account) for account in ("stays", "goes"))
    since = stage.mark()
    with Watched(stage, always=[(stays, "list", VMS, namespace) for namespace in namespaces]):
        stage.respec(name, {**wanted, "serviceAccounts": wanted["serviceAccounts"][:1]})
        stage.until_ready(name)
    stage.assert_access(goes, dict.fromkeys(namespaces, False))
    assert stage.child("serviceaccounts", home, "goes") is None
    writes = [write for write in stage.writes(since) if "vmaccessgrants" not in write]
    assert writes[-1] == f"delete serviceaccounts {home}/goes 200"
    assert sorted(writes[:-1]) == sorted(f"patch rolebindings {namespace}/vmaccess:{name} 200" for namespace in namespaces)


def test_a_leaver_loses_access_although_a_new_service_account_cannot_be_made(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec("alice", "bob", namespaces=[namespace]))
    stage.until_ready(name)
    missing = [{"name": "runner", "namespace": stage.unique("missing")}]
    stage.respec(name, spec("alice", namespaces=[namespace], serviceAccounts=missing))
    stage.until_condition(name, "Reconciling", reason="NamespaceNotFound")
    stage.assert_access(BOB, {namespace: False})
    stage.assert_access(ALICE, {namespace: True})


def test_the_base_role_is_followed(stage: Stage, base: str) -> None:
    namespace = stage.namespace()
    keep = [{"resources": ["*"], "verbs": ["*"]}]
    name = stage.grant(spec(namespaces=[namespace], role={"from": base, "keep": keep, "drop": [{"verbs": ["delete"]}]}))
    stage.until_ready(name)
    assert rights(stage, ALICE, namespace) == {"list", "start"}
    with Watched(stage, always=[(ALICE, "list", VMS, namespace)], never=[(ALICE, "delete", VMS, namespace)]):
        set_base_role(stage, base, LIST_VMS)
        stage.until(lambda: rights(stage, ALICE, namespace) == {"list"}, "what has left the base to go")
        set_base_role(stage, base, LIST_VMS, START_VMS, DELETE_VMS)
        stage.until(lambda: rights(stage, ALICE, namespace) == {"list", "start"}, "what has come to the base to come")


def test_a_missing_base_role_gives_and_takes_nothing(stage: Stage, base: str) -> None:
    namespace, later = stage.namespace(), stage.namespace()
    role = {"from": base, "keep": [LIST_VMS, START_VMS]}
    name = stage.grant(spec("alice", "bob", namespaces=[namespace], role=role))
    stage.until_ready(name)
    remove_base_role(stage, base)
    stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
    stage.until_condition(name, "Ready", "False")
    stage.until_condition(name, "Active")
    assert rights(stage, ALICE, namespace) == {"list", "start"}

    before = children(stage, name, namespace)
    stage.respec(name, spec("alice", namespaces=[namespace, later], role=role))
    stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
    stage.assert_access(ALICE, {namespace: True, later: False})
    assert children(stage, name, namespace) == before

    stage.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": base}, "rules": [LIST_VMS]})
    stage.until_ready(name)
    assert rights(stage, ALICE, namespace) == rights(stage, ALICE, later) == {"list"}
    stage.assert_access(BOB, {namespace: False, later: False})


@pytest.mark.parametrize("how", ["suspend", "exclusion", "deselection", "deletion"])
def test_what_takes_access_away_works_without_the_base_role(stage: Stage, base: str, how: str) -> None:
    goes, stays = stage.namespace(), stage.namespace()
    wanted = spec(namespaces=[goes, stays], role={"from": base, "keep": [LIST_VMS]})
    name = stage.grant(wanted)
    stage.until_ready(name)
    remove_base_role(stage, base)
    stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
    taking_away(stage, name, wanted, how, goes, stays)
    stage.until(lambda: not stage.views(ALICE, goes), "access to go")
    stage.assert_access(ALICE, {goes: False, stays: how in ("exclusion", "deselection")})


def taking_away(stage: Stage, name: str, wanted: Json, how: str, goes: str, stays: str) -> None:
    """One of the ways to take access away, in all namespaces or in `goes`."""
    match how:
        case "suspend":
            stage.respec(name, {**wanted, "suspend": True})
            stage.until(lambda: not stage.views(ALICE, stays), "access to go")
        case "exclusion":
            stage.respec(name, {**wanted, "excludeNamespaces": [goes]})
        case "deselection":
            stage.respec(name, {**wanted, "namespaces": [stays]})
        case "deletion":
            stage.delete(name)
            stage.until(lambda: not stage.views(ALICE, stays), "access to go")


def test_a_role_that_the_base_leaves_empty_is_taken_away(stage: Stage, base: str) -> None:
    home, namespace = stage.namespace(), stage.namespace()
    accounts = [{"name": "runner", "namespace": home}]
    name = stage.grant(
        spec(namespaces=[namespace], serviceAccounts=accounts, role={"from": base, "keep": [START_VMS]}),
    )
    stage.until_ready(name)
    before = stage.child("serviceaccounts", home, "runner")
    assert rights(stage, ALICE, namespace) == {"start"}
    set_base_role(stage, base, LIST_VMS)
    stage.until_condition(name, "Stalled", reason="RoleEmpty")
    stage.until_condition(name, "Active", "False")
    assert rights(stage, ALICE, namespace) == set()
    assert stage.children(name) == [f"serviceaccounts {home}/runner"]
    set_base_role(stage, base, LIST_VMS, START_VMS)
    stage.until_ready(name)
    assert rights(stage, ALICE, namespace) == {"start"}
    assert stage.child("serviceaccounts", home, "runner") == before


def test_another_base_role(stage: Stage, base: str) -> None:
    namespace = stage.namespace()
    role = {"keep": [{"resources": ["virtualmachines", "virtualmachines/start"], "verbs": ["list", "get", "update"]}]}
    name = stage.grant(spec(namespaces=[namespace], role=role))
    stage.until_ready(name)
    assert rights(stage, ALICE, namespace) == {"list", "start"}
    assert stage.can(ALICE, "get", VMS, namespace)
    with Watched(stage, always=[(ALICE, "list", VMS, namespace)], never=[(ALICE, "delete", VMS, namespace)]):
        stage.respec(name, spec(namespaces=[namespace], role={**role, "from": base}))
        grant = stage.until_ready(name)
    assert grant["status"]["role"]["from"] == base
    assert rights(stage, ALICE, namespace) == {"list", "start"}
    assert not stage.can(ALICE, "get", VMS, namespace), "this base has no get"


def test_an_escalation_is_refused_and_grants_nothing_wider(stage: Stage) -> None:
    """The operator hands out only what it holds itself; Kubernetes refuses the rest."""
    base = base_role(stage, LIST_VMS, DELETE_VMS, SECRETS, name="wide")
    old, new = stage.namespace(), stage.namespace()
    name = stage.grant(spec("alice", "bob", namespaces=[old], role={"from": base, "keep": [LIST_VMS, DELETE_VMS]}))
    stage.until_ready(name)
    never = [(who, "get", "/secrets", namespace) for who in (ALICE, BOB, EVE) for namespace in (old, new)]
    with Watched(stage, always=[(ALICE, "list", VMS, old)], never=never):
        wider = spec("alice", "eve", namespaces=[old, new], role={"from": base, "keep": [LIST_VMS, SECRETS]})
        stage.respec(name, wider)
        grant = stage.until_condition(name, "Stalled", reason="Escalation")
    assert rights(stage, ALICE, old) == {"list"}, "the narrower part of the change takes place"
    assert rights(stage, BOB, old) == set(), "who leaves loses access all the same"
    for who in (ALICE, BOB, EVE):
        assert rights(stage, who, new) == set()
    assert {failure["namespace"] for failure in grant["status"]["failures"]} == {old, new}

    stage.respec(name, spec("alice", "eve", namespaces=[old, new], role={"from": base, "keep": [LIST_VMS]}))
    stage.until_ready(name)
    for who, namespace in ((ALICE, old), (ALICE, new), (EVE, old), (EVE, new)):
        assert rights(stage, who, namespace) == {"list"}
    remove_base_role(stage, base)


def test_secrets_of_cluster_admin_are_not_for_sale(stage: Stage) -> None:
    """cluster-admin's wildcard spells no name out, so that a resource outside of KubeVirt counts as a typo."""
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role={"from": "cluster-admin", "keep": [SECRETS]}))
    stage.until_condition(name, "Stalled")
    assert not stage.can(ALICE, "get", "/secrets", namespace)
    assert stage.children(name) == []


def test_cluster_admin_as_the_base_gives_no_more_than_the_operator_holds(stage: Stage) -> None:
    namespace = stage.namespace()
    importing = {"apiGroups": ["cdi.kubevirt.io"], "resources": ["datavolumes"], "verbs": ["create"]}
    name = stage.grant(spec(namespaces=[namespace], role={"from": "cluster-admin", "keep": [LIST_VMS, importing]}))
    stage.until_condition(name, "Stalled", reason="Escalation")
    assert not stage.can(ALICE, "create", "cdi.kubevirt.io/datavolumes", namespace)
    stage.respec(name, spec(namespaces=[namespace], role={"from": "cluster-admin", "keep": [LIST_VMS]}))
    stage.until_ready(name)
    assert rights(stage, ALICE, namespace) == {"list"}


TYPOS: dict[str, Json] = {
    "a resource to drop": {"drop": [{"resources": ["virtualmachineinstances/vcn"]}]},
    "a resource to keep": {"keep": [{"resources": ["virtualmachine"], "verbs": ["list"]}]},
    "a verb": {"keep": [{"resources": ["virtualmachines"], "verbs": ["lst"]}]},
    "a group": {"keep": [{"apiGroups": ["kubevrt.io"], "resources": ["virtualmachines"], "verbs": ["list"]}]},
}


@pytest.mark.parametrize("role", TYPOS.values(), ids=TYPOS.keys())
def test_an_invalid_spec_changes_nothing_that_exists(stage: Stage, role: Json) -> None:
    namespace, later = stage.namespace(), stage.namespace()
    name = stage.grant(spec("alice", "bob", namespaces=[namespace]))
    stage.until_ready(name)
    before, since = children(stage, name, namespace), stage.mark()
    stage.respec(name, spec("alice", "eve", namespaces=[namespace, later], role=role))
    grant = stage.until_condition(name, "Stalled", reason="InvalidSpec")
    conditions = {condition["type"]: condition for condition in grant["status"]["conditions"]}
    assert "spec.role." in conditions["Stalled"]["message"]
    assert "did you mean" in conditions["Stalled"]["message"]
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Active"]["status"] == "True", "the access of before is still there, and the status says so"
    assert children(stage, name, namespace) == before
    assert not [write for write in stage.writes(since) if "vmaccessgrants/status" not in write]
    for who, expected in ((ALICE, True), (BOB, True), (EVE, False)):
        stage.assert_access(who, {namespace: expected, later: False})
    stage.respec(name, spec("alice", "eve", namespaces=[namespace, later]))
    stage.until_ready(name)
    for who, expected in ((ALICE, True), (BOB, False), (EVE, True)):
        stage.assert_access(who, {namespace: expected, later: expected})


@pytest.mark.parametrize("how", ["suspend", "exclusion", "deselection", "deletion"])
def test_what_takes_access_away_works_in_an_invalid_spec(stage: Stage, how: str) -> None:
    goes, stays = stage.namespace(), stage.namespace()
    name = stage.grant(spec(namespaces=[goes, stays]))
    stage.until_ready(name)
    wanted = spec(namespaces=[goes, stays], role=TYPOS["a resource to drop"])
    taking_away(stage, name, wanted, how, goes, stays)
    stage.until(lambda: not stage.views(ALICE, goes), "access to go")
    stage.assert_access(ALICE, {goes: False, stays: how in ("exclusion", "deselection")})
    if how in ("exclusion", "deselection"):
        stage.until_condition(name, "Stalled", reason="InvalidSpec")


def test_a_label_that_goes_takes_access_away_from_an_invalid_grant(stage: Stage) -> None:
    team = stage.unique("team")
    goes, stays = stage.namespace(team=team), stage.namespace(team=team)
    wanted = spec(namespaceSelector={"matchLabels": {"team": team}})
    name = stage.grant(wanted)
    stage.until_ready(name)
    stage.respec(name, {**wanted, "role": TYPOS["a resource to drop"]})
    stage.until_condition(name, "Stalled", reason="InvalidSpec")
    stage.relabel(goes, team=None)
    stage.until(lambda: not stage.views(ALICE, goes), "access to go")
    stage.assert_access(ALICE, {stays: True})


def test_who_leaves_loses_access_in_a_namespace_that_is_stuck_on_its_way_out(stage: Stage) -> None:
    """It cannot be granted in any more, but what is there still counts, and may for long."""
    namespace, other = stage.namespace(), stage.namespace()
    name = stage.grant(spec("alice", "bob", namespaces=[namespace, other]))
    stage.until_ready(name)
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    stage.request("POST", path, {"metadata": {"name": "stuck", "finalizers": ["example.com/hold"]}})
    binding_path = stage.path(*own("rolebindings", namespace, name))
    stage.request("DELETE", f"/api/v1/namespaces/{namespace}")
    stage.request("PATCH", binding_path, {"metadata": {"finalizers": ["example.com/hold"]}}, expect=None)
    stage.respec(name, spec("alice", namespaces=[namespace, other]))
    stage.until(lambda: not stage.views(BOB, namespace), "bob to lose access")
    stage.until_ready(name)
    stage.assert_access(BOB, {other: False})
    stage.request("PATCH", f"{path}/stuck", {"metadata": {"finalizers": None}})
    stage.until(lambda: stage.cluster.request("GET", f"/api/v1/namespaces/{namespace}")[0] == 404, "the namespace to be gone")


def test_a_reordered_spec_writes_nothing_wrong(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant({"subjects": users("alice", "bob"), "namespaces": [namespace]})
    stage.until_ready(name)
    before = managed(stage.child(*own("roles", namespace, name)))
    with Watched(stage, always=[(who, "list", VMS, namespace) for who in (ALICE, BOB)]):
        stage.respec(name, {"subjects": users("bob", "alice"), "namespaces": [namespace]})
        stage.until_ready(name)
    assert managed(stage.child(*own("roles", namespace, name))) == before
    bound = (stage.child(*own("rolebindings", namespace, name)) or {})["subjects"]
    assert sorted(bound, key=lambda subject: subject["name"]) == subjects("alice", "bob")


def test_a_service_account_that_moves_to_the_subjects_ends_as_ours(stage: Stage) -> None:
    namespace = stage.namespace()
    account = {"name": "runner", "namespace": namespace}
    name = stage.grant({"serviceAccounts": [account], "namespaces": [namespace]})
    stage.until_ready(name)
    stage.respec(name, {"subjects": [{"kind": "ServiceAccount", **account}], "namespaces": [namespace]})
    stage.until_ready(name)
    assert stage.child("serviceaccounts", namespace, "runner") is None
    assert stage.views(Who.service_account(namespace, "runner"), namespace), "listed as existing, whoever makes it"
