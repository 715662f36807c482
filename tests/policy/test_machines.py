"""`virtualMachines`: what a role gives for named machines, what RBAC cannot restrict to a name, and when nothing is left."""

from __future__ import annotations

from collections import defaultdict
from itertools import product
from typing import Any

import pytest

from tests.policy.atoms import KV, PLACES, SUB, VM, VMI, Atom, passing, role, spelled
from vmaccess.model.grant import read_spec
from vmaccess.model.problems import Problems
from vmaccess.model.spec import Spec
from vmaccess.policy.catalogue import ADD_ONS
from vmaccess.policy.entries import InvalidRole
from vmaccess.policy.kubevirt import VERBS
from vmaccess.policy.role import ceiling, trim
from vmaccess.policy.rules import Rule, Rules, allows, covers, parse

NAMES = ("web-1", "web-2")
NAMELESS_VERBS = ("create", "deletecollection")
EVERYTHING = [{"resources": ["*"], "verbs": ["*"]}]
OURS = sorted({resource for _, resource in PLACES if resource.partition("/")[0] in (VM, VMI)})
CANDIDATES: list[Atom] = [
    (group, resource, verb, name)
    for group, resource, verb, name in product((KV, SUB), OURS, VERBS, NAMES)
    if verb not in NAMELESS_VERBS
]
READ_VM = Rule((KV,), (VM,), ("get", "list", "watch"))

SPECS = [
    pytest.param({}, id="View"),
    pytest.param({"preset": "Operate"}, id="Operate"),
    pytest.param({"preset": "Edit"}, id="Edit"),
    pytest.param({"preset": "Admin"}, id="Admin"),
    pytest.param({"preset": "Admin", "include": list(ADD_ONS)}, id="Admin with all add-ons"),
    pytest.param({"include": ["Console", "Migrate", "VSOCK", "EventView"]}, id="View with add-ons"),
    pytest.param({"keep": EVERYTHING, "drop": [{"resources": [f"{VMI}/vnc", f"{VMI}/sev/setupsession"]}]}, id="keep and drop"),
    pytest.param({"keep": [{"resources": [VM, "virtualmachinesnapshots"], "verbs": ["*"]}]}, id="any verb"),
    pytest.param({"keep": [{"resources": ["*/portforward", f"{VMI}/console"], "verbs": ["get"]}]}, id="subresources"),
]

BASES = {
    "any right": (Rule(("*",), ("*",), ("*",)),),
    "any verb": (Rule((KV,), (VM, VMI, "virtualmachineinstancereplicasets"), ("*",)), Rule((SUB,), (f"{VMI}/vnc",), ("*",))),
    "any resource of two groups": (Rule((KV, SUB), ("*",), ("get", "update", "create")),),
    "a subresource of any resource": (READ_VM, Rule(("*",), ("*/portforward", "*/console", "*/start"), ("get", "update"))),
    "one of the names": (Rule((KV,), (VM,), ("*",), ("web-1", "db-1")), Rule((SUB,), (f"{VM}/portforward",), ("get",))),
    "other names": (Rule((KV,), (VM, VMI), ("get", "patch"), ("db-1",)), Rule((SUB,), (f"{VMI}/console",), ("get",), NAMES)),
    "another group's kind of this name": (READ_VM, Rule(("example.com",), (VM, f"{VM}/start", "widgets"), ("get", "create"))),
}


def narrowed(base: Rules, spec: dict[str, Any], *names: str) -> Rules:
    return trim(base, role(**spec, virtualMachines=names or NAMES)).rules


def assert_narrowed(base: Rules, spec: dict[str, Any]) -> None:
    """Compares the narrowed role with the whole one, request by request."""
    whole, named = trim(base, role(**spec)).rules, narrowed(base, spec)
    assert spelled(named) == passing(whole, CANDIDATES)
    assert covers(whole, named)
    assert covers(ceiling(base, role(**spec)), named)
    for group, resource in {*PLACES, *product(("example.com", "other.io"), (VM, f"{VM}/start", "widgets"))}:
        for verb, name in product((*VERBS, "escalate"), ("", "db-1")):
            assert not allows(named, group, resource, verb, name)
            assert not allows(named, group, resource, verb)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["kubevirt.io:admin", "kubevirt.io:edit", "kubevirt.io:view"])
def test_over_the_shipped_roles(name: str, spec: dict[str, Any], roles: dict[str, Rules]) -> None:
    assert_narrowed(roles[name], spec)
    assert all(rule.resource_names == NAMES for rule in narrowed(roles[name], spec))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("base", BASES)
def test_over_other_bases(base: str, spec: dict[str, Any]) -> None:
    assert_narrowed((*BASES[base], Rule(("example.com",), (VM, "widgets"), ("get",))), spec)


def test_list_and_watch_keep_the_names(admin: Rules) -> None:
    """They work for one name at a time: with a field selector, kube-apiserver takes the name from it."""
    (machines,) = (rule for rule in narrowed(admin, {}, "web-1") if rule.api_groups == (KV,))
    assert machines == Rule((KV,), (VMI, VM), ("get", "list", "watch"), ("web-1",))


def test_one_machine(admin: Rules) -> None:
    assert narrowed(admin, {"preset": "Operate"}, "web-1") == (
        Rule((KV,), (VMI, VM), ("get", "list", "watch"), ("web-1",)),
        Rule((SUB,), (f"{VMI}/console", f"{VMI}/guestosinfo", f"{VMI}/vnc", f"{VM}/expand-spec"), ("get",), ("web-1",)),
        Rule(
            (SUB,),
            (
                *(f"{VMI}/{action}" for action in ("pause", "reset", "softreboot", "unpause")),
                *(f"{VM}/{action}" for action in ("restart", "start", "stop")),
            ),
            ("update",),
            ("web-1",),
        ),
    )


def test_short_spellings_carry_the_names(admin: Rules) -> None:
    rules = narrowed(admin, {"include": ["Attestation", "EvacuateCancel"]}, "web-1")
    for resource, verb in ((f"{VMI}/sev", "get"), (f"{VMI}/sev", "update"), (f"{VM}/evacuate", "update")):
        assert allows(rules, SUB, resource, verb, "web-1")
        assert not allows(rules, SUB, resource, verb, "web-2")
        assert not allows(rules, SUB, resource, verb)


@pytest.mark.parametrize(
    ("held", "asked", "left"),
    [
        pytest.param(("web-1", "db-1"), ("web-1", "web-2"), ("web-1",), id="some"),
        pytest.param(("web-2", "web-1"), ("web-1", "web-2"), ("web-1", "web-2"), id="all"),
        pytest.param((), ("web-2",), ("web-2",), id="a base for any name"),
    ],
)
def test_names_of_the_base_intersect(held: tuple[str, ...], asked: tuple[str, ...], left: tuple[str, ...]) -> None:
    base = (Rule((KV,), (VM,), ("get", "patch"), held),)
    trimmed = trim(base, role(keep=EVERYTHING, virtualMachines=asked))
    assert trimmed.rules == (Rule((KV,), (VM,), ("get", "patch"), left),)
    assert [warning.type for warning in trimmed.warnings] == ["SecretsReachable"]


# --- what is left out is told


def left_out(base: Rules, **fields: Any) -> dict[str, set[str]] | None:
    """What the condition names: the verbs of machines and their subresources, no verbs for any other resource."""
    messages = {warning.type: warning.message for warning in trim(base, role(**fields)).warnings}
    message = messages.get("NotRestrictableByName")
    if message is None:
        return None
    start, _, rest = message.partition(": ")
    assert start == "not granted, because RBAC cannot restrict it to the names in virtualMachines"
    *clauses, cure = rest.split("; ")
    assert cure == "use a grant of its own for it"
    named: defaultdict[str, set[str]] = defaultdict(set)
    for clause in clauses:
        what, _, resource = clause.partition(" on ")
        if resource:
            named[resource] |= set(what.split(", "))
        else:
            named.update((other, set()) for other in what.split(", "))
    return dict(named)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", ["kubevirt.io:admin", "kubevirt.io:edit", "kubevirt.io:view"])
def test_all_that_is_left_out_is_named(name: str, spec: dict[str, Any], roles: dict[str, Rules]) -> None:
    lost: defaultdict[str, set[str]] = defaultdict(set)
    for group, resource, verb, _ in spelled(trim(roles[name], role(**spec)).rules):
        if resource.partition("/")[0] not in (VM, VMI):
            lost[resource] = set()
        elif verb in NAMELESS_VERBS:
            assert group == KV
            lost[resource].add(verb)
    assert (left_out(roles[name], **spec, virtualMachines=NAMES) or {}) == lost


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({"keep": [{"resources": [VM, f"{VMI}/console"], "verbs": ["get"]}]}, None, id="nothing is left out"),
        pytest.param({"keep": [{"resources": [VM], "verbs": ["*"]}]}, {VM: set(NAMELESS_VERBS)}, id="verbs without a name"),
        pytest.param(
            {"keep": [{"resources": [VM, "expand-vm-spec"], "verbs": ["get", "update"]}]},
            {"expand-vm-spec": set()},
            id="expand-vm-spec",
        ),
        pytest.param(
            {
                "keep": [
                    {"resources": [VM, VMI], "verbs": ["get", "create"]},
                    {"resources": ["virtualmachinepools"], "verbs": ["*"]},
                ]
            },
            {VM: {"create"}, VMI: {"create"}, "virtualmachinepools": set()},
            id="verbs and kinds",
        ),
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["get"]}], "include": ["EventView", "Console"]},
            {"events": set()},
            id="an add-on",
        ),
        pytest.param(
            {
                "keep": [{"resources": [VM, "virtualmachinepools"], "verbs": ["get"]}],
                "drop": [{"apiGroups": ["pool.kubevirt.io"]}],
            },
            None,
            id="what is dropped is not left out for want of a name",
        ),
    ],
)
def test_left_out(spec: dict[str, Any], expected: dict[str, set[str]] | None, admin: Rules) -> None:
    assert left_out(admin, **spec, virtualMachines=["web-1"]) == expected
    assert left_out(admin, **spec) is None


def test_another_groups_virtual_machines_are_none_of_ours() -> None:
    """RBAC would restrict them by name too, but nobody says that the names are those of machines."""
    base = (READ_VM, Rule(("example.com",), (VM, "widgets"), ("get",)))
    assert narrowed(base, {"keep": EVERYTHING}) == (Rule((KV,), (VM,), READ_VM.verbs, NAMES),)
    told = left_out(base, keep=EVERYTHING, virtualMachines=NAMES)
    assert told is not None
    assert "widgets" in told


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("base", BASES)
def test_what_a_wildcard_leaves_out_is_named(base: str, spec: dict[str, Any]) -> None:
    lost = {
        (resource, verb)
        for group, resource, verb, _ in passing(trim(BASES[base], role(**spec)).rules)
        if verb in NAMELESS_VERBS or (group, resource) not in product((KV, SUB), OURS)
    }
    told = left_out(BASES[base], **spec, virtualMachines=NAMES) or {}
    cut = any(resource.startswith("and ") for resource in told)  # "and 5 more", in a message that stays short
    for resource, verb in lost:
        patterns = {resource, "*", f"*/{resource.partition('/')[2]}"} & told.keys()
        assert any(not told[pattern] or verb in told[pattern] for pattern in patterns) or cut, resource


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("base", BASES)
def test_what_is_granted_is_not_told_as_left_out(base: str, spec: dict[str, Any]) -> None:
    named = narrowed(BASES[base], spec)
    told = left_out(BASES[base], **spec, virtualMachines=NAMES) or {}
    claims = set(product((KV, SUB), told, {verb for verbs in told.values() for verb in verbs}, NAMES))
    assert {claim for claim in passing(named, claims) if claim[2] in told[claim[1]]} == set()


# --- nothing left

GONE: dict[str, dict[str, Any]] = {
    "kinds that carry no machine's name": {"keep": [{"resources": ["virtualmachinesnapshots"], "verbs": ["*"]}]},
    "verbs that carry no name": {"keep": [{"resources": [VM, VMI], "verbs": ["create", "deletecollection"]}]},
    "an endpoint without a name": {"keep": [{"resources": ["expand-vm-spec"], "verbs": ["update"]}]},
    "add-ons for other kinds": {
        "keep": [{"resources": ["virtualmachineclones"], "verbs": ["get"]}],
        "include": ["Snapshots", "EventView", "StorageView"],
    },
    "a preset without its machines": {"preset": "View", "drop": [{"resources": [VM, VMI, "*/expand-spec", "*/guestosinfo"]}]},
}


@pytest.mark.parametrize("base", ["kubevirt.io:admin", "any right", "nothing"])
@pytest.mark.parametrize("case", GONE)
def test_nothing_that_can_be_restricted(case: str, base: str, admin: Rules) -> None:
    over = {"kubevirt.io:admin": admin, "nothing": ()}.get(base, BASES["any right"])
    with pytest.raises(InvalidRole) as caught:
        trim(over, role(**GONE[case], virtualMachines=["web-1"]))
    assert caught.value.field == "role.virtualMachines"
    assert "remove virtualMachines" in caught.value.message


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["get"]}], "drop": [{"resources": [VM]}]}, "role.drop", id="all is dropped"
        ),
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["create"]}], "drop": [{"resources": [VM]}]},
            "role.drop",
            id="all is dropped, and could not carry a name",
        ),
        pytest.param({"drop": [{"verbs": ["*"]}]}, "role.drop", id="all of View is dropped"),
        pytest.param(
            {"keep": [{"resources": [f"{VMI}/vnc/screenshot"], "verbs": ["get"]}]}, "role.keep", id="a screenshot alone"
        ),
        pytest.param({"keep": [{"resources": ["plugins"], "verbs": ["get"]}]}, "role.keep", id="cluster-scoped"),
    ],
)
def test_empty_for_another_reason(spec: dict[str, Any], field: str, admin: Rules) -> None:
    with pytest.raises(InvalidRole) as caught:
        trim(admin, role(**spec, virtualMachines=["web-1"]))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "base",
    [
        pytest.param((), id="a base without rules"),
        pytest.param((Rule((KV,), (VM, VMI), ("get", "list"), ("db-1",)),), id="a base for other machines"),
        pytest.param((Rule(("snapshot.kubevirt.io",), ("virtualmachinesnapshots",), ("get",)),), id="a base without machines"),
        pytest.param((Rule((KV,), (VM,), ("create",)),), id="a base with nothing that carries a name"),
    ],
)
def test_empty_for_want_of_the_base_is_no_fault_of_the_spec(base: Rules) -> None:
    assert narrowed(base, {"preset": "Edit"}) == ()


# --- the spec


def grant(**fields: Any) -> dict[str, Any]:
    subjects = [{"kind": "User", "name": "alice"}]
    return {"metadata": {"name": "a"}, "spec": {"subjects": subjects, "namespaces": ["default"], "role": fields}}


def test_machines_are_named_only_in_a_role_of_each_namespace() -> None:
    assert isinstance(read_spec(grant(virtualMachines=["web-1"])), Spec)
    assert isinstance(read_spec(grant(virtualMachines=["web-1"], kind="Role")), Spec)
    refused = read_spec(grant(virtualMachines=["web-1"], kind="ClusterRole"))
    assert isinstance(refused, Problems)
    (message,) = refused.messages
    assert message.startswith("spec.role.virtualMachines: ")
    assert "remove kind, or virtualMachines" in message


@pytest.mark.parametrize("names", [[], ["web-1", "web-1"], ["Web"], [""], ["*"], ["web-*"]], ids=str)
def test_names_that_are_none_are_refused(names: list[str]) -> None:
    refused = read_spec(grant(virtualMachines=names))
    assert isinstance(refused, Problems)
    assert all(message.startswith("spec.role.virtualMachines") for message in refused.messages)


def test_a_parsed_base(admin: Rules) -> None:
    """The order of the names is of no consequence."""
    base = parse([{"apiGroups": [KV], "resources": [VM], "verbs": ["get"], "resourceNames": ["web-2", "web-1"]}])
    assert narrowed(base, {}, "web-2", "web-1") == narrowed(base, {}, "web-1", "web-2")
    assert narrowed(admin, {}, "web-2", "web-1") == narrowed(admin, {}, "web-1", "web-2")
