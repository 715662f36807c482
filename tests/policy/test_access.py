"""The order of writes in a namespace: at no moment does anybody hold more than before and after, nor less than in both."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmaccess.policy import rules as rbac
from vmaccess.policy.access import Access, grant_step, hold_step, release_step, withdraw_step
from vmaccess.policy.accounts import account_step, remove_account_step
from vmaccess.policy.children import (
    GROUP,
    KIND,
    MANAGED_BY,
    AccountContent,
    BindingContent,
    Child,
    Content,
    GrantId,
    Kind,
    Owner,
    RoleContent,
    Subject,
)
from vmaccess.policy.reasons import Reason
from vmaccess.policy.rules import Rule
from vmaccess.policy.steps import Create, Delete, Patch, Refused, Settled, Step, Wait, Write
from vmaccess.policy.target import role_target

GRANT = GrantId("team", "uid-1")
OTHER = GrantId("team", "uid-0")  # an earlier grant of the same name
VERBS = ("get", "list", "delete")
PEOPLE = ("ann", "bob", "cid")

_uids = (f"child-{number}" for number in itertools.count())


def rules(*verbs: str) -> rbac.Rules:
    """One rule over virtualmachines, none for no verbs."""
    return rbac.normalise([Rule(("kubevirt.io",), ("virtualmachines",), tuple(sorted(verbs)))]) if verbs else ()


def subjects(*names: str) -> tuple[Subject, ...]:
    """Users of these names."""
    return tuple(Subject("User", name, api_group="rbac.authorization.k8s.io") for name in sorted(names))


def child(content: Content, grant: GrantId | None = GRANT, *, name: str = GRANT.child_name, **changes: object) -> Child:
    """An object in the namespace `ns`, marked as the grant's own, or foreign where `grant` is None."""
    kinds = {RoleContent: Kind.ROLE, BindingContent: Kind.ROLE_BINDING, AccountContent: Kind.SERVICE_ACCOUNT}
    made = Child(
        kind=kinds[type(content)],
        namespace="ns",
        name=name,
        uid=next(_uids),
        version=1,
        created="2026-01-01T00:00:00Z",
        deleting=False,
        finalizers=(),
        label_managed_by=MANAGED_BY if grant else "",
        label_grant=grant.name if grant else "",
        label_uid=grant.uid if grant else "",
        owners=(Owner(GROUP, KIND, grant.name, grant.uid, controller=True, blocks=True),) if grant else (),
        content=content,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def binding(*names: str, grant: GrantId | None = GRANT, **changes: object) -> Child:
    """The grant's RoleBinding."""
    return child(BindingContent("Role", GRANT.child_name, subjects(*names)), grant, **changes)  # type: ignore[arg-type]


def role(*verbs: str, grant: GrantId | None = GRANT, **changes: object) -> Child:
    """The grant's Role."""
    return child(RoleContent(rules(*verbs)), grant, **changes)  # type: ignore[arg-type]


class Namespace:
    """What an API server would hold after the writes; refuses what `refuses` names, as an escalation check would."""

    def __init__(self, *children: Child, refuses: frozenset[str] = frozenset()) -> None:
        self.children = list(children)
        self.refuses = refuses

    def write(self, step: Write) -> bool:
        """Carry out a write; False where it is refused."""
        match step:
            case Create(kind=kind, name=name, content=content):
                if self._escalates(content) or any((held.kind, held.name) == (kind, name) for held in self.children):
                    return False
                self.children.append(child(content, name=name))
            case Patch(target, content, marks):
                if content is not None and self._escalates(content):
                    return False
                changed = replace(target, finalizers=(), content=target.content if content is None else content)
                if isinstance(marks, GrantId):
                    changed = replace(
                        changed,
                        label_managed_by=MANAGED_BY,
                        label_grant=marks.name,
                        label_uid=marks.uid,
                        owners=(Owner(GROUP, KIND, marks.name, marks.uid, controller=True, blocks=True),),
                    )
                self.children.remove(target)
                if not (target.deleting and not changed.finalizers):
                    self.children.append(changed)
            case Delete(target):
                self.children.remove(target)
                if target.finalizers:
                    self.children.append(replace(target, deleting=True))
        return True

    def _escalates(self, content: Content) -> bool:
        if isinstance(content, RoleContent):
            return any(rbac.allows(content.rules, "kubevirt.io", "virtualmachines", verb) for verb in self.refuses)
        bound = next((held for held in self.children if held.kind is Kind.ROLE), None)
        return isinstance(content, BindingContent) and bound is not None and self._escalates(bound.content)

    def rights(self, name: str) -> frozenset[str]:
        """What a user may do here."""
        held: set[str] = set()
        for bound in self.children:
            if not isinstance(bound.content, BindingContent) or name not in {subject.name for subject in bound.content.subjects}:
                continue
            for target in self.children:
                if isinstance(target.content, RoleContent) and target.name == bound.content.role_name:
                    held |= {verb for verb in VERBS if rbac.allows(target.content.rules, "kubevirt.io", "virtualmachines", verb)}
        return frozenset(held)


def no_cluster_role(_: str) -> None:
    """A cluster without any."""


def step_to(namespace: Namespace, access: Access) -> Step:
    """The next step as the controller would ask for it."""
    return grant_step(GRANT, "ns", access, namespace.children, no_cluster_role)


verbs = st.sets(st.sampled_from(VERBS), min_size=1)
people = st.sets(st.sampled_from(PEOPLE))


@given(old_verbs=verbs, new_verbs=verbs, old_people=people, new_people=people.filter(bool))
def test_every_moment_between_two_writes_is_safe(
    old_verbs: set[str], new_verbs: set[str], old_people: set[str], new_people: set[str]
) -> None:
    namespace = Namespace(role(*old_verbs), binding(*old_people))
    access = Access(role_target(GRANT), rules(*new_verbs), subjects(*new_people))
    before = {name: namespace.rights(name) for name in PEOPLE}
    after = {name: frozenset(new_verbs) if name in new_people else frozenset() for name in PEOPLE}
    for _ in range(6):
        step = step_to(namespace, access)
        if isinstance(step, Settled):
            break
        assert isinstance(step, Create | Patch | Delete)
        assert namespace.write(step)
        for name in PEOPLE:
            now = namespace.rights(name)
            assert now in (before[name], after[name]) or before[name] & after[name] <= now <= before[name] | after[name]
            if name not in new_people:
                assert now <= before[name], "who leaves never gains"
            if name not in old_people:
                assert now <= after[name], "who joins never holds the old rights"
    assert {name: namespace.rights(name) for name in PEOPLE} == after


@given(old_verbs=verbs, new_verbs=verbs, old_people=people, new_people=people.filter(bool), refuses=verbs)
def test_what_is_to_go_goes_even_where_the_api_server_refuses_the_change(
    old_verbs: set[str], new_verbs: set[str], old_people: set[str], new_people: set[str], refuses: set[str]
) -> None:
    """With rights that the operator does not hold itself, it ends with nobody holding more than asked."""
    namespace = Namespace(role(*old_verbs), binding(*old_people), refuses=frozenset(refuses))
    access = Access(role_target(GRANT), rules(*new_verbs), subjects(*new_people))
    for _ in range(10):
        step = step_to(namespace, access)
        if not isinstance(step, Create | Patch | Delete):
            break
        if not namespace.write(step):
            instead: Patch | Delete | None = None if isinstance(step, Delete) else step.instead
            while instead is not None and not namespace.write(instead):
                instead = instead.instead if isinstance(instead, Patch) else None
    for name in PEOPLE:
        assert namespace.rights(name) <= (frozenset(new_verbs) if name in new_people else frozenset())


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param([], Create, id="nothing there: the Role first"),
        pytest.param([role("get")], Create, id="then the binding"),
        pytest.param([role("get"), binding("ann")], Settled, id="all there"),
        pytest.param([role("get", "list"), binding("ann")], Patch, id="wider rules"),
        pytest.param([role("get", label_managed_by=""), binding("ann")], Patch, id="a stripped label"),
        pytest.param([role("get", owners=()), binding("ann")], Patch, id="a stripped owner"),
        pytest.param([role("get"), binding("ann", finalizers=("x/y",))], Patch, id="a finalizer of somebody else"),
        pytest.param([role("get"), binding("ann", deleting=True)], Wait, id="on its way out"),
        pytest.param([role("get"), binding("ann"), binding("ann", name="copy")], Delete, id="a copy under another name"),
        pytest.param([role("get", grant=OTHER)], Delete, id="an earlier grant's Role"),
        pytest.param([role("get", grant=None)], Refused, id="a foreign Role"),
        pytest.param([role("get", grant=None), binding("ann")], Delete, id="our binding to a foreign Role"),
        pytest.param([role("get"), binding("eve", grant=None)], Delete, id="our Role under a foreign binding"),
        pytest.param([binding("eve", grant=None)], Refused, id="a foreign binding"),
        pytest.param(
            [role("get"), child(BindingContent("ClusterRole", "cluster-admin", subjects("ann")))], Delete, id="another roleRef"
        ),
    ],
)
def test_the_next_step(observed: list[Child], expected: type) -> None:
    step = grant_step(GRANT, "ns", Access(role_target(GRANT), rules("get"), subjects("ann")), observed, no_cluster_role)
    assert isinstance(step, expected), step


def test_bindings_go_before_roles_and_foreign_objects_stay() -> None:
    foreign, mine, bound = role("get", grant=None, name="vmaccess:x"), role("get"), binding("ann")
    assert withdraw_step(GRANT, [mine, foreign, bound]) == Delete(bound)
    assert withdraw_step(GRANT, [mine, foreign]) == Delete(mine)
    assert withdraw_step(GRANT, [foreign]) == Settled()


def test_a_binding_that_something_holds_is_emptied_first() -> None:
    held = binding("ann", finalizers=("x/y",))
    step = withdraw_step(GRANT, [held])
    assert isinstance(step, Patch)
    assert step.content == BindingContent("Role", GRANT.child_name, ())
    assert step.instead == Patch(held, None, None), "clearing finalizers alone is never refused as an escalation"


def test_only_an_owner_reference_condemns_the_children_of_a_grant_that_is_gone() -> None:
    owned, labelled = binding("ann"), role("get", owners=())
    assert release_step({GRANT.uid}, (), [labelled, owned]) == Delete(owned, unchanged=True)
    assert release_step({GRANT.uid}, (), [labelled]) == Settled()
    assert release_step({"another"}, (), [owned]) == Settled()


def test_of_a_grant_that_was_seen_to_be_revoked_any_mark_condemns() -> None:
    labelled, forged = role("get", owners=()), child(AccountContent(automount=False), name="sa", owners=())
    assert release_step({GRANT.uid}, {GRANT.uid}, [labelled]) == Delete(labelled)
    assert release_step({GRANT.uid}, {GRANT.uid}, [forged]) == Settled(), "a ServiceAccount needs more than a label"
    assert release_step((), {GRANT.uid}, [labelled]) == Settled(), "not before the name was read"


ACCOUNT = AccountContent(automount=False)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(None, Create, id="not there"),
        pytest.param(child(ACCOUNT, name="sa"), Settled, id="ours"),
        pytest.param(child(AccountContent(automount=None), name="sa"), Patch, id="automount given back to the default"),
        pytest.param(child(ACCOUNT, None, name="sa"), Refused, id="foreign"),
        pytest.param(child(ACCOUNT, name="sa", owners=()), Refused, id="only the label: it may be planted"),
        pytest.param(child(ACCOUNT, name="sa", label_uid=""), Refused, id="only the owner: it may be planted"),
        pytest.param(child(ACCOUNT, name="sa", owners=(), remembered=GRANT), Patch, id="stripped while we watched"),
        pytest.param(child(ACCOUNT, OTHER, name="sa"), Delete, id="an earlier grant's"),
        pytest.param(child(ACCOUNT, GrantId("friends", "uid-9"), name="sa"), Refused, id="another grant's"),
    ],
)
def test_the_next_step_for_a_service_account(observed: Child | None, expected: type) -> None:
    step = account_step(GRANT, "ns", "sa", automount=False, observed=observed, alive=lambda _: True)
    assert isinstance(step, expected), step
    if isinstance(step, Refused):
        assert step.reason is Reason.NAME_CONFLICT
        assert "list it under subjects" in step.message


def test_a_name_is_waited_for_while_its_grant_is_being_deleted() -> None:
    taken = child(ACCOUNT, GrantId("friends", "uid-9"), name="sa")
    step = account_step(GRANT, "ns", "sa", automount=False, observed=taken, alive=lambda _: False)
    assert isinstance(step, Refused)
    assert step.reason is Reason.NAME_HELD


def test_a_role_is_held_to_what_the_base_still_has() -> None:
    wide, bound = role("get", "delete"), binding("ann")
    step = hold_step(GRANT, rules("get", "list"), [wide, bound])
    assert isinstance(step, Patch)
    assert step.content == RoleContent(rules("get"))
    assert step.instead == Delete(bound)
    assert hold_step(GRANT, rules("get", "delete", "list"), [wide, bound]) == Settled()
    assert hold_step(GRANT, None, [wide, bound]) == Settled()


def test_only_our_own_service_account_is_removed() -> None:
    mine = child(ACCOUNT, name="sa")
    assert remove_account_step(GRANT, mine) == Delete(mine)
    assert remove_account_step(GRANT, child(ACCOUNT, None, name="sa")) == Settled()
    assert remove_account_step(GRANT, None) == Settled()
