"""The algebra of RBAC rules, so that a role can be cut from another one and proven to be no wider.

A rule is a product of four sets: API groups, resources, verbs and resource names (none means any). Everything here works on
what such products mean, never on how they are written, and knows nothing of KubeVirt.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ANY = "*"

# The order in which people read and write verbs; others follow by name.
_VERB_ORDER = {
    verb: place
    for place, verb in enumerate(("*", "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"))
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule about resources. Without `resource_names` it is about every object; an empty other field makes it give nothing."""

    api_groups: tuple[str, ...]
    resources: tuple[str, ...]
    verbs: tuple[str, ...]
    resource_names: tuple[str, ...] = ()


Rules: TypeAlias = tuple[Rule, ...]

# What a rule says about one (group, resource, name or None for any), and the verbs it gives there.
_Key: TypeAlias = tuple[str, str, str | None]
_Cells: TypeAlias = dict[_Key, set[str]]


def parse(raw: Iterable[Mapping[str, Any]] | None) -> Rules:
    """Read `rules` of a Role or ClusterRole as the API serves them. nonResourceURLs and what gives nothing are left out."""
    rules = (
        Rule(
            api_groups=tuple(rule.get("apiGroups") or ()),
            resources=tuple(rule.get("resources") or ()),
            verbs=tuple(rule.get("verbs") or ()),
            resource_names=tuple(rule.get("resourceNames") or ()),
        )
        for rule in raw or ()
    )
    return tuple(rule for rule in rules if rule.api_groups and rule.resources and rule.verbs)


def render(rules: Rules) -> list[dict[str, list[str]]]:
    """Write rules in the shape of `rules` of a Role."""
    rendered = []
    for rule in rules:
        names = {"resourceNames": list(rule.resource_names)} if rule.resource_names else {}
        rendered.append(
            {"apiGroups": list(rule.api_groups), "resources": list(rule.resources), **names, "verbs": list(rule.verbs)}
        )
    return rendered


def allows(rules: Rules, group: str, resource: str, verb: str, name: str | None = None) -> bool:
    """Whether RBAC lets a request pass: the same answer as Kubernetes' authorizer (pkg/apis/rbac/v1/evaluation_helpers.go).

    `resource` carries its subresource (`virtualmachineinstances/vnc`). `*` matches everything and `*/vnc` that subresource of
    any resource; there is no `virtualmachineinstances/*`. A request without a name (list, create) passes no rule with
    resourceNames.
    """
    patterns = _resource_patterns(resource)
    return any(
        (ANY in rule.verbs or verb in rule.verbs)
        and (ANY in rule.api_groups or group in rule.api_groups)
        and any(pattern in rule.resources for pattern in patterns)
        and (not rule.resource_names or (name or "") in rule.resource_names)
        for rule in rules
    )


def covers(owner: Rules, wanted: Rules) -> bool:
    """Whether `owner` has every right in `wanted`, as the escalation check sees it (component-helpers policy_comparator.go).

    A wildcard is covered only by a wildcard, a rule for any name only by a rule for any name.
    """
    return not uncovered(owner, wanted)


def uncovered(owner: Rules, wanted: Rules) -> Rules:
    """The rights in `wanted` that `owner` does not have, seen as `covers` sees them, normalised."""
    held = _cells(owner)
    missing: _Cells = {}
    for key, verbs in _cells(wanted).items():
        there = _verbs_at(held, _containing(key))
        if not _has_verbs(there, verbs):
            missing[key] = {ANY} if ANY in verbs else verbs - there
    return _from_cells(missing)


def intersect(a: Rules, b: Rules) -> Rules:
    """The rights that both give, normalised. Exact: wildcards need no vocabulary here."""
    return normalise(_shared(a, b))


def overlaps(a: Rules, b: Rules) -> bool:
    """Whether there is any right that both give."""
    return next(_shared(a, b), None) is not None


def subtract(a: Rules, b: Rules, vocabulary: Rules) -> Rules:
    """The rights of `a` without those of `b`, normalised: nothing that `b` gives is left, nothing is added.

    A wildcard of `a` that `b` touches is spelled out in the names that `vocabulary`, `a` and `b` mention, verbs first, so that
    what is not touched keeps its wildcard. Names that nobody mentions are lost then: the result is too narrow rather than too
    wide. For the same reason a right for any object is lost where `b` gives it for one object name. What is spelled out depends
    on what is taken first, so `b` is taken in its normal form: the order in which it is written has no say.
    """
    known = _Known.of((*vocabulary, *a, *b))
    cells = list(_cells(a).items())
    for rule in normalise(b):
        box = _Box(frozenset(rule.api_groups), frozenset(rule.resources), frozenset(rule.verbs), frozenset(rule.resource_names))
        cells = [piece for key, verbs in cells for piece in _without(key, verbs, box, known)]
    merged: defaultdict[_Key, set[str]] = defaultdict(set)
    for key, verbs in cells:
        merged[key] |= verbs
    return _from_cells(merged)


def normalise(rules: Iterable[Rule]) -> Rules:
    """The same rights in few readable rules, in one fixed order.

    Canonical: two sets of rules that mean the same give the same result. Rights that a wildcard gives already are left out;
    names, then resources, then groups with equal rights share a rule.
    """
    return _from_cells(_cells(rules))


def _shared(a: Rules, b: Rules) -> Iterator[Rule]:
    for left, right in product(a, b):
        groups = _meet(left.api_groups, right.api_groups)
        verbs = groups and _meet(left.verbs, right.verbs)
        resources = verbs and _meet_resources(left.resources, right.resources)
        names = _meet_names(left.resource_names, right.resource_names) if resources else None
        if names is not None:
            yield Rule(groups, resources, verbs, names)


def _cells(rules: Iterable[Rule]) -> _Cells:
    cells: defaultdict[_Key, set[str]] = defaultdict(set)
    for rule in rules:
        if rule.verbs:
            for key in product(rule.api_groups, rule.resources, rule.resource_names or (None,)):
                cells[key].update(rule.verbs)
    return cells


def _from_cells(cells: _Cells) -> Rules:
    by_verbs: defaultdict[tuple[str, str, frozenset[str]], set[str | None]] = defaultdict(set)
    for key, verbs in cells.items():
        group, resource, name = key
        elsewhere = _verbs_at(cells, (wider for wider in _containing(key) if wider != key))
        if not _has_verbs(elsewhere, verbs):
            by_verbs[group, resource, frozenset({ANY} if ANY in verbs else verbs - elsewhere)].add(name)
    by_resources: defaultdict[tuple[str, frozenset[str | None], frozenset[str]], set[str]] = defaultdict(set)
    for (group, resource, given), names in by_verbs.items():
        by_resources[group, frozenset(names), given].add(resource)
    by_groups: defaultdict[tuple[frozenset[str], frozenset[str | None], frozenset[str]], set[str]] = defaultdict(set)
    for (group, named, given), resources in by_resources.items():
        by_groups[frozenset(resources), named, given].add(group)
    rules = (
        Rule(
            api_groups=tuple(sorted(groups)),
            resources=tuple(sorted(kinds)),
            verbs=tuple(sorted(given, key=_verb_place)),
            resource_names=tuple(sorted(name for name in named if name is not None)),
        )
        for (kinds, named, given), groups in by_groups.items()
    )
    return tuple(sorted(rules, key=_rule_place))


def _verb_place(verb: str) -> tuple[int, str]:
    return _VERB_ORDER.get(verb, len(_VERB_ORDER)), verb


def _rule_place(rule: Rule) -> tuple[object, ...]:
    return rule.api_groups, [_verb_place(verb) for verb in rule.verbs], rule.resources, rule.resource_names


def _resource_patterns(resource: str) -> tuple[str, ...]:
    """Every spelling in a rule that matches `resource`, itself included."""
    if resource == ANY:
        return (ANY,)
    main, slash, subresource = resource.partition("/")
    return (resource, f"{ANY}/{subresource}", ANY) if slash and main != ANY else (resource, ANY)


def _containing(key: _Key) -> Iterator[_Key]:
    """Every cell as wide as `key` or wider, `key` itself included."""
    group, resource, name = key
    groups = (ANY,) if group == ANY else (group, ANY)
    names = (None,) if name is None else (name, None)
    return product(groups, _resource_patterns(resource), names)


def _verbs_at(cells: _Cells, keys: Iterable[_Key]) -> set[str]:
    found: set[str] = set()
    for key in keys:
        found.update(cells.get(key, ()))
    return found


def _has_verbs(held: set[str], wanted: set[str]) -> bool:
    return ANY in held or wanted <= held


def _meet(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    if ANY in left:
        return right
    if ANY in right:
        return left
    return tuple(set(left).intersection(right))


def _meet_resources(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...]:
    met = _meet(left, right)
    if ANY in left or ANY in right:
        return met
    for patterns, names in ((_subresource_patterns(left), right), (_subresource_patterns(right), left)):
        if patterns:
            met += tuple(name for name in names if not patterns.isdisjoint(_resource_patterns(name)))
    return met


def _subresource_patterns(resources: tuple[str, ...]) -> set[str]:
    return {resource for resource in resources if resource.startswith("*/")}


def _meet_names(left: tuple[str, ...], right: tuple[str, ...]) -> tuple[str, ...] | None:
    """The object names in both, empty for any; None when there is no such name."""
    if not left or not right:
        return left or right
    return tuple(set(left) & set(right)) or None


@dataclass(frozen=True, slots=True)
class _Box:
    """A rule to take away, as sets."""

    groups: frozenset[str]
    resources: frozenset[str]
    verbs: frozenset[str]
    names: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Known:
    """Every name that some rules spell out: what a wildcard can be expanded to."""

    resources: Mapping[str, set[str]]
    verbs: set[str]

    @classmethod
    def of(cls, rules: Rules) -> _Known:
        resources: defaultdict[str, set[str]] = defaultdict(set)
        verbs: set[str] = set()
        for rule in rules:
            named = {resource for resource in rule.resources if not resource.startswith(ANY)}
            for group in rule.api_groups:
                resources[group] |= named
            verbs.update(rule.verbs)
        return cls(dict(resources), verbs - {ANY})

    def groups(self) -> Iterator[str]:
        return (group for group in self.resources if group != ANY)

    def matching(self, group: str, pattern: str) -> set[str]:
        """The resources of `group` that `pattern` (`*` or `*/sub`) matches; those of all groups for `*`."""
        sources = self.resources.values() if group == ANY else (self.resources.get(group, set()), self.resources.get(ANY, set()))
        return {name for names in sources for name in names if pattern in _resource_patterns(name)}


def _without(key: _Key, verbs: set[str], box: _Box, known: _Known) -> list[tuple[_Key, set[str]]]:
    """What is left of one cell when `box` is taken away: parts that do not overlap it."""
    group, resource, name = key
    group_inside = group in box.groups or ANY in box.groups
    resource_inside = not box.resources.isdisjoint(_resource_patterns(resource))
    if not (
        (group_inside or (group == ANY and box.groups))
        and (resource_inside or any(resource in _resource_patterns(taken) for taken in box.resources))
        and (name is None or not box.names or name in box.names)
    ):
        return [(key, verbs)]
    spelled = known.verbs if ANY in verbs and ANY not in box.verbs else verbs
    taken = spelled if ANY in box.verbs else spelled & box.verbs
    if not taken:
        return [(key, verbs)]
    pieces = [(key, spelled - taken)] if spelled - taken else []
    if not group_inside:
        narrower: list[_Key] = [(one, resource, name) for one in known.groups()]
    elif not resource_inside:
        narrower = [(group, one, name) for one in known.matching(group, resource)]
    else:
        narrower = []
    for one in narrower:
        pieces += _without(one, taken, box, known)
    return pieces
