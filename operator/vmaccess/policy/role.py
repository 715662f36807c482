"""The role of a grant: what `role` of its spec leaves of the live base role. The worst fault here is a right too many.

`(base ∩ (preset ∪ keep)) − drop`, then KubeVirt's nested subresources get both spellings, what has no namespace is taken out,
and the rest is merged into few rules. The result is never wider than `ceiling(base)`.

The second half tells whether the entries name things that exist: a typo in `drop` would leave open what was meant to be closed.
Known is what KubeVirt's vocabulary over all versions has, and what the base role spells out. A wildcard in the base knows
nothing by name: under it a typo would look like a right, so a name that only a wildcard covers is refused as well.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING

from vmaccess.model.spec import DropRule, KeepRule, Role
from vmaccess.policy.kubevirt import (
    ADDED_SHORT,
    DEFAULT_BASE,
    NESTED,
    PRESETS,
    REACHES_SECRETS,
    SHORT_NAMES,
    SUBRESOURCES,
    VOCABULARY,
    is_cluster_scoped,
    short_spelling,
)
from vmaccess.policy.rules import ANY, Rule, Rules, covers, intersect, normalise, overlaps, subtract

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class InvalidRole(ValueError):
    """The spec's `role` cannot be granted: `field` is a path such as `role.keep[0].resources[1]`, `message` why, and the cure."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


@dataclass(frozen=True, slots=True)
class Warning_:  # noqa: N801 - `Warning` is Python's own
    """Something a person should know about a role that is granted all the same: a condition type and its message."""

    type: str
    message: str


@dataclass(frozen=True, slots=True)
class Trimmed:
    """A role to grant, normalised, and at most one warning of each type. No rules: the base has nothing of what is asked for."""

    rules: Rules
    warnings: tuple[Warning_, ...]


def trim(base: Rules, role: Role | None) -> Trimmed:
    """Cut the role of a grant out of the live base role.

    A role that ends up empty is the spec's fault, and InvalidRole, if it would be empty over all that KubeVirt ever had
    together with this base: then no base can fill it. Otherwise the base lacks what is asked for, and the result has no rules.

    Raises InvalidRole where the spec names something unknown or can give nothing. That can happen to a spec that was valid,
    too, when a name vanishes from a base of one's own: what was granted before must still be held to `ceiling(base)` then.
    """
    role = role or Role()
    unmatched = check(role, base)
    rules, omitted = _cut(base, role)
    if not rules:
        _refuse_if_no_base_can_fill(role, base)
    warnings = []
    if unmatched:
        warnings.append(Warning_("RuleUnmatched", _listed(unmatched)))
    if omitted:
        warnings.append(Warning_("SubresourceOmitted", _listed(map(_omission, omitted))))
    if reaching := intersect(rules, REACHES_SECRETS):
        rights = "; ".join(f"{', '.join(rule.verbs)} on {', '.join(rule.resources)}" for rule in reaching)
        warnings.append(
            Warning_(
                "SecretsReachable",
                f"the role gives {rights}: this reaches every Secret, ConfigMap, PersistentVolumeClaim and ServiceAccount token "
                "of the namespace, since a virtual machine may mount any of them; drop these verbs if this is not meant",
            )
        )
    return Trimmed(rules, tuple(warnings))


def ceiling(base: Rules) -> Rules:
    """The most that a role cut from `base` may hold: what is namespaced in it, and the short spellings that this implies."""
    return normalise(_namespaced((*base, *_short_spellings(base))))


def _cut(base: Rules, role: Role) -> tuple[Rules, tuple[str, ...]]:
    """The rules, and the nested subresources that had to be left out for want of their short spelling."""
    tails = _nested_tails(base)
    dropped = tuple(_with_nested(_as_rule(entry), tails) for entry in role.drop or ())
    orphaned = _short_spellings_with_all_dropped(dropped)
    picked = intersect(_namespaced(base), tuple(_with_nested(rule, tails) for rule in _wanted(role)))
    left = _namespaced(subtract(picked, (*dropped, *orphaned), (*VOCABULARY, *base)))
    left += subtract(_short_spellings(left), dropped, VOCABULARY)
    return _reachable(left)


def _wanted(role: Role) -> Rules:
    kept = tuple(_as_rule(entry) for entry in role.keep or ())
    preset = role.preset or (None if role.keep else "View")
    return (*PRESETS[preset], *kept) if preset else kept


def _as_rule(entry: KeepRule | DropRule) -> Rule:
    return Rule(entry.api_groups or (ANY,), entry.resources or (ANY,), entry.verbs or (ANY,))


def _nested_tails(base: Rules) -> frozenset[str]:
    """What follows the resource in every nested subresource that is known: `vnc/screenshot`, `sev/setupsession`."""
    return frozenset(
        resource.partition("/")[2] for rule in (*base, *VOCABULARY) for resource in rule.resources if short_spelling(resource)
    )


def _with_nested(rule: Rule, tails: frozenset[str]) -> Rule:
    """A subresource in an entry means all that is below it as well: `virtualmachineinstances/vnc` covers `vnc/screenshot`."""
    split = [resource.partition("/") for resource in rule.resources]
    below = tuple(f"{kind}/{tail}" for kind, _, sub in split if sub for tail in tails if tail.startswith(f"{sub}/"))
    return replace(rule, resources=rule.resources + below) if below else rule


def _short_spellings_with_all_dropped(dropped: Rules) -> Rules:
    """The short spellings under which nothing is left: a base that has one itself would open all of it on an older virt-api.

    A nested form that stays keeps its short spelling with the same verb, under which an older virt-api opens the dropped ones
    too (NESTED).
    """
    return tuple(
        Rule((ANY,), (short,), (verb,))
        for (short, verb), nested in NESTED.items()
        if covers(dropped, (Rule((SUBRESOURCES,), nested, (verb,)),))
    )


def _namespaced(rules: Rules) -> Rules:
    """Without what is named and has no namespace; each rule in one group. A wildcard stays, inert for such kinds."""
    return tuple(
        replace(rule, api_groups=(group,), resources=resources)
        for rule in rules
        for group in rule.api_groups
        if (resources := tuple(resource for resource in rule.resources if not is_cluster_scoped(group, resource)))
    )


def _short_spellings(rules: Rules) -> Rules:
    """The short spellings that kube-apiserver asks for, each with just the verbs and names of its nested forms."""
    return tuple(
        Rule((SUBRESOURCES,), (added,), rule.verbs, rule.resource_names)
        for rule in rules
        if _in_subresources(rule)
        for resource in rule.resources
        if (short := short_spelling(resource))
        for added in ADDED_SHORT
        if added == short or (short.startswith("*/") and added.endswith(short[1:]))
    )


def _reachable(rules: Rules) -> tuple[Rules, tuple[str, ...]]:
    """Without the nested subresources that kube-apiserver refuses for want of their short spelling; and which those were."""
    kept: list[Rule] = []
    omitted: set[str] = set()
    served = tuple(rule for rule in rules if _in_subresources(rule))
    for rule in rules:
        nested = {
            resource: short for resource in rule.resources if _in_subresources(rule) and (short := short_spelling(resource))
        }
        kept.append(replace(rule, resources=tuple(resource for resource in rule.resources if resource not in nested)))
        for resource, short in nested.items():
            asked = Rule((SUBRESOURCES,), (resource,), rule.verbs, rule.resource_names)
            opened = intersect(served, (Rule((SUBRESOURCES,), (short,), (ANY,)),))
            below = tuple(
                replace(way, resources=tuple(name + resource.removeprefix(short) for name in way.resources)) for way in opened
            )
            given = intersect((asked,), below)
            kept += given
            if not covers(given, (asked,)):
                omitted.add(resource)
    return normalise(kept), tuple(sorted(omitted))


def _in_subresources(rule: Rule) -> bool:
    return SUBRESOURCES in rule.api_groups or ANY in rule.api_groups


def _refuse_if_no_base_can_fill(role: Role, base: Rules) -> None:
    everything = (*VOCABULARY, *base)
    if _cut(everything, role)[0]:
        return
    kept, omitted = _cut(everything, role.model_copy(update={"drop": None}))
    if kept:
        raise InvalidRole("role.drop", "takes out all that the role keeps: narrow it, or set suspend to take all access away")
    if omitted:
        raise InvalidRole("role.keep", _listed(map(_omission, omitted)))
    raise InvalidRole(
        "role.keep", "all that it names has no namespace and no RoleBinding can give it: keep a namespaced resource"
    )


def _omission(resource: str) -> str:
    short = short_spelling(resource)
    opens = f"kube-apiserver admits only who also has {short}, which opens more"
    return f"{resource} is not granted: {opens}; keep {short} too if that is meant"


def _listed(messages: Iterable[str]) -> str:
    every = list(messages)
    return "; ".join(every[:10]) + (f"; and {len(every) - 10} more" if len(every) > 10 else "")


def check(role: Role, base: Rules) -> tuple[str, ...]:
    """Hold every entry of keep and drop against the names that exist; answer with what of them matches nothing in this base.

    Raises InvalidRole for a group, resource or verb that nobody knows, for a resource that none of the entry's groups has, and
    for an entry none of whose verbs any of its resources ever had: each would leave open, or closed, what its author did not
    think of.
    """
    everything = (*VOCABULARY, *base)
    known, tails = _Known.of(everything), _nested_tails(base)
    unmatched: list[str] = []
    for where, entry in _entries(role):
        _check_names(where, entry, known)
        rule = _with_nested(_as_rule(entry), tails)
        if not overlaps((rule,), everything):
            theirs = _verbs_of(rule, everything)
            raise InvalidRole(f"{where}.verbs", f"nothing that it names has such a verb: write {theirs}")
        unmatched += _unmatched(where, entry, base, tails, role.from_ or DEFAULT_BASE)
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


def _unmatched(where: str, entry: KeepRule | DropRule, base: Rules, tails: frozenset[str], name: str) -> Iterable[str]:
    """One message for each part of an entry that this base has nothing for; for keep also for what a RoleBinding cannot give."""
    rule = _as_rule(entry)
    if entry.resources is None:
        if not overlaps((rule,), base):
            yield f"{where}: {name} has nothing of it"
        return
    for index, resource in enumerate(entry.resources):
        one = _with_nested(replace(rule, resources=(resource,)), tails)
        matched = intersect((one,), base)
        field = f"{where}.resources[{index}]"
        if not matched:
            verbs = _verbs_of(one, base)
            yield f"{field}: {name} gives {resource} only with {verbs}" if verbs else f"{field}: {name} has no {resource}"
        elif isinstance(entry, KeepRule) and not _namespaced(matched):
            yield f"{field}: {resource} has no namespace, so no RoleBinding can give it"


def _verbs_of(rule: Rule, rules: Rules) -> str:
    """The verbs that `rules` have for what `rule` is about."""
    return ", ".join(sorted({verb for right in intersect((replace(rule, verbs=(ANY,)),), rules) for verb in right.verbs}))
