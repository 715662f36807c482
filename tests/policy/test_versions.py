"""Presets and add-ons over the roles that KubeVirt shipped with each version: they follow the base and never exceed it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import yaml

from localcluster.api import documents
from localcluster.kubevirt import CRDS
from tests.policy.atoms import SHORT, SUB, VM, VMI, Atom, passing, role, spelled, with_short_spellings
from vmaccess.model.spec import AddOn, Preset
from vmaccess.policy.catalogue import ADD_ONS, PRESETS
from vmaccess.policy.kubevirt import VOCABULARY
from vmaccess.policy.role import trim
from vmaccess.policy.rules import Rules, parse

BASES = Path(__file__).parent / "bases"


def as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.removeprefix("v").split("."))


VERSIONS = sorted((path.stem for path in BASES.glob("v*.yaml")), key=as_numbers)
NAMES = ("kubevirt.io:admin", "kubevirt.io:edit", "kubevirt.io:view")


@cache
def shipped(version: str) -> dict[str, Rules]:
    """The ClusterRoles of one version, by name."""
    return {name: parse(rules) for name, rules in yaml.safe_load((BASES / f"{version}.yaml").read_text()).items()}


EVERY_ROLE = [(version, name) for version in (*VERSIONS, "cdi") for name in shipped(version)]

# The scope of a kind is in its CRD; the last line is what has none here: endpoints, kinds that are gone, CDI's.
CLUSTER_KINDS = {crd["spec"]["names"]["plural"] for crd in documents(CRDS.read_text()) if crd["spec"]["scope"] == "Cluster"} | {
    "version",
    "guestfs",
    "virtualmachineclusterflavors",
    "cdis",
    "cdiconfigs",
    "storageprofiles",
    "objecttransfers",
}


def rights(rules: Rules) -> set[Atom]:
    """Every request that rules let pass; with CDI's any verb as one more verb."""
    return spelled(tuple(rule for rule in rules if rule.verbs != ("*",))) | {
        (group, resource, "*", "")
        for rule in rules
        if rule.verbs == ("*",)
        for group in rule.api_groups
        for resource in rule.resources
    }


def without_namespace(rules: Rules) -> set[str]:
    return {resource for rule in rules for resource in rule.resources if resource.partition("/")[0] in CLUSTER_KINDS}


def test_there_are_versions() -> None:
    assert {"v0.58.0", "v1.4.0", "v1.5.0", "v1.8.0", "v1.8.2", "v1.9.0"} <= set(VERSIONS)
    assert all(name in shipped(version) for version in VERSIONS for name in NAMES)
    assert any(without_namespace(shipped(version)[NAMES[0]]) for version in VERSIONS)


@pytest.mark.parametrize(("version", "name"), EVERY_ROLE)
def test_the_vocabulary_knows_every_right(version: str, name: str) -> None:
    missing = {atom for atom in rights(shipped(version)[name]) if atom[2] != "*"} - spelled(VOCABULARY)
    assert missing == set()
    places = {atom[:2] for atom in spelled(VOCABULARY)}
    assert {atom[:2] for atom in rights(shipped(version)[name])} <= places


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_preset_over_every_version(version: str, name: str, preset: Preset) -> None:
    base = shipped(version)[name]
    trimmed = trim(base, role(**{"from": name}, preset=preset))
    assert trimmed.rules
    assert without_namespace(trimmed.rules) == set()
    told = {str(warning.type) for warning in trimmed.warnings} - {"SecretsReachable"}
    assert told == ({"RuleUnmatched"} if name == "kubevirt.io:view" and preset in ("Operate", "Edit") else set())
    assert {resource for _, resource, _, _ in rights(trimmed.rules) - rights(base)} <= SHORT
    kept = {atom for atom in passing(PRESETS[preset].keeps, rights(base)) if atom[1] not in CLUSTER_KINDS}
    assert rights(trimmed.rules) == with_short_spellings(kept)


@pytest.mark.parametrize(("version", "name"), EVERY_ROLE)
def test_the_whole_of_every_role(version: str, name: str) -> None:
    """Admin over any role, CDI's and those without a namespace too, is that role less what has no namespace."""
    base = shipped(version)[name]
    rules = trim(base, role(**{"from": name}, preset="Admin")).rules
    kept = {atom for atom in rights(base) if atom[1].partition("/")[0] not in CLUSTER_KINDS}
    assert rights(rules) == with_short_spellings(kept)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", VERSIONS)
def test_add_ons_over_every_version(version: str, name: str) -> None:
    """Each gives at most what the base has and what it adds; what it does not give of its own is told."""
    base = shipped(version)[name]
    view = rights(trim(base, None).rules)
    for add_on, named in ADD_ONS.items():
        trimmed = trim(base, role(**{"from": name}, include=[add_on]))
        given = rights(trimmed.rules)
        assert given >= view, add_on
        assert given <= with_short_spellings(rights(base)) | spelled(named.adds), add_on
        assert given - view <= with_short_spellings(spelled((*named.keeps, *named.adds))), add_on
        assert without_namespace(trimmed.rules) == set(), add_on
        told = {warning.type for warning in trimmed.warnings}
        lacks_all = bool(named.keeps) and rights(base).isdisjoint(spelled(named.keeps))
        assert ("RuleUnmatched" in told) is lacks_all, add_on


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("version", VERSIONS)
def test_all_of_it_over_every_version(version: str, name: str) -> None:
    base = shipped(version)[name]
    given = rights(trim(base, role(**{"from": name}, preset="Admin", include=list(ADD_ONS))).rules)
    kept = {atom for atom in rights(base) if atom[1] not in CLUSTER_KINDS}
    assert given == with_short_spellings(kept) | {atom for named in ADD_ONS.values() for atom in spelled(named.adds)}


@pytest.mark.parametrize(
    ("asked", "right", "first", "last"),
    [
        pytest.param({"preset": "View"}, ("get", f"{VM}/expand-spec"), "v0.59.0", None, id="expand-spec"),
        pytest.param({"preset": "Operate"}, ("update", f"{VMI}/softreboot"), "v0.58.0", None, id="softreboot"),
        pytest.param({"preset": "Operate"}, ("update", f"{VMI}/reset"), "v1.5.0", None, id="reset"),
        pytest.param({"preset": "Edit"}, ("get", f"{VM}/portforward"), "v0.59.0", None, id="portforward"),
        pytest.param({"preset": "Admin"}, ("get", f"{VMI}/usbredir"), "v1.4.0", None, id="usbredir"),
        pytest.param({"preset": "Admin"}, ("update", f"{VM}/migrate"), "v0.58.0", "v1.4.0", id="migrate, taken out in v1.5"),
        pytest.param({"preset": "Edit"}, ("update", f"{VM}/migrate"), None, None, id="migrate is not in Edit, whatever the base"),
        pytest.param({"include": ["Migrate"]}, ("update", f"{VM}/migrate"), "v0.58.0", None, id="migrate as an add-on"),
        pytest.param({"include": ["Attestation"]}, ("update", f"{VMI}/sev"), "v1.1.0", None, id="sev"),
        pytest.param({"include": ["EvacuateCancel"]}, ("update", f"{VM}/evacuate"), "v1.7.0", None, id="evacuate"),
        pytest.param({"include": ["ObjectGraph"]}, ("get", f"{VM}/objectgraph"), "v1.6.0", None, id="objectgraph"),
        pytest.param({"include": ["VNC", "Screenshot"]}, ("get", f"{VMI}/vnc/screenshot"), "v0.58.0", None, id="screenshot"),
        pytest.param(
            {"from": "kubevirt.io:edit", "include": ["VNC", "Screenshot"]},
            ("get", f"{VMI}/vnc/screenshot"),
            "v0.58.0",
            "v1.8.0",
            id="screenshot over edit, taken out in v1.8.2",
        ),
    ],
)
def test_a_right_comes_and_goes_with_the_base(
    asked: dict[str, object], right: tuple[str, str], first: str | None, last: str | None
) -> None:
    verb, resource = right
    have = [
        version
        for version in VERSIONS
        if (SUB, resource, verb, "") in rights(trim(shipped(version)[str(asked.get("from", NAMES[0]))], role(**asked)).rules)
    ]
    until = VERSIONS[-1] if last is None else last
    within = [version for version in VERSIONS if first and as_numbers(first) <= as_numbers(version) <= as_numbers(until)]
    assert have == within


@pytest.mark.parametrize("add_on", ADD_ONS)
def test_every_add_on_gives_something_somewhere(add_on: AddOn) -> None:
    """But for the screenshot, which needs VNC beside it."""
    include = ["VNC", add_on] if add_on == "Screenshot" else [add_on]
    less = include[:-1]
    newest = shipped(VERSIONS[-1])[NAMES[0]]
    assert rights(trim(newest, role(preset="View", include=include)).rules) > rights(
        trim(newest, role(preset="View", include=less or None)).rules
    )
