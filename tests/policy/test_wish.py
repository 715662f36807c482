"""What is wanted for a kubeconfig, and where one may be."""

from __future__ import annotations

from typing import Any

import pytest

from vmaccess.policy.children import Child, GrantId, Kind, project
from vmaccess.policy.delivery import Wish
from vmaccess.policy.grant import Grant, intent, read_grant
from vmaccess.policy.kubeconfig import ClusterEntry
from vmaccess.policy.namespaces import Globs
from vmaccess.policy.rules import Rules, parse
from vmaccess.policy.steps import Refused, Wait
from vmaccess.policy.times import Phase
from vmaccess.policy.wish import Names, Wanted, wanted_of

BASE = parse([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]}])
ID = GrantId("g", "u")
ENTRY = {"name": "sa", "namespace": "ns", "kubeconfig": {"secretName": "kc"}}
BARE = {"name": "sa", "namespace": "ns"}


def grant(account: dict[str, Any], *, annotations: dict[str, str] | None = None, **spec: Any) -> Grant:
    """A grant with one ServiceAccount."""
    metadata = {"name": "g", "uid": "u", "resourceVersion": "1", "generation": 1, "annotations": annotations or {}}
    return read_grant({"metadata": metadata, "spec": {"serviceAccounts": [account], "namespaces": ["b", "a"], **spec}}, None)


def service_account() -> Child:
    """The grant's own."""
    metadata = {"name": "sa", "namespace": "ns", "uid": "sa-uid", "resourceVersion": "1"}
    marks = {"labels": ID.labels(), "ownerReferences": ID.owner_references()}
    child = project(Kind.SERVICE_ACCOUNT, {"metadata": metadata | marks}, None)
    assert child is not None
    return child


def cluster(server: str | None) -> ClusterEntry | str:
    """What the operator knows of the cluster: not its address."""
    return ClusterEntry("kubernetes", server, b"PEM") if server else "nobody has told the address"


def wanted(
    of: Grant, base: Rules | None = BASE, *, there: Names = (), asked: Names = (), protected: tuple[str, ...] = ()
) -> Wanted:
    """Decided while the grant gives access."""
    return wanted_of(of, intent(of, base, Phase.DURING), service_account(), cluster, Globs(protected), there=there, asked=asked)


WITH_SERVER = {**ENTRY, "kubeconfig": {"secretName": "kc", "server": "https://a"}}


def test_a_kubeconfig_that_is_asked_for_is_wanted_and_what_else_is_there_leaves() -> None:
    found = wanted(grant(WITH_SERVER), there=("old",))
    assert isinstance(found.goal, Wish)
    assert (found.goal.secret, found.goal.account_uid, found.goal.context_namespace) == ("kc", "sa-uid", "b")
    assert (found.names, found.leaving, found.rotation) == (("kc", "old"), ("old",), "")


def test_without_an_address_it_is_refused_and_nothing_leaves_before_another_is_there() -> None:
    found = wanted(grant(ENTRY), there=("old",))
    assert isinstance(found.goal, Refused)
    assert "ServiceAccount ns/sa: nobody has told the address" in found.goal.message
    assert (found.names, found.leaving) == (("kc", "old"), ())


@pytest.mark.parametrize(
    ("of", "protected"),
    [(grant(BARE), ()), (grant(WITH_SERVER, suspend=True), ()), (grant(WITH_SERVER), ("n*",))],
    ids=["not asked for", "suspended", "protected"],
)
def test_one_that_is_not_wanted_goes_wherever_it_may_be(of: Grant, protected: tuple[str, ...]) -> None:
    found = wanted(of, there=("old",), asked=("older",), protected=protected)
    assert found.goal is None
    assert {*found.names} == {*found.leaving} == {"old", "older"} | ({"kc"} if of.accounts["ns", "sa"].kubeconfig else set())


def test_on_hold_what_is_there_goes_on_and_nothing_leaves() -> None:
    kept = wanted(grant(WITH_SERVER), None, there=("kc", "old"))
    assert isinstance(kept.goal, Wish)
    assert (kept.names, kept.leaving) == (("kc", "old"), ())
    waits = wanted(grant(WITH_SERVER, annotations={"vmaccess.dev/rotate": "leaked"}), None, there=("old",))
    assert isinstance(waits.goal, Wait)
    assert (waits.names, waits.leaving) == (("old",), ())
    assert waits.rotation, "a leaked token ends also then"
    assert wanted(grant(WITH_SERVER), None) == Wanted(None)


def test_a_rotation_is_any_other_text() -> None:
    texts = ("", "a", "b" * 100_000)
    of = [wanted(grant(ENTRY, annotations={"vmaccess.dev/rotate": text})).rotation for text in texts]
    assert len({*of}) == 3
    assert of[0] == ""
    assert max(map(len, of)) == 16
