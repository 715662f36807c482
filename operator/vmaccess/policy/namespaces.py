"""Which namespaces a grant reaches, decided from its spec, a namespace's labels and what is protected."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from vmaccess.model.grant import Selection, Withdrawals
from vmaccess.model.spec import LabelSelector, Requirement

PROTECTED_BY_DEFAULT = ("kube-*", "openshift-*", "kubevirt*", "cdi")

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Namespace:
    """What is known of a namespace: its labels in their order (a set would take twice the memory), and whether it is on its way
    out.
    """

    name: str
    uid: str
    version: int = field(compare=False)
    labels: Labels
    terminating: bool


class Place(Enum):
    """What a namespace is to a grant."""

    SELECTED = "selected"
    OUTSIDE = "not selected, or excluded"
    PROTECTED = "listed, but protected"
    MISSING = "listed, but it does not exist"
    TERMINATING = "selected, but it is being deleted"
    UNKNOWN = "the part of the spec that selects cannot be read"


class Globs:
    """Names and globs (`*` any run of characters, `?` any one), asked whether they match a name."""

    def __init__(self, patterns: Iterable[str]) -> None:
        self.patterns = tuple(patterns)
        # fnmatch's own translation matches in linear time; chains of `.*` would backtrack, and freeze us, on a hostile name.
        self._match = re.compile("|".join(map(fnmatch.translate, self.patterns))).match if self.patterns else None

    def __contains__(self, name: str) -> bool:
        return self._match is not None and self._match(name) is not None


@lru_cache(maxsize=1024)
def globs(patterns: tuple[str, ...]) -> Globs:
    """Compiled once for each set of patterns."""
    return Globs(patterns)


def candidates(selection: Selection, namespaces: Iterable[Namespace]) -> set[str]:
    """Names of all namespaces that may be selected: those listed, and those that have the labels the selector names.

    Cheap, since it is asked for each of very many grants over very many namespaces; `place` decides.
    """
    if selection.selector is None:
        return set(selection.namespaces)
    required = frozenset((selection.selector.match_labels or {}).items())
    return {*selection.namespaces, *(namespace.name for namespace in namespaces if required.issubset(namespace.labels))}


def place(limits: Withdrawals, name: str, namespace: Namespace | None, protected: Globs) -> Place:
    """What the namespace `name` is to a grant with these limits; `namespace` is None where it does not exist."""
    if limits.exclude_namespaces and name in globs(limits.exclude_namespaces):
        return Place.OUTSIDE
    selection = limits.selection
    if selection is None:
        return Place.UNKNOWN
    listed = name in selection.namespaces
    if name in protected:
        return Place.PROTECTED if listed else Place.OUTSIDE
    if namespace is None:
        return Place.MISSING if listed else Place.OUTSIDE
    if not listed and (selection.selector is None or not selects(selection.selector, namespace.labels)):
        return Place.OUTSIDE
    return Place.TERMINATING if namespace.terminating else Place.SELECTED


def selects(selector: LabelSelector, labels: Labels) -> bool:
    """Kubernetes' meaning of a label selector: all of it must hold, and an empty one selects everything.

    Source: k8s.io/apimachinery/pkg/labels/selector.go, Requirement.Matches (NotIn and DoesNotExist hold for an absent key).
    """
    for pair in (selector.match_labels or {}).items():
        if pair not in labels:
            return False
    if not selector.match_expressions:
        return True
    values = dict(labels)
    return all(_holds(requirement, values) for requirement in selector.match_expressions)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    values = requirement.values or ()
    match requirement.operator:
        case "In":
            return labels.get(requirement.key) in values
        case "NotIn":
            return labels.get(requirement.key) not in values
        case "Exists":
            return requirement.key in labels
        case "DoesNotExist":
            return requirement.key not in labels
