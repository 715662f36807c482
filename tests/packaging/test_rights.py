"""The operator's rights: what they must never contain, what its token cannot do, and that each of them is needed and used."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import get_args

import pytest
import yaml

from localcluster import Cluster, kubevirt, product
from tests.packaging.manifests import Json, of_kind, one
from tests.stage import GRANTS, OPERATOR, RBAC, Stage, Who
from vmaccess.model.spec import AddOn, Preset
from vmaccess.policy.catalogue import ADD_ONS, ADDED
from vmaccess.policy.kubevirt import NESTED, SUBRESOURCES

Atom = tuple[str, str, str]  # group, resource[/subresource], verb

ALICE = Who("alice")
FINALIZERS = ("vmaccess.dev", "vmaccessgrants/finalizers", "update")
BIND = ("rbac.authorization.k8s.io", "clusterroles", "bind")
SHARED = {f"vmaccess:{preset}" for preset in get_args(Preset)}
OPERATORS, CATALOGUE = "vmaccess-operator", "vmaccess-catalogue"
ROLES = tuple(of_kind("ClusterRole", "Role"))


def atoms(*rules: Json) -> set[Atom]:
    """Every right that rules spell out."""
    return {atom for rule in rules for atom in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])}


RIGHTS = [
    pytest.param(rule, *atom, id=f"{role['metadata']['name']}: {atom[2]} {atom[1]}")
    for role in ROLES
    for rule in role["rules"]
    for atom in sorted(atoms(rule))
]


# --- what is written down ---


@pytest.mark.parametrize(("rule", "group", "resource", "verb"), RIGHTS)
def test_no_right_is_a_wildcard_or_a_way_to_more(rule: Json, group: str, resource: str, verb: str) -> None:
    assert "*" not in group + resource + verb
    assert verb not in ("escalate", "impersonate", "approve", "sign")
    assert resource.partition("/")[0] not in ("secrets", "pods", "nodes", "clusterrolebindings", "customresourcedefinitions")
    assert resource != "serviceaccounts/token"
    if verb == "bind":
        assert (group, resource, verb) == BIND
        assert set(rule["resourceNames"]) == SHARED, "the ClusterRoles of the presets, which nobody's grant can be named like"
        assert rule["verbs"] == ["bind"], "create cannot be restricted to names"
    else:
        assert "resourceNames" not in rule


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
    ("update", "rbac.authorization.k8s.io/clusterroles"),
    ("deletecollection", "rbac.authorization.k8s.io/clusterroles"),
    ("create", "rbac.authorization.k8s.io/clusterrolebindings"),
    ("patch", "rbac.authorization.k8s.io/clusterrolebindings"),
    ("delete", "rbac.authorization.k8s.io/clusterrolebindings"),
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


@pytest.mark.parametrize(
    "name",
    [
        *("cluster-admin", "admin", "edit", "view", "system:masters", "kubevirt.io:admin", "kubevirt.io:operator"),
        *(OPERATORS, CATALOGUE, "vmaccess:view", "vmaccess:Viewer", "vmaccess:", "vmaccess:team-a", "View", "*"),
    ],
)
def test_it_may_bind_by_name_only_the_shared_cluster_roles(cluster: Cluster, stolen: str, name: str) -> None:
    assert not _may_bind(cluster, stolen, name)


@pytest.mark.parametrize("name", sorted(SHARED))
def test_it_may_bind_the_shared_cluster_roles(cluster: Cluster, stolen: str, name: str) -> None:
    assert _may_bind(cluster, stolen, name)


def _may_bind(cluster: Cluster, token: str, name: str) -> bool:
    attributes = {"verb": "bind", "group": BIND[0], "resource": BIND[1], "name": name}
    review = {"spec": {"resourceAttributes": attributes}}
    _, answer = cluster.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review, token)
    allowed: bool = answer["status"]["allowed"]
    return allowed


THIEF = [{"kind": "ServiceAccount", "name": product.SERVICE_ACCOUNT, "namespace": product.NAMESPACE}]
READ_SECRETS = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
LIST_VMS = {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]}


def _binding(name: str, to: str, kind: str = "ClusterRole") -> Json:
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": to}
    return {"metadata": {"name": name}, "roleRef": ref, "subjects": THIEF}


@pytest.fixture(scope="module")
def strong(cluster: Cluster) -> Iterator[str]:
    """A ClusterRole that gives what the operator does not hold, and is named much like ours."""
    name = "vmaccess:strong"
    assert cluster.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": name}, "rules": [READ_SECRETS]})[0] == 201
    yield name
    cluster.request("DELETE", f"{RBAC}/clusterroles/{name}")


def test_real_requests_with_its_token_are_refused(cluster: Cluster, stolen: str, strong: str) -> None:
    wide = {"metadata": {"name": "stolen"}, "rules": [READ_SECRETS]}
    shared = {"metadata": {"name": "vmaccess:View"}, "rules": [READ_SECRETS]}
    urls = {"metadata": {"name": "stolen"}, "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]}
    anything = {"metadata": {"name": "stolen"}, "rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]}
    selectors = [{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-admin": "true"}}]
    gathering = {"metadata": {"name": "stolen"}, "rules": [], "aggregationRule": {"clusterRoleSelectors": selectors}}
    account = f"/api/v1/namespaces/{product.NAMESPACE}/serviceaccounts/{product.SERVICE_ACCOUNT}"
    bindings, roles = f"{RBAC}/namespaces/default/rolebindings", f"{RBAC}/clusterroles"
    requests: tuple[tuple[str, str, Json | None], ...] = (
        ("GET", "/api/v1/secrets", None),
        ("GET", "/api/v1/namespaces/kube-system/secrets", None),
        ("POST", "/api/v1/namespaces/default/pods", {"metadata": {"name": "stolen"}, "spec": {"containers": []}}),
        ("POST", f"{account}/token", {"spec": {}}),
        ("POST", f"{RBAC}/clusterrolebindings", _binding("stolen", "cluster-admin")),
        ("POST", f"{RBAC}/clusterrolebindings", _binding("stolen", "vmaccess:View")),
        ("PATCH", f"{RBAC}/clusterrolebindings/vmaccess-operator", {"subjects": THIEF}),
        *(("POST", bindings, _binding("stolen", name)) for name in ("cluster-admin", "admin", "edit", "view", strong)),
        ("POST", f"{RBAC}/namespaces/default/roles", wide),
        ("POST", roles, wide),
        ("POST", roles, shared),
        ("POST", roles, urls),
        ("POST", roles, anything),
        ("POST", roles, gathering),
        ("PATCH", f"{roles}/{strong}", {"rules": [READ_SECRETS, LIST_VMS]}),
        ("PATCH", f"{roles}/vmaccess-operator", {"rules": anything["rules"]}),
        ("PATCH", f"{roles}/kubevirt.io:admin", {"rules": anything["rules"]}),
        ("PATCH", f"{roles}/kubevirt.io:admin", {"aggregationRule": gathering["aggregationRule"]}),
    )
    for method, path, body in requests:
        status, answer = cluster.request(method, path, body, stolen)
        assert (status, answer["reason"]) == (403, "Forbidden"), (method, path, answer)
    for header in ({"Impersonate-User": "admin"}, {"Impersonate-User": OPERATOR, "Impersonate-Group": "system:masters"}):
        status, answer = cluster.request("GET", "/api/v1/namespaces", token=stolen, headers=header)
        assert status == 403, answer


def test_the_right_to_bind_gives_nothing_that_is_not_held(cluster: Cluster, stolen: str) -> None:
    """It may bind the shared ClusterRoles unseen, but cannot write into them what it does not hold."""
    path = f"{RBAC}/clusterroles"
    mine = {"metadata": {"name": "vmaccess:Edit"}, "rules": [LIST_VMS]}
    assert cluster.request("POST", f"{path}?dryRun=All", mine, stolen)[0] == 201, "these rules are held"
    status, answer = cluster.request("POST", path, {**mine, "rules": [LIST_VMS, READ_SECRETS]}, stolen)
    assert (status, answer["reason"]) == (403, "Forbidden")
    bindings = f"{RBAC}/namespaces/default/rolebindings?dryRun=All"
    assert cluster.request("POST", bindings, _binding("stolen", "vmaccess:Edit"), stolen)[0] in (201, 404)


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
    own = [role for role in ROLES if role["metadata"]["name"] != CATALOGUE]
    granted = {atom for role in own for atom in atoms(*role["rules"])}
    assert used - granted == set(), "used, and not granted"
    # No requests are made of them: an admission plugin asks for one, the check against escalation for the other. What
    # happens without them is tested below.
    assert granted - used == {FINALIZERS, BIND}, "granted, and never used"


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

    # a ClusterRole of its own, disturbed as well, and one that is shared
    name = stage.grant({**spec, "role": {"kind": "ClusterRole", "keep": [LIST_VMS]}})
    stage.until_ready(name)
    path = stage.path("clusterroles", "", f"vmaccess:{name}")
    stage.until(partial(_disturbed, stage, "clusterroles", path, stage.mark()), "a conflicting write to clusterroles", 60)
    stage.until_ready(name)
    stage.respec(name, {**spec, "role": {"kind": "ClusterRole"}})
    stage.until_ready(name)
    stage.delete(name)
    stage.until(lambda: not stage.child("clusterroles", "", "vmaccess:View"), "the shared ClusterRole to be gone")

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
            case "roles" | "clusterroles":
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


def _alice(**spec: object) -> Json:
    return {"subjects": [{"kind": "User", "name": "alice"}], **spec}


def _allowed(cluster: Cluster, group: str, resource: str, verb: str, *, name: str = "") -> bool:
    """Whether the operator has the right."""
    kind, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": kind, "subresource": subresource, "verb": verb, "name": name}
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
        for role in ({}, {"kind": "ClusterRole"}, {"kind": "ClusterRole", "keep": [LIST_VMS]}):
            _fails(own_stage, _alice(namespaces=[home], role=role), "Escalation", "Stalled")
        own_stage.assert_access(ALICE, {home: False})


def test_the_right_to_bind_stands_in_for_holding_the_rules(own_cluster: Cluster, own_stage: Stage) -> None:
    """Without kubevirt.io:admin a shared ClusterRole that is there already can still be bound; without `bind` it cannot."""
    home = own_stage.namespace()
    own_stage.until_ready(own_stage.grant({**_alice(namespaces=[home]), "role": {"kind": "ClusterRole"}}))
    bob, eve = ({"subjects": [{"kind": "User", "name": name}], "namespaces": [home]} for name in ("bob", "eve"))
    bindless = copy.deepcopy(one("ClusterRole", OPERATORS))
    bindless["rules"] = [rule for rule in bindless["rules"] if rule["verbs"] != ["bind"]]
    with _changed(own_cluster, f"{RBAC}/clusterrolebindings/vmaccess-operator-kubevirt", None):
        own_stage.until(lambda: not _allowed(own_cluster, "kubevirt.io", "virtualmachines", "get"), "the right to be gone")
        own_stage.until_ready(own_stage.grant({**bob, "role": {"kind": "ClusterRole"}}))
        own_stage.assert_access(Who("bob"), {home: True})
        _fails(own_stage, bob, "Escalation", "Stalled")
        own_cluster.request("PUT", f"{RBAC}/clusterroles/{OPERATORS}", bindless)
        own_stage.until(lambda: not _allowed(own_cluster, *BIND, name="vmaccess:View"), "the right to bind to be gone")
        _fails(own_stage, {**eve, "role": {"kind": "ClusterRole"}}, "Escalation", "Stalled")
        own_stage.assert_access(Who("eve"), {home: False})


# --- the catalogue: all that a grant may contain beyond kubevirt.io:admin, and nothing else ---


SHORT = {(SUBRESOURCES, short, verb) for short, verb in NESTED}
ADDITIONS = {atom for rule in ADDED for atom in itertools.product(rule.api_groups, rule.resources, rule.verbs)}
SPELLED = [
    {"resources": [resource], "verbs": [verb]} for (_, verb), nested in sorted(NESTED.items()) for resource in nested
]  # every nested subresource, so that each brings its short spelling
EVERYTHING: Json = {"keep": SPELLED, "include": [*ADD_ONS]}


@cache
def _base() -> Json:
    documents = yaml.safe_load_all(kubevirt.ROLES.read_text())
    found: Json = next(item for item in documents if item["metadata"]["name"] == "kubevirt.io:admin")
    return found


def test_every_right_of_the_catalogue_is_needed_by_a_role_that_can_be_asked_for() -> None:
    assert atoms(*one("ClusterRole", CATALOGUE)["rules"]) - ADDITIONS - SHORT == set()


def test_every_right_that_can_be_asked_for_is_held() -> None:
    held = atoms(*_base()["rules"], *one("ClusterRole", CATALOGUE)["rules"])
    assert (ADDITIONS | SHORT) - held == set()
    assert set(ADD_ONS) == set(get_args(AddOn))


def test_every_rule_of_the_catalogue_has_something_that_the_base_lacks() -> None:
    """Else its removal would prove nothing."""
    for rule in one("ClusterRole", CATALOGUE)["rules"]:
        assert atoms(rule) - atoms(*_base()["rules"]), rule


def test_all_of_it_can_be_granted(own_stage: Stage) -> None:
    """Every add-on by itself, all of them at once over View and over Admin, by a Role and by a ClusterRole."""
    asked = sorted(ADDITIONS | SHORT)

    def held(home: str) -> list[bool]:
        return [own_stage.can(ALICE, verb, f"{group}/{resource}", home) for group, resource, verb in asked]

    for kind, preset in itertools.product(("Role", "ClusterRole"), ("View", "Admin")):
        home = own_stage.namespace()
        assert held(home) == [False] * len(asked)
        role = {"kind": kind, "preset": preset, **EVERYTHING}
        own_stage.until_ready(own_stage.grant(_alice(namespaces=[home], role=role)))
        own_stage.until(lambda home=home: held(home) == [True] * len(asked), "every right of the catalogue", 5)
        assert not own_stage.can(ALICE, "create", "/persistentvolumeclaims", home)
        assert not own_stage.can(ALICE, "create", "cdi.kubevirt.io/datavolumes", home)
        assert not own_stage.can(ALICE, "get", "/secrets", home)

    for add_on, named in ADD_ONS.items():
        home = own_stage.namespace()
        own_stage.until_ready(own_stage.grant(_alice(namespaces=[home], role={"include": [add_on]})))
        kept = {atom for rule in named.keeps for atom in itertools.product(rule.api_groups, rule.resources, rule.verbs)}
        given = {atom for rule in named.adds for atom in itertools.product(rule.api_groups, rule.resources, rule.verbs)}
        for group, resource, verb in sorted(given | (kept & atoms(*_base()["rules"]))):
            # a screenshot needs VNC as well, and such a grant says so
            expected = resource != "virtualmachineinstances/vnc/screenshot"
            assert own_stage.can(ALICE, verb, f"{group}/{resource}", home) is expected, (add_on, resource, verb)


RULES = [
    pytest.param(number, id=", ".join(rule["resources"])) for number, rule in enumerate(one("ClusterRole", CATALOGUE)["rules"])
]


@pytest.mark.parametrize("number", RULES)
def test_each_rule_of_the_catalogue_is_needed(own_cluster: Cluster, own_stage: Stage, number: int) -> None:
    home = own_stage.namespace()
    less = copy.deepcopy(one("ClusterRole", CATALOGUE))
    gone = sorted(atoms(less["rules"].pop(number)) - atoms(*_base()["rules"]))[0]
    spec = _alice(namespaces=[home], role=EVERYTHING)
    with _changed(own_cluster, f"{RBAC}/clusterroles/{CATALOGUE}", less):
        own_stage.until(lambda: not _allowed(own_cluster, *gone), "the right to be gone")
        _fails(own_stage, spec, "Escalation", "Stalled")
        own_stage.until_ready(own_stage.grant(_alice(namespaces=[home])))
    own_stage.until(lambda: _allowed(own_cluster, *gone), "the right to be back")
    own_stage.until_ready(own_stage.grant(spec))


def test_without_the_right_to_finalizers_no_child_can_be_made(own_cluster: Cluster, own_stage: Stage) -> None:
    home = own_stage.namespace()
    less = copy.deepcopy(one("ClusterRole", "vmaccess-operator"))
    less["rules"] = [rule for rule in less["rules"] if rule["resources"] != ["vmaccessgrants/finalizers"]]
    with _changed(own_cluster, f"{RBAC}/clusterroles/vmaccess-operator", less):
        own_stage.until(lambda: not _allowed(own_cluster, *FINALIZERS), "the right to be gone")
        _fails(own_stage, _alice(namespaces=[home]), "APIError", "Reconciling")
        own_stage.assert_access(ALICE, {home: False})
