"""What somebody else changes in a grant's children is put right at once, by one write, and told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.access.helpers import (
    ALICE,
    ANYTHING,
    DELETE_VMS,
    EVE,
    LIST_VMS,
    VMS,
    base_role,
    binding,
    managed,
    marks_of,
    own,
    remove_base_role,
    spec,
    subjects,
    until_event,
    writes_to_children,
)
from tests.stage import GRANTS, Json, Stage, Who


@dataclass(frozen=True)
class Granted:
    """A grant for alice and a ServiceAccount of its own in one namespace, Ready."""

    stage: Stage
    name: str
    namespace: str
    runner: Who

    def path(self, kind: str) -> str:
        """URL path of its child of this kind."""
        return self.stage.path(kind, self.namespace, "runner" if kind == "serviceaccounts" else f"vmaccess:{self.name}")

    def child(self, kind: str) -> Json | None:
        """Its child of this kind."""
        status, answer = self.stage.cluster.request("GET", self.path(kind))
        return answer if status == 200 else None

    def change(self, kind: str, patch: Json) -> None:
        """Merge-patch its child as somebody else."""
        self.stage.request("PATCH", self.path(kind), patch)

    def until_as(self, kind: str, before: Json | None) -> None:
        """Wait until its child is as it was."""
        self.stage.until(lambda: managed(self.child(kind)) == before, f"the {kind} to be as before: {managed(self.child(kind))}")


@pytest.fixture
def granted(stage: Stage) -> Granted:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], serviceAccounts=[{"name": "runner", "namespace": namespace}]))
    stage.until_ready(name)
    runner = Who.service_account(namespace, "runner")
    assert stage.views(ALICE, namespace)
    assert stage.views(runner, namespace)
    return Granted(stage, name, namespace, runner)


STRIPPED: Json = {"labels": None, "ownerReferences": None}
CHANGES: dict[str, tuple[str, Json]] = {
    "wider rules": ("roles", {"rules": ANYTHING}),
    "another verb": ("roles", {"rules": [LIST_VMS, DELETE_VMS]}),
    "narrower rules": ("roles", {"rules": [LIST_VMS]}),
    "no rules": ("roles", {"rules": None}),
    "a Role's labels stripped": ("roles", {"metadata": {"labels": None}}),
    "a Role's owner stripped": ("roles", {"metadata": {"ownerReferences": None}}),
    "a Role's every mark stripped": ("roles", {"metadata": STRIPPED}),
    "a Role's marks stripped and rules widened": ("roles", {"metadata": STRIPPED, "rules": ANYTHING}),
    "a foreign finalizer on the Role": ("roles", {"metadata": {"finalizers": ["example.com/hold"]}}),
    "other subjects": ("rolebindings", {"subjects": subjects("eve")}),
    "no subjects": ("rolebindings", {"subjects": None}),
    "a foreign subject added": ("rolebindings", {"subjects": subjects("alice", "eve")}),
    "a binding's labels stripped": ("rolebindings", {"metadata": {"labels": None}}),
    "one label changed": ("rolebindings", {"metadata": {"labels": {"vmaccess.dev/grant-uid": "another"}}}),
    "a binding's owner stripped": ("rolebindings", {"metadata": {"ownerReferences": None}}),
    "a binding's every mark stripped": ("rolebindings", {"metadata": STRIPPED}),
    "a binding's marks stripped and eve added": ("rolebindings", {"metadata": STRIPPED, "subjects": subjects("alice", "eve")}),
    "a foreign finalizer on the binding": ("rolebindings", {"metadata": {"finalizers": ["example.com/hold"]}}),
    "a ServiceAccount's labels stripped": ("serviceaccounts", {"metadata": {"labels": None}}),
    "a ServiceAccount's owner stripped": ("serviceaccounts", {"metadata": {"ownerReferences": None}}),
    "a ServiceAccount's every mark stripped": ("serviceaccounts", {"metadata": STRIPPED}),
    "a foreign finalizer on the ServiceAccount": ("serviceaccounts", {"metadata": {"finalizers": ["example.com/hold"]}}),
    "automount switched on": ("serviceaccounts", {"automountServiceAccountToken": True}),
    "automount unset": ("serviceaccounts", {"automountServiceAccountToken": None}),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_is_undone_by_one_write(granted: Granted, change: tuple[str, Json]) -> None:
    stage, (kind, patch) = granted.stage, change
    found = granted.child(kind)
    assert found is not None
    before, uid, since = managed(found), found["metadata"]["uid"], stage.mark()
    granted.change(kind, patch)
    granted.until_as(kind, before)
    assert (granted.child(kind) or {})["metadata"]["uid"] == uid, "repaired, not made anew"
    until_event(stage, granted.name, "DriftRepaired")
    path = granted.path(kind)
    assert stage.writes(since) == [f"patch {kind} {granted.namespace}/{path.rpartition('/')[2]} 200"]
    for who, expected in ((ALICE, True), (granted.runner, True), (EVE, False)):
        stage.assert_access(who, {granted.namespace: expected})
        assert not stage.can(who, "delete", VMS, granted.namespace)
        assert not stage.can(who, "get", "/secrets", granted.namespace)


@pytest.mark.parametrize("kind", ["roles", "rolebindings", "serviceaccounts"])
def test_what_is_deleted_comes_back_by_one_write(granted: Granted, kind: str) -> None:
    stage, before, since = granted.stage, managed(granted.child(kind)), granted.stage.mark()
    stage.request("DELETE", granted.path(kind))
    granted.until_as(kind, before)
    until_event(stage, granted.name, "DriftRepaired")
    stage.assert_access(ALICE, {granted.namespace: True})
    stage.assert_access(granted.runner, {granted.namespace: True})
    name = granted.path(kind).rpartition("/")[2]
    assert stage.writes(since) == [f"create {kind} {granted.namespace}/{name} 201"]
    assert len(stage.reads(since)) == 1, "the grant is read once before a child comes back"


@pytest.mark.parametrize("number", range(3))
def test_changes_that_go_on_do_not_keep_a_repair_away(granted: Granted, number: int) -> None:
    before = granted.child("roles")
    granted.change("roles", {"rules": ANYTHING})
    for count in range(5):
        granted.change("roles", {"metadata": {"annotations": {"example.com/count": f"{number}-{count}"}}})
    granted.until_as("roles", managed(before))
    assert not granted.stage.can(ALICE, "get", "/secrets", granted.namespace)


def test_everything_deleted_at_once_comes_back(granted: Granted) -> None:
    kinds = ("roles", "rolebindings", "serviceaccounts")
    before = {kind: managed(granted.child(kind)) for kind in kinds}
    for kind in kinds:
        granted.stage.request("DELETE", granted.path(kind))
    for kind in kinds:
        granted.until_as(kind, before[kind])
    granted.stage.assert_access(ALICE, {granted.namespace: True})


def test_children_stripped_of_every_mark_are_still_revoked_with_the_grant(granted: Granted) -> None:
    stage, kinds = granted.stage, ("roles", "rolebindings", "serviceaccounts")
    before = {kind: managed(granted.child(kind)) for kind in kinds}
    for kind in kinds:
        granted.change(kind, {"metadata": STRIPPED})
    for kind in kinds:
        granted.until_as(kind, before[kind])
    stage.delete(granted.name)
    stage.until(lambda: not any(granted.child(kind) for kind in kinds), "everything to be gone")
    stage.assert_access(ALICE, {granted.namespace: False})
    stage.assert_access(granted.runner, {granted.namespace: False})


def test_marks_stripped_at_the_moment_of_the_deletion_do_not_save_the_access(granted: Granted) -> None:
    stage = granted.stage
    stage.delete(granted.name)
    for kind in ("rolebindings", "roles", "serviceaccounts"):
        stage.request("PATCH", granted.path(kind), {"metadata": STRIPPED}, expect=None)
    stage.until(lambda: not stage.views(ALICE, granted.namespace), "alice to lose access")
    stage.until(lambda: granted.child("roles") is None, "the Role to be gone")
    stage.until(lambda: granted.child("rolebindings") is None, "the RoleBinding to be gone")
    stage.until(lambda: granted.child("serviceaccounts") is None, "the ServiceAccount to be gone")


def test_a_second_owner_is_removed(granted: Granted) -> None:
    stage = granted.stage
    path = f"/api/v1/namespaces/{granted.namespace}/configmaps"
    other = stage.request("POST", path, {"metadata": {"name": "other"}})["metadata"]
    owner = {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": other["uid"]}
    for kind in ("roles", "rolebindings", "serviceaccounts"):
        child = granted.child(kind)
        assert child is not None
        before, since = managed(child), stage.mark()
        granted.change(kind, {"metadata": {"ownerReferences": [*child["metadata"]["ownerReferences"], owner]}})
        granted.until_as(kind, before)
        assert len(stage.writes(since)) == 1, stage.writes(since)


def test_a_child_held_by_a_foreign_finalizer_while_it_is_deleted_comes_back(granted: Granted) -> None:
    stage = granted.stage
    for kind in ("rolebindings", "roles", "serviceaccounts"):
        before = managed(granted.child(kind))
        stage.request("PATCH", granted.path(kind), {"metadata": {"finalizers": ["example.com/hold"]}})
        stage.request("DELETE", granted.path(kind), expect=None)
        granted.until_as(kind, before)
        stage.assert_access(ALICE, {granted.namespace: True})


@pytest.mark.parametrize("how", ["delete", "suspend", "deselect"])
def test_a_foreign_finalizer_does_not_hold_up_a_revocation(granted: Granted, how: str) -> None:
    stage = granted.stage
    granted.change("rolebindings", {"metadata": {"finalizers": ["example.com/hold"]}})
    match how:
        case "delete":
            stage.delete(granted.name)
        case "suspend":
            stage.respec(granted.name, spec(namespaces=[granted.namespace], suspend=True))
        case "deselect":
            stage.respec(granted.name, spec(namespaces=["default"]))
    stage.until(lambda: not stage.views(ALICE, granted.namespace), "alice to lose access", 5)
    stage.until(lambda: granted.child("rolebindings") is None, "the RoleBinding to be gone", 5)
    stage.until(lambda: granted.child("roles") is None, "the Role to be gone", 5)


@pytest.mark.parametrize("marks", ["labels", "ownerReferences", "both"])
def test_a_copy_of_our_binding_under_another_name_is_removed(granted: Granted, marks: str) -> None:
    stage = granted.stage
    ours = marks_of(granted.child("rolebindings") or {})
    worn = ours if marks == "both" else {marks: ours[marks]}
    copy = binding("helpful", subjects("eve"), **worn)
    stage.request("POST", stage.path("rolebindings", granted.namespace), copy)
    stage.until(lambda: stage.child("rolebindings", granted.namespace, "helpful") is None, "the copy to be gone")
    stage.assert_access(EVE, {granted.namespace: False})
    stage.assert_access(ALICE, {granted.namespace: True})


def test_a_copy_of_our_binding_in_a_namespace_that_is_not_granted_is_removed(granted: Granted) -> None:
    stage, elsewhere = granted.stage, granted.stage.namespace()
    marks = marks_of(granted.child("rolebindings") or {})
    stage.request("POST", stage.path("rolebindings", elsewhere), binding(f"vmaccess:{granted.name}", subjects("alice"), **marks))
    stage.until(lambda: not stage.children(granted.name, ["rolebindings"])[1:], "the copy to be gone")
    stage.assert_access(ALICE, {granted.namespace: True, elsewhere: False})


def test_a_binding_replaced_by_one_to_a_stronger_role_is_replaced_again(granted: Granted) -> None:
    stage = granted.stage
    ours = granted.child("rolebindings") or {}
    before = managed(ours)
    stronger = binding(ours["metadata"]["name"], subjects("eve"), **marks_of(ours))

    def replaced() -> bool:  # the operator may be faster in making the deleted one anew
        stage.request("DELETE", granted.path("rolebindings"), expect=None)
        return bool(stage.cluster.request("POST", stage.path("rolebindings", granted.namespace), stronger)[0] == 201)

    stage.until(replaced, "the binding to be replaced")
    granted.until_as("rolebindings", before)
    stage.assert_access(ALICE, {granted.namespace: True})
    stage.assert_access(EVE, {granted.namespace: False})


def test_what_others_add_beside_our_fields_stays(granted: Granted) -> None:
    stage, since = granted.stage, granted.stage.mark()
    added: dict[str, Any] = {"metadata": {"annotations": {"example.com/note": "mine"}, "labels": {"example.com/team": "a"}}}
    secrets = {"imagePullSecrets": [{"name": "registry"}], "secrets": [{"name": "token"}]}
    granted.change("serviceaccounts", {**added, **secrets})
    granted.change("roles", added)
    granted.change("rolebindings", added)
    # Seen after the others, so that there is no need to wait for nothing to happen.
    granted.change("serviceaccounts", {"automountServiceAccountToken": True})
    granted.change("roles", {"rules": ANYTHING})
    granted.change("rolebindings", {"subjects": subjects("eve")})
    stage.until(lambda: (granted.child("serviceaccounts") or {})["automountServiceAccountToken"] is False, "automount off")
    stage.until(lambda: (granted.child("roles") or {})["rules"] != ANYTHING, "the rules to be ours")
    stage.until(lambda: stage.views(ALICE, granted.namespace), "the subjects to be ours")
    for kind in ("serviceaccounts", "roles", "rolebindings"):
        meta = (granted.child(kind) or {})["metadata"]
        assert meta["annotations"]["example.com/note"] == "mine"
        assert meta["labels"]["example.com/team"] == "a"
    account = granted.child("serviceaccounts") or {}
    assert {field: account[field] for field in secrets} == secrets
    assert len(stage.writes(since)) == 3, stage.writes(since)


def test_a_changed_automount_never_makes_a_new_service_account(stage: Stage) -> None:
    namespace = stage.namespace()
    wanted = spec(namespaces=[namespace], serviceAccounts=[{"name": "runner", "namespace": namespace}])
    name = stage.grant(wanted)
    stage.until_ready(name)
    before = stage.child("serviceaccounts", namespace, "runner")
    assert before is not None
    assert before["automountServiceAccountToken"] is False
    token = stage.cluster.service_account_token(namespace, "runner")
    wanted["serviceAccounts"][0]["automountServiceAccountToken"] = True
    stage.respec(name, wanted)
    stage.until_ready(name)
    after = stage.child("serviceaccounts", namespace, "runner")
    assert after is not None
    assert after["automountServiceAccountToken"] is True
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert stage.cluster.request("GET", f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines", token=token)[0] == 200


@pytest.mark.parametrize(
    "lie",
    [
        {"conditions": [], "observedGeneration": None},
        {"namespaces": {"granted": 99, "summary": "99/99"}},
        {"failures": [{"namespace": "default", "reason": "APIError", "message": "not true"}]},
        {"serviceAccounts": None, "role": None},
        None,
    ],
    ids=["no conditions", "numbers", "a failure", "fields removed", "all of it"],
)
def test_a_status_edited_by_hand_is_corrected_by_one_write(granted: Granted, lie: Json | None) -> None:
    stage, before, since = granted.stage, granted.stage.get(granted.name)["status"], granted.stage.mark()

    def told() -> Json:
        status = dict(stage.get(granted.name).get("status") or {})
        undated = [{**condition, "lastTransitionTime": ""} for condition in status.get("conditions") or ()]
        return {**status, "conditions": undated}

    expected = {**before, "conditions": [{**condition, "lastTransitionTime": ""} for condition in before["conditions"]]}
    stage.request("PATCH", f"{GRANTS}/{granted.name}/status", {"status": lie})
    stage.until(lambda: told() == expected, "the status to be true again")
    assert stage.writes(since) == [f"patch vmaccessgrants/status /{granted.name} 200"]
    assert not writes_to_children(stage, since)


def test_ready_set_to_false_by_hand_is_corrected(granted: Granted) -> None:
    stage = granted.stage
    conditions = stage.get(granted.name)["status"]["conditions"]
    for condition in conditions:
        condition["status"] = "False" if condition["status"] == "True" else "True"
    stage.request("PATCH", f"{GRANTS}/{granted.name}/status", {"status": {"conditions": conditions}})
    stage.until_ready(granted.name)
    stage.until_condition(granted.name, "Active")


def test_drift_while_the_base_role_is_missing_does_not_set_children_free(stage: Stage) -> None:
    """Nothing is given or taken then, but what is there must stay revocable."""
    namespace, base = stage.namespace(), base_role(stage, LIST_VMS)
    name = stage.grant(spec(namespaces=[namespace], role={"from": base, "keep": [LIST_VMS]}))
    stage.until_ready(name)
    remove_base_role(stage, base)
    stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")

    def children() -> list[Json | None]:
        return [managed(stage.child(*own(kind, namespace, name))) for kind in ("roles", "rolebindings")]

    before = children()
    for kind in ("roles", "rolebindings"):
        stage.request("PATCH", stage.path(*own(kind, namespace, name)), {"metadata": STRIPPED})
    stage.until(lambda: children() == before, "the marks to be back")
    assert stage.views(ALICE, namespace)
    stage.delete(name)
    stage.until(lambda: not stage.views(ALICE, namespace), "alice to lose access")
