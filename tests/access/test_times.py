"""Access begins and ends by itself: at its second, whatever else is wrong, and first of all after a start that comes too late."""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime, timedelta

import pytest

from localcluster import LocalCluster, product
from tests.access.helpers import ALICE, BOB, LIST_VMS, VMS, Watched, own, spec, until_event, writes_to_children
from tests.access.test_restart import until_idle
from tests.stage import GRANTS, Json, Stage, Who

HOUR = timedelta(hours=1)
OWN: Json = {"kind": "ClusterRole", "keep": [LIST_VMS]}
SHARED: Json = {"kind": "ClusterRole", "preset": "View"}


def moment(after: timedelta) -> datetime:
    """A whole second, so far from now. The API server is a process of this machine, so its clock is ours."""
    return (datetime.now(UTC) + after).replace(microsecond=0)


def rfc(when: datetime) -> str:
    """As it stands in a manifest."""
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def soon(seconds: int) -> str:
    """A time in so many seconds."""
    return rfc(moment(timedelta(seconds=seconds)))


def is_shown(stage: Stage, name: str, reason: str) -> None:
    """Wait until the grant is healthy and gives nothing, for this reason."""
    stage.until_condition(name, "Ready", reason=reason)
    stage.until_condition(name, "Active", "False", reason)


@pytest.mark.parametrize("role", [{}, OWN, SHARED], ids=["Role", "ClusterRole", "shared"])
def test_access_ends_at_its_second(stage: Stage, role: Json) -> None:
    home, namespaces = stage.namespace(), [stage.namespace() for _ in range(3)]
    runner = Who.service_account(home, "runner")
    end = moment(timedelta(seconds=6))
    accounts = [{"name": "runner", "namespace": home}]
    name = stage.grant(spec(namespaces=namespaces, serviceAccounts=accounts, role=role, expirationTime=rfc(end)))
    grant = stage.until_ready(name)
    assert grant["status"]["nextTransitionTime"] == rfc(end)
    assert time.time() < end.timestamp() - 1, "the test came too late to see it"
    asked = (ALICE, "list", VMS, namespaces[0])
    last = first_refused = 0.0
    while not first_refused:
        before = time.time()
        last, first_refused = (before, 0.0) if stage.can(*asked) else (last, time.time())
    assert last >= end.timestamp() - 0.2, "it ended too early"
    assert first_refused < end.timestamp() + 3, "it ended too late"
    is_shown(stage, name, "Expired")
    for who in (ALICE, runner):
        stage.assert_access(who, dict.fromkeys(namespaces, False))
    assert stage.children(name) == [f"serviceaccounts {home}/runner"]
    grant = stage.get(name)
    assert "nextTransitionTime" not in grant["status"]
    assert rfc(end) in next(c["message"] for c in grant["status"]["conditions"] if c["type"] == "Ready")
    shown = stage.cluster.kubectl("get", "vmaccessgrant", name).stdout.splitlines()
    assert shown[0].split() == ["NAME", "READY", "ACTIVE", "PRESET", "NAMESPACES", "EXPIRES", "AGE"]
    assert rfc(end) in shown[1]


def test_a_token_is_refused_from_then_on(stage: Stage) -> None:
    namespace = stage.namespace()
    end = moment(timedelta(seconds=5))
    name = stage.grant(
        {"serviceAccounts": [{"name": "runner", "namespace": namespace}], "namespaces": [namespace], "expirationTime": rfc(end)}
    )
    stage.until_ready(name)
    token = stage.cluster.service_account_token(namespace, "runner")
    machines = f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines"
    assert stage.cluster.request("GET", machines, token=token)[0] == 200
    stage.until(lambda: stage.cluster.request("GET", machines, token=token)[0] == 403, "the token to be refused")
    assert time.time() >= end.timestamp() - 0.2


@pytest.mark.parametrize("role", [{}, OWN, SHARED], ids=["Role", "ClusterRole", "shared"])
def test_access_begins_at_its_second_and_not_before(stage: Stage, role: Json) -> None:
    home, namespace = stage.namespace(), stage.namespace()
    begin = moment(timedelta(seconds=5))
    accounts = [{"name": "runner", "namespace": home}]
    name = stage.grant(spec(namespaces=[namespace], serviceAccounts=accounts, role=role, notBeforeTime=rfc(begin)))
    is_shown(stage, name, "NotStarted")
    assert stage.get(name)["status"]["nextTransitionTime"] == rfc(begin)
    assert stage.children(name) == [f"serviceaccounts {home}/runner"]
    stage.until(lambda: stage.views(ALICE, namespace), "access to begin")
    assert time.time() >= begin.timestamp(), "it began too early"
    assert time.time() < begin.timestamp() + 5, "it began too late"
    assert "nextTransitionTime" not in stage.until_ready(name)["status"]
    stage.assert_access(Who.service_account(home, "runner"), {namespace: True})


def test_a_time_in_the_past_never_grants_not_for_a_moment(stage: Stage) -> None:
    namespaces = [stage.namespace() for _ in range(5)]
    since = stage.mark()
    with Watched(stage, never=[(ALICE, "list", VMS, namespace) for namespace in namespaces]):
        for role in ({}, OWN, SHARED):
            name = stage.grant(spec(namespaces=namespaces, role=role, expirationTime="2020-01-01T00:00:00Z"))
            is_shown(stage, name, "Expired")
            assert stage.children(name) == []
    made = [write for write in writes_to_children(stage, since) if not write.startswith("delete ")]  # of what another test left
    assert made == []


def test_times_can_be_changed_around_the_end(stage: Stage) -> None:
    namespace = stage.namespace()
    whole = spec(namespaces=[namespace])
    name = stage.grant(whole | {"expirationTime": rfc(moment(HOUR * 2))})
    stage.until_ready(name)
    stage.assert_access(ALICE, {namespace: True})

    stage.respec(name, whole | {"expirationTime": rfc(moment(-HOUR))})
    stage.until(lambda: not stage.views(ALICE, namespace), "a shortened access to end")
    is_shown(stage, name, "Expired")

    stage.respec(name, whole | {"expirationTime": soon(4)})
    stage.until_ready(name)
    assert stage.views(ALICE, namespace)
    stage.respec(name, whole | {"expirationTime": rfc(moment(HOUR * 2))})
    stage.until_ready(name)
    with Watched(stage, always=[(ALICE, "list", VMS, namespace)]):
        time.sleep(5)  # the first end comes and goes

    stage.respec(name, whole | {"notBeforeTime": rfc(moment(HOUR))})
    is_shown(stage, name, "NotStarted")
    stage.assert_access(ALICE, {namespace: False})
    stage.respec(name, whole | {"notBeforeTime": rfc(moment(-HOUR))})
    stage.until_ready(name)
    stage.assert_access(ALICE, {namespace: True})
    stage.respec(name, whole | {"expirationTime": rfc(moment(-HOUR))})
    is_shown(stage, name, "Expired")
    stage.respec(name, whole)
    stage.until_ready(name)
    stage.assert_access(ALICE, {namespace: True})


def test_access_ends_although_the_rest_of_the_spec_is_invalid(stage: Stage) -> None:
    namespace, foreign = stage.namespace(), stage.namespace()
    whole = spec("alice", "bob", namespaces=[namespace])
    name = stage.grant(whole | {"expirationTime": soon(7)})
    stage.until_ready(name)
    typo = {"drop": [{"resources": ["virtualmachineinstances/vcn"]}]}
    end = stage.get(name)["spec"]["expirationTime"]
    stage.respec(name, spec("alice", namespaces=[namespace, foreign], role=typo, expirationTime=end))
    stage.until_condition(name, "Stalled", reason="InvalidSpec")
    stage.assert_access(BOB, {namespace: True, foreign: False})
    stage.until(lambda: not stage.views(BOB, namespace), "access to end")
    is_shown(stage, name, "Expired")
    stage.assert_access(ALICE, {namespace: False, foreign: False})
    assert stage.condition(name, "Stalled") is None


def test_access_ends_where_the_base_role_is_missing(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role={"from": stage.unique("none")}, expirationTime="2020-01-01T00:00:00Z"))
    is_shown(stage, name, "Expired")


def test_the_last_hour_is_told_once(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], expirationTime=rfc(moment(HOUR + timedelta(seconds=4)))))
    stage.until_ready(name)
    assert stage.condition(name, "ExpiresSoon") is None
    until_event(stage, name, "ExpiresSoon")
    stage.until(lambda: stage.condition(name, "ExpiresSoon"), "the condition")
    stage.respec(name, spec(namespaces=[namespace], expirationTime=rfc(moment(HOUR * 2))))
    stage.until_ready(name)
    assert stage.condition(name, "ExpiresSoon") is None
    stage.assert_access(ALICE, {namespace: True})


def test_an_expired_grant_is_left_alone(stage: Stage) -> None:
    """GitOps applies it again and again; its end is no reason to write anything."""
    name = stage.grant(spec(namespaces=[stage.namespace()], expirationTime="2020-01-01T00:00:00Z"))
    is_shown(stage, name, "Expired")
    since = stage.mark()
    for note in ("one", "two"):
        stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"annotations": {"example.com/note": note}}})
    time.sleep(2.5)  # longer than the interval between two status writes
    assert stage.writes(since) == []
    stage.delete(name)


def test_a_start_that_slept_through_an_end_revokes_before_anything_else(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    namespaces = [stage.namespace() for _ in range(8)]
    with product.Operator(own_cluster) as operator:
        ending = [stage.grant(spec("alice", namespaces=namespaces[:4], expirationTime=soon(12))) for _ in range(3)]
        narrowed = stage.grant(spec("bob", namespaces=namespaces))
        for name in (*ending, narrowed):
            stage.until_ready(name)
        until_idle(operator, stage)
    ends = [datetime.fromisoformat(stage.get(name)["spec"]["expirationTime"]).timestamp() for name in ending]
    for number in range(20):
        stage.grant(spec("eve", namespaces=namespaces), f"new-{number}")
    time.sleep(max(max(ends) - time.time() + 0.1, 0))
    assert stage.views(ALICE, namespaces[0]), "nobody is there to end it"
    since = stage.mark()
    with product.Operator(own_cluster):
        for name in ending:
            is_shown(stage, name, "Expired")
        for number in range(20):
            stage.until_ready(stage.unique(f"new-{number}"))
    writes = writes_to_children(stage, since)
    names = {f"vmaccess:{name}" for name in ending}
    ended = list(itertools.takewhile(lambda write: write.split()[2].partition("/")[2] in names, writes))
    assert len(ended) == 3 * 4 * 2, writes[:40]
    stage.assert_access(ALICE, dict.fromkeys(namespaces, False))


def test_many_that_end_in_one_second(own_stage: Stage, own_cluster: LocalCluster) -> None:
    stage = own_stage
    namespace = stage.namespace()
    end = moment(timedelta(seconds=25))
    with product.Operator(own_cluster) as operator:
        names = [stage.grant(spec(f"user-{number}", namespaces=[namespace], expirationTime=rfc(end))) for number in range(150)]
        for name in names:
            stage.until_ready(name)
        assert time.time() < end.timestamp(), "the test came too late to see it"
        assert 'vmaccess_grants{ready="True"}' in operator.page("/metrics")[1]
        stage.until(lambda: not stage.request("GET", stage.path("rolebindings", namespace))["items"], "the end of all", 40)
        assert end.timestamp() - 0.2 <= time.time()
        for name in names:
            is_shown(stage, name, "Expired")
        assert "vmaccess_overdue_seconds 0.0" in operator.page("/metrics")[1]
    assert not [stage.can(Who(f"user-{number}"), "list", VMS, namespace) for number in range(0, 150, 10)].count(True)
    assert stage.child(*own("roles", namespace, names[0])) is None
