"""What is taken away does not wait for what cannot be given yet."""

from __future__ import annotations

import pytest

from tests.policy.test_access import GRANT, OTHER, binding, child, no_cluster_role, role, rules, subjects
from vmaccess.policy import rules as rbac
from vmaccess.policy.children import AccountContent, BindingContent, Child, RoleContent
from vmaccess.policy.decide import ClusterSide, bound_accounts, decide_namespace
from vmaccess.policy.grant import Grant, intent, read_grant
from vmaccess.policy.namespaces import Globs, Place
from vmaccess.policy.steps import Delete, Patch, Step, Wait, Write

BASE = rules("get", "list", "delete")


def grant(*names: str, verbs: tuple[str, ...] = ("get",)) -> Grant:
    """A grant for these users and a ServiceAccount that is not there yet."""
    spec = {
        "subjects": [{"kind": "User", "name": name} for name in names],
        "serviceAccounts": [{"name": "runner", "namespace": "ns"}],
        "namespaces": ["ns"],
        "role": {"keep": [{"resources": ["virtualmachines"], "verbs": list(verbs)}]},
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
        wanted, intent(wanted, BASE), None, ("ns", place), Globs(()), observed, ClusterSide(no_cluster_role)
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


def test_an_account_in_a_namespace_that_became_protected_is_not_bound() -> None:
    mine = child(AccountContent(automount=False), namespace="infra", name="runner")
    spec = {"serviceAccounts": [{"name": "runner", "namespace": "infra"}], "namespaces": ["ns"]}
    metadata = {"name": GRANT.name, "uid": GRANT.uid, "generation": 1, "resourceVersion": "1"}
    listed = read_grant({"metadata": metadata, "spec": spec}, None)
    assert bound_accounts(listed, Globs(()), lambda *_: mine)
    assert not bound_accounts(listed, Globs(["infra"]), lambda *_: mine)
