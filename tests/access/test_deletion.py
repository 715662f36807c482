"""Deleting a grant revokes: in every mode, with the operator up or down, with garbage collection or without."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest

from localcluster import LocalCluster, product
from tests.access.helpers import ALICE, ANYTHING, BOB, VMS, events, managed, own, spec, until_event
from tests.stage import GRANTS, Json, Stage, Who

NAMESPACES = 3


@contextmanager
def no_garbage_collection(cluster: LocalCluster) -> Iterator[None]:
    """kube-controller-manager is down for as long as the context lasts."""
    cluster.stop_controller_manager()
    try:
        yield
    finally:
        cluster.start_controller_manager()


def home_and_namespaces(stage: Stage) -> tuple[str, list[str], Who]:
    """A namespace for ServiceAccounts, some to be granted, and the ServiceAccount `runner`."""
    home = stage.namespace()
    return home, [stage.namespace() for _ in range(NAMESPACES)], Who.service_account(home, "runner")


def full_spec(home: str, namespaces: list[str], *names: str, **fields: object) -> Json:
    """A spec with users and the ServiceAccount `runner`."""
    return spec(*names, namespaces=namespaces, serviceAccounts=[{"name": "runner", "namespace": home}], **fields)


def assert_all(stage: Stage, who: Who, namespaces: list[str], expected: bool) -> None:  # noqa: FBT001
    """The same answer in every namespace."""
    stage.assert_access(who, dict.fromkeys(namespaces, expected))


def until_revoked(stage: Stage, name: str, namespaces: list[str], *whose: Who, seconds: float = 15) -> None:
    """Wait until nothing of a grant is left and nobody has any of its access."""
    stage.until(lambda: not stage.children(name), f"{name} to be revoked", seconds)
    for who in whose:
        assert_all(stage, who, namespaces, expected=False)


def is_gone(stage: Stage, name: str) -> bool:
    """Whether the grant itself is gone."""
    return bool(stage.cluster.request("GET", f"{GRANTS}/{name}")[0] == 404)


# --- the operator is up ---


def test_background_deletion_revokes_at_once(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    assert_all(stage, ALICE, namespaces, expected=False)
    name = stage.grant(full_spec(home, namespaces))
    stage.until_ready(name)
    for who in (ALICE, runner):
        assert_all(stage, who, namespaces, expected=True)
    token = stage.cluster.service_account_token(home, "runner")
    assert stage.cluster.request("GET", f"/apis/kubevirt.io/v1/namespaces/{namespaces[0]}/virtualmachines", token=token)[0] == 200
    since = stage.mark()
    stage.delete(name)
    assert is_gone(stage, name), "kubectl delete does not wait"
    until_revoked(stage, name, namespaces, ALICE, runner, seconds=5)
    path = f"/apis/kubevirt.io/v1/namespaces/{namespaces[0]}/virtualmachines"
    assert stage.cluster.request("GET", path, token=token)[0] in (401, 403)
    assert not [write for write in stage.writes(since) if write.startswith("create")]


def test_foreground_deletion_ends_when_everything_is_revoked(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    name = stage.grant(full_spec(home, namespaces))
    stage.until_ready(name)
    since = stage.mark()
    stage.delete(name, "Foreground")
    stage.until(lambda: is_gone(stage, name), "the grant to be gone", 30)
    assert stage.children(name) == [], "the grant goes last"
    for who in (ALICE, runner):
        assert_all(stage, who, namespaces, expected=False)
    assert not [write for write in stage.writes(since) if write.startswith(("create", "patch role", "patch service"))]


def test_nothing_is_made_anew_while_a_foreground_deletion_lasts(stage: Stage) -> None:
    """Something of somebody else's holds the grant itself."""
    home, namespaces, runner = home_and_namespaces(stage)
    name = stage.grant(full_spec(home, namespaces), finalizers=["example.com/hold"])
    stage.until_ready(name)
    since = stage.mark()
    stage.delete(name, "Foreground")
    until_revoked(stage, name, namespaces, ALICE, runner)
    later = stage.namespace()
    stage.until_condition(name, "Active", "False")
    assert not is_gone(stage, name)
    assert not [write for write in stage.writes(since) if write.startswith("create")]
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"finalizers": None}})
    stage.until(lambda: is_gone(stage, name), "the grant to be gone")
    assert_all(stage, ALICE, [*namespaces, later], expected=False)


def test_deletion_with_a_finalizer_on_the_grant_revokes_all_the_same(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    name = stage.grant(full_spec(home, namespaces), finalizers=["example.com/hold"])
    stage.until_ready(name)
    stage.delete(name)
    until_revoked(stage, name, namespaces, ALICE, runner)
    assert not is_gone(stage, name)
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"finalizers": None}})


def test_two_grants_over_the_same_namespaces(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    first, second = stage.grant(full_spec(home, namespaces)), stage.grant(spec("alice", "bob", namespaces=namespaces))
    for name in (first, second):
        stage.until_ready(name)
    before = stage.children(second)
    stage.delete(first)
    until_revoked(stage, first, namespaces, runner)
    for who in (ALICE, BOB):
        assert_all(stage, who, namespaces, expected=True)
    assert stage.children(second) == before
    stage.delete(second)
    until_revoked(stage, second, namespaces, ALICE, BOB)


def test_a_grant_is_deleted_and_made_again_under_the_same_name(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    name = stage.grant(full_spec(home, namespaces), "again")
    stage.until_ready(name)
    for round_, names in enumerate((("bob",), ("alice",), ("bob",))):
        stage.delete(name)
        assert stage.grant(full_spec(home, namespaces[: 1 + round_ % 2], *names), "again") == name
        stage.until_ready(name)
        assert_all(stage, BOB if names == ("alice",) else ALICE, namespaces, expected=False)
        for who in (ALICE if names == ("alice",) else BOB, runner):
            stage.until(lambda who=who: stage.views(who, namespaces[0]), "the new access")
        assert_all(stage, runner, namespaces[2:], expected=False)
    stage.until(lambda: len(stage.children(name)) == 3, f"one set of children: {stage.children(name)}")


def test_a_grant_deleted_before_it_is_done(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    for _ in range(3):
        name = stage.grant(full_spec(home, namespaces), "fleeting")
        stage.until(lambda name=name: stage.children(name), "the first child")
        stage.delete(name)
    stage.until(lambda: not stage.children(name), "everything to be gone")
    for who in (ALICE, runner):
        assert_all(stage, who, namespaces, expected=False)


def test_orphaning_leaves_the_access_and_manages_it_no_more(stage: Stage) -> None:
    home, namespaces, runner = home_and_namespaces(stage)
    name = stage.grant(full_spec(home, namespaces))
    stage.until_ready(name)
    before = stage.children(name)
    stage.delete(name, "Orphan")
    stage.until(lambda: is_gone(stage, name), "the grant to be gone")
    until_event(stage, name, "Orphaned")
    since = stage.mark()
    stage.request("PATCH", stage.path(*own("roles", namespaces[0], name)), {"rules": ANYTHING})
    stage.request("DELETE", stage.path(*own("rolebindings", namespaces[1], name)))
    # Another grant over the same namespaces, made afterwards and done: the orphans' turn has passed as well.
    other = stage.grant(spec("bob", namespaces=namespaces))
    stage.until_ready(other)
    assert stage.children(name) == [child for child in before if child != f"rolebindings {namespaces[1]}/vmaccess:{name}"]
    assert not [write for write in stage.writes(since) if name in write]
    assert stage.can(ALICE, "delete", VMS, namespaces[0]), "no repair"
    stage.assert_access(ALICE, {namespaces[0]: True, namespaces[1]: False, namespaces[2]: True})
    stage.assert_access(runner, {namespaces[0]: True, namespaces[1]: False, namespaces[2]: True})
    role = stage.child(*own("roles", namespaces[2], name))
    assert role is not None
    assert "ownerReferences" not in role["metadata"]


def test_orphans_are_foreign_to_a_new_grant_of_the_same_name(stage: Stage) -> None:
    """They were left behind on purpose: the new grant says so instead of taking them away or over."""
    namespace, free = stage.namespace(), stage.namespace()
    name = stage.grant(spec(namespaces=[namespace]), "again")
    stage.until_ready(name)
    stage.delete(name, "Orphan")
    stage.until(lambda: is_gone(stage, name), "the grant to be gone")
    before = [stage.child(*own(kind, namespace, name)) for kind in ("roles", "rolebindings")]
    stage.grant(spec("bob", namespaces=[namespace, free]), "again")
    stage.until_condition(name, "Stalled", reason="NameConflict")
    assert [stage.child(*own(kind, namespace, name)) for kind in ("roles", "rolebindings")] == before
    stage.assert_access(BOB, {namespace: False, free: True})
    for kind in ("rolebindings", "roles"):
        stage.request("DELETE", stage.path(*own(kind, namespace, name)))
    stage.until_ready(name)
    stage.assert_access(BOB, {namespace: True, free: True})
    stage.assert_access(ALICE, {namespace: False, free: False})


# --- the operator or the garbage collector is down ---


def test_garbage_collection_revokes_while_the_operator_is_down(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    home, namespaces, runner = home_and_namespaces(stage)
    with product.Operator(own_cluster):
        name = stage.grant(full_spec(home, namespaces))
        stage.until_ready(name)
    stage.delete(name)
    until_revoked(stage, name, namespaces, ALICE, runner, seconds=30)


def test_the_operator_revokes_without_garbage_collection(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    home, namespaces, runner = home_and_namespaces(stage)
    with product.Operator(own_cluster), no_garbage_collection(own_cluster):
        name = stage.grant(full_spec(home, namespaces))
        stage.until_ready(name)
        for who in (ALICE, runner):
            assert_all(stage, who, namespaces, expected=True)
        stage.delete(name)
        until_revoked(stage, name, namespaces, ALICE, runner, seconds=5)


def test_a_deletion_that_nobody_saw_is_made_up_for(own_stage: Stage, own_cluster: LocalCluster) -> None:
    """Operator and garbage collector both down: the operator finds children whose grant is gone, and reads that grant once."""
    stage = own_stage
    home, namespaces, runner = home_and_namespaces(stage)
    with product.Operator(own_cluster):
        gone, stays = stage.grant(full_spec(home, namespaces)), stage.grant(spec("bob", namespaces=namespaces))
        for name in (gone, stays):
            stage.until_ready(name)
    with no_garbage_collection(own_cluster):
        stage.request("PATCH", stage.path(*own("rolebindings", namespaces[0], gone)), {"metadata": {"labels": None}})
        held = {"metadata": {"finalizers": ["example.com/hold"]}}
        stage.request("PATCH", stage.path(*own("rolebindings", namespaces[1], gone)), held)
        stage.delete(gone)
        assert_all(stage, ALICE, namespaces, expected=True)
        since = stage.mark()
        with product.Operator(own_cluster):
            until_revoked(stage, gone, namespaces, ALICE, runner)
            stage.until(lambda: not stage.child(*own("rolebindings", namespaces[0], gone)), "the unlabelled binding to be gone")
            assert stage.reads(since) == [f"get vmaccessgrants /{gone} 404"]
            assert not [write for write in stage.writes(since) if stays in write]
            assert_all(stage, BOB, namespaces, expected=True)


def test_a_binding_that_a_finalizer_keeps_alive_is_emptied(own_stage: Stage, own_cluster: LocalCluster) -> None:
    """Garbage collection alone cannot revoke it: RBAC grants on while an object waits to be deleted."""
    stage = own_stage
    home, namespaces, runner = home_and_namespaces(stage)
    with product.Operator(own_cluster):
        name = stage.grant(full_spec(home, namespaces))
        stage.until_ready(name)
    path = stage.path(*own("rolebindings", namespaces[0], name))
    stage.request("PATCH", path, {"metadata": {"finalizers": ["example.com/hold"]}})
    stage.request("PATCH", stage.path(*own("roles", namespaces[0], name)), {"metadata": {"finalizers": ["example.com/hold"]}})
    stage.delete(name)
    stage.until(lambda: "deletionTimestamp" in stage.request("GET", path)["metadata"], "the binding to wait for its deletion", 30)
    assert_all(stage, ALICE, namespaces[:1], expected=True)
    with product.Operator(own_cluster):
        until_revoked(stage, name, namespaces, ALICE, runner)


@pytest.mark.parametrize("collector", ["with garbage collection", "without"])
def test_grants_made_again_while_the_operator_was_down(own_stage: Stage, own_cluster: LocalCluster, collector: str) -> None:
    """The same name with another uid: the old subjects lose access whatever the new grant says, the new ones get theirs."""
    stage, cases = own_stage, ("valid", "suspended", "invalid", "baseless", "homeless")
    fields: dict[str, Json] = {
        "valid": {},
        "suspended": {"suspend": True},
        "invalid": {"role": {"drop": [{"resources": ["virtualmachineinstances/vcn"]}]}},
        "baseless": {"role": {"from": "no-such-role"}},
        "homeless": {"serviceAccounts": [{"name": "runner", "namespace": stage.unique("missing")}]},
    }
    with product.Operator(own_cluster):
        places = {case: home_and_namespaces(stage) for case in cases}
        names = {case: stage.grant(full_spec(*places[case][:2]), case) for case in cases}
        for name in names.values():
            stage.until_ready(name)
    home = places["valid"][0]
    old = stage.child("serviceaccounts", home, "runner") or {}
    with no_garbage_collection(own_cluster) if collector == "without" else nullcontext():
        for case, name in names.items():
            stage.delete(name)
            stage.grant(full_spec(places[case][0], places[case][1][:2], "bob") | fields[case], case)
            if collector == "without":
                assert_all(stage, ALICE, places[case][1], expected=True)
        with product.Operator(own_cluster):
            for case, (_, namespaces, runner) in places.items():

                def is_revoked(namespaces: list[str] = namespaces) -> bool:
                    return not any(stage.views(ALICE, namespace) for namespace in namespaces)

                stage.until(is_revoked, f"alice to lose access, then {case}")
                if case == "valid":
                    stage.until_ready(names[case])
                stage.until(
                    lambda case=case, bound=namespaces[0]: stage.views(BOB, bound) is (case in ("valid", "homeless")),
                    f"what {case} gives to bob",
                )
                assert_all(stage, runner, namespaces[:2], expected=case == "valid")
                for who in (BOB, runner):
                    assert_all(stage, who, namespaces[2:], expected=False)
            stage.until_condition(names["suspended"], "Ready", reason="Suspended")
            stage.until_condition(names["invalid"], "Stalled", reason="InvalidSpec")
            stage.until_condition(names["invalid"], "Active", "False")
    new = stage.child("serviceaccounts", home, "runner") or {}
    assert new["metadata"]["uid"] != old["metadata"]["uid"], "old tokens are dead"


def test_orphans_are_told_of_and_counted_after_every_start(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    home, namespaces, runner = home_and_namespaces(stage)

    def counted(operator: product.Operator) -> float:
        line = next(line for line in operator.page("/metrics")[1].splitlines() if line.startswith("vmaccess_orphaned_children "))
        return float(line.split()[1])

    with product.Operator(own_cluster) as operator:
        name = stage.grant(full_spec(home, namespaces))
        stage.until_ready(name)
        assert counted(operator) == 0
        stage.delete(name, "Orphan")
        stage.until(lambda: is_gone(stage, name), "the grant to be gone")
        until_event(stage, name, "Orphaned")
        before = stage.children(name)
        assert len(before) == 2 * NAMESPACES + 1
        stage.until(lambda: counted(operator) == len(before), "every orphan to be counted")
    for start in range(2):
        since = stage.mark()
        with product.Operator(own_cluster) as operator:
            until_event(stage, name, "Orphaned", count=2 + start)
            stage.until(lambda operator=operator: counted(operator) == len(before), "every orphan to be counted")
        assert stage.writes(since) == []
        assert stage.children(name) == before
    for who in (ALICE, runner):
        assert_all(stage, who, namespaces, expected=True)
    notes = [event["note"] for event in events(stage, name) if event["reason"] == "Orphaned"]
    assert all(f"vmaccess.dev/grant={name}" in note for note in notes)


def test_orphaning_while_the_operator_is_down(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    home, namespaces, runner = home_and_namespaces(stage)
    with product.Operator(own_cluster):
        name = stage.grant(full_spec(home, namespaces))
        stage.until_ready(name)
    stage.delete(name, "Orphan")
    stage.until(lambda: is_gone(stage, name), "the grant to be gone", 30)
    before, since = [managed(stage.child(*own("rolebindings", namespace, name))) for namespace in namespaces], stage.mark()
    with product.Operator(own_cluster):
        until_event(stage, name, "Orphaned")
    assert stage.writes(since) == []
    assert [managed(stage.child(*own("rolebindings", namespace, name))) for namespace in namespaces] == before
    for who, namespace in itertools.product((ALICE, runner), namespaces):
        assert stage.views(who, namespace)


def test_an_orphaned_grant_that_lingers_for_another_finalizer_still_leaves_its_children(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec("alice", namespaces=[namespace]), finalizers=["example.com/held"])
    stage.until_ready(name)
    before = stage.children(name)
    stage.delete(name, "Orphan")
    stage.until(lambda: stage.get(name)["metadata"]["finalizers"] == ["example.com/held"], "the orphaning to be done")
    stage.relabel(namespace, looked="at")  # the operator looks at it once more
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"finalizers": None}})
    stage.until(lambda: stage.cluster.request("GET", f"{GRANTS}/{name}")[0] == 404, "the grant to be gone")
    until_event(stage, name, "Orphaned")
    assert stage.children(name) == before
    assert stage.views(ALICE, namespace)
    for kind in ("rolebindings", "roles"):
        stage.request("DELETE", stage.path(kind, namespace, f"vmaccess:{name}"))


def test_what_an_orphaning_left_is_named_to_the_next_grant_of_the_name(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec("alice", namespaces=[namespace]))
    uid = stage.until_ready(name)["metadata"]["uid"]
    stage.delete(name, "Orphan")
    stage.until(lambda: stage.cluster.request("GET", f"{GRANTS}/{name}")[0] == 404, "the grant to be gone")
    again = stage.grant(spec("alice", namespaces=[namespace]), name.split("-", 1)[1])
    assert again == name
    message = stage.until_condition(name, "Stalled", reason="NameConflict")["status"]["failures"][0]["message"]
    assert f"vmaccess.dev/grant-uid={uid}" in message
    stage.cluster.kubectl("delete", "rolebindings,roles,serviceaccounts", "-A", "-l", f"vmaccess.dev/grant-uid={uid}")
    stage.until_ready(name)
    assert stage.views(ALICE, namespace)
