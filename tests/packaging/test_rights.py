"""The operator's rights: what they must never contain, what its token cannot do, and that each of them is needed and used."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from localcluster import Cluster, product
from tests.packaging.manifests import Json, of_kind, one
from tests.stage import GRANTS, OPERATOR, RBAC, Stage, Who

ALICE = Who("alice")
FINALIZERS = ("vmaccess.dev", "vmaccessgrants/finalizers", "update")
ROLES = tuple(of_kind("ClusterRole", "Role"))
ATOMS = [
    pytest.param(role["metadata"]["name"], group, resource, verb, id=f"{role['metadata']['name']}: {verb} {resource}")
    for role in ROLES
    for rule in role["rules"]
    for group, resource, verb in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
]


# --- what is written down ---


@pytest.mark.parametrize(("role", "group", "resource", "verb"), ATOMS)
def test_no_right_is_a_wildcard_or_a_way_to_more(role: str, group: str, resource: str, verb: str) -> None:  # noqa: ARG001
    assert "*" not in group + resource + verb
    assert verb not in ("escalate", "bind", "impersonate", "approve", "sign")
    assert resource.partition("/")[0] not in ("secrets", "pods", "nodes", "clusterrolebindings", "customresourcedefinitions")
    assert resource != "serviceaccounts/token"
    assert not (resource == "clusterroles" and verb not in ("list", "watch"))


def test_rules_name_nothing_but_resources() -> None:
    for role in ROLES:
        assert not any("nonResourceURLs" in rule for rule in role["rules"])
        assert "aggregationRule" not in role
        assert not any("aggregate-to" in label for label in role["metadata"]["labels"]), "it would widen Kubernetes' own roles"


def test_the_operator_is_bound_to_its_own_roles_and_to_the_role_that_grants_trim() -> None:
    bound = {binding["roleRef"]["name"] for binding in of_kind("ClusterRoleBinding", "RoleBinding")}
    assert bound == {"vmaccess-operator", "vmaccess-catalogue", "vmaccess-operator-events", "kubevirt.io:admin"}


# --- what a stolen token cannot do ---


@pytest.fixture(scope="module")
def stolen(cluster: Cluster) -> str:
    """A real token of the operator's ServiceAccount."""
    return cluster.service_account_token(product.NAMESPACE, product.SERVICE_ACCOUNT)


REFUSED = [
    ("get", "/secrets"),
    ("list", "/secrets"),
    ("create", "/secrets"),
    ("create", "/pods"),
    ("list", "/pods"),
    ("create", "/pods/exec"),
    ("create", "/serviceaccounts/token"),
    ("create", "/namespaces"),
    ("patch", "/namespaces"),
    ("delete", "/namespaces"),
    ("list", "/nodes"),
    ("create", "apps/deployments"),
    ("escalate", "rbac.authorization.k8s.io/roles"),
    ("escalate", "rbac.authorization.k8s.io/clusterroles"),
    ("bind", "rbac.authorization.k8s.io/roles"),
    ("bind", "rbac.authorization.k8s.io/clusterroles"),
    ("create", "rbac.authorization.k8s.io/clusterroles"),
    ("patch", "rbac.authorization.k8s.io/clusterroles"),
    ("create", "rbac.authorization.k8s.io/clusterrolebindings"),
    ("deletecollection", "rbac.authorization.k8s.io/rolebindings"),
    ("impersonate", "/users"),
    ("impersonate", "/groups"),
    ("impersonate", "/serviceaccounts"),
    ("create", "vmaccess.dev/vmaccessgrants"),
    ("patch", "vmaccess.dev/vmaccessgrants"),
    ("delete", "vmaccess.dev/vmaccessgrants"),
    ("patch", "apiextensions.k8s.io/customresourcedefinitions"),
    ("create", "admissionregistration.k8s.io/validatingadmissionpolicies"),
    ("approve", "certificates.k8s.io/signers"),
]


@pytest.mark.parametrize(("verb", "resource"), REFUSED, ids=[f"{verb} {resource}" for verb, resource in REFUSED])
def test_the_api_server_refuses_its_token(cluster: Cluster, stolen: str, verb: str, resource: str) -> None:
    group, _, rest = resource.partition("/")
    kind, _, subresource = rest.partition("/")
    for namespace in ("", "default", "vmaccess-system", "kube-system"):
        attributes = {"verb": verb, "group": group, "resource": kind, "subresource": subresource, "namespace": namespace}
        review = {"spec": {"resourceAttributes": attributes}}
        status, answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, stolen)
        assert (status, answer["status"]["allowed"]) == (201, False), namespace


def test_real_requests_with_its_token_are_refused(cluster: Cluster, stolen: str) -> None:
    binding = {
        "metadata": {"name": "stolen"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": product.SERVICE_ACCOUNT, "namespace": product.NAMESPACE}],
    }
    wide = {"metadata": {"name": "stolen"}, "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]}
    account = f"/api/v1/namespaces/{product.NAMESPACE}/serviceaccounts/{product.SERVICE_ACCOUNT}"
    for method, path, body in (
        ("GET", "/api/v1/secrets", None),
        ("GET", "/api/v1/namespaces/kube-system/secrets", None),
        ("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "stolen"}, "spec": {"containers": []}}),
        ("POST", f"{account}/token", {"spec": {}}),
        ("POST", f"{RBAC}/clusterrolebindings", binding),
        ("POST", f"{RBAC}/namespaces/default/rolebindings", binding),
        ("POST", f"{RBAC}/namespaces/default/roles", wide),
    ):
        status, answer = cluster.request(method, path, body, stolen)
        assert (status, answer["reason"]) == (403, "Forbidden"), (method, path, answer)
    for header in ({"Impersonate-User": "admin"}, {"Impersonate-User": OPERATOR, "Impersonate-Group": "system:masters"}):
        status, answer = cluster.request("GET", "/api/v1/namespaces", token=stolen, headers=header)
        assert status == 403, answer


# --- what is needed: take it away, and something fails ---


@pytest.fixture(scope="module")
def own_cluster() -> Iterator[Cluster]:
    """A control plane of its own: here the operator's rights are changed."""
    with product.own_cluster() as running:
        yield running


@pytest.fixture(scope="module")
def used(own_cluster: Cluster) -> set[tuple[str, str, str]]:
    """(group, resource[/subresource], verb) of every request of the operator in a life with all that may happen in it."""
    since = own_cluster.audit_position()
    for play in (_first_life, _second_life):
        with product.Operator(own_cluster) as operator, Stage(own_cluster) as stage:
            play(stage)
            assert "Traceback" not in operator.output()
    time.sleep(1)  # a watch is written down when it ends
    events = own_cluster.audit_events(user=OPERATOR, since=since)
    refused = [event["requestURI"] for event in events if event["responseStatus"]["code"] in (401, 403)]
    assert not refused
    return {_asked(event) for event in events if "objectRef" in event}


def test_what_is_granted_is_what_is_used(used: set[tuple[str, str, str]]) -> None:
    own = [role for role in ROLES if role["metadata"]["name"] != "vmaccess-catalogue"]
    granted = {
        atom
        for role in own
        for rule in role["rules"]
        for atom in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
    }
    assert used - granted == set(), "used, and not granted"
    # No request is made of it; an admission plugin asks for it. It is among those whose removal is tested.
    assert granted - used == {FINALIZERS}, "granted, and never used"


def _first_life(stage: Stage) -> None:
    home, other, conflict = stage.namespace(), stage.namespace(), stage.namespace()
    accounts = [{"name": "runner", "namespace": home}, {"name": "second", "namespace": home}]
    spec: Json = {"serviceAccounts": accounts, "namespaces": [home, other]}
    name = stage.grant(spec)
    stage.until_ready(name)

    # drift, faster than the operator: it has to read again what it wanted to change
    for kind, child in (("roles", f"vmaccess:{name}"), ("rolebindings", f"vmaccess:{name}"), ("serviceaccounts", "runner")):
        disturbed = partial(_disturbed, stage, kind, stage.path(kind, home, child), stage.mark())
        stage.until(disturbed, f"a conflicting write to {kind}", 60)
    stage.request("DELETE", stage.path("roles", home, f"vmaccess:{name}"))
    stage.until(lambda: stage.child("roles", home, f"vmaccess:{name}"), "the Role to be made again")
    stage.until_ready(name)

    # a name that is taken, a namespace that is not there, a spec that says less, and a stop
    stage.request("POST", stage.path("roles", conflict), {"metadata": {"name": f"vmaccess:{name}"}, "rules": []})
    stage.respec(name, {**spec, "serviceAccounts": accounts[:1], "namespaces": [home, conflict, stage.unique("missing")]})
    stage.until_condition(name, "Stalled", reason="NameConflict")
    stage.respec(name, {**spec, "suspend": True})
    stage.until_condition(name, "Active", "False", reason="Suspended")
    stage.respec(name, spec)
    stage.until_ready(name)
    stage.delete(name)
    stage.until(lambda: not stage.children(name), "everything to be revoked")

    stage.until_ready(stage.grant({**spec, "serviceAccounts": accounts[1:]}, "kept"))


def _second_life(stage: Stage) -> None:
    """After a restart: other objects have come and gone."""
    name = stage.grant({"subjects": [{"kind": "User", "name": "alice"}], "namespaceSelector": {}})
    stage.until_ready(name)
    stage.delete(name, "Foreground")
    stage.until(lambda: stage.cluster.request("GET", f"{GRANTS}/{name}")[0] == 404, "the grant to be gone")


def _disturbed(stage: Stage, kind: str, path: str, since: int) -> bool:
    """Change an object many times in a row, each time to something else; whether the operator had to read it again."""
    for number in range(20):
        change: Json
        match kind:
            case "roles":
                names = [f"machine-{number}"]  # a rule that the operator may write itself: what follows is no escalation
                rule = {
                    "apiGroups": ["kubevirt.io"],
                    "resources": ["virtualmachines"],
                    "resourceNames": names,
                    "verbs": ["get"],
                }
                change = {"rules": [rule]}
            case "rolebindings":
                change = {"subjects": [{"kind": "User", "name": f"mallory-{number}", "apiGroup": "rbac.authorization.k8s.io"}]}
            case _:
                change = {"automountServiceAccountToken": True if number % 2 else None}
        stage.request("PATCH", path, change, expect=None)
    return any(read.startswith(f"get {kind} ") for read in stage.reads(since))


def _asked(event: Json) -> tuple[str, str, str]:
    ref = event["objectRef"]
    resource = ref["resource"] + (f"/{ref['subresource']}" if "subresource" in ref else "")
    return ref.get("apiGroup", ""), resource, event["verb"]


@contextmanager
def _changed(cluster: Cluster, path: str, to: Json | None) -> Iterator[None]:
    """The rights with one object changed, or gone; whole again afterwards."""
    status, answer = cluster.request("DELETE" if to is None else "PUT", path, to)
    assert status == 200, answer
    try:
        yield
    finally:
        cluster.apply(product.KUSTOMIZE)


def _keep(resource: str, verb: str) -> Json:
    """A role that consists of this one right."""
    return {"keep": [{"apiGroups": ["subresources.kubevirt.io"], "resources": [resource], "verbs": [verb]}]}


def _alice(**spec: object) -> Json:
    return {"subjects": [{"kind": "User", "name": "alice"}], **spec}


def _allowed(cluster: Cluster, group: str, resource: str, verb: str) -> bool:
    """Whether the operator has the right."""
    kind, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": kind, "subresource": subresource, "verb": verb}
    review = {"spec": {"user": OPERATOR, "resourceAttributes": attributes}}
    _, answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    allowed: bool = answer["status"]["allowed"]
    return allowed


def _fails(stage: Stage, spec: Json, reason: str, kind: str) -> None:
    """A grant of this spec gives nothing and says why."""
    name = stage.grant(spec)
    grant = stage.until_condition(name, kind, reason=reason)
    assert grant["status"]["failures"][0]["reason"] == reason
    assert grant["status"]["namespaces"]["granted"] == 0


NEEDED = [
    ("virtualmachineinstances/sev", "get", "virtualmachineinstances/sev/fetchcertchain"),
    ("virtualmachineinstances/sev", "update", "virtualmachineinstances/sev/setupsession"),
    ("virtualmachineinstances/evacuate", "update", "virtualmachineinstances/evacuate/cancel"),
    ("virtualmachines/evacuate", "update", "virtualmachines/evacuate/cancel"),
]


@pytest.fixture
def own_stage(own_cluster: Cluster) -> Iterator[Stage]:
    """A corner of the cluster whose rights may be changed; the operator runs."""
    with product.Operator(own_cluster), Stage(own_cluster) as mine:
        yield mine


def test_without_kubevirts_admin_role_it_can_hand_out_nothing(own_cluster: Cluster, own_stage: Stage) -> None:
    home = own_stage.namespace()
    path = f"{RBAC}/clusterrolebindings/vmaccess-operator-kubevirt"
    with _changed(own_cluster, path, None):
        own_stage.until(lambda: not _allowed(own_cluster, "kubevirt.io", "virtualmachines", "get"), "the right to be gone")
        _fails(own_stage, _alice(namespaces=[home]), "Escalation", "Stalled")
        own_stage.assert_access(ALICE, {home: False})


@pytest.mark.parametrize(("resource", "verb", "nested"), NEEDED, ids=[f"{verb} {short}" for short, verb, _ in NEEDED])
def test_each_right_of_the_catalogue_is_needed(
    own_cluster: Cluster, own_stage: Stage, resource: str, verb: str, nested: str
) -> None:
    home = own_stage.namespace()
    less = copy.deepcopy(one("ClusterRole", "vmaccess-catalogue"))
    less["rules"] = [
        {"apiGroups": [group], "resources": [kind], "verbs": [word]}
        for rule in less["rules"]
        for group, kind, word in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])
        if (kind, word) != (resource, verb)
    ]
    spec = _alice(namespaces=[home], role=_keep(nested, verb))
    with _changed(own_cluster, f"{RBAC}/clusterroles/vmaccess-catalogue", less):
        own_stage.until(lambda: not _allowed(own_cluster, "subresources.kubevirt.io", resource, verb), "the right to be gone")
        _fails(own_stage, spec, "Escalation", "Stalled")
    own_stage.until(lambda: _allowed(own_cluster, "subresources.kubevirt.io", resource, verb), "the right to be back")
    own_stage.until_ready(own_stage.grant(spec))
    for spelling in (resource, nested):
        assert own_stage.can(ALICE, verb, f"subresources.kubevirt.io/{spelling}", home)


def test_the_whole_catalogue_is_tested() -> None:
    (*rules,) = one("ClusterRole", "vmaccess-catalogue")["rules"]
    atoms = {pair for rule in rules for pair in itertools.product(rule["resources"], rule["verbs"])}
    assert atoms == {(resource, verb) for resource, verb, _ in NEEDED}


def test_without_the_right_to_finalizers_no_child_can_be_made(own_cluster: Cluster, own_stage: Stage) -> None:
    home = own_stage.namespace()
    less = copy.deepcopy(one("ClusterRole", "vmaccess-operator"))
    less["rules"] = [rule for rule in less["rules"] if rule["resources"] != ["vmaccessgrants/finalizers"]]
    with _changed(own_cluster, f"{RBAC}/clusterroles/vmaccess-operator", less):
        own_stage.until(lambda: not _allowed(own_cluster, *FINALIZERS), "the right to be gone")
        _fails(own_stage, _alice(namespaces=[home]), "APIError", "Reconciling")
        own_stage.assert_access(ALICE, {home: False})
