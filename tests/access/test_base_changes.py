"""An upgrade of KubeVirt changes the role that grants trim: every kind of grant follows, and says in words what changed.

On a control plane of its own, because here kubevirt.io:admin itself is changed, as virt-operator does it: in one write.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from localcluster import ClusterError, LocalCluster, product
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
    events,
    remove_base_role,
    spec,
    until_event,
    writes_to_children,
)
from tests.access.test_cluster_roles import (
    RIGHTS,
    History,
    assert_every_moment,
    assert_rights,
    cluster_role,
    expected_children,
    suffix,
)
from tests.access.test_restart import requests, until_idle
from tests.stage import RBAC, Json, Stage, Who

Right = tuple[str, str, str]  # group, resource[/subresource], verb

BASE = "kubevirt.io:admin"
RESET: Right = ("subresources.kubevirt.io", "virtualmachineinstances/reset", "update")
START_IT: Right = ("subresources.kubevirt.io", "virtualmachines/start", "update")
DELETE_IT: Right = ("kubevirt.io", "virtualmachines", "delete")
LIST_BACKUPS: Right = ("backup.kubevirt.io", "virtualmachinebackups", "list")
KUBEVIRTS: Json = {"apiGroups": ["kubevirt.io"], "resources": ["kubevirts"], "verbs": ["get", "list"]}
OPERATE: dict[str, Json] = {
    "role": {"preset": "Operate"},
    "own": {"kind": "ClusterRole", "preset": "Operate", "drop": [{"resources": ["kubevirts"]}]},
    "shared": {"kind": "ClusterRole", "preset": "Operate"},
}
WHO = {"role": ALICE, "own": BOB, "shared": EVE}


class Base:
    """kubevirt.io:admin on a control plane of one's own; whole again afterwards."""

    def __init__(self, cluster: LocalCluster) -> None:
        self._cluster, self._path = cluster, f"{RBAC}/clusterroles/{BASE}"
        _, self._before = cluster.request("GET", self._path)

    @property
    def rules(self) -> list[Json]:
        """Its rules at present."""
        rules: list[Json] = self._cluster.request("GET", self._path)[1]["rules"]
        return rules

    def set(self, rules: list[Json]) -> None:
        """Give it other rules."""
        self._patch({"rules": rules})

    def change(self, *, lose: tuple[Right, ...] = (), gain: tuple[Right, ...] = ()) -> None:
        """Take rights out and put rights in, in one write."""
        kept = [rule for before in self.rules for rule in _without(before, lose)]
        new = [{"apiGroups": [group], "resources": [resource], "verbs": [verb]} for group, resource, verb in gain]
        self.set([*kept, *new])

    def remove(self) -> None:
        """Delete it, as when KubeVirt is uninstalled."""
        status, answer = self._cluster.request("DELETE", self._path)
        assert status == 200, answer

    def restore(self, rules: list[Json] | None = None) -> None:
        """Make it what it was, or as it was with other rules."""
        kept = {field: self._before["metadata"][field] for field in ("name", "labels")}
        whole = {"metadata": kept, "rules": self._before["rules"] if rules is None else rules}
        if self._cluster.request("GET", self._path)[0] == 404:
            status, answer = self._cluster.request("POST", f"{RBAC}/clusterroles", whole)
        else:
            status, answer = self._cluster.request("PUT", self._path, whole)
        assert status in (200, 201), answer

    def _patch(self, body: Json) -> None:
        status, answer = self._cluster.request("PATCH", self._path, body)
        assert status == 200, answer


def _without(rule: Json, lose: tuple[Right, ...]) -> Iterator[Json]:
    for group, resource in itertools.product(rule["apiGroups"], rule["resources"]):
        verbs = [verb for verb in rule["verbs"] if (group, resource, verb) not in lose]
        if verbs:
            yield {"apiGroups": [group], "resources": [resource], "verbs": verbs}


@pytest.fixture
def base(own_cluster: LocalCluster) -> Iterator[Base]:
    """The base role, to be changed."""
    role = Base(own_cluster)
    yield role
    role.restore()


def made(stage: Stage, namespaces: list[str], roles: dict[str, Json] | None = None) -> dict[str, str]:
    """One grant of each kind, each for a person of its own, Ready; their names by kind."""
    roles = roles or OPERATE
    names = {kind: stage.grant(spec(WHO[kind].user, namespaces=namespaces, role=of), kind) for kind, of in roles.items()}
    for name in names.values():
        stage.until_ready(name)
    return names


def until_allowed(stage: Stage, right: Right, namespaces: list[str], *whose: Who, expected: bool) -> None:
    """Wait until all of them may, or none of them may."""
    group, resource, verb = right

    def answers() -> set[bool]:
        asked = itertools.product(whose or WHO.values(), namespaces)
        return {stage.can(who, verb, f"{group}/{resource}", namespace) for who, namespace in asked}

    try:
        stage.until(lambda: answers() == {expected}, f"{right} to be {expected}")
    except ClusterError as error:
        raise AssertionError(f"{error}: {[(who.user, answers()) for who in whose]}") from None


def changed(stage: Stage, name: str) -> str:
    """What the condition BaseRoleChanged says, or nothing."""
    condition = stage.condition(name, "BaseRoleChanged")
    return condition["message"] if condition is not None and condition["status"] == "True" else ""


def until_changed(stage: Stage, name: str, words: str) -> None:
    """Wait until the condition says this, and until an Event does."""
    try:
        stage.until(lambda: changed(stage, name).endswith(f": {words}"), "the words")
    except ClusterError:
        raise AssertionError(f"{name}: {changed(stage, name)!r} does not say {words!r}") from None
    assert BASE in changed(stage, name)
    stage.until(lambda: words in noted(stage, name), f"an Event about {name} with {words}")


def noted(stage: Stage, name: str) -> list[str]:
    """The words of all Events BaseRoleChanged about a grant, the oldest first."""
    told = [event for event in events(stage, name) if event["reason"] == "BaseRoleChanged"]
    assert all(event["type"] == "Warning" for event in told)
    return [event["note"].partition(": ")[2] for event in sorted(told, key=lambda event: event["eventTime"])]


def hashes(stage: Stage, name: str) -> tuple[str, str]:
    """Fingerprints of the base and of the role, as the status has them."""
    role = stage.get(name)["status"]["role"]
    return role["baseHash"], role["hash"]


# --- an upgrade while the operator runs ---


def test_rights_that_come_and_go_are_followed_and_told(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    with product.Operator(own_cluster):
        names = made(stage, namespaces)
        until_allowed(stage, RESET, namespaces, expected=True)
        before = {name: hashes(stage, name) for name in names.values()}
        assert len({one for one, _ in before.values()}) == 1, "one base, one fingerprint"
        assert not any(changed(stage, name) for name in names.values())

        since = stage.mark()
        base.change(lose=(RESET,))
        until_allowed(stage, RESET, namespaces, expected=False)
        for name in names.values():
            until_changed(stage, name, "-virtualmachineinstances/reset update")
            stage.until_ready(name)
            assert all(one != other for one, other in zip(hashes(stage, name), before[name], strict=True))
        assert sorted(writes_to_children(stage, since)) == sorted(
            [
                *(f"patch roles {namespace}/vmaccess:{names['role']} 200" for namespace in namespaces),
                f"patch clusterroles /vmaccess:{names['own']} 200",
                "patch clusterroles /vmaccess:Operate 200",
            ]
        )

        base.change(gain=(RESET,))
        until_allowed(stage, RESET, namespaces, expected=True)
        for name in names.values():
            until_changed(stage, name, "+virtualmachineinstances/reset update")
            assert noted(stage, name) == ["-virtualmachineinstances/reset update", "+virtualmachineinstances/reset update"]
            stage.until_ready(name)
            assert not [event for event in events(stage, name) if event["reason"] in ("Escalation", "RoleEmpty", "APIError")]

        # one for another, in one write of the upgrade
        base.change(lose=(RESET,), gain=(("subresources.kubevirt.io", "virtualmachineinstances/softreboot", "get"),))
        until_allowed(stage, RESET, namespaces, expected=False)
        for name in names.values():
            until_changed(stage, name, "-virtualmachineinstances/reset update")

        for kind, name in names.items():
            stage.respec(name, spec(WHO[kind].user, "mallory", namespaces=namespaces, role=OPERATE[kind]))
            stage.until_ready(name)
            assert changed(stage, name) == "", "the next spec knows this base"
        until_allowed(stage, RESET, namespaces, Who("mallory"), expected=False)


def test_one_right_for_another(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    """All along everybody keeps what both versions give, and nobody has more than either."""
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(3)]
    wanted: Json = {"keep": [LIST_VMS, START_VMS, DELETE_VMS]}
    roles = {"role": wanted, "own": {**wanted, "kind": "ClusterRole"}, "shared": {"kind": "ClusterRole", "preset": "Admin"}}
    base.change(lose=(START_IT,))
    admin = RIGHTS["ClusterRole custom"] | {"get", "console", "purge"}
    before = {(who, where): {"list", "delete"} for who in (ALICE, BOB) for where in namespaces}
    before |= {(EVE, where): admin for where in namespaces}
    after = {key: (then - {"delete"}) | {"start"} for key, then in before.items()}
    with product.Operator(own_cluster):
        names = made(stage, namespaces, roles)
        assert_rights(stage, before)
        with (
            History(stage) as history,
            Watched(
                stage, always=[(who, "list", VMS, where) for who, where in before], never=[(ALICE, "get", VMS, namespaces[0])]
            ),
        ):
            base.change(lose=(DELETE_IT,), gain=(START_IT,))
            for name in names.values():
                until_changed(stage, name, "-virtualmachines delete; +virtualmachines/start update")
                stage.until_ready(name)
        assert_every_moment(history, before, after)
        assert_rights(stage, after)


def test_a_change_that_concerns_nothing_of_the_grant_is_no_news(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    other = base_role(stage, LIST_VMS)
    with product.Operator(own_cluster) as operator:
        names = made(stage, namespaces)
        elsewhere = stage.grant(spec("alice", namespaces=namespaces, role={"from": other, "keep": [LIST_VMS]}))
        stage.until_ready(elsewhere)
        before, theirs = {name: hashes(stage, name) for name in names.values()}, hashes(stage, elsewhere)
        since = stage.mark()
        base.change(lose=(LIST_BACKUPS,), gain=(("snapshot.kubevirt.io", "virtualmachinesnapshots", "escort"),))
        for name in names.values():
            stage.until(lambda name=name: hashes(stage, name)[0] != before[name][0], "the fingerprint of the base")
            assert hashes(stage, name)[1] == before[name][1]
        until_idle(operator, stage)
        assert not any(changed(stage, name) for name in (*names.values(), elsewhere))
        assert not any(noted(stage, name) for name in (*names.values(), elsewhere))
        assert writes_to_children(stage, since) == []
        assert hashes(stage, elsewhere) == theirs, "another base is another matter"
    remove_base_role(stage, other)


def test_a_base_with_nothing_left_takes_the_access_away(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, home, namespaces = own_stage, own_stage.namespace(), [own_stage.namespace() for _ in range(2)]
    before = base.rules
    with product.Operator(own_cluster):
        names = made(stage, namespaces)
        account = stage.grant(
            spec("alice", namespaces=namespaces, serviceAccounts=[{"name": "runner", "namespace": home}], role=OPERATE["own"])
        )
        stage.until_ready(account)
        runner = Who.service_account(home, "runner")
        until_allowed(stage, RESET, namespaces, *WHO.values(), runner, expected=True)
        since = stage.mark()
        base.set([KUBEVIRTS])
        for name in (*names.values(), account):
            grant = stage.until_condition(name, "Stalled", reason="RoleEmpty")
            assert grant["status"]["role"]["rules"] == 0
            stage.until_condition(name, "Active", "False")
            assert "-virtualmachineinstances/reset update" in changed(stage, name).replace(": ", "; ").split("; ")
        table: dict[tuple[Who, str], set[str]] = {(who, where): set() for who in (*WHO.values(), runner) for where in namespaces}
        assert_rights(stage, table)
        stage.until(lambda: stage.children(account) == [f"serviceaccounts {home}/runner"], "the ServiceAccount alone to stay")
        for name in names.values():
            assert stage.children(name) == []
        mine = [write for write in writes_to_children(stage, since) if account in write]
        assert mine[0] == f"delete clusterroles /vmaccess:{account} 200"

        base.set(before)
        for name in (*names.values(), account):
            stage.until_ready(name)
            assert "+virtualmachineinstances/reset update" in changed(stage, name).replace(": ", "; ").split("; ")
        until_allowed(stage, RESET, namespaces, *WHO.values(), runner, expected=True)


# --- an upgrade that the operator slept through ---


@pytest.mark.parametrize(
    ("lose", "gain", "words"),
    [
        ((RESET,), (), "-virtualmachineinstances/reset update"),
        ((), (RESET,), "+virtualmachineinstances/reset update"),
        ((START_IT,), (RESET,), "-virtualmachines/start update; +virtualmachineinstances/reset update"),
    ],
    ids=["lost", "gained", "one for another"],
)
def test_an_upgrade_while_the_operator_is_down(
    own_stage: Stage, own_cluster: LocalCluster, base: Base, lose: tuple[Right, ...], gain: tuple[Right, ...], words: str
) -> None:
    """Many grants share a ClusterRole, and each says what has become of it."""
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    base.change(lose=gain)
    with product.Operator(own_cluster):
        names = [*made(stage, namespaces).values()]
        names += [stage.grant(spec("eve", namespaces=namespaces[:1], role=OPERATE["shared"])) for _ in range(12)]
        for name in names:
            stage.until_ready(name)
    for right, expected in ((lose, True), (gain, False)):
        for each in right:
            until_allowed(stage, each, namespaces, expected=expected)
    base.change(lose=lose, gain=gain)
    for each in lose:
        until_allowed(stage, each, namespaces, expected=True)
    since = stage.mark()
    with product.Operator(own_cluster) as operator:
        for right, expected in ((lose, False), (gain, True)):
            for each in right:
                until_allowed(stage, each, namespaces, expected=expected)
        for name in names:
            until_changed(stage, name, words)
            stage.until_ready(name)
        until_idle(operator, stage)
        assert [noted(stage, name) for name in names] == [[words]] * len(names)
        patched = [write for write in writes_to_children(stage, since) if "clusterroles" in write]
        assert sorted(patched) == sorted(
            ["patch clusterroles /vmaccess:Operate 200", f"patch clusterroles /vmaccess:{names[1]} 200"]
        )
    since = stage.mark()
    with product.Operator(own_cluster) as operator:
        until_idle(operator, stage)
        assert requests(stage, since) == [], "told once, and it stays told"
        assert all(changed(stage, name).endswith(f": {words}") for name in names)


@pytest.mark.parametrize("kind", OPERATE)
def test_people_leave_and_the_base_loses_a_right(own_stage: Stage, own_cluster: LocalCluster, base: Base, kind: str) -> None:
    """The operator may not write a binding to a role with a right that it lost itself: who stays must not pay for that."""
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(6)]
    roles: dict[str, Json] = {
        "role": {"keep": [LIST_VMS, DELETE_VMS]},
        "own": {"kind": "ClusterRole", "keep": [LIST_VMS, DELETE_VMS]},
        "shared": {"kind": "ClusterRole", "preset": "Edit"},
    }
    first = {"list", "delete"} if kind != "shared" else {"list", "get", "start", "console", "delete"}
    with product.Operator(own_cluster):
        name = stage.grant(spec("alice", "bob", namespaces=namespaces, role=roles[kind]))
        stage.until_ready(name)
        assert_rights(stage, {(who, where): first for who in (ALICE, BOB) for where in namespaces})
    stage.respec(name, spec("alice", "eve", namespaces=namespaces, role=roles[kind]))
    base.change(lose=(DELETE_IT,))
    with History(stage) as history, product.Operator(own_cluster):
        stage.until_ready(name)
    before = {(who, where): first if who is not EVE else set() for who in (ALICE, BOB, EVE) for where in namespaces}
    after = {(who, where): first - {"delete"} if who is not BOB else set() for who, where in before}
    assert_every_moment(history, before, after)
    assert_rights(stage, after)
    assert not [event for event in events(stage, name) if event["reason"] == "Escalation"]


# --- the base is away ---


@pytest.mark.parametrize("down", [False, True], ids=["operator up", "operator down meanwhile"])
def test_a_base_that_is_away_takes_nothing_and_comes_back_different(
    own_stage: Stage,
    own_cluster: LocalCluster,
    base: Base,
    down: bool,  # noqa: FBT001
) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    rules = base.rules
    other = [rule for before in rules for rule in _without(before, (RESET,))]
    operator = product.Operator(own_cluster)
    try:
        names = made(stage, namespaces)
        base.remove()
        for name in names.values():
            stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
            stage.until_condition(name, "Active")
        if down:
            operator.stop()
            operator = product.Operator(own_cluster)
        before = {kind: stage.children(name) for kind, name in names.items()}
        assert before == {kind: expected_children(name, OPERATE[kind], namespaces) for kind, name in names.items()}
        until_allowed(stage, RESET, namespaces, expected=True)
        assert cluster_role(stage, "Operate") is not None
        for name in names.values():
            assert stage.get(name)["status"]["role"]["from"] == BASE, "the status goes on telling what is given"
        base.restore(other)
        until_allowed(stage, RESET, namespaces, expected=False)
        for name in names.values():
            until_changed(stage, name, "-virtualmachineinstances/reset update")
            stage.until_ready(name)
        assert {kind: stage.children(name) for kind, name in names.items()} == before
        base.remove()
        for name in names.values():
            stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
        base.restore(rules)
        until_allowed(stage, RESET, namespaces, expected=True)
        for name in names.values():
            until_changed(stage, name, "+virtualmachineinstances/reset update")
    finally:
        operator.stop()


def test_a_base_that_comes_back_the_same_is_no_change(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    with product.Operator(own_cluster):
        names = made(stage, namespaces)
        since = stage.mark()
        base.remove()
        for name in names.values():
            stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
        base.restore()
        for name in names.values():
            stage.until_ready(name)
            assert changed(stage, name) == ""
        until_allowed(stage, RESET, namespaces, expected=True)
        assert writes_to_children(stage, since) == []


def test_new_grants_wait_for_the_base_and_revocations_do_not(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, namespaces = own_stage, [own_stage.namespace() for _ in range(2)]
    with product.Operator(own_cluster):
        names = made(stage, namespaces)
        base.remove()
        for name in names.values():
            stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
        late = {kind: stage.grant(spec("mallory", namespaces=namespaces, role=of)) for kind, of in OPERATE.items()}
        for name in late.values():
            stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
            assert stage.children(name) == []
        stage.respec(names["own"], spec("bob", namespaces=namespaces, role=OPERATE["own"], suspend=True))
        stage.delete(names["shared"])
        until_allowed(stage, RESET, namespaces, BOB, EVE, Who("mallory"), expected=False)
        until_allowed(stage, RESET, namespaces, ALICE, expected=True)
        base.restore()
        for name in late.values():
            stage.until_ready(name)
        until_allowed(stage, RESET, namespaces, ALICE, Who("mallory"), expected=True)
        until_allowed(stage, RESET, namespaces, BOB, EVE, expected=False)
        to = suffix(OPERATE["shared"])
        assert stage.children(late["shared"]) == sorted(
            f"rolebindings {where}/vmaccess:{late['shared']}{to}" for where in namespaces
        )


# --- aggregation ---

AGGREGATED = "aggregated into Kubernetes' own roles"
INTO = ("admin", "edit", "view")


def aggregate(cluster: LocalCluster, value: str | None, *into: str) -> None:
    """Say whether KubeVirt's roles are aggregated into Kubernetes' own, by label; None removes the label."""
    for name in into or INTO:
        label = {f"rbac.authorization.k8s.io/aggregate-to-{name}": value}
        status, answer = cluster.request("PATCH", f"{RBAC}/clusterroles/kubevirt.io:{name}", {"metadata": {"labels": label}})
        assert status == 200, answer


@pytest.fixture
def aggregation(own_cluster: LocalCluster) -> Iterator[None]:
    """The labels are as KubeVirt sets them, before the test and after it."""
    aggregate(own_cluster, "true")
    yield
    aggregate(own_cluster, "true")


def told(operator: product.Operator) -> list[str]:
    """The lines of its log that are about aggregation."""
    return [line for line in operator.output().splitlines() if AGGREGATED in line]


@pytest.mark.usefixtures("aggregation")
def test_aggregation_is_told_once_in_every_start(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, namespace = own_stage, own_stage.namespace()
    for _ in range(2):
        with product.Operator(own_cluster) as operator:
            names = made(stage, [namespace])
            for right in (RESET, START_IT):
                base.change(lose=(right,))
                until_allowed(stage, right, [namespace], expected=False)
                base.change(gain=(right,))
                until_allowed(stage, right, [namespace], expected=True)
            aggregate(own_cluster, "false", "view")
            aggregate(own_cluster, "true", "view")
            base.change(lose=(RESET,))
            until_allowed(stage, RESET, [namespace], expected=False)
            base.restore()
            (line,) = told(operator)
            assert "WARNING" in line.upper()
            for name in INTO:
                assert f"kubevirt.io:{name} into {name}" in line
            for name in names.values():
                stage.delete(name)
                stage.until(lambda name=name: not stage.children(name), "the grant to be revoked")


@pytest.mark.usefixtures("aggregation")
@pytest.mark.parametrize("value", ["false", None], ids=["false", "no label"])
def test_without_aggregation_nothing_is_told(own_stage: Stage, own_cluster: LocalCluster, base: Base, value: str | None) -> None:
    stage, namespace = own_stage, own_stage.namespace()
    aggregate(own_cluster, value)
    with product.Operator(own_cluster) as operator:
        made(stage, [namespace])
        base.change(lose=(RESET,))
        until_allowed(stage, RESET, [namespace], expected=False)
        assert told(operator) == []
        aggregate(own_cluster, "true", "edit")
        stage.until(lambda: told(operator), "it to be told when it begins")
        (line,) = told(operator)
        assert "kubevirt.io:edit into edit" in line
        assert "kubevirt.io:admin into" not in line


@pytest.mark.usefixtures("aggregation")
def test_where_kubevirt_is_not_installed_nothing_is_aggregated(own_stage: Stage, own_cluster: LocalCluster, base: Base) -> None:
    stage, namespace = own_stage, own_stage.namespace()
    aggregate(own_cluster, "false", "edit", "view")
    base.remove()
    with product.Operator(own_cluster) as operator:
        name = stage.grant(spec(namespaces=[namespace]))
        stage.until_condition(name, "Reconciling", reason="BaseRoleNotFound")
        assert told(operator) == []
        base.restore()
        stage.until_ready(name)
        stage.assert_access(ALICE, {namespace: True})
        assert len(told(operator)) == 1
        until_event(stage, name, "Granted")
