"""Who is not the grant's own gains nothing by it: bindings that an earlier grant left, and roles that access is made of."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.access.helpers import (
    ALICE,
    BOB,
    LIST_VMS,
    VMS,
    Question,
    Watched,
    base_role,
    binding,
    remove_base_role,
    spec,
    subjects,
    writes_to_children,
)
from tests.access.test_cluster_roles import rewrite
from tests.access.test_deletion import is_gone
from tests.access.test_foreign import labels
from tests.stage import GRANTS, RBAC, Json, Stage

OWN: Json = {"kind": "ClusterRole", "keep": [LIST_VMS]}
WIDER: Json = {"kind": "ClusterRole", "preset": "Edit", "include": ["EventView"]}
SHARED: Json = {"kind": "ClusterRole", "preset": "Operate"}
ADVICE = "kubectl delete rolebindings,clusterroles,roles,serviceaccounts -A -l vmaccess.dev/grant-uid="


def orphaned(stage: Stage, namespaces: list[str], role: Json) -> tuple[str, str]:
    """Leave the children of a grant for alice behind; returns its name and uid."""
    name = stage.grant(spec("alice", namespaces=namespaces, role=role), "left")
    uid = stage.until_ready(name)["metadata"]["uid"]
    stage.delete(name, "Orphan")
    stage.until(lambda: is_gone(stage, name), "the grant to be gone")
    return name, uid


def failures(stage: Stage, name: str) -> dict[str, str]:
    """Wait for a conflict; returns the messages of all by namespace."""
    grant = stage.until_condition(name, "Stalled", reason="NameConflict")
    found = grant["status"]["failures"]
    assert {failure["reason"] for failure in found} == {"NameConflict"}
    return {failure["namespace"]: failure["message"] for failure in found}


def cure(stage: Stage, message: str) -> None:
    """Do what a message advises, to the letter."""
    command = message[message.index("`kubectl ") + 1 : message.rindex("`")]
    stage.cluster.kubectl(*command.split()[1:])


# --- bindings that point to the name of our ClusterRole ---


def test_orphaned_bindings_gain_nothing_by_a_new_grant_of_the_name(stage: Stage) -> None:
    """Also where their ClusterRole is deleted first, and where they are in a namespace that the new grant leaves out."""
    one, two = namespaces = stage.namespace(), stage.namespace()
    name, uid = orphaned(stage, [one, two], OWN)
    with Watched(stage, never=[(ALICE, "create", VMS, namespace) for namespace in namespaces]):
        stage.grant(spec("bob", namespaces=[one], role=WIDER), "left")
        assert set(failures(stage, name)) == {"", one}
        stage.request("DELETE", stage.path("clusterroles", "", f"vmaccess:{name}"))
        stage.until(lambda: f"{two}/" in failures(stage, name).get("", ""), "the strangers to be told of")
        message = failures(stage, name)[""]
        assert all(f"{namespace}/vmaccess:{name}:cluster" in message for namespace in namespaces)
        assert f"{ADVICE}{uid}" in message

        stage.request("DELETE", stage.path("rolebindings", one, f"vmaccess:{name}:cluster"))
        stage.until(lambda: f"{one}/" not in failures(stage, name)[""], "the one that is left to be told of")
        message = failures(stage, name)[""]
        assert f"{two}/vmaccess:{name}:cluster" in message
        assert f"{one}/" not in message
        assert stage.child("clusterroles", "", f"vmaccess:{name}") is None
        assert not any(stage.can(BOB, "list", VMS, namespace) for namespace in namespaces)

        cure(stage, message)
        stage.until_ready(name)
    assert [stage.can(BOB, "create", VMS, namespace) for namespace in namespaces] == [True, False]
    stage.assert_access(ALICE, dict.fromkeys(namespaces, False))


@pytest.mark.parametrize("role", [pytest.param(OWN, id="own"), pytest.param(SHARED, id="shared")])
def test_what_was_left_behind_is_named_with_its_cure(stage: Stage, role: Json) -> None:
    namespace = stage.namespace()
    name, uid = orphaned(stage, [namespace], role)
    stage.grant(spec("bob", namespaces=[namespace], role=role), "left")
    told = failures(stage, name)
    assert set(told) == ({"", namespace} if role is OWN else {namespace})
    to = ":cluster" if role is OWN else ":Operate"
    assert f"RoleBinding 'vmaccess:{name}{to}' is not this grant's" in told[namespace]
    for message in told.values():
        assert "an earlier grant of the name" in message
        assert "--cascade=orphan" in message
        assert f"{ADVICE}{uid}" in message
    cure(stage, told[namespace])
    stage.until_ready(name)
    stage.assert_access(BOB, {namespace: True})
    stage.assert_access(ALICE, {namespace: False})


def test_a_role_is_not_widened_for_a_stranger(stage: Stage) -> None:
    """Who has bound somebody to the Role of a namespace shares what is taken from it, and nothing that is added."""
    theirs, other = namespaces = stage.namespace(), stage.namespace()
    role = {key: value for key, value in OWN.items() if key != "kind"}
    wider = {key: value for key, value in WIDER.items() if key != "kind"}
    name = stage.grant(spec("bob", namespaces=list(namespaces), role=role))
    stage.until_ready(name)
    planted = binding("a-friend", subjects("alice"), f"Role/vmaccess:{name}")
    stage.request("POST", stage.path("rolebindings", theirs), planted)
    with Watched(stage, never=[(ALICE, "create", VMS, theirs)]):
        rewrite(stage, name, spec("bob", namespaces=list(namespaces), role=wider))
        assert f"{theirs}/a-friend" in failures(stage, name)[theirs]
        assert stage.views(BOB, theirs)
        assert stage.can(BOB, "create", VMS, other), "elsewhere nothing is in the way"
        stage.request("DELETE", stage.path("rolebindings", theirs, "a-friend"))
        stage.until_ready(name)
    assert stage.can(BOB, "create", VMS, theirs)


@pytest.mark.parametrize("worn", ["nothing", "the label of another uid"])
def test_a_cluster_role_is_not_widened_for_a_stranger(stage: Stage, worn: str) -> None:
    """Somebody who was let to bind to it gets no more by a wider grant, and the rest is taken from all alike."""
    mine, theirs = namespaces = stage.namespace(), stage.namespace()
    name = stage.grant(spec("bob", namespaces=[mine], role=OWN))
    stage.until_ready(name)
    marked = {"labels": labels(name)} if worn != "nothing" else {}
    planted = binding(f"vmaccess:{name}:mine", subjects("alice"), f"ClusterRole/vmaccess:{name}", **marked)
    stage.request("POST", stage.path("rolebindings", theirs), planted)
    with Watched(stage, never=[(ALICE, "create", VMS, namespace) for namespace in namespaces]):
        rewrite(stage, name, spec("bob", namespaces=[mine], role=WIDER))
        message = failures(stage, name)[""]
        assert f"{theirs}/vmaccess:{name}:mine" in message
        assert stage.views(BOB, mine)
        since = stage.mark()
        rewrite(stage, name, spec("bob", namespaces=[mine], role={**OWN, "keep": [{**LIST_VMS, "verbs": ["get"]}]}))
        stage.until(lambda: not stage.views(BOB, mine), "the rest to be taken")
        assert not stage.views(ALICE, theirs)
        assert not [write for write in writes_to_children(stage, since) if f"{theirs}/" in write]
        rewrite(stage, name, spec("bob", namespaces=[mine], role=WIDER))
        stage.request("DELETE", stage.path("rolebindings", theirs, f"vmaccess:{name}:mine"))
        stage.until_ready(name)
    assert stage.can(BOB, "create", VMS, mine)


# --- what access is made of ---


@pytest.mark.parametrize("name", ["vmaccess-operator", "vmaccess-catalogue", "vmaccess:View", "vmaccess:team"])
@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
def test_a_role_of_vmaccess_itself_is_no_base(stage: Stage, name: str, kind: str) -> None:
    body: Json = {
        "apiVersion": "vmaccess.dev/v1alpha1",
        "kind": "VMAccessGrant",
        "metadata": {"name": stage.unique()},
        "spec": spec(namespaces=["default"], role={"kind": kind, "from": name, "preset": "Admin"}),
    }
    status, answer = stage.cluster.request("POST", f"{GRANTS}?dryRun=All", body)
    assert status == 422
    assert "spec.role.from" in answer["message"]
    assert "this is a role of vmaccess itself" in answer["message"]
    for other in ("vmaccess", "vmaccess-operators", "my-vmaccess:View"):
        body["spec"]["role"]["from"] = other
        assert stage.cluster.request("POST", f"{GRANTS}?dryRun=All", body)[0] == 201


ACCESS = {
    "rbac.authorization.k8s.io": ("roles", "rolebindings"),
    "vmaccess.dev": ("vmaccessgrants",),
    "": ("serviceaccounts", "serviceaccounts/token"),
}
VERBS = ["get", "list", "create", "update", "patch", "delete", "bind", "escalate", "impersonate"]


@pytest.fixture
def powerful(stage: Stage) -> Iterator[str]:
    """A base of one's own that makes access, beside listing machines; the operator holds what it has."""
    rules = [{"apiGroups": [group], "resources": list(kinds), "verbs": VERBS} for group, kinds in ACCESS.items()]
    name = base_role(stage, LIST_VMS, *rules, name="powerful")
    subject = {"kind": "ServiceAccount", "name": "vmaccess-operator", "namespace": "vmaccess-system"}
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    bound = {"metadata": {"name": name}, "roleRef": ref, "subjects": [subject]}
    stage.request("POST", f"{RBAC}/clusterrolebindings", bound)
    yield name
    stage.request("DELETE", f"{RBAC}/clusterrolebindings/{name}")
    remove_base_role(stage, name)


@pytest.mark.parametrize("kind", ["Role", "ClusterRole"])
@pytest.mark.parametrize("kept", ["a preset", "everything", "by name"])
def test_what_access_is_made_of_is_never_given(stage: Stage, powerful: str, kind: str, kept: str) -> None:
    namespace, names = stage.namespace(), [resource for kinds in ACCESS.values() for resource in kinds]
    role: Json = {"kind": kind, "from": powerful}
    if kept == "a preset":
        role["preset"] = "Admin"
    else:
        role["keep"] = [{"resources": ["*"] if kept == "everything" else [*names, "virtualmachines"], "verbs": ["*"]}]
    asked: list[Question] = [
        (ALICE, verb, f"{group}/{resource}", namespace) for group, kinds in ACCESS.items() for resource in kinds for verb in VERBS
    ]
    name = stage.grant(spec(namespaces=[namespace], role=role))
    stage.until_ready(name)
    stage.assert_access(ALICE, {namespace: True})
    assert not [question for question in asked if stage.can(*question)]
    warning = (stage.condition(name, "RuleUnmatched") or {}).get("message", "")
    if kept == "by name":
        assert all(f"{resource} is never given" in warning for resource in names), warning
    else:
        assert "never given" not in warning


def test_a_grant_of_nothing_but_that_is_invalid(stage: Stage, powerful: str) -> None:
    namespace = stage.namespace()
    role = {"from": powerful, "keep": [{"resources": ["serviceaccounts", "rolebindings"], "verbs": ["get", "create"]}]}
    name = stage.grant(spec(namespaces=[namespace], role=role))
    stage.until_condition(name, "Stalled", reason="InvalidSpec")
    assert "what access is made of" in (stage.condition(name, "Stalled") or {})["message"]
    assert stage.children(name) == []


@pytest.mark.parametrize("resource", ["rolebindings", "*"])
def test_a_wildcard_over_it_is_refused(stage: Stage, resource: str) -> None:
    """Written with a wildcard it cannot be told from the rest: the API server refuses what the operator does not hold."""
    namespace = stage.namespace()
    base = base_role(stage, LIST_VMS, {"apiGroups": ["*"], "resources": [resource], "verbs": ["get"]}, name="wild")
    name = stage.grant(spec(namespaces=[namespace], role={"from": base, "keep": [{"resources": ["*"], "verbs": ["*"]}]}))
    stage.until_condition(name, "Stalled", reason="Escalation")
    assert not stage.can(ALICE, "get", "rbac.authorization.k8s.io/rolebindings", namespace)
    remove_base_role(stage, base)
