"""What is taken away does not wait for what cannot be given yet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.policy.test_access import GRANT, OTHER, binding, child, no_cluster_role, role, rules, subjects
from tests.policy.test_targets import bound, cluster_role
from vmaccess.policy import rules as rbac
from vmaccess.policy.access import Access
from vmaccess.policy.children import (
    AccountContent,
    BindingContent,
    Child,
    PresetId,
    RoleContent,
    service_account_subject,
)
from vmaccess.policy.cluster_role import Bindings
from vmaccess.policy.decide import GRANTED, ClusterSide, bound_accounts, decide_cluster_role, decide_namespace
from vmaccess.policy.grant import Give, Grant, intent, read_grant
from vmaccess.policy.namespaces import Globs, Place
from vmaccess.policy.steps import Delete, Patch, Step, Wait, Write
from vmaccess.policy.target import cluster_target, preset_target
from vmaccess.policy.times import Phase


def keep(*verbs: str) -> list[dict[str, list[str]]]:
    """An entry over virtual machines."""
    return [{"resources": ["virtualmachines"], "verbs": list(verbs)}]


BASE = rules("get", "list", "delete")


def grant(*names: str, **role: object) -> Grant:
    """A grant for these users and a ServiceAccount that is not there yet."""
    spec = {
        "subjects": [{"kind": "User", "name": name} for name in names],
        "serviceAccounts": [{"name": "runner", "namespace": "ns"}],
        "namespaces": ["ns"],
        "role": role or {"keep": keep("get")},
    }
    metadata = {"name": GRANT.name, "uid": GRANT.uid, "generation": 1, "resourceVersion": "1"}
    return read_grant({"metadata": metadata, "spec": spec}, None)


@pytest.mark.parametrize("place", [Place.SELECTED, Place.TERMINATING])
@pytest.mark.parametrize(
    ("wanted", "observed", "expected"),
    [
        pytest.param(grant("ann"), [role("get"), binding("ann", "bob")], BindingContent, id="bob leaves"),
        pytest.param(grant("cid"), [role("get"), binding("ann")], BindingContent, id="all leave"),
        pytest.param(grant("ann"), [role("get", "delete"), binding("ann")], RoleContent, id="narrower"),
        pytest.param(grant("ann"), [binding("ann", grant=OTHER)], Delete, id="an earlier grant's binding"),
        pytest.param(grant("ann", "bob"), [role("get"), binding("ann")], None, id="bob joins"),
        pytest.param(grant("ann"), [], None, id="nothing there"),
        pytest.param(grant("ann"), [role("get")], None, id="no binding yet"),
    ],
)
def test_while_service_accounts_are_awaited(place: Place, wanted: Grant, observed: list[Child], expected: type | None) -> None:
    step: Step = decide_namespace(
        wanted, intent(wanted, BASE, Phase.DURING), None, ("ns", place), Globs(()), observed, ClusterSide(no_cluster_role)
    ).step
    match step:
        case Patch(_, content):
            assert expected is type(content)
            if isinstance(content, BindingContent):
                assert set(content.subjects) <= {*subjects("ann")}
            if isinstance(content, RoleContent):
                assert rbac.covers(rules("get"), content.rules)
        case Delete():
            assert expected is Delete
        case _:
            assert expected is None
            assert not isinstance(step, Write)
            assert isinstance(step, Wait) is (place is Place.SELECTED)


ADMIN = PresetId("Admin")


@pytest.mark.parametrize(
    ("wanted", "observed"),
    [
        pytest.param({"keep": keep("get")}, [bound(preset_target(GRANT, "Admin"), "ann")], id="a shared role to a Role"),
        pytest.param(
            {"kind": "ClusterRole", "preset": "View"}, [bound(preset_target(GRANT, "Admin"), "ann")], id="another preset"
        ),
        pytest.param({"keep": keep("get")}, [bound(cluster_target(GRANT), "ann")], id="an own ClusterRole to a Role"),
        pytest.param({"keep": keep("get")}, [binding("ann", "bob"), role("get")], id="who is not to be bound"),
    ],
)
def test_in_a_namespace_on_its_way_out_what_should_be_replaced_goes(wanted: dict[str, object], observed: list[Child]) -> None:
    """Nothing can be made there any more, and it may be on its way for ever."""
    asked = grant("ann", **wanted)
    give = intent(asked, BASE, Phase.DURING)
    assert isinstance(give, Give)
    named = {each.name: each for each in (cluster_role(GRANT, "get"), cluster_role(ADMIN, "get", "list", "delete"))}
    named["vmaccess:View"] = cluster_role(PresetId("View"), "get", "list")
    access = Access(give.target, give.trimmed.rules, subjects("ann"))
    where = ("ns", Place.TERMINATING)
    decision = decide_namespace(asked, give, access, where, Globs(()), observed, ClusterSide(named.get, GRANTED))
    assert isinstance(decision.step, Delete | Patch), decision
    assert decision.outcome is not None
    assert decision.outcome.moving, "nobody is told that all is well"


def test_a_service_account_that_is_another_s_by_now_holds_up_what_would_give_more() -> None:
    """It is still bound where its removal has not happened yet."""
    asked = grant("ann", kind="ClusterRole", keep=keep("get", "list"))
    give = intent(asked, BASE, Phase.DURING)
    runner = service_account_subject("ns", "runner")
    there = replace(bound(cluster_target(GRANT)), content=cluster_target(GRANT).content((runner,)))
    bindings = Bindings([there], lambda _: True, settled=True)
    role = cluster_role(GRANT, "get")
    for account, expected in ((child(AccountContent(automount=False), None, name="runner"), Wait), (None, Patch)):
        found = decide_cluster_role(asked, give, Globs(()), [role], bindings, lambda *_, found=account: found)
        assert isinstance(found.step, expected), found


def test_an_account_in_a_namespace_that_became_protected_is_not_bound() -> None:
    mine = child(AccountContent(automount=False), namespace="infra", name="runner")
    spec = {"serviceAccounts": [{"name": "runner", "namespace": "infra"}], "namespaces": ["ns"]}
    metadata = {"name": GRANT.name, "uid": GRANT.uid, "generation": 1, "resourceVersion": "1"}
    listed = read_grant({"metadata": metadata, "spec": spec}, None)
    assert bound_accounts(listed, Globs(()), lambda *_: mine)
    assert not bound_accounts(listed, Globs(["infra"]), lambda *_: mine)
