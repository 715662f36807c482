"""`virtualMachines` end to end: the listed machines and no others, by SubjectAccessReviews and by requests with a real token."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from localcluster import ClusterError
from tests.access.helpers import (
    ALICE,
    BOB,
    CONSOLE,
    EVE,
    START_VMS,
    VMIS,
    VMS,
    Question,
    Watched,
    own,
    spec,
    until_event,
    users,
    writes_to_children,
)
from tests.access.test_spec_changes import START
from tests.stage import GRANTS, Json, Stage, Who
from vmaccess.model.spec import AddOn

Atom = tuple[str, str, str]  # group, resource[/subresource], verb

NAMED_KINDS = ("virtualmachines", "virtualmachineinstances")
NAMELESS = ("create", "deletecollection")
MACHINES = "/apis/kubevirt.io/v1/namespaces/{}/virtualmachines"
SUBRESOURCES = "/apis/subresources.kubevirt.io/v1/namespaces/{}"


def named(*names: str, **role: object) -> Json:
    """A role for these machines."""
    return {"virtualMachines": list(names), **role}


def atoms_of(stage: Stage, name: str, namespace: str) -> set[Atom]:
    """Every right of a grant's Role, by itself."""
    found = stage.child(*own("roles", namespace, name)) or {}
    assert not any("resourceNames" in rule for rule in found["rules"])
    return {atom for rule in found["rules"] for atom in itertools.product(rule["apiGroups"], rule["resources"], rule["verbs"])}


def allowed(stage: Stage, who: Who, atom: Atom, namespace: str, name: str = "") -> bool:
    """Whether the API server would let it pass."""
    group, resource, verb = atom
    return stage.can(who, verb, f"{group}/{resource}", namespace, name=name)


def told(stage: Stage, name: str) -> str:
    """What the condition NotRestrictableByName says, or nothing where it is absent."""
    condition = stage.condition(name, "NotRestrictableByName")
    return condition["message"] if condition is not None and condition["status"] == "True" else ""


def machine(stage: Stage, namespace: str, name: str) -> None:
    """Create a VirtualMachine."""
    template = {"template": {"spec": {"domain": {"devices": {}}}}, "runStrategy": "Halted"}
    body = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": name}, "spec": template}
    stage.request("POST", MACHINES.format(namespace), body)


@pytest.mark.parametrize(
    "role",
    [
        {},
        {"preset": "Operate"},
        {"preset": "Edit"},
        {"preset": "Admin", "include": list(get_args(AddOn))},
        {"keep": [START_VMS, {"resources": ["virtualmachineinstances/vnc"], "verbs": ["get"]}], "include": ["Attestation"]},
    ],
    ids=["View", "Operate", "Edit", "Admin and every add-on", "keep and an add-on"],
)
def test_the_role_is_cut_to_the_listed_machines_right_by_right(stage: Stage, role: Json) -> None:
    """Bob has the whole role, alice that of two machines: whatever bob may do, alice may do by their names or not at all."""
    namespace, other = stage.namespace(), stage.namespace()
    whole = stage.grant(spec("bob", namespaces=[namespace], role=role))
    narrow = stage.grant(spec("alice", namespaces=[namespace], role={**role, **named("web-1", "web-2")}))
    probe: Atom = (
        ("subresources.kubevirt.io", "virtualmachines/start", "update")
        if "keep" in role
        else ("kubevirt.io", "virtualmachines", "get")
    )
    for name in ("web-1", "web-2", ""):
        assert not allowed(stage, ALICE, probe, namespace, name), "before"
    for name in (whole, narrow):
        stage.until_ready(name)
    stage.until(
        lambda: allowed(stage, ALICE, probe, namespace, "web-1") and allowed(stage, BOB, probe, namespace), "the access", 2
    )
    rights = atoms_of(stage, whole, namespace)
    by_name = {atom for atom in rights if atom[1].partition("/")[0] in NAMED_KINDS and atom[2] not in NAMELESS}
    assert len(by_name) > 3
    for atom in sorted(rights):
        assert allowed(stage, BOB, atom, namespace)
        for name in ("web-1", "web-2"):
            assert allowed(stage, ALICE, atom, namespace, name) == (atom in by_name), (atom, name)
        for name in ("web-3", ""):
            assert not allowed(stage, ALICE, atom, namespace, name), (atom, name)
    for name in ("web", "web-1x", "Web-1", "*"):
        assert not allowed(stage, ALICE, probe, namespace, name)
    assert not allowed(stage, ALICE, probe, other, "web-1"), "nor in another namespace"


def test_the_ways_to_reach_a_machine_one_by_one(stage: Stage) -> None:
    """The same in words that a person would use."""
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role=named("web-1", preset="Edit")))
    stage.until_ready(name)
    stage.until(lambda: stage.can(ALICE, "get", VMS, namespace, name="web-1"), "the access", 2)
    for verb, resource in (
        ("get", VMS),
        ("list", VMS),
        ("watch", VMS),
        ("update", VMS),
        ("patch", VMS),
        ("delete", VMS),
        ("get", VMIS),
        ("list", VMIS),
        ("delete", VMIS),
        ("update", START),
        ("get", CONSOLE),
        ("get", "subresources.kubevirt.io/virtualmachineinstances/vnc"),
        ("get", "subresources.kubevirt.io/virtualmachineinstances/portforward"),
        ("update", "subresources.kubevirt.io/virtualmachines/addvolume"),
    ):
        assert stage.can(ALICE, verb, resource, namespace, name="web-1"), (verb, resource)
        assert not stage.can(ALICE, verb, resource, namespace, name="web-2"), (verb, resource)
        assert not stage.can(ALICE, verb, resource, namespace), (verb, resource)
    for verb, resource in (
        ("create", VMS),
        ("create", VMIS),
        ("deletecollection", VMS),
        ("update", "subresources.kubevirt.io/expand-vm-spec"),
        ("get", "snapshot.kubevirt.io/virtualmachinesnapshots"),
        ("get", "kubevirt.io/virtualmachineinstancereplicasets"),
        ("get", "kubevirt.io/virtualmachineinstancemigrations"),
    ):
        for machine_ in ("web-1", ""):
            assert not stage.can(ALICE, verb, resource, namespace, name=machine_), (verb, resource)


def test_requests_with_a_real_token(stage: Stage) -> None:
    namespace, other = stage.namespace(), stage.namespace()
    for where, name in ((namespace, "web-1"), (namespace, "web-2"), (other, "web-1")):
        machine(stage, where, name)
    account = [{"name": "runner", "namespace": namespace}]
    wanted = spec(namespaces=[namespace], serviceAccounts=account, role=named("web-1", "web-9", preset="Edit"))
    grant = stage.grant(wanted)
    stage.until_ready(grant)
    token = stage.cluster.service_account_token(namespace, "runner")
    here, there, below = MACHINES.format(namespace), MACHINES.format(other), SUBRESOURCES.format(namespace)

    def answer(method: str, path: str, body: Json | None = None) -> int:
        return stage.cluster.request(method, path, body, token)[0]

    stage.until(lambda: answer("GET", f"{here}/web-1") == 200, "the access", 2)
    body = {"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "web-9"}, "spec": {"template": {}}}
    labelled = {"metadata": {"labels": {"example.com/seen": "yes"}}}
    no_server = 404  # authorized, and nothing serves subresources here
    for method, path, sent, expected in (
        ("GET", f"{here}/web-1", None, 200),
        ("GET", f"{here}/web-2", None, 403),
        ("GET", f"{there}/web-1", None, 403),
        ("GET", here, None, 403),
        ("GET", f"{here}?fieldSelector=metadata.name%3Dweb-1", None, 200),
        ("GET", f"{here}?fieldSelector=metadata.name%3Dweb-2", None, 403),
        ("GET", "/apis/kubevirt.io/v1/virtualmachines?fieldSelector=metadata.name%3Dweb-1", None, 403),
        ("GET", f"{here}?labelSelector=example.com%2Fseen%3Dyes", None, 403),
        ("PATCH", f"{here}/web-1", labelled, 200),
        ("PATCH", f"{here}/web-2", labelled, 403),
        ("POST", here, body, 403),
        ("DELETE", here, None, 403),
        ("DELETE", f"{here}?fieldSelector=metadata.name%3Dweb-1", None, 403),
        ("GET", f"{here}/web-9", None, 404),
        ("PUT", f"{below}/virtualmachines/web-1/start", {}, no_server),
        ("PUT", f"{below}/virtualmachines/web-2/start", {}, 403),
        ("GET", f"{below}/virtualmachineinstances/web-1/console", None, no_server),
        ("GET", f"{below}/virtualmachineinstances/web-2/console", None, 403),
        ("PUT", f"{below}/expand-vm-spec", {}, 403),
        ("DELETE", f"{here}/web-2", None, 403),
        ("DELETE", f"{here}/web-1", None, 200),
    ):
        assert answer(method, path, sent) == expected, (method, path)

    assert answer("GET", f"{here}?watch=1&timeoutSeconds=1") == 403
    machine(stage, namespace, "web-9")
    assert answer("GET", f"{here}/web-9") == 200, "a name may be listed before there is such a machine"
    stage.respec(grant, {**wanted, "role": named("web-2", preset="Edit")})
    stage.until_ready(grant)
    stage.until(lambda: (answer("GET", f"{here}/web-9"), answer("GET", f"{here}/web-2")) == (403, 200), "the other name", 2)


def test_what_rbac_cannot_restrict_is_named_in_a_condition(stage: Stage) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace], role=named("web-1", preset="Edit")))
    stage.until_ready(name)
    message = told(stage, name)
    for left_out in (
        "create on virtualmachines",
        "expand-vm-spec",
        "virtualmachinesnapshots",
        "virtualmachineinstancereplicasets",
    ):
        assert left_out in message, message
    assert "deletecollection" not in message, "Edit has none"
    until_event(stage, name, "NotRestrictableByName")

    stage.respec(name, spec(namespaces=[namespace], role={"preset": "Edit"}))
    stage.until_ready(name)
    assert told(stage, name) == ""
    stage.until(lambda: stage.can(ALICE, "create", VMS, namespace), "the whole role", 2)

    only = [{"resources": ["virtualmachines"], "verbs": ["get", "delete"]}]
    stage.respec(name, spec(namespaces=[namespace], role=named("web-1", keep=only)))
    stage.until_ready(name)
    assert told(stage, name) == "", "nothing had to be left out"
    stage.until(lambda: not stage.can(ALICE, "create", VMS, namespace), "it to be narrow again", 2)
    assert [stage.can(ALICE, "delete", VMS, namespace, name=machine_) for machine_ in ("web-1", "web-2")] == [True, False]


def test_secrets_are_reached_through_a_named_machine_too(stage: Stage) -> None:
    namespace = stage.namespace()
    edit, operate = (stage.grant(spec(namespaces=[namespace], role=named("web-1", preset=each))) for each in ("Edit", "Operate"))
    for name in (edit, operate):
        stage.until_ready(name)
    assert stage.condition(edit, "SecretsReachable") is not None
    assert stage.condition(operate, "SecretsReachable") is None
    for machine_, expected in (("web-1", True), ("web-2", False)):
        assert stage.can(ALICE, "patch", VMS, namespace, name=machine_) is expected


def of_machine(who: Who, machine_: str, namespace: str) -> Question:
    """A question about one right on one machine, as Watched asks it."""
    return who, "get", f"{VMS}#{machine_}", namespace


class Machines(Stage):
    """A view of another stage whose questions may name a machine: `resource#name`."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.cluster)

    def can(self, who: Who, verb: str, resource: str, namespace: str, *, name: str = "") -> bool:
        plain, _, machine_ = resource.partition("#")
        return super().can(who, verb, plain, namespace, name=name or machine_)


def test_another_list_narrows_and_widens_in_place(stage: Stage) -> None:
    """Alice stays, bob leaves, eve joins; one machine stays, one leaves, one joins."""
    namespaces = [stage.namespace() for _ in range(4)]
    name = stage.grant(spec("alice", "bob", namespaces=namespaces, role=named("stays", "leaves")))
    stage.until_ready(name)

    def table() -> dict[tuple[Who, str], list[bool]]:
        machines = ("stays", "leaves", "joins", "")
        asked = itertools.product((ALICE, BOB, EVE), namespaces)
        return {(who, where): [stage.can(who, "get", VMS, where, name=each) for each in machines] for who, where in asked}

    def until_table(alice: list[bool], bob: list[bool], eve: list[bool]) -> None:
        rows = {ALICE: alice, BOB: bob, EVE: eve}
        expected = {(who, where): rows[who] for who, where in itertools.product(rows, namespaces)}
        try:
            stage.until(lambda: table() == expected, "the truth table", 2)
        except ClusterError:
            assert table() == expected

    nothing = [False] * 4
    until_table([True, True, False, False], [True, True, False, False], nothing)
    always = [of_machine(ALICE, "stays", namespace) for namespace in namespaces]
    never = [of_machine(who, gains, namespace) for who, gains in ((BOB, "joins"), (EVE, "leaves")) for namespace in namespaces]
    since = stage.mark()
    with Watched(Machines(stage), always=always, never=[*never, *((ALICE, "list", VMS, namespace) for namespace in namespaces)]):
        stage.respec(name, spec("alice", "eve", namespaces=namespaces, role=named("joins", "stays")))
        stage.until_ready(name)
    until_table([True, False, True, False], nothing, [True, False, True, False])
    assert not [write for write in writes_to_children(stage, since) if not write.startswith("patch ")], "made anew nowhere"

    since = stage.mark()
    stage.respec(name, spec("alice", "eve", namespaces=namespaces, role=named("stays")))
    stage.until_ready(name)
    until_table([True, False, False, False], nothing, [True, False, False, False])
    assert sorted(writes_to_children(stage, since)) == sorted(
        f"patch roles {namespace}/vmaccess:{name} 200" for namespace in namespaces
    )
    since = stage.mark()
    stage.respec(name, spec("alice", "eve", namespaces=namespaces, role=named("stays")) | {"suspend": False})
    stage.until_ready(name)
    assert writes_to_children(stage, since) == []


@pytest.mark.parametrize("whole", [{}, {"kind": "ClusterRole"}, {"kind": "ClusterRole", "drop": [{"verbs": ["watch"]}]}])
def test_from_named_machines_to_the_whole_role_and_back(stage: Stage, whole: Json) -> None:
    namespaces = [stage.namespace() for _ in range(3)]
    name = stage.grant(spec("alice", "bob", namespaces=namespaces, role=named("web-1")))
    stage.until_ready(name)
    for role, everything in ((whole, True), (named("web-1"), False)):
        always = [of_machine(ALICE, "web-1", namespace) for namespace in namespaces]
        never = [(ALICE, "delete", VMS, namespace) for namespace in namespaces]
        with Watched(Machines(stage), always=always, never=never):
            stage.respec(name, spec("alice", namespaces=namespaces, role=role))
            stage.until_ready(name)
            stage.until(
                lambda expected=everything: all(stage.can(ALICE, "get", VMS, where) is expected for where in namespaces),
                "the role",
                2,
            )
        for namespace in namespaces:
            assert stage.can(ALICE, "get", VMS, namespace, name="web-2") is everything
            assert not stage.can(BOB, "get", VMS, namespace, name="web-1")
    kinds = ["rolebindings", "roles"]
    expected = [f"{kind} {namespace}/vmaccess:{name}" for kind, namespace in itertools.product(kinds, namespaces)]
    stage.until(lambda: stage.children(name) == sorted(expected), "nothing to be left behind")


def refused(stage: Stage, method: str, path: str, body: Json) -> str:
    """The message of admission."""
    answer = stage.request(method, path, body, expect=422)
    fields = [cause["field"] for cause in answer["details"]["causes"]]
    assert "spec.role.virtualMachines" in fields, answer
    message: str = answer["message"]
    return message


def test_a_cluster_role_for_named_machines_is_refused_at_admission(stage: Stage) -> None:
    namespace = stage.namespace()
    both = spec(namespaces=[namespace], role=named("web-1", kind="ClusterRole"))
    body = {
        "apiVersion": "vmaccess.dev/v1alpha1",
        "kind": "VMAccessGrant",
        "metadata": {"name": stage.unique("both")},
        "spec": both,
    }
    message = refused(stage, "POST", GRANTS, body)
    assert "only with kind Role" in message
    assert "remove kind, or virtualMachines" in message

    narrow = stage.grant(spec("alice", namespaces=[namespace], role=named("web-1")))
    wide = stage.grant(spec("bob", namespaces=[namespace], role={"kind": "ClusterRole"}))
    for name in (narrow, wide):
        stage.until_ready(name)
    refused(stage, "PATCH", f"{GRANTS}/{narrow}", {"spec": {"role": {"kind": "ClusterRole"}}})
    refused(stage, "PATCH", f"{GRANTS}/{wide}", {"spec": {"role": {"virtualMachines": ["web-1"]}}})
    stage.until(lambda: stage.can(BOB, "get", VMS, namespace, name="web-2"), "the access", 2)
    assert [stage.can(ALICE, "get", VMS, namespace, name=each) for each in ("web-1", "web-2")] == [True, False]
    stage.request("PATCH", f"{GRANTS}/{narrow}", {"spec": {"role": {"kind": "Role"}}})
    stage.until_ready(narrow)


def test_a_role_of_which_nothing_can_be_restricted_is_an_invalid_spec(stage: Stage) -> None:
    namespace = stage.namespace()
    snapshots = [{"resources": ["virtualmachinesnapshots"], "verbs": ["get"]}]
    name = stage.grant({"subjects": users("alice"), "namespaces": [namespace], "role": named("web-1", keep=snapshots)})
    grant = stage.until_condition(name, "Stalled", reason="InvalidSpec")
    message = next(one["message"] for one in grant["status"]["conditions"] if one["type"] == "Stalled")
    assert "spec.role.virtualMachines" in message
    assert not stage.can(ALICE, "get", "snapshot.kubevirt.io/virtualmachinesnapshots", namespace)
    assert stage.children(name) == []
