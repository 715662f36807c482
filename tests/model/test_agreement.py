"""Admission and the operator give the same answer to every grant, and both name the field."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmaccess.model.grant import read_spec
from vmaccess.model.problems import Problems
from vmaccess.model.spec import RBAC_GROUP, AddOn, Preset, Spec
from vmaccess.model.structural import structural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Grant = dict[str, Any]
    Admit = Callable[[Mapping[str, Any]], Any]
    Path = tuple[str | int, ...]

GROUP = {"kind": "Group", "name": "oidc:team-a"}


def grant(*, name: str = "team-a", **spec: Any) -> Grant:
    """A valid grant, changed; a field set to None is left out."""
    fields = {"subjects": [GROUP], "namespaces": ["default"]} | spec
    return {"metadata": {"name": name}, "spec": {field: value for field, value in fields.items() if value is not None}}


def user(name: str, **more: Any) -> Grant:
    return {"kind": "User", "name": name, **more}


def account(name: str, namespace: str = "default", **more: Any) -> Grant:
    return {"kind": "ServiceAccount", "name": name, "namespace": namespace, **more}


def keep(**rule: Any) -> Grant:
    return grant(role={"keep": [{"resources": ["virtualmachines"], "verbs": ["get"]} | rule]})


def drop(*rules: Grant) -> Grant:
    return grant(role={"drop": list(rules)})


def labels(**selector: Any) -> Grant:
    return grant(namespaces=None, namespaceSelector=selector)


def expression(key: str = "team", operator: str = "In", **more: Any) -> Grant:
    return labels(matchExpressions=[{"key": key, "operator": operator, **more}])


def with_fields(fields: Grant) -> Grant:
    valid = grant()
    return valid | {"spec": valid["spec"] | fields}


def with_cluster_role(machines: list[str], *, suspend: bool = False, **role: Any) -> Grant:
    return grant(role={"kind": "ClusterRole", "virtualMachines": machines, **role}, suspend=suspend)


def with_kubeconfigs(*kubeconfigs: Grant) -> Grant:
    accounts = [{"name": f"a{index}", "namespace": "a", "kubeconfig": each} for index, each in enumerate(kubeconfigs)]
    return grant(serviceAccounts=accounts)


def numbered(count: int, shape: str = "n{}") -> list[str]:
    return [shape.format(index) for index in range(count)]


ACCEPTED: dict[str, Grant] = {
    "the smallest grant": grant(),
    "name of 63 characters": grant(name="a" * 63),
    "only ServiceAccounts": grant(subjects=None, serviceAccounts=[{"name": "runner", "namespace": "default"}]),
    "empty subjects beside a ServiceAccount": grant(subjects=[], serviceAccounts=[{"name": "runner", "namespace": "a"}]),
    "empty serviceAccounts beside a subject": grant(serviceAccounts=[]),
    "ServiceAccount name of 253 characters": grant(serviceAccounts=[{"name": "a" * 253, "namespace": "a"}]),
    "ServiceAccount name with dots": grant(serviceAccounts=[{"name": "a.b-c.d", "namespace": "a"}]),
    "one ServiceAccount name in two namespaces": grant(
        serviceAccounts=[{"name": "runner", "namespace": "a"}, {"name": "runner", "namespace": "b"}]
    ),
    "the shortest kubeconfig": with_kubeconfigs({"secretName": "a"}),
    "a kubeconfig of the greatest length": with_kubeconfigs(
        {"secretName": "a" * 240, "tokenLifetimeSeconds": 365 * 86400, "server": "https://" + "a" * 504}
    ),
    "kubeconfigs of other names": with_kubeconfigs({"secretName": "a"}, {"secretName": "b"}),
    "addresses of all kinds": with_kubeconfigs(
        *(
            {"secretName": f"s{index}", "server": server}
            for index, server in enumerate(
                ("https://a", "https://10.0.0.1:443", "https://[fd00::1]:6443", "https://a.b/k8s/c-1/")
            )
        )
    ),
    "100 kubeconfigs": with_kubeconfigs(*({"secretName": "x" * 236 + f"{index:04}"} for index in range(100))),
    "100 ServiceAccounts": grant(serviceAccounts=[{"name": name, "namespace": "a"} for name in numbered(100)]),
    "ServiceAccount as a subject": grant(subjects=[account("runner")]),
    "ServiceAccount with the core group": grant(subjects=[account("runner", apiGroup="")]),
    "User with RBAC's group": grant(subjects=[user("jane", apiGroup=RBAC_GROUP)]),
    "User named default": grant(subjects=[user("default")]),
    "User with inner blanks": grant(subjects=[user("Jane Doe")]),
    "User beyond ASCII": grant(subjects=[user("jürgen\u3000😀")]),
    "User that ends with a no-break space": grant(subjects=[user("jane\u00a0")]),
    "User name of 512 characters": grant(subjects=[user("ü" * 512)]),
    "Group like systems": grant(subjects=[{"kind": "Group", "name": "systems:a"}]),
    "one name as User and Group": grant(subjects=[user("a"), {"kind": "Group", "name": "a"}]),
    "one ServiceAccount name as subject in two namespaces": grant(subjects=[account("a", "a"), account("a", "b")]),
    "100 subjects of the greatest length": grant(
        subjects=[user(f"{index:03}" + "😀" * 509, **({"apiGroup": RBAC_GROUP} if index % 2 else {})) for index in range(100)]
    ),
    "namespace of 63 characters": grant(namespaces=["a" * 63]),
    "5000 namespaces of the greatest length": grant(namespaces=numbered(5000, "n{:04}" + "x" * 58)),
    "empty namespaces beside a selector": grant(namespaces=[], namespaceSelector={"matchLabels": {"team": "a"}}),
    "empty selector": labels(),
    "selector with an empty value": labels(matchLabels={"team": ""}),
    "label key with a prefix": labels(matchLabels={"example.com/Team_a.b": "A_b.c"}),
    "label key and value of the greatest length": labels(matchLabels={f"{'a' * 253}/{'b' * 63}": "c" * 63}),
    "100 labels of the greatest length": labels(matchLabels={f"{'a' * 250}{i:03}/{'b' * 63}": "c" * 63 for i in range(100)}),
    "In": expression(values=["a"]),
    "NotIn": expression(operator="NotIn", values=["a", ""]),
    "Exists": expression(operator="Exists"),
    "Exists with empty values": expression(operator="Exists", values=[]),
    "DoesNotExist": expression(operator="DoesNotExist"),
    "one expression twice": labels(matchExpressions=[{"key": "a", "operator": "Exists"}] * 2),
    "exclusion with wildcards": grant(excludeNamespaces=["*-secret", "kube-?", "*"]),
    "empty exclusion list": grant(excludeNamespaces=[]),
    "500 exclusions": grant(excludeNamespaces=numbered(500)),
    "empty role": grant(role={}),
    "role with defaults spelled out": grant(role={"kind": "Role", "from": "kubevirt.io:admin", "preset": "View"}),
    "a ClusterRole": grant(role={"kind": "ClusterRole"}),
    **{f"preset {preset}": grant(role={"preset": preset}) for preset in get_args(Preset)},
    "a preset with kind ClusterRole": grant(role={"kind": "ClusterRole", "preset": "Admin"}),
    "every add-on": grant(role={"include": list(get_args(AddOn))}),
    "an add-on with kind ClusterRole": grant(role={"kind": "ClusterRole", "include": ["Migrate"]}),
    "one named machine": grant(role={"virtualMachines": ["web-1"]}),
    "a named machine with kind Role": grant(role={"kind": "Role", "virtualMachines": ["web-1"]}),
    "a machine with dots": grant(role={"virtualMachines": ["a.b-c.d"]}),
    "100 machines of the greatest length": grant(role={"virtualMachines": numbered(100, "m{:03}" + "x" * 249)}),
    "everything about a role but its kind": grant(
        role={
            "from": "kubevirt.io:edit",
            "preset": "Edit",
            "keep": [{"resources": ["virtualmachines"], "verbs": ["get"]}],
            "drop": [{"verbs": ["delete"]}],
            "include": ["Snapshots"],
            "virtualMachines": ["web-1", "web-2"],
        }
    ),
    "base role of 253 characters": grant(role={"from": "a" * 253}),
    "base role beyond ASCII": grant(role={"from": "aü\u00a0"}),
    "keep with everything": keep(apiGroups=["*"], resources=["*"], verbs=["*"]),
    "keep of the core group": keep(apiGroups=[""]),
    "keep of subresources": keep(resources=["*/vnc", "virtualmachineinstances/vnc/screenshot"]),
    "50 keep entries at their limits": grant(
        role={
            "keep": [
                {
                    "apiGroups": numbered(50, "g{}"),
                    "resources": numbered(100, "r{}"),
                    "verbs": ["v" * length for length in range(1, 20)] + ["w" * (index + 1)],
                }
                for index in range(50)
            ]
        }
    ),
    "drop by verb alone": drop({"verbs": ["delete"]}),
    "drop by group alone": drop({"apiGroups": [""]}),
    "a time": grant(expirationTime="2027-01-31T18:00:00Z"),
    "a time of another zone": grant(notBeforeTime="2027-01-31T18:00:00+05:30"),
    "a time with a fraction": grant(expirationTime="2027-01-31T18:00:00.123456789Z"),
    "a time long ago": grant(expirationTime="2000-01-01T00:00:00Z"),
    "the last time of all": grant(expirationTime="2999-12-31T23:59:59-23:59"),
    "the 29th of February": grant(notBeforeTime="2028-02-29T00:00:00Z"),
    "from a time to another": grant(notBeforeTime="2027-01-31T08:00:00Z", expirationTime="2027-01-31T18:00:00Z"),
    "from a time to one that sorts before it": grant(
        notBeforeTime="2027-01-31T08:00:00+09:00", expirationTime="2027-01-31T00:00:00Z"
    ),
    "suspend false": grant(suspend=False),
    "suspend true": grant(suspend=True),
}

REFUSED: dict[str, tuple[str, Grant]] = {
    **{
        f"kubeconfig {field} {wrong!r}": (
            f"spec.serviceAccounts[0].kubeconfig.{field}",
            with_kubeconfigs({"secretName": "a", field: wrong}),
        )
        for field, values in {
            "secretName": ("", "A", "a_b", "a/b", "a" * 241, "-a", "x-token-a", "x-token-b", "a\n"),
            "tokenLifetimeSeconds": (0, -600, 599, 365 * 86400 + 1, 600.5, "3600"),
            "server": (
                "",
                "a",
                "http://a",
                "https://",
                "https://a b",
                "https://u:p@a",
                "https://a?b",
                "https://a#b",
                "https://a:123456",
                "https://a\n",
                "HTTPS://a",
                "https://" + "a" * 505,
            ),
        }.items()
        for wrong in values
    },
    "kubeconfig without a Secret": ("spec.serviceAccounts[0].kubeconfig.secretName", with_kubeconfigs({})),
    "one Secret for two kubeconfigs": ("spec.serviceAccounts", with_kubeconfigs({"secretName": "a"}, {"secretName": "a"})),
    "name of 64 characters": ("metadata.name", grant(name="a" * 64)),
    "no spec": ("spec", {"metadata": {"name": "a"}}),
    "spec is null": ("spec", {"metadata": {"name": "a"}, "spec": None}),
    "spec is a list": ("spec", {"metadata": {"name": "a"}, "spec": []}),
    "empty spec": ("spec", {"metadata": {"name": "a"}, "spec": {}}),
    "nobody": ("spec", grant(subjects=None)),
    "nobody, written as empty lists": ("spec", grant(subjects=[], serviceAccounts=[])),
    "nowhere": ("spec", grant(namespaces=None)),
    "nowhere, written as an empty list": ("spec", grant(namespaces=[])),
    "ServiceAccount default": ("spec.serviceAccounts[0].name", grant(serviceAccounts=[{"name": "default", "namespace": "a"}])),
    "ServiceAccount without a name": ("spec.serviceAccounts[0].name", grant(serviceAccounts=[{"namespace": "a"}])),
    "ServiceAccount without a namespace": ("spec.serviceAccounts[0].namespace", grant(serviceAccounts=[{"name": "a"}])),
    "ServiceAccount with an empty name": (
        "spec.serviceAccounts[0].name",
        grant(serviceAccounts=[{"name": "", "namespace": "a"}]),
    ),
    "ServiceAccount name of 254 characters": (
        "spec.serviceAccounts[0].name",
        grant(serviceAccounts=[{"name": "a" * 254, "namespace": "a"}]),
    ),
    "ServiceAccount name in capitals": ("spec.serviceAccounts[0].name", grant(serviceAccounts=[{"name": "A", "namespace": "a"}])),
    "ServiceAccount name with a line feed": (
        "spec.serviceAccounts[0].name",
        grant(serviceAccounts=[{"name": "a\n", "namespace": "a"}]),
    ),
    "ServiceAccount namespace with a dot": (
        "spec.serviceAccounts[0].namespace",
        grant(serviceAccounts=[{"name": "a", "namespace": "a.b"}]),
    ),
    "ServiceAccount twice": ("spec.serviceAccounts[1]", grant(serviceAccounts=[{"name": "a", "namespace": "a"}] * 2)),
    "ServiceAccount twice, mounted and not": (
        "spec.serviceAccounts[1]",
        grant(
            serviceAccounts=[
                {"name": "a", "namespace": "a"},
                {"name": "a", "namespace": "a", "automountServiceAccountToken": True},
            ]
        ),
    ),
    "101 ServiceAccounts": (
        "spec.serviceAccounts",
        grant(serviceAccounts=[{"name": name, "namespace": "a"} for name in numbered(101)]),
    ),
    "subject without a kind": ("spec.subjects[0].kind", grant(subjects=[{"name": "a"}])),
    "subject of an unknown kind": ("spec.subjects[0].kind", grant(subjects=[{"kind": "Robot", "name": "a"}])),
    "subject of a kind in lower case": ("spec.subjects[0].kind", grant(subjects=[{"kind": "user", "name": "a"}])),
    "subject without a name": ("spec.subjects[0].name", grant(subjects=[{"kind": "User"}])),
    "subject with an empty name": ("spec.subjects[0].name", grant(subjects=[user("")])),
    "subject with a blank name": ("spec.subjects[0].name", grant(subjects=[user(" ")])),
    "subject with a blank at the end": ("spec.subjects[0].name", grant(subjects=[user("jane ")])),
    "subject with a line feed": ("spec.subjects[0].name", grant(subjects=[user("jane\n")])),
    "subject with a NUL": ("spec.subjects[0].name", grant(subjects=[user("a\x00b")])),
    "subject name of 513 characters": ("spec.subjects[0].name", grant(subjects=[user("a" * 513)])),
    "User of the system": ("spec.subjects[0].name", grant(subjects=[user("system:admin")])),
    "Group of the system": ("spec.subjects[0].name", grant(subjects=[{"kind": "Group", "name": "system:masters"}])),
    "Group of all ServiceAccounts": (
        "spec.subjects[0].name",
        grant(subjects=[{"kind": "Group", "name": "system:serviceaccounts"}]),
    ),
    "User that is a ServiceAccount": ("spec.subjects[0].name", grant(subjects=[user("system:serviceaccount:default:runner")])),
    "User with a namespace": ("spec.subjects[0].namespace", grant(subjects=[user("jane", namespace="default")])),
    "User with an empty namespace": ("spec.subjects[0].namespace", grant(subjects=[user("jane", namespace="")])),
    "User with the core group": ("spec.subjects[0].apiGroup", grant(subjects=[user("jane", apiGroup="")])),
    "User with another group": ("spec.subjects[0].apiGroup", grant(subjects=[user("jane", apiGroup="rbac")])),
    "ServiceAccount subject without a namespace": (
        "spec.subjects[0].namespace",
        grant(subjects=[{"kind": "ServiceAccount", "name": "a"}]),
    ),
    "ServiceAccount subject with RBAC's group": (
        "spec.subjects[0].apiGroup",
        grant(subjects=[account("a", apiGroup=RBAC_GROUP)]),
    ),
    "ServiceAccount subject default": ("spec.subjects[0].name", grant(subjects=[account("default")])),
    "ServiceAccount subject in capitals": ("spec.subjects[0].name", grant(subjects=[account("Runner")])),
    "ServiceAccount subject name of 254 characters": ("spec.subjects[0].name", grant(subjects=[account("a" * 254)])),
    "ServiceAccount subject spelled as a user": (
        "spec.subjects[0].name",
        grant(subjects=[account("system:serviceaccount:default:runner")]),
    ),
    "subject twice": ("spec.subjects", grant(subjects=[GROUP, user("a"), GROUP])),
    "subject twice, with and without apiGroup": ("spec.subjects", grant(subjects=[user("a"), user("a", apiGroup=RBAC_GROUP)])),
    "ServiceAccount subject twice, with and without apiGroup": (
        "spec.subjects",
        grant(subjects=[account("a", apiGroup=""), account("a")]),
    ),
    "101 subjects": ("spec.subjects", grant(subjects=[user(name) for name in numbered(101)])),
    "namespace of 64 characters": ("spec.namespaces[0]", grant(namespaces=["a" * 64])),
    "empty namespace": ("spec.namespaces[1]", grant(namespaces=["a", ""])),
    "namespace in capitals": ("spec.namespaces[0]", grant(namespaces=["Default"])),
    "namespace with a dot": ("spec.namespaces[0]", grant(namespaces=["a.b"])),
    "namespace that begins with a hyphen": ("spec.namespaces[0]", grant(namespaces=["-a"])),
    "namespace with a line feed": ("spec.namespaces[0]", grant(namespaces=["a\n"])),
    "namespace with a wildcard": ("spec.namespaces[0]", grant(namespaces=["*"])),
    "namespace with the Kelvin sign": ("spec.namespaces[0]", grant(namespaces=["\u212a"])),
    "namespace twice": ("spec.namespaces[2]", grant(namespaces=["a", "b", "a"])),
    "5001 namespaces": ("spec.namespaces", grant(namespaces=numbered(5001))),
    "null among the namespaces": ("spec.namespaces[1]", grant(namespaces=["a", None])),
    "number among the namespaces": ("spec.namespaces[1]", grant(namespaces=["a", 123])),
    # kubectl apply takes nulls out before it sends: `matchLabels: {team: }` arrives as this, and would select everything.
    "empty matchLabels": ("spec.namespaceSelector.matchLabels", labels(matchLabels={})),
    "empty matchExpressions": ("spec.namespaceSelector.matchExpressions", labels(matchExpressions=[])),
    "label key with a blank": ("spec.namespaceSelector.matchLabels", labels(matchLabels={"a b": "c"})),
    "empty label key": ("spec.namespaceSelector.matchLabels", labels(matchLabels={"": "c"})),
    "label key with two slashes": ("spec.namespaceSelector.matchLabels", labels(matchLabels={"a/b/c": "c"})),
    "label key of 64 characters": ("spec.namespaceSelector.matchLabels", labels(matchLabels={"a" * 64: "c"})),
    "label key of 318 characters": ("spec.namespaceSelector.matchLabels", labels(matchLabels={f"{'a' * 254}/{'b' * 63}": "c"})),
    "label key with a line feed": ("spec.namespaceSelector.matchLabels", labels(matchLabels={"a\n": "c"})),
    "label value with a blank": ("spec.namespaceSelector.matchLabels.team", labels(matchLabels={"team": "a b"})),
    "label value of 64 characters": ("spec.namespaceSelector.matchLabels.team", labels(matchLabels={"team": "a" * 64})),
    "label value null, which alone would be dropped": (
        "spec.namespaceSelector.matchLabels",
        labels(matchLabels={"team": None, "stage": "a"}),
    ),
    "101 labels": ("spec.namespaceSelector.matchLabels", labels(matchLabels=dict.fromkeys(numbered(101), ""))),
    "In without values": ("spec.namespaceSelector.matchExpressions[0].values", expression()),
    "In with empty values": ("spec.namespaceSelector.matchExpressions[0].values", expression(values=[])),
    "NotIn without values": ("spec.namespaceSelector.matchExpressions[0].values", expression(operator="NotIn")),
    "Exists with a value": ("spec.namespaceSelector.matchExpressions[0].values", expression(operator="Exists", values=["a"])),
    "unknown operator": ("spec.namespaceSelector.matchExpressions[0].operator", expression(operator="in", values=["a"])),
    "expression without a key": (
        "spec.namespaceSelector.matchExpressions[0].key",
        labels(matchExpressions=[{"operator": "Exists"}]),
    ),
    "expression with a bad key": ("spec.namespaceSelector.matchExpressions[0].key", expression(key="/a", operator="Exists")),
    "expression with a value twice": ("spec.namespaceSelector.matchExpressions[0].values[1]", expression(values=["a", "a"])),
    "expression with a bad value": ("spec.namespaceSelector.matchExpressions[0].values[0]", expression(values=["a b"])),
    "expression with 101 values": ("spec.namespaceSelector.matchExpressions[0].values", expression(values=numbered(101))),
    "101 expressions": (
        "spec.namespaceSelector.matchExpressions",
        labels(matchExpressions=[{"key": key, "operator": "Exists"} for key in numbered(101)]),
    ),
    "empty exclusion": ("spec.excludeNamespaces[0]", grant(excludeNamespaces=[""])),
    "exclusion in capitals": ("spec.excludeNamespaces[0]", grant(excludeNamespaces=["Team-*"])),
    "exclusion with a character class": ("spec.excludeNamespaces[0]", grant(excludeNamespaces=["team-[ab]"])),
    "exclusion of 64 characters": ("spec.excludeNamespaces[0]", grant(excludeNamespaces=["a" * 64])),
    "exclusion twice": ("spec.excludeNamespaces[1]", grant(excludeNamespaces=["a-*", "a-*"])),
    "501 exclusions": ("spec.excludeNamespaces", grant(excludeNamespaces=numbered(501))),
    "role of an unknown kind": ("spec.role.kind", grant(role={"kind": "RoleBinding"})),
    "unknown preset": ("spec.role.preset", grant(role={"preset": "Views"})),
    "empty preset": ("spec.role.preset", grant(role={"preset": ""})),
    "preset in small letters": ("spec.role.preset", grant(role={"preset": "operate"})),
    "unknown add-on": ("spec.role.include[0]", grant(role={"include": ["Migrat"]})),
    "add-on in small letters": ("spec.role.include[1]", grant(role={"include": ["VNC", "migrate"]})),
    "preset for an add-on": ("spec.role.include[0]", grant(role={"include": ["View"]})),
    "empty add-on": ("spec.role.include[0]", grant(role={"include": [""]})),
    "null among the add-ons": ("spec.role.include[1]", grant(role={"include": ["VNC", None]})),
    "add-on twice": ("spec.role.include[2]", grant(role={"include": ["VNC", "Power", "VNC"]})),
    "no add-on": ("spec.role.include", grant(role={"include": []})),
    "31 add-ons": ("spec.role.include", grant(role={"include": numbered(31)})),
    "no machine": ("spec.role.virtualMachines", grant(role={"virtualMachines": []})),
    "no machine with kind ClusterRole": ("spec.role.virtualMachines", with_cluster_role([])),
    "machine with an empty name": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": [""]})),
    "machine in capitals": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["Web-1"]})),
    "machine with an underscore": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["web_1"]})),
    "machine with a wildcard": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["web-*"]})),
    "machine with a namespace": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["default/web-1"]})),
    "machine with a line feed": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["web-1\n"]})),
    "machine that ends with a hyphen": ("spec.role.virtualMachines[1]", grant(role={"virtualMachines": ["web-1", "web-"]})),
    "machine with two dots": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["a..b"]})),
    "machine of 254 characters": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": ["a" * 254]})),
    "null among the machines": ("spec.role.virtualMachines[0]", grant(role={"virtualMachines": [None]})),
    "machine twice": ("spec.role.virtualMachines[1]", grant(role={"virtualMachines": ["web-1", "web-1"]})),
    "101 machines": ("spec.role.virtualMachines", grant(role={"virtualMachines": numbered(101)})),
    "machines with kind ClusterRole": ("spec.role.virtualMachines", with_cluster_role(["web-1"])),
    "machines with kind ClusterRole and much else": (
        "spec.role.virtualMachines",
        with_cluster_role(["web-1"], preset="Operate", include=["VNC"], suspend=True),
    ),
    "empty base role": ("spec.role.from", grant(role={"from": ""})),
    "base role with a slash": ("spec.role.from", grant(role={"from": "a/b"})),
    "base role ..": ("spec.role.from", grant(role={"from": ".."})),
    "base role with a blank": ("spec.role.from", grant(role={"from": "a b"})),
    "base role of 254 characters": ("spec.role.from", grant(role={"from": "a" * 254})),
    "no keep entry": ("spec.role.keep", grant(role={"keep": []})),
    "empty keep entry": ("spec.role.keep[0]", grant(role={"keep": [{}]})),
    "keep without resources": ("spec.role.keep[0].resources", grant(role={"keep": [{"verbs": ["get"]}]})),
    "keep without verbs": ("spec.role.keep[0].verbs", grant(role={"keep": [{"resources": ["*"]}]})),
    "keep with no resource": ("spec.role.keep[0].resources", keep(resources=[])),
    "keep with no verb": ("spec.role.keep[0].verbs", keep(verbs=[])),
    "keep with no group": ("spec.role.keep[0].apiGroups", keep(apiGroups=[])),
    "keep with an empty resource": ("spec.role.keep[0].resources[0]", keep(resources=[""])),
    "keep with an empty verb": ("spec.role.keep[0].verbs[0]", keep(verbs=[""])),
    "keep with a kind for a resource": ("spec.role.keep[0].resources[0]", keep(resources=["VirtualMachine"])),
    "keep with an open subresource": ("spec.role.keep[0].resources[0]", keep(resources=["virtualmachines/"])),
    "keep with a wildcard inside": ("spec.role.keep[0].resources[0]", keep(resources=["virtual*"])),
    "keep with a verb in capitals": ("spec.role.keep[0].verbs[0]", keep(verbs=["GET"])),
    "keep with a group and version": ("spec.role.keep[0].apiGroups[0]", keep(apiGroups=["kubevirt.io/v1"])),
    "keep with a resource twice": ("spec.role.keep[0].resources[1]", keep(resources=["a", "a"])),
    "keep with a verb twice": ("spec.role.keep[0].verbs[1]", keep(verbs=["get", "get"])),
    "keep with 101 resources": ("spec.role.keep[0].resources", keep(resources=numbered(101))),
    "keep with 21 verbs": ("spec.role.keep[0].verbs", keep(verbs=["v" * length for length in range(1, 22)])),
    "keep with 51 groups": ("spec.role.keep[0].apiGroups", keep(apiGroups=numbered(51))),
    "keep entry twice": ("spec.role.keep", grant(role={"keep": [{"resources": ["a"], "verbs": ["get"]}] * 2})),
    "keep entry twice in another order": (
        "spec.role.keep",
        grant(role={"keep": [{"resources": ["a", "b"], "verbs": ["get"]}, {"resources": ["b", "a"], "verbs": ["get"]}]}),
    ),
    "51 keep entries": (
        "spec.role.keep",
        grant(role={"keep": [{"resources": [name], "verbs": ["get"]} for name in numbered(51)]}),
    ),
    "no drop entry": ("spec.role.drop", drop()),
    "empty drop entry": ("spec.role.drop[0]", drop({})),
    "drop with no verb": ("spec.role.drop[0].verbs", drop({"verbs": []})),
    "drop entry twice": ("spec.role.drop", drop({"verbs": ["get", "list"]}, {"verbs": ["list", "get"]})),
    "51 drop entries": ("spec.role.drop", drop(*({"resources": [name]} for name in numbered(51)))),
    **{
        f"time {wrong!r}": ("spec.expirationTime", grant(expirationTime=wrong))
        for wrong in (
            "",
            " ",
            "2027-01-31",
            "2027-01-31T18:00:00",
            "2027-01-31 18:00:00Z",
            "2027-01-31t18:00:00z",
            "2027-01-31T18:00Z",
            "2027-01-31T24:00:00Z",
            "2027-01-31T18:00:60Z",
            "2027-13-01T00:00:00Z",
            "2027-1-1T00:00:00Z",
            "1999-12-31T00:00:00Z",
            "3000-01-01T00:00:00Z",
            "2027-01-31T18:00:00.Z",
            "2027-01-31T18:00:00,5Z",
            "2027-01-31T18:00:00+24:00",
            "2027-01-31T18:00:00+0100",
            "2027-01-31T18:00:00 Z",
            "2027-01-31T18:00:00Z\n",
            "tomorrow",
            "24h",
            "1800000000",
            "2027-02-29T00:00:00Z",
            "2027-04-31T00:00:00Z",
            "2100-02-29T00:00:00Z",
        )
    },
    "start that is not in the calendar": ("spec.notBeforeTime", grant(notBeforeTime="2027-06-31T00:00:00Z")),
    "end at the start": (
        "spec.expirationTime",
        grant(notBeforeTime="2027-01-31T08:00:00Z", expirationTime="2027-01-31T08:00:00Z"),
    ),
    "end before the start, by the zone alone": (
        "spec.expirationTime",
        grant(notBeforeTime="2027-01-31T08:00:00Z", expirationTime="2027-01-31T09:00:00+02:00"),
    ),
    "suspend as a text": ("spec.suspend", grant(suspend="true")),
    "suspend as a number": ("spec.suspend", grant(suspend=1)),
}


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
def test_both_accept(accepted: Grant, admit: Admit) -> None:
    assert isinstance(read_spec(accepted), Spec), read_spec(accepted)
    answer = admit(accepted)
    assert answer.accepted, answer.body


@pytest.mark.parametrize(("field", "refused"), REFUSED.values(), ids=REFUSED)
def test_both_refuse_and_name_the_field(field: str, refused: Grant, admit: Admit) -> None:
    problems = read_spec(refused)
    assert isinstance(problems, Problems)
    assert any(message.startswith(field) for message in problems.messages), problems
    answer = admit(refused)
    assert answer.status == 422, answer.body
    assert any(named.startswith(field) for named in answer.fields), answer.body


EVERY_FIELD = grant(
    serviceAccounts=[
        {
            "name": "runner",
            "namespace": "default",
            "automountServiceAccountToken": False,
            "kubeconfig": {"secretName": "runner", "tokenLifetimeSeconds": 3600, "server": "https://api.example.com:6443"},
        }
    ],
    subjects=[account("a", apiGroup=""), user("jane", apiGroup=RBAC_GROUP)],
    namespaces=["default", "myvms"],
    namespaceSelector={
        "matchLabels": {"team": "a"},
        "matchExpressions": [{"key": "stage", "operator": "In", "values": ["test", "dev"]}],
    },
    excludeNamespaces=["kube-*", "secret"],
    role={
        "kind": "Role",
        "from": "kubevirt.io:admin",
        "preset": "View",
        "keep": [{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines", "*/vnc"], "verbs": ["get", "list"]}],
        "drop": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["*"]}, {"verbs": ["delete"]}],
        "include": ["Migrate", "StorageView"],
        "virtualMachines": ["web-1", "web-2"],
    },
    notBeforeTime="2027-01-31T08:00:00Z",
    expirationTime="2027-01-31T18:00:00Z",
    suspend=False,
)


def values(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value inside an object, with its path."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key), value
        yield from values(value, (*path, key))


SPEC_VALUES = dict(values({"spec": EVERY_FIELD["spec"]}))
WRONG_TYPES: tuple[Any, ...] = (7, 1.5, True, "text", [], ["text"], {})


def dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)[1:]


def changed(path: Path, value: Any) -> Grant:
    result = copy.deepcopy(EVERY_FIELD)
    parent: Any = result
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return result


def test_every_field_is_filled_in() -> None:
    def fields(schema: dict[str, Any], path: str) -> Iterator[str]:
        yield path
        for name, child in schema.get("properties", {}).items():
            yield from fields(child, f"{path}.{name}")
        if "items" in schema:
            yield from fields(schema["items"], f"{path}[0]")

    assert set(fields(structural(Spec), "spec")) <= {dotted(path) for path in SPEC_VALUES}
    assert isinstance(read_spec(EVERY_FIELD), Spec)


@pytest.mark.parametrize("path", SPEC_VALUES, ids=dotted)
def test_both_refuse_every_wrong_type(path: Path, admit: Admit) -> None:
    for wrong in WRONG_TYPES:
        if type(wrong) is type(SPEC_VALUES[path]):
            continue
        refused = changed(path, wrong)
        problems = read_spec(refused)
        assert isinstance(problems, Problems), wrong
        assert any(message.startswith(dotted(path)) for message in problems.messages), problems
        answer = admit(refused)
        assert answer.status == 422, (wrong, answer.body)
        assert any(named.startswith(dotted(path)) for named in answer.fields), (wrong, answer.body)


@pytest.mark.parametrize("path", SPEC_VALUES, ids=dotted)
def test_both_read_null_as_absent(path: Path, admit: Admit) -> None:
    with_null = changed(path, None)
    accepted = isinstance(read_spec(with_null), Spec)
    assert admit(with_null).accepted == accepted
    if isinstance(path[-1], int):
        assert not accepted


OBJECTS = [
    (),
    *(path for path, value in SPEC_VALUES.items() if isinstance(value, dict) and path[-1] != "matchLabels"),
]
UNKNOWN: dict[str, tuple[str, Grant]] = {
    "labels": ("spec.namespaceSelector.matchLabel", labels(matchLabel={"team": "a"})),
    "labels in Python's spelling": ("spec.namespaceSelector.match_labels", labels(match_labels={"team": "a"})),
    "value of an expression": ("spec.namespaceSelector.matchExpressions[0].value", expression(operator="Exists", value="a")),
    "selector in Python's spelling": ("spec.namespace_selector", grant(namespace_selector={})),
    "selector in small letters": ("spec.namespaceselector", grant(namespaceselector={})),
    "drop": ("spec.role.dorp", grant(role={"dorp": [{"verbs": ["*"]}]})),
    "from in Python's spelling": ("spec.role.from_", grant(role={"from_": "a"})),
    "verb of a keep entry": ("spec.role.keep[0].verb", keep(verb=["get"])),
    "resource of a drop entry": ("spec.role.drop[1].resource", drop({"verbs": ["list"]}, {"verbs": ["get"], "resource": ["a"]})),
    "exclusion": ("spec.excludeNamespace", grant(excludeNamespace=["a"])),
    "suspension": ("spec.suspended", grant(suspended=True)),
    "null": ("spec.later", with_fields({"later": None})),
    "expiry by another name": ("spec.expiryTime", grant(expiryTime="2027-01-01T00:00:00Z")),
    "add-ons in the plural": ("spec.role.includes", grant(role={"includes": ["Migrate"]})),
    "machines in the singular": ("spec.role.virtualMachine", grant(role={"virtualMachine": ["web-1"]})),
    "machines in Python's spelling": ("spec.role.virtual_machines", grant(role={"virtual_machines": ["web-1"]})),
    "machines outside of the role": ("spec.virtualMachines", grant(virtualMachines=["web-1"])),
    "lifetime of a kubeconfig": (
        "spec.serviceAccounts[0].kubeconfig.tokenLifetime",
        with_kubeconfigs({"secretName": "a", "tokenLifetime": "1h"}),
    ),
    "a field beside spec": ("suspend", grant() | {"suspend": True}),
    **{
        f"further field of {dotted(path) or 'the object'}": (dotted((*path, "newer")), changed((*path, "newer"), {}))
        for path in OBJECTS
    },
}
# The policy names no more than the place: a message has to be one line of at most 5 KiB.
UNKNOWN_AND_ODD: dict[str, tuple[str, str, Grant]] = {
    "the empty name": ('spec[""]', "spec.", with_fields({"": 1})),
    "the empty name beside spec": ('[""]', "", grant() | {"": 1}),
    "a name with a line feed": ('spec.role["a\\nb"]', "spec.role", grant(role={"a\nb": 1})),
    "2000 names": ("spec.k0", "spec", with_fields(dict.fromkeys(numbered(2000, "k{}"), 1))),
}


@pytest.mark.parametrize(
    ("field", "told", "unknown"),
    [(field, re.sub(r"\[\d+\]", "[]", field), unknown) for field, unknown in UNKNOWN.values()] + [*UNKNOWN_AND_ODD.values()],
    ids=[*UNKNOWN, *UNKNOWN_AND_ODD],
)
def test_both_refuse_an_unknown_field_whatever_the_client_asks_for(
    field: str, told: str, unknown: Grant, admit: Admit, admit_unvalidated: Admit
) -> None:
    problems = read_spec(unknown)
    assert isinstance(problems, Problems)
    assert any(message.startswith(f"{field}: unknown field: ") for message in problems.messages), problems
    for ask in (admit, admit_unvalidated):
        answer = ask(unknown)
        assert answer.status == 422, answer.body
        said = answer.body["message"].partition("denied request: ")[2]
        assert said.startswith(f"{told}: unknown field: known here are "), answer.body


@pytest.mark.parametrize("accepted", ACCEPTED.values(), ids=ACCEPTED)
def test_a_client_that_asks_for_no_validation_is_let_in_as_well(accepted: Grant, admit_unvalidated: Admit) -> None:
    answer = admit_unvalidated(accepted)
    assert answer.accepted, answer.body


def test_the_keys_of_labels_are_free(admit_unvalidated: Admit) -> None:
    free = labels(matchLabels={"matchLabel": "a", "suspended": "b", "spec": "c"})
    assert isinstance(read_spec(free), Spec)
    assert admit_unvalidated(free).accepted


AWKWARD = (
    "", " ", "a", "b", "A", "-", "a-", "-a", "a.b", "a..b", ".", "..", "*", "?", "a*", "*/a", "*/*", "a/b", "a/b/c", "/a", "a/",
    "a\n", "\na", "a\u00a0", "\u2028", "a\x0b", "a\x85b", "a\x00b", "a\x7f", "é", "😀", "\u212a", "\uff41", "a b", "a:b", "a%b",
    "_a", "default", "system:", "system:a", "System:a", "system:serviceaccount:a:b", "User", "Group", "ServiceAccount", "View",
    "Role", "ClusterRole", "Admin", "Migrate", "web-1", "In", "NotIn", "Exists", "DoesNotExist", RBAC_GROUP, "get", "true", "123",
    "2026-01-31T08:00:00Z", "2027-02-30T08:00:00Z", "2027-01-31T08:00:00.5+00:00", "2028-02-29T24:00:00Z",
    *("a" * length for length in (63, 64, 253, 254, 317, 318, 512, 513)), "a" * 253 + "/b", "a" * 254 + "/b",
)  # fmt: skip
NAMES = st.sampled_from(AWKWARD) | st.text(st.sampled_from("aZ0-._/*?:% \t\n\x0b\x1f\x7f\x85\xa0\u2028é"), max_size=5)
MUTATIONS = st.one_of(
    st.tuples(st.just("set"), NAMES),
    st.tuples(st.just("set"), st.sampled_from([None, 0, 1, -1.5, True, False, [], {}, ["a"], ["a", "b"], [None], [{}]])),
    st.tuples(st.just("remove"), st.none()),
    st.tuples(st.just("repeat"), st.none()),
    st.tuples(st.just("append"), NAMES),
    st.tuples(st.just("label"), NAMES),
    st.tuples(st.just("add"), NAMES | st.sampled_from(["namespaces", "match_labels", "suspended", "verbs"])),
)
ABSENT: tuple[Path, ...] = (
    ("spec", "subjects", 1, "namespace"),
    ("spec", "namespaceSelector", "matchExpressions", 0, "values", 2),
    ("spec", "role", "drop", 1, "apiGroups"),
    ("spec", "role", "drop", 1, "resources"),
)
PLACES = st.sampled_from([*SPEC_VALUES, *ABSENT])


def mutate(object_: Grant, path: Path, mutation: tuple[str, Any]) -> None:
    """Changes one place of the object, if it is still there."""
    parent: Any = object_
    try:
        for step in path[:-1]:
            parent = parent[step]
        match mutation:
            case "add", name:
                parent[path[-1]].setdefault(name, "a")
            case "set", value:
                parent[path[-1]] = copy.deepcopy(value)
            case "remove", _:
                del parent[path[-1]]
            case "repeat", _:
                parent.append(copy.deepcopy(parent[path[-1]]))
            case "append", value:
                parent[path[-1]].append(value)
            case "label", value:
                object_["spec"]["namespaceSelector"]["matchLabels"][value] = "a"
    except (KeyError, IndexError, TypeError, AttributeError):
        return


@settings(max_examples=300, deadline=None, derandomize=True)
@given(mutations=st.lists(st.tuples(PLACES, MUTATIONS), min_size=1, max_size=3))
def test_both_agree_near_the_edge(mutations: list[tuple[Path, tuple[str, Any]]], admit: Admit) -> None:
    candidate = copy.deepcopy(EVERY_FIELD)
    for path, mutation in mutations:
        mutate(candidate, path, mutation)
    mine, answer = read_spec(candidate), admit(candidate)
    assert isinstance(mine, Spec) == answer.accepted, (mine, answer.body)
