"""What is not the grant's own is never written, never adopted and never bound to, and the grant says so."""

from __future__ import annotations

import re

import pytest

from localcluster.product import Operator
from tests.access.helpers import (
    ALICE,
    ANYTHING,
    BOB,
    EVE,
    LIST_VMS,
    VMS,
    binding,
    events,
    marks_of,
    own,
    role,
    spec,
    subjects,
)
from tests.stage import Json, Stage, Who

NO_GRANT = "00000000-0000-4000-8000-000000000000"


def labels(grant: str, uid: str = NO_GRANT) -> Json:
    """Our labels, with the uid of no grant."""
    return {"app.kubernetes.io/managed-by": "vmaccess", "vmaccess.dev/grant": grant, "vmaccess.dev/grant-uid": uid}


def conflict(stage: Stage, name: str, namespace: str) -> str:
    """Wait for the conflict in one namespace; returns its message."""
    grant = stage.until_condition(name, "Stalled", reason="NameConflict")
    conditions = {condition["type"]: condition for condition in grant["status"]["conditions"]}
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Ready"]["reason"] == "NameConflict"
    failures = {failure["namespace"]: failure for failure in grant["status"]["failures"]}
    assert list(failures) == [namespace]
    assert failures[namespace]["reason"] == "NameConflict"
    message: str = failures[namespace]["message"]
    assert message in conditions["Stalled"]["message"]
    return message


@pytest.mark.parametrize("marked", ["nothing", "the label of another uid", "managed-by alone"])
@pytest.mark.parametrize("kind", ["roles", "rolebindings"])
def test_a_foreign_object_with_our_name_is_left_alone(stage: Stage, kind: str, marked: str) -> None:
    taken, free = stage.namespace("taken"), stage.namespace("free")
    name = stage.unique("conflicting")
    wearing = {
        "nothing": {},
        "the label of another uid": {"labels": labels(name)},
        "managed-by alone": {"labels": {"app.kubernetes.io/managed-by": "vmaccess"}},
    }[marked]
    foreign = (
        role(f"vmaccess:{name}", ANYTHING, **wearing)
        if kind == "roles"
        else binding(f"vmaccess:{name}", subjects("eve"), f"Role/vmaccess:{name}", **wearing)
    )
    version = stage.request("POST", stage.path(kind, taken), foreign)["metadata"]["resourceVersion"]
    since = stage.mark()
    assert stage.grant(spec(namespaces=[taken, free]), "conflicting") == name
    message = conflict(stage, name, taken)
    assert f"vmaccess:{name}" in message
    assert "once its origin is known" in message
    stage.assert_access(ALICE, {free: True, taken: False})
    stage.assert_access(EVE, {free: False, taken: False})
    assert not [write for write in stage.writes(since) if f"{taken}/" in write], "nothing is written where the name is taken"

    found = stage.child(*own(kind, taken, name))
    assert found is not None
    assert found["metadata"]["resourceVersion"] == version
    other = "rolebindings" if kind == "roles" else "roles"
    assert stage.child(*own(other, taken, name)) is None, "nothing is bound to what is not ours"

    stage.request("DELETE", stage.path(*own(kind, taken, name)))
    stage.until_ready(name)
    stage.assert_access(ALICE, {free: True, taken: True})
    assert not stage.can(ALICE, "delete", VMS, taken)
    stage.assert_access(EVE, {free: False, taken: False})


@pytest.mark.parametrize("marked", ["nothing", "labels of another uid", "the grant's own labels", "the grant's own owner"])
def test_a_foreign_service_account_gets_nothing(stage: Stage, marked: str) -> None:
    """Whoever made it may hold its token: even our own marks must both be there."""
    home, free = stage.namespace(), stage.namespace()
    wanted = spec(namespaces=[free], serviceAccounts=[{"name": "runner", "namespace": home}])
    path, runner = stage.path("serviceaccounts", home), Who.service_account(home, "runner")
    name = stage.unique("conflicting")
    if marked in ("nothing", "labels of another uid"):
        wearing = {"labels": labels(name)} if marked != "nothing" else {}
        stage.request("POST", path, {"metadata": {"name": "runner", **wearing}})
        stage.grant(wanted, "conflicting")
    else:
        stage.grant({**wanted, "suspend": True, "serviceAccounts": [{"name": "other", "namespace": home}]}, "conflicting")
        stage.until_ready(name)
        ours = marks_of(stage.child("serviceaccounts", home, "other") or {})
        field = "labels" if marked == "the grant's own labels" else "ownerReferences"
        stage.request("POST", path, {"metadata": {"name": "runner", field: ours[field]}})
        stage.respec(name, wanted)
    before = stage.child("serviceaccounts", home, "runner")
    message = conflict(stage, name, home)
    assert f"{home}/runner" in message
    assert "once its origin is known" in message
    stage.assert_access(ALICE, {free: True})
    stage.assert_access(runner, {free: False, home: False})
    assert stage.child("serviceaccounts", home, "runner") == before
    bound = (stage.child(*own("rolebindings", free, name)) or {})["subjects"]
    assert bound == subjects("alice")

    stage.request("DELETE", f"{path}/runner")
    stage.until_ready(name)
    stage.assert_access(runner, {free: True})
    assert (stage.child("serviceaccounts", home, "runner") or {})["metadata"]["uid"] != (before or {})["metadata"]["uid"]


def test_a_foreign_service_account_is_not_removed_with_the_grant(stage: Stage) -> None:
    home = stage.namespace()
    stage.request("POST", stage.path("serviceaccounts", home), {"metadata": {"name": "runner"}})
    before = stage.child("serviceaccounts", home, "runner")
    name = stage.grant(spec(namespaces=[home], serviceAccounts=[{"name": "runner", "namespace": home}]))
    conflict(stage, name, home)
    stage.delete(name)
    stage.until(lambda: not stage.children(name), "everything to be gone")
    assert stage.child("serviceaccounts", home, "runner") == before


def test_a_role_of_ours_replaced_by_a_foreign_one_is_no_longer_bound(stage: Stage) -> None:
    namespace, free = stage.namespace(), stage.namespace()
    name = stage.grant(spec(namespaces=[namespace, free]))
    stage.until_ready(name)
    stronger = role(f"vmaccess:{name}", ANYTHING)

    def replaced() -> bool:  # the operator may be faster in making the deleted one anew
        stage.request("DELETE", stage.path(*own("roles", namespace, name)), expect=None)
        return bool(stage.cluster.request("POST", stage.path("roles", namespace), stronger)[0] == 201)

    stage.until(replaced, "the Role to be replaced")
    foreign = stage.child(*own("roles", namespace, name))
    stage.until(lambda: stage.child(*own("rolebindings", namespace, name)) is None, "our binding to it to be gone")
    conflict(stage, name, namespace)
    stage.assert_access(ALICE, {namespace: False, free: True})
    assert not stage.can(ALICE, "delete", VMS, namespace)
    assert stage.child(*own("roles", namespace, name)) == foreign
    stage.delete(name)
    stage.until(lambda: not stage.views(ALICE, free), "the rest to be revoked")
    assert stage.child(*own("roles", namespace, name)) == foreign, "a foreign object survives the grant"


def test_a_foreign_binding_to_our_role_takes_the_role_away(stage: Stage) -> None:
    """Its author, not the grant, decides whom it names: with our Role gone it gives nothing."""
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace]))
    stage.until_ready(name)
    planted = binding(f"vmaccess:{name}", subjects("eve"), f"Role/vmaccess:{name}")

    def replaced() -> bool:
        stage.request("DELETE", stage.path(*own("rolebindings", namespace, name)), expect=None)
        return bool(stage.cluster.request("POST", stage.path("rolebindings", namespace), planted)[0] == 201)

    stage.until(replaced, "the binding to be replaced")
    stage.until(lambda: not stage.views(EVE, namespace), "eve to have nothing of it")
    conflict(stage, name, namespace)
    stage.request("DELETE", stage.path(*own("rolebindings", namespace, name)))
    stage.until_ready(name)
    stage.assert_access(ALICE, {namespace: True})
    stage.assert_access(EVE, {namespace: False})


def test_a_service_account_belongs_to_the_first_grant_that_lists_it(stage: Stage) -> None:
    home, one, two = stage.namespace(), stage.namespace(), stage.namespace()
    runner, listed = Who.service_account(home, "runner"), [{"name": "runner", "namespace": home}]
    first = stage.grant(spec(namespaces=[one], serviceAccounts=listed), "first")
    stage.until_ready(first)
    before = stage.child("serviceaccounts", home, "runner")
    second = stage.grant(spec("bob", namespaces=[two], serviceAccounts=listed), "second")
    message = conflict(stage, second, home)
    assert first in message
    assert "list it under subjects" in message
    stage.assert_access(runner, {one: True, two: False})
    stage.assert_access(BOB, {one: False, two: True})
    assert stage.child("serviceaccounts", home, "runner") == before
    stage.until_ready(first)

    since = stage.mark()
    stage.delete(first)
    stage.until_ready(second)
    after = stage.child("serviceaccounts", home, "runner")
    assert after is not None
    assert before is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"], "made anew: tokens of the first grant's are dead"
    stage.assert_access(runner, {one: False, two: True})
    assert f"create serviceaccounts {home}/runner 201" in stage.writes(since)


def test_a_service_account_of_a_deleted_grant_is_waited_for_without_stalling(stage: Stage) -> None:
    """A pipeline that replaces one grant by another must not see a failure in between."""
    home = stage.namespace()
    listed = [{"name": f"runner-{number}", "namespace": home} for number in range(20)]
    first = stage.grant(spec(namespaces=[home], serviceAccounts=listed), "first")
    stage.until_ready(first)
    stage.delete(first)
    second = stage.grant(spec(namespaces=[home], serviceAccounts=listed), "second")
    stage.until_ready(second)
    stage.assert_access(Who.service_account(home, "runner-7"), {home: True})
    assert not [event for event in events(stage, second) if event["type"] == "Warning"]


def test_foreign_objects_of_other_names_are_of_no_concern(stage: Stage) -> None:
    namespace = stage.namespace()
    stage.request("POST", stage.path("roles", namespace), role("viewer", [LIST_VMS], labels={"vmaccess.dev/grant": "another"}))
    stage.request("POST", stage.path("rolebindings", namespace), binding("viewers", subjects("bob"), "Role/viewer"))
    name = stage.grant(spec(namespaces=[namespace]))
    stage.until_ready(name)
    stage.assert_access(BOB, {namespace: True})
    stage.delete(name)
    stage.until(lambda: not stage.views(ALICE, namespace), "the grant to be revoked")
    stage.assert_access(BOB, {namespace: True})


@pytest.mark.parametrize(
    "name", ["..", ".", "evil\n2026-01-01 00:00:00,000 INFO vmaccess: a forged line"], ids=["up", "here", "line"]
)
def test_no_owner_reference_can_mislead_the_operator(stage: Stage, operator: Operator, name: str) -> None:
    namespace = stage.namespace()
    owner = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant", "name": name, "uid": "nobody"}
    stage.request("POST", stage.path("roles", namespace), role("odd", [], ownerReferences=[owner]))
    ours = stage.grant(spec("alice", namespaces=[namespace]))
    stage.until_ready(ours)  # whatever the Role above led to has been worked on by now
    assert "unexpected" not in operator.output()
    assert not re.search("^2026-01-01", operator.output(), re.MULTILINE)
