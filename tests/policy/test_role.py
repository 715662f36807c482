"""Trimming: what a role gives over the base that KubeVirt ships, what a spec may not name, and random trims against a model."""

from __future__ import annotations

import json
import random
from itertools import combinations, product
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from vmaccess.model.spec import DropRule, KeepRule, Role
from vmaccess.policy.catalogue import ADD_ONS, PRESETS
from vmaccess.policy.entries import InvalidRole, check
from vmaccess.policy.kubevirt import (
    ADDED_SHORT,
    NESTED,
    SUBRESOURCES,
    VERBS,
    VOCABULARY,
    is_cluster_scoped,
    short_spelling,
)
from vmaccess.policy.role import ceiling, trim
from vmaccess.policy.rules import Rule, Rules, allows, covers, intersect, normalise, parse, render

GOLDEN = Path(__file__).parent / "golden"
VM, VMI, SUB, KV = "virtualmachines", "virtualmachineinstances", SUBRESOURCES, "kubevirt.io"
EVERYTHING = [{"resources": ["*"], "verbs": ["*"]}]
CLUSTER_ADMIN = parse([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}])

# verb, resource, and the group where it is not told by the resource
Right: TypeAlias = tuple[str, str]


def role(**fields: Any) -> Role:
    return Role.model_validate(fields)


def may(rules: Rules, right: Right, name: str | None = None) -> bool:
    verb, resource = right
    group = SUB if "/" in resource or resource == "expand-vm-spec" else KV
    return allows(rules, group, resource, verb, name)


@pytest.mark.parametrize("case", sorted(path.name.removesuffix(".role.yaml") for path in GOLDEN.glob("*.role.yaml")))
def test_golden(case: str, admin: Rules) -> None:
    """`<case>.role.yaml` is the `role` of a grant, `<case>.rules.yaml` the rules of its Role over kubevirt.io:admin."""
    spec = yaml.safe_load((GOLDEN / f"{case}.role.yaml").read_text())
    assert render(trim(admin, role(**spec)).rules) == yaml.safe_load((GOLDEN / f"{case}.rules.yaml").read_text())


@pytest.mark.parametrize(
    ("spec", "given_rights", "refused"),
    [
        pytest.param(
            {},
            [
                ("list", VM),
                ("watch", VMI),
                ("get", f"{VM}/expand-spec"),
                ("get", f"{VMI}/guestosinfo"),
                ("update", "expand-vm-spec"),
            ],
            [
                ("delete", VM),
                ("update", f"{VM}/start"),
                ("get", f"{VMI}/console"),
                ("get", f"{VMI}/vnc"),
                ("get", f"{VMI}/userlist"),
                ("get", f"{VMI}/filesystemlist"),
                ("get", f"{VMI}/sev"),
                ("get", f"{VM}/objectgraph"),
            ],
            id="View when nothing is said",
        ),
        pytest.param(
            {"drop": [{"resources": [VMI]}]},
            [("list", VM)],
            [("list", VMI), ("delete", VM), ("update", f"{VM}/start")],
            id="a lone drop narrows View and does not open the base",
        ),
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["get"]}]},
            [("get", VM)],
            [("list", VM), ("get", VMI)],
            id="keep alone is not View as well",
        ),
        pytest.param(
            {"preset": "View", "keep": [{"resources": [f"{VM}/start"], "verbs": ["update"]}]},
            [("list", VM), ("update", f"{VM}/start")],
            [("update", f"{VM}/stop")],
            id="keep beside a preset adds",
        ),
        pytest.param(
            {"keep": [{"resources": [VM, f"{VMI}/console"], "verbs": ["*"]}], "drop": [{"resources": [VM], "verbs": ["delete"]}]},
            [("create", VM), ("deletecollection", VM), ("get", f"{VMI}/console")],
            [("delete", VM), ("update", f"{VM}/start"), ("put", f"{VMI}/console")],
            id="drop wins over keep",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"verbs": ["delete", "deletecollection"]}]},
            [("update", VM), ("get", f"{VMI}/vnc")],
            [("delete", VM), ("deletecollection", VMI)],
            id="drop of a verb is about every resource",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"apiGroups": [SUB]}]},
            [("update", VM)],
            [("get", f"{VMI}/vnc"), ("update", f"{VM}/start")],
            id="drop of a group",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": [VM]}]},
            [("update", f"{VM}/start"), ("get", VMI)],
            [("get", VM), ("create", VM)],
            id="a resource is dropped apart from its subresources",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": ["*/portforward"]}]},
            [("get", f"{VMI}/vnc")],
            [("get", f"{VM}/portforward"), ("get", f"{VMI}/portforward")],
            id="a subresource of any resource",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": [f"{VMI}/vnc"]}]},
            [("get", f"{VMI}/console")],
            [("get", f"{VMI}/vnc"), ("get", f"{VMI}/vnc/screenshot")],
            id="drop of vnc covers its screenshot",
        ),
        pytest.param(
            {"keep": [{"resources": [f"{VMI}/vnc"], "verbs": ["get"]}]},
            [("get", f"{VMI}/vnc"), ("get", f"{VMI}/vnc/screenshot")],
            [],
            id="keep of vnc covers its screenshot",
        ),
        pytest.param(
            {"keep": [{"resources": [f"{VMI}/vnc"], "verbs": ["get"]}], "drop": [{"resources": [f"{VMI}/vnc/screenshot"]}]},
            [("get", f"{VMI}/vnc")],
            [("get", f"{VMI}/vnc/screenshot")],
            id="the screenshot can be dropped alone",
        ),
        pytest.param(
            {"keep": [{"resources": [VMI, f"{VMI}/vnc/screenshot"], "verbs": ["get"]}]},
            [("get", VMI)],
            [("get", f"{VMI}/vnc"), ("get", f"{VMI}/vnc/screenshot")],
            id="vnc is never granted for the sake of its screenshot",
        ),
        pytest.param(
            {"keep": [{"resources": [f"{VMI}/sev"], "verbs": ["get"]}]},
            [("get", f"{VMI}/sev"), ("get", f"{VMI}/sev/fetchcertchain"), ("get", f"{VMI}/sev/querylaunchmeasurement")],
            [("update", f"{VMI}/sev"), ("update", f"{VMI}/sev/setupsession")],
            id="the short spelling comes with the verb of what is kept",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": [f"{VMI}/sev"]}]},
            [("get", f"{VMI}/vnc")],
            [
                ("get", f"{VMI}/sev"),
                ("update", f"{VMI}/sev"),
                ("get", f"{VMI}/sev/fetchcertchain"),
                ("update", f"{VMI}/sev/setupsession"),
                ("update", f"{VMI}/sev/injectlaunchsecret"),
            ],
            id="drop of sev takes all below it",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": [f"{VMI}/sev/setupsession"]}]},
            [("update", f"{VMI}/sev"), ("update", f"{VMI}/sev/injectlaunchsecret"), ("get", f"{VMI}/sev")],
            [("update", f"{VMI}/sev/setupsession")],
            id="one form that stays keeps the short spelling",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": [f"{VMI}/sev/setupsession", f"{VMI}/sev/injectlaunchsecret"]}]},
            [("get", f"{VMI}/sev"), ("get", f"{VMI}/sev/fetchcertchain")],
            [("update", f"{VMI}/sev")],
            id="no form that stays leaves no short spelling with that verb",
        ),
        pytest.param(
            {"keep": [{"resources": [f"{VM}/evacuate/cancel"], "verbs": ["update"]}]},
            [("update", f"{VM}/evacuate"), ("update", f"{VM}/evacuate/cancel")],
            [("update", f"{VMI}/evacuate"), ("update", f"{VMI}/evacuate/cancel")],
            id="evacuate of the kind that was kept",
        ),
    ],
)
def test_rights(spec: dict[str, Any], given_rights: list[Right], refused: list[Right], admin: Rules) -> None:
    rules = trim(admin, role(**spec)).rules
    assert [right for right in given_rights if not may(rules, right)] == []
    assert [right for right in refused if may(rules, right)] == []
    assert covers(ceiling(admin), rules)


@pytest.mark.parametrize("group", ["instancetype.kubevirt.io", "migrations.kubevirt.io", "plugin.kubevirt.io"])
def test_cluster_scoped_resources_are_stripped(group: str, admin: Rules) -> None:
    named = {
        resource for rule in trim(admin, role(keep=EVERYTHING)).rules if group in rule.api_groups for resource in rule.resources
    }
    assert named <= {"virtualmachineinstancetypes", "virtualmachinepreferences"}


def test_the_whole_base_is_kept_but_for_scopes_and_spellings(admin: Rules) -> None:
    kept = trim(admin, role(keep=EVERYTHING)).rules
    assert kept == ceiling(admin)
    added = [rule for rule in kept if any(resource in ADDED_SHORT for resource in rule.resources)]
    assert not covers(admin, kept)
    assert {resource for rule in added for resource in rule.resources if resource in ADDED_SHORT} == ADDED_SHORT


@pytest.mark.parametrize("name", ["kubevirt.io:view", "kubevirt.io:edit", "kubevirt.io:admin"])
def test_view_is_the_same_over_every_role_that_may_read(name: str, roles: dict[str, Rules]) -> None:
    assert trim(roles[name], None).rules == normalise(PRESETS["View"].keeps)
    assert trim(roles[name], None).warnings == ()


def test_view_gives_only_what_the_base_has() -> None:
    poor = parse([{"apiGroups": [KV], "resources": [VM], "verbs": ["get", "list", "delete"]}])
    assert trim(poor, None).rules == (Rule((KV,), (VM,), ("get", "list")),)
    named = parse([{"apiGroups": [KV], "resources": [VM], "verbs": ["get"], "resourceNames": ["web-1"]}])
    assert trim(named, None).rules == named


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, normalise(PRESETS["View"].keeps), id="a preset"),
        pytest.param({"keep": EVERYTHING}, CLUSTER_ADMIN, id="all of it stays a wildcard"),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"verbs": ["delete", "deletecollection"]}]},
            (Rule(("*",), ("*",), ("get", "list", "watch", "create", "update", "patch")),),
            id="verbs are spelled out where a verb is dropped, resources are not",
        ),
        pytest.param(
            {"keep": [{"apiGroups": [SUB], "resources": [f"{VMI}/sev/setupsession"], "verbs": ["update"]}]},
            (Rule((SUB,), (f"{VMI}/sev", f"{VMI}/sev/setupsession"), ("update",)),),
            id="a nested subresource",
        ),
    ],
)
def test_a_wildcard_base(spec: dict[str, Any], expected: Rules) -> None:
    assert trim(CLUSTER_ADMIN, role(**spec)).rules == expected


def test_a_wildcard_that_a_drop_touches_is_spelled_out() -> None:
    rules = trim(CLUSTER_ADMIN, role(keep=EVERYTHING, drop=[{"resources": [f"{VMI}/vnc", f"{VMI}/evacuate/cancel"]}])).rules
    assert not any("*" in rule.resources for rule in rules)
    for resource in ("vnc", "vnc/screenshot", "evacuate", "evacuate/cancel"):
        assert not may(rules, ("get" if "vnc" in resource else "update", f"{VMI}/{resource}"))
    assert may(rules, ("get", f"{VMI}/console"))
    assert may(rules, ("update", f"{VM}/evacuate/cancel"))


def test_a_base_that_has_the_short_spelling_itself() -> None:
    """Older virt-api versions read the short spelling only: it must not outlive what was dropped."""
    base = parse(
        [{"apiGroups": [SUB], "resources": [f"{VM}/start", f"{VM}/evacuate", f"{VM}/evacuate/cancel"], "verbs": ["update"]}]
    )
    assert trim(base, role(keep=EVERYTHING, drop=[{"resources": [f"{VM}/evacuate/cancel"]}])).rules == (
        Rule((SUB,), (f"{VM}/start",), ("update",)),
    )


def test_a_base_of_ones_own() -> None:
    base = parse(
        [
            {"apiGroups": ["apps.example.com"], "resources": ["widgets", "widgets/scale"], "verbs": ["*"]},
            {"apiGroups": [KV], "resources": [VM], "verbs": ["get", "list"]},
            {"nonResourceURLs": ["*"], "verbs": ["*"]},
        ]
    )
    spec = role(
        keep=[{"resources": ["widgets", VM], "verbs": ["get", "delete"]}],
        drop=[{"apiGroups": ["apps.example.com"], "verbs": ["delete"]}],
    )
    trimmed = trim(base, spec)
    assert trimmed.rules == (Rule(("apps.example.com",), ("widgets",), ("get",)), Rule((KV,), (VM,), ("get",)))
    assert trimmed.warnings == ()


def test_names_of_the_base_follow_its_rules() -> None:
    base = parse([{"apiGroups": [SUB], "resources": [f"{VMI}/vnc/screenshot"], "verbs": ["get"]}])
    base += parse([{"apiGroups": [SUB], "resources": [f"{VMI}/vnc"], "verbs": ["get"], "resourceNames": ["web-1"]}])
    trimmed = trim(base, role(keep=EVERYTHING))
    assert trimmed.rules == (Rule((SUB,), (f"{VMI}/vnc", f"{VMI}/vnc/screenshot"), ("get",), ("web-1",)),)
    assert [warning.type for warning in trimmed.warnings] == ["SubresourceOmitted"]


@pytest.mark.parametrize(
    ("spec", "field", "words"),
    [
        pytest.param(
            {"keep": [{"resources": ["virtualmachine"], "verbs": ["get"]}]},
            "role.keep[0].resources[0]",
            '"virtualmachines"',
            id="a singular",
        ),
        pytest.param({"drop": [{"resources": [VM, "vmi/vnc"]}]}, "role.drop[0].resources[1]", f'"{VMI}/vnc"', id="a short name"),
        pytest.param(
            {"drop": [{"resources": ["console"]}]}, "role.drop[0].resources[0]", f'"{VMI}/console"', id="a subresource alone"
        ),
        pytest.param(
            {"drop": [{"resources": [f"{VM}/console"]}]}, "role.drop[0].resources[0]", f'"{VMI}/console"', id="of the other kind"
        ),
        pytest.param(
            {"drop": [{"resources": [f"{VM}/strat"]}]}, "role.drop[0].resources[0]", f'"{VM}/start"', id="letters swapped"
        ),
        pytest.param(
            {"drop": [{"resources": ["*/consle"]}]},
            "role.drop[0].resources[0]",
            '"*/console"',
            id="a subresource of any resource",
        ),
        pytest.param({"drop": [{"resources": ["qqq"]}]}, "role.drop[0].resources[0]", "remove it", id="nothing near"),
        pytest.param({"drop": [{"verbs": ["get", "dlete"]}]}, "role.drop[0].verbs[1]", '"delete"', id="a verb"),
        pytest.param({"drop": [{"apiGroups": ["kubevirt.oi"]}]}, "role.drop[0].apiGroups[0]", '"kubevirt.io"', id="a group"),
        pytest.param(
            {"drop": [{"apiGroups": [KV], "resources": [f"{VMI}/vnc"]}]},
            "role.drop[0].resources[0]",
            SUB,
            id="vnc in the wrong group",
        ),
        pytest.param(
            {"keep": [{"apiGroups": [SUB], "resources": [VM], "verbs": ["get"]}]},
            "role.keep[0].resources[0]",
            KV,
            id="virtualmachines in the wrong group",
        ),
        pytest.param(
            {"drop": [{"resources": [f"{VM}/start"], "verbs": ["create"]}]},
            "role.drop[0].verbs",
            "update",
            id="a verb it never had",
        ),
        pytest.param(
            {"keep": [{"resources": ["migrationpolicies"], "verbs": ["get"]}]}, "role.keep", "namespace", id="cluster-scoped only"
        ),
        pytest.param(
            {"keep": [{"resources": [f"{VMI}/vnc/screenshot"], "verbs": ["get"]}]},
            "role.keep",
            f"{VMI}/vnc",
            id="a screenshot alone",
        ),
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["get"]}], "drop": [{"resources": [VM]}]},
            "role.drop",
            "suspend",
            id="all that is kept is dropped",
        ),
        pytest.param({"drop": [{"verbs": ["*"]}]}, "role.drop", "narrow", id="all of View is dropped"),
    ],
)
def test_invalid(spec: dict[str, Any], field: str, words: str, admin: Rules) -> None:
    with pytest.raises(InvalidRole) as caught:
        trim(admin, role(**spec))
    assert caught.value.field == field
    assert words in caught.value.message


def test_a_name_that_only_a_wildcard_of_the_base_covers_is_refused() -> None:
    with pytest.raises(InvalidRole) as caught:
        trim(CLUSTER_ADMIN, role(keep=[{"resources": ["deployments"], "verbs": ["get"]}]))
    assert caught.value.field == "role.keep[0].resources[0]"


@pytest.mark.parametrize(
    ("base", "spec"),
    [
        pytest.param((), {}, id="a base without rules"),
        pytest.param((), {"keep": [{"resources": [VM], "verbs": ["get"]}]}, id="a base without rules, and keep"),
        pytest.param((Rule((KV,), ("kubevirts",), ("get",)),), {}, id="nothing of View"),
        pytest.param(
            (Rule((KV,), (VM,), ("get",)),),
            {"keep": [{"resources": [f"{VM}/migrate"], "verbs": ["update"]}]},
            id="moved to another role in v1.5",
        ),
        pytest.param((Rule((KV,), (VM,), ("get",)),), {"drop": [{"apiGroups": [KV]}]}, id="the base has only what is dropped"),
        pytest.param((Rule(("a.example.com",), ("widgets",), ("get",)),), {}, id="View of something else"),
    ],
)
def test_empty_for_want_of_the_base_is_no_fault_of_the_spec(base: Rules, spec: dict[str, Any]) -> None:
    assert trim(base, role(**spec)).rules == ()


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, {}, id="View"),
        pytest.param({"keep": [{"resources": [VM], "verbs": ["patch"]}]}, {"SecretsReachable": f"patch on {VM}"}, id="VM patch"),
        pytest.param(
            {"keep": [{"resources": ["virtualmachinepools"], "verbs": ["create"]}]},
            {"SecretsReachable": "create on virtualmachinepools"},
            id="pool create",
        ),
        pytest.param(
            {"keep": [{"resources": [VM], "verbs": ["*"]}], "drop": [{"verbs": ["create", "update", "patch"]}]},
            {},
            id="VM delete only",
        ),
        pytest.param(
            {"preset": "View", "drop": [{"resources": [f"{VM}/migrate"]}]},
            {"RuleUnmatched": "role.drop[0].resources[0]"},
            id="known, not in this base",
        ),
        pytest.param(
            {"keep": [{"resources": [VM, f"{VM}/start"], "verbs": ["get"]}]},
            {"RuleUnmatched": f"{VM}/start only with update"},
            id="the verb for one of two",
        ),
        pytest.param(
            {"keep": [{"resources": [VM, "plugins"], "verbs": ["get"]}]},
            {"RuleUnmatched": "plugins is never given: it has no namespace"},
            id="cluster-scoped beside others",
        ),
        pytest.param({"drop": [{"resources": ["plugins"]}]}, {}, id="a cluster-scoped one may be dropped"),
        pytest.param(
            {"drop": [{"apiGroups": ["cdi.kubevirt.io"]}]},
            {"RuleUnmatched": "role.drop[0]: kubevirt.io:admin"},
            id="a known group",
        ),
        pytest.param(
            {"preset": "View", "keep": [{"resources": [f"{VMI}/vnc/screenshot"], "verbs": ["get"]}]},
            {"SubresourceOmitted": f"keep {VMI}/vnc too"},
            id="a screenshot without vnc",
        ),
        pytest.param(
            {"keep": EVERYTHING, "drop": [{"resources": [f"{VMI}/vnc"]}, {"verbs": ["create", "update", "patch"]}]},
            {},
            id="a dropped screenshot",
        ),
    ],
)
def test_warnings(spec: dict[str, Any], expected: dict[str, str], admin: Rules) -> None:
    warnings = {warning.type: warning.message for warning in trim(admin, role(**spec)).warnings}
    assert warnings.keys() == expected.keys()
    assert all(words in warnings[kind] for kind, words in expected.items())


def test_a_named_vm_reaches_secrets_too() -> None:
    base = parse([{"apiGroups": [KV], "resources": [VM], "verbs": ["patch"], "resourceNames": ["web-1"]}])
    assert [warning.type for warning in trim(base, role(keep=EVERYTHING)).warnings] == ["SecretsReachable"]


def test_a_message_stays_short(admin: Rules) -> None:
    gone = [f"{VM}/migrate", f"{VM}/addinterface", f"{VMI}/vsock", f"{VMI}/backup"]
    drop = [{"resources": list(some_gone)} for size in (2, 3, 4) for some_gone in combinations(gone, size)]
    (warning,) = trim(admin, role(drop=drop)).warnings
    assert warning.message.count("; ") == 10
    assert warning.message.endswith("and 18 more")


def test_the_vocabulary_knows_every_shipped_role(roles: dict[str, Rules]) -> None:
    assert [name for name, rules in roles.items() if not covers(VOCABULARY, rules)] == []
    assert covers(VOCABULARY, tuple(rule for name, preset in PRESETS.items() if name != "Admin" for rule in preset.keeps))


# Random trims. The model below decides each request on its own, from the words of the documentation rather than by algebra.

Atom: TypeAlias = tuple[str, str, str, str]

SMALL = (
    *product([KV], [VM, VMI, "virtualmachineinstancemigrations", "kubevirts"], [""]),
    *product([SUB], [VM], ["/start", "/portforward", "/evacuate", "/evacuate/cancel", "/migrate", "/addvolume"]),
    *product(
        [SUB], [VMI], ["/vnc", "/vnc/screenshot", "/portforward", "/evacuate", "/evacuate/cancel", "/sev", "/sev/fetchcertchain"]
    ),
    *product([SUB], [VMI], ["/sev/setupsession", "/sev/injectlaunchsecret", "/sev/querylaunchmeasurement"]),
    (SUB, "expand-vm-spec", ""),
    ("snapshot.kubevirt.io", "virtualmachinesnapshots", ""),
    ("", "events", ""),
    ("migrations.kubevirt.io", "migrationpolicies", ""),
    ("x.example.com", "widgets", ""),
    ("x.example.com", "widgets", "/scale"),
)
PLACES = tuple((group, kind + subresource) for group, kind, subresource in SMALL)
SOME_VERBS = ("get", "list", "update", "create", "delete", "deletecollection")
ATOMS = tuple(
    (group, resource, verb, name) for (group, resource), verb, name in product(PLACES, SOME_VERBS, ("web-1", "web-2", ""))
)
LISTED = Rule(("x.example.com",), ("widgets", "widgets/scale"), ("escalate",))  # so that every base knows the names of PLACES


def matches(entry: KeepRule | DropRule, atom: Atom) -> bool:
    group, resource, verb, _ = atom

    def names(pattern: str) -> bool:
        kind, _, subresource = pattern.partition("/")
        ours, _, below = resource.partition("/")
        same_kind = kind in ("*", ours)
        return pattern in ("*", resource) or bool(subresource and same_kind and f"{below}/".startswith(f"{subresource}/"))

    return (
        (entry.api_groups is None or not {"*", group}.isdisjoint(entry.api_groups))
        and (entry.resources is None or any(map(names, entry.resources)))
        and (entry.verbs is None or not {"*", verb}.isdisjoint(entry.verbs))
    )


def model(base: Rules, spec: Role) -> set[Atom]:
    preset = spec.preset or (None if spec.keep else "View")
    named = (*((PRESETS[preset],) if preset else ()), *(ADD_ONS[name] for name in spec.include or ()))
    keeps, adds = tuple(rule for one in named for rule in one.keeps), tuple(rule for one in named for rule in one.adds)

    def asked(atom: Atom) -> bool:
        kept = allows(keeps, *atom) or any(matches(entry, atom) for entry in spec.keep or ())
        return (kept and allows(base, *atom)) or allows(adds, *atom)

    def dropped(atom: Atom) -> bool:
        return any(matches(entry, atom) for entry in spec.drop or ())

    def with_all_below_dropped(atom: Atom) -> bool:
        nested = NESTED.get((atom[1], atom[2]), ())
        return bool(nested) and all(dropped((SUB, form, atom[2], atom[3])) for form in nested)

    def left_by_names(atom: Atom) -> bool:
        group, resource, verb, name = atom
        of_a_machine = (
            group in (KV, SUB) and resource.partition("/")[0] in (VM, VMI) and verb not in ("create", "deletecollection")
        )
        return spec.virtual_machines is None or (of_a_machine and name in spec.virtual_machines)

    kept = {
        atom
        for atom in ATOMS
        if asked(atom) and not dropped(atom) and not with_all_below_dropped(atom) and not is_cluster_scoped(atom[0], atom[1])
    }
    shorts = {(atom, short_spelling(atom[1])) for atom in kept}
    spelled = kept | {(group, short, verb, name) for (group, _, verb, name), short in shorts if short in ADDED_SHORT and short}
    served = {atom for atom in spelled if not (short := short_spelling(atom[1])) or (atom[0], short, atom[2], atom[3]) in spelled}
    return {atom for atom in served if left_by_names(atom)}


def some(values: list[str], most: int = 3) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=most, unique=True).map(lambda chosen: tuple(sorted(chosen)))


def optional(entries: st.SearchStrategy[Any], most: int) -> st.SearchStrategy[tuple[Any, ...] | None]:
    return st.lists(entries, max_size=most, unique=True).map(lambda chosen: tuple(chosen) or None)


RESOURCES = sorted({resource for _, resource in PLACES})
ENTRY_GROUPS = [KV, SUB, "x.example.com", "", "*"]
ENTRY_RESOURCES = [*RESOURCES, "*", "*/portforward", "*/evacuate", "*/sev", "*/vnc"]
ENTRY_VERBS = [*SOME_VERBS, "*"]
NAMED = st.sampled_from([(), (), ("web-1",), ("web-1", "web-2")])
EXPLICIT = st.lists(
    st.one_of(
        st.sampled_from(PLACES).flatmap(
            lambda place: st.builds(Rule, st.just((place[0],)), st.just((place[1],)), some(list(SOME_VERBS)), NAMED)
        ),
        st.builds(Rule, some([KV, SUB]), some(RESOURCES, 8), some(ENTRY_VERBS), NAMED),
        st.builds(Rule, st.just((KV, SUB)), st.just(tuple(RESOURCES)), some(ENTRY_VERBS, 6), NAMED),
    ),
    max_size=8,
).map(lambda rules: (*rules, LISTED))
WILD = st.tuples(
    EXPLICIT,
    st.lists(st.builds(Rule, some(ENTRY_GROUPS), some(ENTRY_RESOURCES), some(ENTRY_VERBS), NAMED), min_size=1, max_size=3),
).map(lambda both: (*both[0], *both[1]))
KEEP = st.builds(
    KeepRule, api_groups=st.one_of(st.none(), some(ENTRY_GROUPS)), resources=some(ENTRY_RESOURCES, 6), verbs=some(ENTRY_VERBS)
)
DROP = st.builds(
    DropRule,
    api_groups=st.one_of(st.none(), some(ENTRY_GROUPS)),
    resources=some(ENTRY_RESOURCES),
    verbs=st.one_of(st.none(), some(ENTRY_VERBS)),
)
SPEC = st.builds(
    Role,
    preset=st.sampled_from([None, None, None, *PRESETS]),
    keep=optional(KEEP, 3),
    drop=optional(DROP, 3),
    include=optional(st.sampled_from([*ADD_ONS]), 4),
    virtual_machines=st.sampled_from([None, None, ("web-1",), ("web-2", "web-1"), ("web-3",)]),
)


def valid(spec: Role, base: Rules) -> Role:
    """The spec without the entries that name a resource outside of its groups or with a verb it never had."""

    def accepted(one: Role) -> bool:
        try:
            check(one, base)
        except InvalidRole:
            return False
        return True

    keep = tuple(entry for entry in spec.keep or () if accepted(Role(keep=(entry,))))
    drop = tuple(entry for entry in spec.drop or () if accepted(Role(drop=(entry,))))
    return spec.model_copy(update={"keep": keep or None, "drop": drop or None})


def trimmed(base: Rules, spec: Role) -> Rules:
    """The rules; none for a spec that is refused because they would always be none."""
    try:
        return trim(base, spec).rules
    except InvalidRole:
        return ()


def meaning(rules: Rules) -> set[Atom]:
    return {atom for atom in ATOMS if allows(rules, *atom)}


@settings(max_examples=200)
@given(EXPLICIT, SPEC)
def test_random_trims_equal_the_model(base: Rules, spec: Role) -> None:
    spec = valid(spec, base)
    rules = trimmed(base, spec)
    assert meaning(rules) == model(base, spec)
    assert covers(ceiling(base, spec), rules)


@settings(max_examples=200)
@given(WILD, SPEC)
def test_random_trims_of_wildcards_equal_the_model_in_known_names(base: Rules, spec: Role) -> None:
    spec = valid(spec, base)
    rules = trimmed(base, spec)
    assert {atom for atom in meaning(rules) if not is_cluster_scoped(atom[0], atom[1])} == model(base, spec)
    assert covers(ceiling(base, spec), rules)
    taken = tuple(Rule(entry.api_groups or ("*",), entry.resources or ("*",), entry.verbs or ("*",)) for entry in spec.drop or ())
    assert intersect(rules, taken) == ()


@given(st.one_of(EXPLICIT, WILD), SPEC, st.randoms(use_true_random=False))
def test_order_is_of_no_consequence(base: Rules, spec: Role, chance: random.Random) -> None:
    spec = valid(spec, base)
    lists = {field: value for field, value in spec if isinstance(value, tuple)}
    mixed = spec.model_copy(update={field: tuple(chance.sample(value, len(value))) for field, value in lists.items()})
    other = tuple(chance.sample(base, len(base)))
    assert json.dumps(render(trimmed(other, mixed))) == json.dumps(render(trimmed(base, spec)))


@given(st.one_of(EXPLICIT, WILD), SPEC)
def test_a_named_role_is_the_whole_one_narrowed(base: Rules, spec: Role) -> None:
    spec = valid(spec, base)
    rules = trimmed(base, spec)
    assert covers(trimmed(base, spec.model_copy(update={"virtual_machines": None})), rules)
    if spec.virtual_machines:
        assert all(rule.resource_names and set(rule.resource_names) <= set(spec.virtual_machines) for rule in rules)


@given(st.one_of(EXPLICIT, WILD), SPEC)
def test_whoever_can_make_machines_is_said_to_reach_secrets(base: Rules, spec: Role) -> None:
    spec = valid(spec, base)
    try:
        result = trim(base, spec)
    except InvalidRole:
        return
    kinds = [(KV, VM), (KV, VMI), (KV, "virtualmachineinstancereplicasets"), ("pool.kubevirt.io", "virtualmachinepools")]
    copies = [("snapshot.kubevirt.io", "virtualmachinerestores"), ("clone.kubevirt.io", "virtualmachineclones")]
    makes = any(
        allows(result.rules, group, kind, verb, name)
        for (group, kind), verb, name in (
            *product(kinds, ("create", "update", "patch"), ("web-1", "web-2", "web-3", None)),
            *product(copies, ("create",), (None,)),
        )
    )
    assert ("SecretsReachable" in {warning.type for warning in result.warnings}) == makes


@given(st.one_of(EXPLICIT, WILD), SPEC)
def test_a_trimmed_role_trims_to_itself(base: Rules, spec: Role) -> None:
    spec = valid(spec, base)
    rules = trimmed(base, spec)
    assert ceiling(rules) == normalise(rules) or any("*" in rule.api_groups for rule in rules)


def test_every_verb_of_kubernetes_is_known() -> None:
    assert {verb for rule in VOCABULARY for verb in rule.verbs} == set(VERBS)
