"""The entries of a spec's `keep`, `drop` and `include`: what they mean as rules, and whether they name things that exist.

A typo in `drop` would leave open what was meant to be closed. Known is what KubeVirt's vocabulary over all versions has, what
the add-ons give, and what the base role spells out. A wildcard in the base knows nothing by name: under it a typo would look
like a right, so a name that only a wildcard covers is refused as well.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vmaccess.model.spec import DropRule, KeepRule, Role
from vmaccess.policy.catalogue import ADD_ONS, ADDED
from vmaccess.policy.kubevirt import DEFAULT_BASE, SHORT_NAMES, VOCABULARY, is_cluster_scoped, makes_access, short_spelling
from vmaccess.policy.rules import ANY, Rule, Rules, intersect, overlaps

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

KNOWN: Rules = (*VOCABULARY, *ADDED)
"""Every right that some version of KubeVirt, or an add-on, has a name for."""


class InvalidRole(ValueError):
    """The spec's `role` cannot be granted: `field` is a path such as `role.keep[0].resources[1]`, `message` why, and the cure."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


def as_rule(entry: KeepRule | DropRule) -> Rule:
    """An entry as a rule: an absent field means any."""
    return Rule(entry.api_groups or (ANY,), entry.resources or (ANY,), entry.verbs or (ANY,))


def nested_tails(base: Rules) -> frozenset[str]:
    """What follows the resource in every nested subresource that is known: `vnc/screenshot`, `sev/setupsession`."""
    return frozenset(
        resource.partition("/")[2] for rule in (*base, *KNOWN) for resource in rule.resources if short_spelling(resource)
    )


def with_nested(rule: Rule, tails: frozenset[str]) -> Rule:
    """A subresource in an entry means all that is below it as well: `virtualmachineinstances/vnc` covers `vnc/screenshot`."""
    split = [resource.partition("/") for resource in rule.resources]
    below = tuple(f"{kind}/{tail}" for kind, _, sub in split if sub for tail in tails if tail.startswith(f"{sub}/"))
    return replace(rule, resources=rule.resources + below) if below else rule


def added(role: Role | None) -> Rules:
    """What the included add-ons give beside the base role."""
    return tuple(rule for name in (role.include if role is not None else None) or () for rule in ADD_ONS[name].adds)


def grantable(rules: Rules) -> Rules:
    """Without what is named and no grant can give: it has no namespace, or is what access is made of.

    Each rule is in one group. A wildcard stays, inert for kinds without a namespace.
    """
    return tuple(
        replace(rule, api_groups=(group,), resources=resources)
        for rule in rules
        for group in rule.api_groups
        if (
            resources := tuple(
                resource
                for resource in rule.resources
                if not is_cluster_scoped(group, resource) and not makes_access(group, resource)
            )
        )
    )


def check(role: Role, base: Rules) -> tuple[str, ...]:
    """Hold every entry of keep and drop against the names that exist; answer with what of them matches nothing in this base.

    Raises InvalidRole for a group, resource or verb that nobody knows, for a resource that none of the entry's groups has, and
    for an entry none of whose verbs any of its resources ever had: each would leave open, or closed, what its author did not
    think of.
    """
    everything = (*KNOWN, *base)
    known, tails = _Known.of(everything), nested_tails(base)
    name = role.from_ or DEFAULT_BASE
    unmatched: list[str] = []
    for where, entry in _entries(role):
        _check_names(where, entry, known)
        rule = with_nested(as_rule(entry), tails)
        if not overlaps((rule,), everything):
            theirs = _verbs_of(rule, everything)
            raise InvalidRole(f"{where}.verbs", f"nothing that it names has such a verb: write {theirs}")
        there = base if isinstance(entry, KeepRule) else (*base, *added(role))
        unmatched += _unmatched(where, entry, there, tails, role)
    for index, add_on in enumerate(role.include or ()):
        kept = ADD_ONS[add_on].keeps
        if kept and not overlaps(kept, base):
            unmatched.append(f"role.include[{index}]: {name} has nothing of {add_on}")
    return tuple(unmatched)


def _entries(role: Role) -> Iterable[tuple[str, KeepRule | DropRule]]:
    yield from ((f"role.keep[{index}]", entry) for index, entry in enumerate(role.keep or ()))
    yield from ((f"role.drop[{index}]", entry) for index, entry in enumerate(role.drop or ()))


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known by name: each resource with its groups (`*` where the base gives it in any group)."""

    groups_of: Mapping[str, set[str]]
    groups: set[str]
    verbs: set[str]

    @classmethod
    def of(cls, rules: Rules) -> _Known:
        groups_of: defaultdict[str, set[str]] = defaultdict(set)
        for rule in rules:
            for resource in rule.resources:
                groups_of[resource].update(rule.api_groups)
        groups_of.pop(ANY, None)
        return cls(
            groups_of, {group for rule in rules for group in rule.api_groups}, {verb for rule in rules for verb in rule.verbs}
        )

    def homes(self, resource: str) -> set[str]:
        """The groups that have a resource, or the subresource in `*/console`; empty when nobody knows it."""
        if resource.startswith("*/"):
            return {
                group for name, groups in self.groups_of.items() if name.partition("/")[2] == resource[2:] for group in groups
            }
        return self.groups_of.get(resource, set())


# What people ask for that is no typo of anything here.
ELSEWHERE = ("secrets", "configmaps", "pods", "services", "deployments", "nodes", "namespaces", "customresourcedefinitions")


def _check_names(where: str, entry: KeepRule | DropRule, known: _Known) -> None:
    groups = set(entry.api_groups or (ANY,))
    for index, group in enumerate(entry.api_groups or ()):
        if group != ANY and group not in known.groups:
            raise _unknown(f"{where}.apiGroups[{index}]", "API group", group, get_close_matches(group, sorted(known.groups), 1))
    for index, verb in enumerate(entry.verbs or ()):
        if verb != ANY and verb not in known.verbs:
            raise _unknown(f"{where}.verbs[{index}]", "verb", verb, get_close_matches(verb, sorted(known.verbs), 1, 0.4))
    for index, resource in enumerate(entry.resources or ()):
        if resource == ANY:
            continue
        homes = known.homes(resource)
        if not homes:
            raise _unknown(f"{where}.resources[{index}]", "resource", resource, _near(resource, groups, known))
        if ANY not in groups | homes and homes.isdisjoint(groups):
            raise InvalidRole(
                f"{where}.resources[{index}]",
                f"{resource} is not in {', '.join(sorted(groups))} but in {', '.join(sorted(homes))}: name that group, "
                "or leave apiGroups out",
            )


def _unknown(field: str, what: str, name: str, near: list[str]) -> InvalidRole:
    if what == "resource" and name.partition("/")[0] in ELSEWHERE:
        cure = "grants give rights to virtual machines and what is theirs, so remove it"
    else:
        cure = f'did you mean "{near[0]}"?' if near else "correct or remove it"
    return InvalidRole(field, f'neither the base role nor any version of KubeVirt names the {what} "{name}": {cure}')


def _near(resource: str, groups: set[str], known: _Known) -> list[str]:
    """The known resource that was most likely meant: a short name, a subresource of its own, a typo."""
    kind, slash, sub = resource.partition("/")
    spelled = SHORT_NAMES.get(kind, kind) + slash + sub
    if spelled in known.groups_of:
        return [spelled]
    if kind == ANY:
        return get_close_matches(resource, sorted({f"*/{name.partition('/')[2]}" for name in known.groups_of if "/" in name}), 1)
    siblings = [name for name in known.groups_of if name.partition("/")[2] == (sub or resource)]
    if siblings:
        return get_close_matches(spelled, sorted(siblings), 1, 0)
    here = [name for name, homes in known.groups_of.items() if homes & groups]
    return get_close_matches(spelled, sorted(here), 1) or get_close_matches(spelled, sorted(known.groups_of), 1)


def _unmatched(where: str, entry: KeepRule | DropRule, base: Rules, tails: frozenset[str], role: Role) -> Iterable[str]:
    """One message for each part of an entry that this base has nothing for; for keep also for what a RoleBinding cannot give."""
    rule, name = as_rule(entry), role.from_ or DEFAULT_BASE
    if entry.resources is None:
        if not overlaps((rule,), base):
            yield f"{where}: {name} has nothing of it"
        return
    for index, resource in enumerate(entry.resources):
        one = with_nested(replace(rule, resources=(resource,)), tails)
        matched = intersect((one,), base)
        field = f"{where}.resources[{index}]"
        if not matched and not (isinstance(entry, KeepRule) and overlaps((one,), added(role))):
            verbs = _verbs_of(one, base)
            yield (f"{field}: {name} gives {resource} only with {verbs}" if verbs else f"{field}: {name} has no {resource}") + (
                _offer(one) if isinstance(entry, KeepRule) else ""
            )
        elif matched and isinstance(entry, KeepRule) and not grantable(matched):
            yield f"{field}: {resource} is never given: it has no namespace, or is what access itself is made of"


def _offer(rule: Rule) -> str:
    """The add-ons that give what the base lacks."""
    names = [name for name, add_on in ADD_ONS.items() if overlaps((rule,), add_on.adds)]
    return f", include {' or '.join(names)} for it" if names else ""


def _verbs_of(rule: Rule, rules: Rules) -> str:
    """The verbs that `rules` have for what `rule` is about."""
    return ", ".join(sorted({verb for right in intersect((replace(rule, verbs=(ANY,)),), rules) for verb in right.verbs}))
