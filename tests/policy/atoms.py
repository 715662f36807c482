"""Roles taken apart into single requests, so that what a role gives can be compared without the algebra that cut it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any, TypeAlias

from vmaccess.model.spec import Role
from vmaccess.policy.catalogue import ADDED
from vmaccess.policy.kubevirt import SUBRESOURCES, VERBS, VOCABULARY
from vmaccess.policy.rules import Rules, allows

KV, SUB = "kubevirt.io", SUBRESOURCES
VM, VMI = "virtualmachines", "virtualmachineinstances"

# Group, resource with its subresource, verb, object name ("" where the request carries none).
Atom: TypeAlias = tuple[str, str, str, str]

PLACES = tuple(
    sorted({place for rule in (*VOCABULARY, *ADDED) for place in product(rule.api_groups, rule.resources)})
)  # every group and resource that KubeVirt or an add-on has a name for
ATOMS: tuple[Atom, ...] = tuple((group, resource, verb, "") for (group, resource), verb in product(PLACES, VERBS))

# Nested subresources that come with their short spelling; `vnc/screenshot` does not.
SHORT = {f"{VMI}/sev", f"{VMI}/evacuate", f"{VM}/evacuate"}


def role(**fields: Any) -> Role:
    """The `role` of a spec, in the words of YAML."""
    return Role.model_validate(fields)


def spelled(rules: Rules) -> set[Atom]:
    """Every request that rules without wildcards let pass, and there is no other."""
    atoms = {
        atom for rule in rules for atom in product(rule.api_groups, rule.resources, rule.verbs, rule.resource_names or ("",))
    }
    assert not any("*" in part for atom in atoms for part in atom)
    return atoms


def passing(rules: Rules, atoms: Iterable[Atom] = ATOMS) -> set[Atom]:
    """Those of the requests that the rules let pass; for rules with wildcards too."""
    return {atom for atom in atoms if allows(rules, *atom)}


def with_short_spellings(atoms: set[Atom]) -> set[Atom]:
    """The same, and for each nested subresource what kube-apiserver asks for: its first segment, with the same verb and name."""
    parents = {(group, "/".join(resource.split("/")[:2]), verb, name) for group, resource, verb, name in atoms if group == SUB}
    return atoms | {atom for atom in parents if atom[1] in SHORT and any(_is_below(other, atom) for other in atoms)}


def _is_below(atom: Atom, parent: Atom) -> bool:
    return atom[1].startswith(f"{parent[1]}/") and (atom[0], *atom[2:]) == (parent[0], *parent[2:])
