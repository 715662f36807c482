"""Changing the kind of role, the preset, the rules and the people at once, in several namespaces, one write after the other.

The writes of different namespaces and of the ClusterRole come in any order. At no moment does anybody hold more than before
and after, nor less than in both; at the end everybody has what is wanted and nothing is left behind.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.policy.test_access import GRANT, OTHER, VERBS, child, rules, subjects
from vmaccess.model.spec import Role
from vmaccess.policy import rules as rbac
from vmaccess.policy.access import Access, grant_step, withdraw_step
from vmaccess.policy.catalogue import PRESETS
from vmaccess.policy.children import (
    GROUP,
    KIND,
    MANAGED_BY,
    BindingContent,
    Child,
    GrantId,
    Kind,
    Owner,
    OwnerId,
    PresetId,
    RoleContent,
    Whose,
)
from vmaccess.policy.cluster_role import (
    Bindings,
    hold_own_role_step,
    own_role_step,
    revoke_own_role_step,
    shared_role_step,
)
from vmaccess.policy.steps import Create, Delete, Patch, Refused, Settled, Step, Wait, Write
from vmaccess.policy.target import Target, cluster_target, preset_target, role_target, target_named, target_of

PEOPLE = ("ann", "bob", "cid")
NAMESPACES = ("one", "two", "three")
SHARED = {"View": ("get",), "Admin": ("get", "list", "delete")}
TARGETS = {
    "role": role_target(GRANT),
    "cluster": cluster_target(GRANT),
    "View": preset_target(GRANT, "View"),
    "Admin": preset_target(GRANT, "Admin"),
}


def marked(made: Child, owner: OwnerId) -> Child:
    """The object with the marks of `owner`."""
    if isinstance(owner, PresetId):
        return replace(
            made, label_managed_by=MANAGED_BY, label_grant="", label_uid="", label_preset=owner.preset, owners=(), aggregates=()
        )
    reference = Owner(GROUP, KIND, owner.name, owner.uid, controller=True, blocks=True)
    return replace(
        made,
        label_managed_by=MANAGED_BY,
        label_grant=owner.name,
        label_uid=owner.uid,
        owners=(reference,),
        aggregates=(),
    )


def cluster_role(owner: OwnerId, *verbs: str, **changes: object) -> Child:
    """A ClusterRole of a grant or of a preset."""
    made = child(RoleContent(rules(*verbs)), name=owner.child_name, kind=Kind.CLUSTER_ROLE, namespace="")
    return replace(marked(made, owner), **changes)  # type: ignore[arg-type]


def bound(target: Target, *names: str, namespace: str = "ns", **changes: object) -> Child:
    """A RoleBinding of the grant to a target."""
    return replace(child(target.content(subjects(*names)), name=target.binding, namespace=namespace), **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Wish:
    """What a grant asks for; `where` are the namespaces it selects."""

    target: str
    verbs: frozenset[str]
    people: frozenset[str]
    where: frozenset[str]

    def access(self) -> Access:
        """As the controller would derive it. The rules of a shared target are the preset's."""
        verbs = SHARED.get(self.target, tuple(self.verbs))
        return Access(TARGETS[self.target], rules(*verbs), subjects(*self.people))

    def rights(self, name: str, namespace: str) -> frozenset[str]:
        """What a user shall hold."""
        if name not in self.people or namespace not in self.where:
            return frozenset()
        return frozenset(SHARED.get(self.target, tuple(self.verbs)))


class ApiServer:
    """Roles, bindings and ClusterRoles, and who may do what by them. Creates and changes of what `refuses` names are refused."""

    def __init__(self, wish: Wish, refuses: frozenset[tuple[Kind, str]] = frozenset()) -> None:
        self.refuses: frozenset[tuple[Kind, str]] = frozenset()
        self.objects: list[Child] = [cluster_role(PresetId(name), *verbs) for name, verbs in SHARED.items()]
        self.run(wish, random.Random(0))
        self.refuses = refuses

    def cluster_role(self, name: str) -> Child | None:
        return next((held for held in self.objects if held.kind is Kind.CLUSTER_ROLE and held.name == name), None)

    def here(self, namespace: str) -> list[Child]:
        return [held for held in self.objects if held.namespace == namespace and held.kind is not Kind.CLUSTER_ROLE]

    def own_roles(self) -> list[Child]:
        return [held for held in self.objects if held.kind is Kind.CLUSTER_ROLE and held.whose(GRANT) is not Whose.FOREIGN]

    def bindings(self) -> list[Child]:
        return [held for held in self.objects if held.kind is Kind.ROLE_BINDING]

    def step(self, place: str, wish: Wish, *, stuck: bool) -> Step:
        """The decision for a namespace, or for the ClusterRole where `place` is empty."""
        access = wish.access()
        if not place:
            bindings = Bindings(self.bindings(), lambda namespace: namespace in wish.where, settled=True)
            return own_role_step(GRANT, access, self.own_roles(), bindings)
        if place not in wish.where:
            return withdraw_step(GRANT, self.here(place))
        return grant_step(GRANT, place, access, self.here(place), self.cluster_role, stuck=stuck)

    def write(self, step: Write, place: str) -> bool:
        """Carry out a write; False where it is refused."""
        match step:
            case Create(kind=kind, name=name, content=content):
                if (kind, place) in self.refuses:
                    return False
                made = child(content, name=name, namespace=place, kind=kind)
                assert all((held.kind, held.namespace, held.name) != (kind, place, name) for held in self.objects)
                self.objects.append(marked(made, GRANT))
            case Patch(target, content, marks):
                if content is not None and (target.kind, place) in self.refuses:
                    return False
                changed = replace(target, finalizers=(), content=target.content if content is None else content)
                self.objects.remove(target)
                self.objects.append(changed if marks is None else marked(changed, marks))
            case Delete(target):
                self.objects.remove(target)
        return True

    def run(self, wish: Wish, luck: random.Random, check: object = lambda: None) -> int:
        """Write until nobody has anything left to write; returns the number of writes."""
        places, writes, stuck = ["", *NAMESPACES], 0, False
        while True:
            steps = [(place, step) for place in places if isinstance(step := self.step(place, wish, stuck=stuck), Write)]
            steps = [(place, step) for place, step in steps if writes < 60]
            if not steps:
                return writes
            place, step = luck.choice(steps)
            writes += 1
            if not self.write(step, place):
                stuck = stuck or not place
                instead = None if isinstance(step, Delete) else step.instead
                while instead is not None and not self.write(instead, place):
                    instead = instead.instead if isinstance(instead, Patch) else None
            check()  # type: ignore[operator]

    def rights(self, name: str, namespace: str) -> frozenset[str]:
        """What a user may do in a namespace."""
        held: set[str] = set()
        for binding in self.here(namespace):
            content = binding.content
            if not isinstance(content, BindingContent) or name not in {subject.name for subject in content.subjects}:
                continue
            local = (role for role in self.here(namespace) if (role.kind, role.name) == (Kind.ROLE, content.role_name))
            role = next(local, None) if content.role_kind == Kind.ROLE else self.cluster_role(content.role_name)
            if role is not None and isinstance(role.content, RoleContent):
                given_rules = role.content.rules
                held |= {verb for verb in VERBS if rbac.allows(given_rules, "kubevirt.io", "virtualmachines", verb)}
        return frozenset(held)

    def everybody(self) -> dict[tuple[str, str], frozenset[str]]:
        return {(name, namespace): self.rights(name, namespace) for name in PEOPLE for namespace in NAMESPACES}


wishes = st.builds(
    Wish,
    target=st.sampled_from(sorted(TARGETS)),
    verbs=st.frozensets(st.sampled_from(VERBS), min_size=1),
    people=st.frozensets(st.sampled_from(PEOPLE), min_size=1),
    where=st.frozensets(st.sampled_from(NAMESPACES)),
)


def wanted(wish: Wish) -> dict[tuple[str, str], frozenset[str]]:
    """What everybody shall hold."""
    return {(name, namespace): wish.rights(name, namespace) for name in PEOPLE for namespace in NAMESPACES}


@settings(max_examples=400)
@given(old=wishes, new=wishes, seed=st.integers(0, 10_000))
def test_every_moment_of_every_change_is_safe(old: Wish, new: Wish, seed: int) -> None:
    server = ApiServer(old)
    before, after = server.everybody(), wanted(new)
    assert before == wanted(old)

    def check() -> None:
        for who, now in server.everybody().items():
            assert before[who] & after[who] <= now <= before[who] | after[who], who
            if not after[who]:
                assert now <= before[who], "who leaves never gains"
            if not before[who]:
                assert now <= after[who], "who joins never holds what is not for them"

    server.run(new, random.Random(seed), check)
    assert server.everybody() == after
    assert left_behind(server.objects, new) == []


def left_behind(objects: Iterable[Child], wish: Wish) -> list[str]:
    """Every object of the grant that does not belong to its target."""
    target = TARGETS[wish.target]
    fine = {(Kind.ROLE_BINDING, target.binding)}
    if target.owner == GRANT:
        fine.add((target.kind, target.role))
    return [
        f"{held.kind} {held.namespace}/{held.name}"
        for held in objects
        if held.whose(GRANT) is Whose.OURS and (held.kind, held.name) not in fine
    ]


@settings(max_examples=300)
@given(
    old=wishes,
    new=wishes,
    seed=st.integers(0, 10_000),
    refused=st.frozensets(
        st.tuples(st.sampled_from([Kind.ROLE, Kind.ROLE_BINDING, Kind.CLUSTER_ROLE]), st.sampled_from(["", *NAMESPACES]))
    ),
)
def test_what_is_to_go_goes_even_where_writes_are_refused(
    old: Wish, new: Wish, seed: int, refused: frozenset[tuple[Kind, str]]
) -> None:
    """Creates and changes that the API server refuses for good end with nobody holding more than asked."""
    server = ApiServer(old, refused)
    server.run(new, random.Random(seed))
    after = wanted(new)
    assert {who: now - after[who] for who, now in server.everybody().items() if now - after[who]} == {}


@pytest.mark.parametrize(
    ("wish", "writes"),
    [
        pytest.param({"target": "role"}, 6, id="Role: two in each namespace"),
        pytest.param({"target": "cluster"}, 4, id="ClusterRole: one, and one in each namespace"),
        pytest.param({"target": "View"}, 3, id="bare preset: one in each namespace"),
    ],
)
def test_no_write_is_one_too_many(wish: dict[str, str], writes: int) -> None:
    everywhere = Wish(wish["target"], frozenset(["get", "list"]), frozenset(["ann"]), frozenset(NAMESPACES))
    server = ApiServer(replace(everywhere, where=frozenset()))
    made = server.run(everywhere, random.Random(1))
    already = 1 if wish["target"] == "cluster" else 0  # it is made before the first namespace is
    assert made + already == writes
    assert server.run(everywhere, random.Random(1)) == 0


# --- single decisions ---

VIEW, OWN = PresetId("View"), cluster_target(GRANT)
READING = rules("get")


def shared_step(observed: Child | None, *, used: bool = True, wanted: rbac.Rules | None = READING) -> Step:
    return shared_role_step(VIEW, wanted, observed, used=used)


@pytest.mark.parametrize(
    ("observed", "used", "expected"),
    [
        pytest.param(None, True, Create, id="not there"),
        pytest.param(None, False, Settled, id="not needed"),
        pytest.param(cluster_role(VIEW, "get"), True, Settled, id="as it should be"),
        pytest.param(cluster_role(VIEW, "get"), False, Delete, id="nobody uses it any more"),
        pytest.param(cluster_role(VIEW, "get", "delete"), True, Patch, id="the base lost a right"),
        pytest.param(cluster_role(VIEW, "get", label_preset=""), True, Refused, id="foreign"),
        pytest.param(cluster_role(VIEW, "get", label_preset="Admin"), True, Refused, id="marked as another preset"),
        pytest.param(cluster_role(VIEW, "get", label_preset="", remembered=VIEW), True, Patch, id="stripped while we watched"),
        pytest.param(cluster_role(VIEW, "get", label_preset=""), False, Settled, id="foreign and not needed"),
        pytest.param(cluster_role(VIEW, "get", finalizers=("x/y",)), True, Patch, id="a finalizer of somebody else"),
        pytest.param(cluster_role(VIEW, "get", aggregates=("x",)), True, Patch, id="aggregated into another role"),
        pytest.param(cluster_role(VIEW, "get", content=RoleContent(READING, urls=True)), True, Patch, id="more than resources"),
        pytest.param(cluster_role(VIEW, "get", content=RoleContent(READING, aggregated=True)), True, Delete, id="aggregated"),
        pytest.param(cluster_role(VIEW, "get", deleting=True), True, Wait, id="on its way out"),
        pytest.param(cluster_role(GRANT, "get", name=VIEW.child_name), True, Refused, id="owned by a grant"),
    ],
)
def test_the_shared_role(observed: Child | None, used: bool, expected: type) -> None:  # noqa: FBT001
    step = shared_step(observed, used=used)
    assert isinstance(step, expected), step


def test_an_own_role_is_not_widened_while_earlier_writes_are_on_their_way() -> None:
    """They may bind somebody who is to leave, in a namespace where nothing is seen yet."""
    wide, narrow = Access(OWN, rules("get", "list"), subjects("ann")), Access(OWN, rules("get"), subjects("ann"))
    held = cluster_role(GRANT, "get", "delete")
    for settled, widened in ((True, RoleContent(rules("get", "list"))), (False, RoleContent(rules("get")))):
        bindings = Bindings((), lambda _: True, settled=settled)
        step = own_role_step(GRANT, wide, [held], bindings)
        assert isinstance(step, Patch)
        assert step.content == widened
        assert isinstance(own_role_step(GRANT, wide, [], bindings), Create if settled else Wait)
        narrowed = own_role_step(GRANT, narrow, [held], bindings)
        assert isinstance(narrowed, Patch), "to narrow does not wait"


def test_the_old_role_of_a_namespace_is_narrowed_before_the_new_one_is_bound() -> None:
    old, binding = child(RoleContent(rules("get", "delete"))), bound(TARGETS["role"], "ann")
    access = Access(OWN, rules("get", "list"), subjects("ann"))
    step = grant_step(GRANT, "ns", access, [old, binding], lambda _: cluster_role(GRANT, "get", "list"))
    assert isinstance(step, Patch)
    assert step.content == RoleContent(rules("get"))
    assert step.instead == Delete(binding)


def test_a_part_of_what_is_wanted_is_bound_where_the_rest_does_not_come() -> None:
    """Rather than leave what gives too much in its place, or nothing."""
    wide = bound(TARGETS["Admin"], "ann")
    named = {each.name: each for each in (cluster_role(GRANT, "get"), cluster_role(PresetId("Admin"), *SHARED["Admin"]))}
    access = Access(OWN, rules("get", "list"), subjects("ann"))
    assert isinstance(grant_step(GRANT, "ns", access, [wide], named.get), Wait)
    step = grant_step(GRANT, "ns", access, [wide], named.get, stuck=True)
    assert isinstance(step, Create)
    assert step.instead == Delete(wide)
    new = bound(OWN, "ann")
    assert grant_step(GRANT, "ns", access, [wide, new], named.get, stuck=True) == Delete(wide)
    del named[GRANT.child_name]
    assert grant_step(GRANT, "ns", access, [wide], named.get, stuck=True) == Delete(wide)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param([child(RoleContent(rules("get")))], Refused, id="it is not widened"),
        pytest.param([child(RoleContent(rules("get", "list", "delete")))], Patch, id="but narrowed"),
        pytest.param([child(RoleContent(rules("get", "list")), label_uid="")], Patch, id="and marked"),
        pytest.param([child(RoleContent(rules("get", "list")))], Create, id="and bound where it says what it shall"),
        pytest.param([], Refused, id="nor made"),
        pytest.param([child(RoleContent(rules("get"))), bound(TARGETS["Admin"], "ann")], Delete, id="what gives more goes"),
    ],
)
def test_a_role_that_strangers_share(observed: list[Child], expected: type) -> None:
    stranger = child(TARGETS["role"].content(subjects("eve")), None, name="a-friend")
    access = Access(TARGETS["role"], rules("get", "list"), subjects("ann"))
    shared = cluster_role(PresetId("Admin"), *SHARED["Admin"])
    step = grant_step(GRANT, "ns", access, [*observed, stranger], lambda _: shared)
    assert isinstance(step, expected), step
    if isinstance(step, Patch):
        assert rbac.covers(access.rules, step.content.rules if isinstance(step.content, RoleContent) else ())


def test_what_an_earlier_grant_of_the_name_left_by_another_role_is_told_of() -> None:
    orphan = bound(TARGETS["role"], "eve", label_uid="uid-0", owners=())
    access = Access(OWN, READING, subjects("ann"))
    step = grant_step(GRANT, "ns", access, [orphan, bound(OWN, "ann")], lambda _: cluster_role(GRANT, "get"))
    assert isinstance(step, Refused)
    assert "--cascade=orphan" in step.message


@pytest.mark.parametrize("name", ["vmaccess:View", "vmaccess:other", "vmaccess:team:other", "view"])
def test_marks_on_a_cluster_role_of_another_name_mean_nothing(name: str) -> None:
    """Whoever may write them there must not make us remove what others live by."""
    assert GRANT.name not in cluster_role(GRANT, "get", name=name, aggregates=()).relates_to()
    assert cluster_role(GRANT, "get", label_uid="", owners=()).relates_to() == {GRANT.name}


def test_drift_in_the_marks_of_a_cluster_role_is_repaired_beside_strangers() -> None:
    stranger = replace(bound(OWN, "eve"), label_uid="", owners=())
    role = cluster_role(GRANT, "get", aggregates=("rbac.authorization.k8s.io/aggregate-to-view",))
    for verbs in (("get",), ("get", "list")):
        access = Access(OWN, rules(*verbs), subjects("ann"))
        step = own_role_step(GRANT, access, [role], Bindings([stranger], lambda _: True, settled=True))
        assert step == Patch(role, None, GRANT)


def test_without_a_base_role_a_shared_role_stays_as_it_is() -> None:
    assert shared_step(cluster_role(VIEW, "get", "delete"), wanted=None) == Settled()
    assert shared_step(None, wanted=None) == Settled()


def test_what_holds_a_cluster_role_does_not_keep_its_rights_alive() -> None:
    held = cluster_role(GRANT, "get", finalizers=("x/y",))
    step = revoke_own_role_step(GRANT, [held])
    assert isinstance(step, Patch)
    assert step.content == RoleContent(())
    assert step.instead == Patch(held, None, None)
    assert revoke_own_role_step(GRANT, [cluster_role(GRANT, "get", deleting=True)]) != Settled()
    assert revoke_own_role_step(GRANT, [cluster_role(GrantId("x", "y"), "get")]) == Settled()
    assert isinstance(revoke_own_role_step(GRANT, [cluster_role(OTHER, "get")]), Delete)


def test_a_held_cluster_role_loses_what_the_base_lost() -> None:
    wide = cluster_role(GRANT, "get", "delete")
    step = hold_own_role_step(GRANT, READING, [wide])
    assert isinstance(step, Patch)
    assert step.content == RoleContent(READING)
    assert step.instead == Delete(wide)
    assert hold_own_role_step(GRANT, None, [wide]) == Settled()


@pytest.mark.parametrize(
    ("observed", "roles", "expected"),
    [
        pytest.param([], [], Wait, id="no ClusterRole yet"),
        pytest.param([], [cluster_role(GRANT, "get", "list")], Wait, id="it still says something else"),
        pytest.param([], [cluster_role(GRANT, "get")], Create, id="it is there"),
        pytest.param([bound(OWN, "ann")], [cluster_role(GRANT, "get")], Settled, id="bound"),
        pytest.param([bound(OWN, "ann")], [cluster_role(OTHER, "get")], Delete, id="to an earlier grant's"),
        pytest.param([bound(OWN, "ann")], [cluster_role(GRANT, "get", label_uid="", owners=())], Delete, id="to a foreign one"),
        pytest.param([bound(OWN, "ann"), bound(TARGETS["role"], "ann")], [cluster_role(GRANT, "get")], Delete, id="two of them"),
        pytest.param([bound(TARGETS["role"], "ann")], [], Wait, id="the old one waits"),
        pytest.param([bound(OWN, "ann", "bob")], [], Delete, id="who leaves a binding that gives nothing"),
        pytest.param(
            [bound(OWN, "ann", content=TARGETS["View"].content(subjects("ann")))],
            [cluster_role(GRANT, "get"), cluster_role(VIEW, "get")],
            Delete,
            id="another roleRef under the name",
        ),
    ],
)
def test_the_next_step_towards_a_cluster_role(observed: list[Child], roles: list[Child], expected: type) -> None:
    named = {role.name: role for role in roles}
    step = grant_step(GRANT, "ns", Access(OWN, READING, subjects("ann")), observed, named.get)
    assert isinstance(step, expected), step


def test_every_target_has_bindings_of_its_own_name() -> None:
    every = [role_target(GRANT), cluster_target(GRANT), *(preset_target(GRANT, preset) for preset in PRESETS)]
    assert {target.binding: target.role for target in every} == {
        "vmaccess:team": "vmaccess:team",
        "vmaccess:team:cluster": "vmaccess:team",
        "vmaccess:team:View": "vmaccess:View",
        "vmaccess:team:Operate": "vmaccess:Operate",
        "vmaccess:team:Edit": "vmaccess:Edit",
        "vmaccess:team:Admin": "vmaccess:Admin",
    }
    assert [target_named(GRANT, target.binding) for target in every] == every


@pytest.mark.parametrize(
    "name", ["", "View", "cluster", "vmaccess:", "vmaccess:View", "vmaccess:team:", "vmaccess:team:view", "vmaccess:team2:View"]
)
def test_other_names_are_of_no_target(name: str) -> None:
    assert target_named(GRANT, name) is None


def test_only_a_bare_preset_of_the_default_base_is_shared() -> None:
    def target(**fields: object) -> str:
        return target_of(GRANT, Role.model_validate(fields)).binding

    assert target() == "vmaccess:team"
    assert target(kind="ClusterRole") == "vmaccess:team:View"
    assert target(kind="ClusterRole", preset="Edit", **{"from": "kubevirt.io:admin"}) == "vmaccess:team:Edit"
    entry = [{"resources": ["virtualmachines"], "verbs": ["get"]}]
    for field, value in (("from", "kubevirt.io:edit"), ("keep", entry), ("drop", entry), ("include", ["Migrate"])):
        assert target(kind="ClusterRole", **{field: value}) == "vmaccess:team:cluster", field
