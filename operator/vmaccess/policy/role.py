"""The role of a grant: what `role` of its spec leaves of the live base role. The worst fault here is a right too many.

`(base ∩ (preset ∪ keep ∪ include) ∪ what add-ons add) − drop`, then KubeVirt's nested subresources get both spellings, what has
no namespace is taken out, `virtualMachines` narrows the rest, and it is merged into few rules. The result is never wider than
`ceiling(base, role)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vmaccess.model.spec import Preset, Role
from vmaccess.policy.catalogue import ADD_ONS, PRESETS, preset_of
from vmaccess.policy.entries import KNOWN, InvalidRole, added, as_rule, check, grantable, nested_tails, with_nested
from vmaccess.policy.kubevirt import (
    ADDED_SHORT,
    KUBEVIRT,
    NAMED_BY_MACHINE,
    NEEDS_NO_NAME,
    NESTED,
    REACHES_SECRETS,
    SUBRESOURCES,
    VOCABULARY,
    short_spelling,
)
from vmaccess.policy.reasons import Warned
from vmaccess.policy.rules import ANY, Rule, Rules, covers, intersect, normalise, overlaps, subtract

if TYPE_CHECKING:
    from collections.abc import Iterable


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
    too, when a name vanishes from a base of one's own: what was granted before must still be held to `ceiling` then.
    """
    role = role or Role()
    unmatched = check(role, base)
    cut = _cut(base, role)
    if not cut.rules:
        _refuse_if_no_base_can_fill(role, base)
    messages = {
        Warned.RULE_UNMATCHED: _listed((*_missing_preset(role, base), *unmatched)),
        Warned.SUBRESOURCE_OMITTED: _listed(map(_omission, cut.omitted)),
        Warned.NOT_RESTRICTABLE: _left_out(cut.nameless),
        Warned.DROP_INEFFECTIVE: _listed(_dropped_in_vain(role, cut.rules)),
        Warned.SECRETS_REACHABLE: _reaching_secrets(cut.rules),
    }
    return Trimmed(cut.rules, tuple(Warning_(kind, message) for kind, message in messages.items() if message))


def ceiling(base: Rules, role: Role | None = None) -> Rules:
    """The most that this role cut from `base` may hold: what is namespaced in it, what add-ons add, and the short spellings."""
    whole = (*base, *added(role))
    return normalise(grantable((*whole, *_short_spellings(whole))))


@dataclass(frozen=True, slots=True)
class _Cut:
    """The rules, and what is not in them: nested subresources without their short spelling, rights that cannot carry a name."""

    rules: Rules
    omitted: tuple[str, ...]
    nameless: Rules = ()


def _cut(base: Rules, role: Role) -> _Cut:
    tails = nested_tails(base)
    dropped = tuple(with_nested(as_rule(entry), tails) for entry in role.drop or ())
    orphaned = _short_spellings_with_all_dropped(dropped)
    picked = intersect(grantable(base), _wanted(role, tails))
    left = grantable(subtract((*picked, *added(role)), (*dropped, *orphaned), (*KNOWN, *base)))
    left += subtract(_short_spellings(left), dropped, VOCABULARY)
    rules, omitted = _reachable(left)
    return _Cut(rules, omitted) if role.virtual_machines is None else _narrowed(rules, omitted, role.virtual_machines)


def _wanted(role: Role, tails: frozenset[str]) -> Rules:
    """What to keep of the base. Presets and add-ons mean what they name: VNC is not the screenshot."""
    kept = tuple(with_nested(as_rule(entry), tails) for entry in role.keep or ())
    preset = preset_of(role)
    named = PRESETS[preset].keeps if preset else ()
    return (*named, *kept, *(rule for name in role.include or () for rule in ADD_ONS[name].keeps))


def _narrowed(rules: Rules, omitted: tuple[str, ...], names: tuple[str, ...]) -> _Cut:
    """Only what is about these machines. A list or watch with a field selector for one name carries that name, so both stay.

    Source: kubernetes/apiserver pkg/endpoints/request/requestinfo.go.
    """
    kinds = {
        resource
        for rule in (*rules, *VOCABULARY)
        for resource in rule.resources
        if resource.partition("/")[0] in NAMED_BY_MACHINE
    }
    verbs = {verb for rule in (*rules, *VOCABULARY) for verb in rule.verbs} - {ANY, *NEEDS_NO_NAME}
    nameable = Rule((KUBEVIRT, SUBRESOURCES), tuple(sorted(kinds)), tuple(sorted(verbs)))
    named = intersect(rules, (replace(nameable, resource_names=names),))
    return _Cut(named, omitted, subtract(rules, (replace(nameable, api_groups=(ANY,)),), KNOWN))


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
    everything = (*KNOWN, *base)
    if _cut(everything, role).rules:
        return
    if role.virtual_machines and _cut(everything, role.model_copy(update={"virtual_machines": None})).rules:
        raise InvalidRole(
            "role.virtualMachines",
            "nothing that the role keeps can be restricted to named virtual machines: remove virtualMachines, or keep rights on "
            "virtualmachines or virtualmachineinstances",
        )
    undropped = _cut(everything, role.model_copy(update={"drop": None, "virtual_machines": None}))
    if undropped.rules:
        raise InvalidRole("role.drop", "takes out all that the role keeps: narrow it, or set suspend to take all access away")
    if undropped.omitted:
        raise InvalidRole("role.keep", _listed(map(_omission, undropped.omitted)))
    raise InvalidRole(
        "role.keep",
        "all that it names has no namespace, or is what access is made of, and no grant can give it: keep something else",
    )


def _missing_preset(role: Role, base: Rules) -> Iterable[str]:
    """A preset of which the base has no more than of the one below it. Admin is all of any base."""
    below: Preset | None = "View" if role.preset == "Operate" else "Operate" if role.preset == "Edit" else None
    if role.preset and below and covers(intersect(base, PRESETS[below].keeps), intersect(base, PRESETS[role.preset].keeps)):
        yield f"role.preset: the base role has nothing of {role.preset} beyond {below}"


def _omission(resource: str) -> str:
    short = short_spelling(resource)
    assert short is not None  # noqa: S101 - only nested ones are left out
    opens = f"kube-apiserver admits only who also has {short}, which opens more"
    opened = (Rule((SUBRESOURCES,), (short,), ("get",)),)
    add_on = next((name for name, named in ADD_ONS.items() if covers(named.keeps, opened)), None)
    return f"{resource} is not granted: {opens}; {f'include {add_on} or ' if add_on else ''}keep {short} too if that is meant"


def _left_out(nameless: Rules) -> str:
    if not nameless:
        return ""
    verbs = _listed(
        f"{', '.join(rule.verbs)} on {resource}"
        for rule in nameless
        for resource in rule.resources
        if resource.partition("/")[0] in NAMED_BY_MACHINE
    )
    others = sorted(
        {resource for rule in nameless for resource in rule.resources if resource.partition("/")[0] not in NAMED_BY_MACHINE}
    )
    what = "; ".join(filter(None, (verbs, _listed(others, ", ", most=30))))
    return f"not granted, because RBAC cannot restrict it to the names in virtualMachines: {what}; use a grant of its own for it"


def _dropped_in_vain(role: Role, rules: Rules) -> Iterable[str]:
    """Nested subresources that are dropped, and that a virt-api which reads the short spelling alone opens all the same."""
    for index, entry in enumerate(role.drop or ()):
        for resource in entry.resources or ():
            short = short_spelling(resource)
            served = intersect((as_rule(entry.model_copy(update={"resources": (resource,)})),), VOCABULARY) if short else ()
            opened = tuple(Rule((SUBRESOURCES,), (short,), rule.verbs) for rule in served if short)
            if overlaps(opened, rules):
                yield (
                    f"role.drop[{index}]: the role still has {short}, and KubeVirt before v1.6.6, v1.7.4, v1.8.3 and v1.9.0 lets "
                    f"whoever has it use {resource} too: drop {short} as well if such a version may run here"
                )


def _reaching_secrets(rules: Rules) -> str:
    reaching = intersect(rules, REACHES_SECRETS)
    if not reaching:
        return ""
    rights = "; ".join(f"{', '.join(rule.verbs)} on {', '.join(rule.resources)}" for rule in reaching)
    return (
        f"the role gives {rights}: this reaches every Secret, ConfigMap, PersistentVolumeClaim and ServiceAccount token "
        "of the namespace, since a virtual machine, also a restored or cloned one, may mount any of them; drop these verbs if "
        "this is not meant"
    )


def _listed(messages: Iterable[str], mark: str = "; ", *, most: int = 10) -> str:
    every = list(messages)
    return mark.join(every[:most]) + (f"{mark}and {len(every) - most} more" if len(every) > most else "")
