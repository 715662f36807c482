"""Reads a VMAccessGrant as the API server hands it out, whatever a client has managed to store in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vmaccess.model.names import NamespaceGlob, NamespaceName
from vmaccess.model.problems import GRANT_NAME_TOO_LONG, MAX_GRANT_NAME, Problems, explain
from vmaccess.model.spec import LabelSelector, Spec

_GLOB: TypeAdapter[str] = TypeAdapter(NamespaceGlob)
_NAMESPACES: TypeAdapter[tuple[str, ...]] = TypeAdapter(tuple[NamespaceName, ...])


@dataclass(frozen=True)
class Selection:
    """Where access is wanted: listed namespaces and those the selector takes, without the excluded ones."""

    namespaces: frozenset[str]
    selector: LabelSelector | None
    exclude: tuple[str, ...]


@dataclass(frozen=True)
class Withdrawals:
    """What takes access away, as far as it can be read.

    `selection` is None when the object does not tell which namespaces it is about; nothing is withdrawn for that reason.
    """

    suspend: bool
    exclude_namespaces: tuple[str, ...]
    selection: Selection | None


def read_spec(raw: Mapping[str, Any]) -> Spec | Problems:
    """The spec of a grant, or everything that is wrong with the grant. Never raises, whatever `raw` holds."""
    messages: list[str] = []
    name = _member(raw, "metadata", "name")
    if isinstance(name, str) and len(name) > MAX_GRANT_NAME:
        messages.append(f"metadata.name: {GRANT_NAME_TOO_LONG}")
    try:
        spec = Spec.model_validate(_member(raw, "spec"))
    except ValidationError as invalid:
        messages.extend(explain(invalid, "spec"))
    else:
        if not messages:
            return spec
    return Problems(tuple(messages))


def withdrawals(raw: Mapping[str, Any]) -> Withdrawals:
    """What takes access away, read by itself: a mistake elsewhere in the spec must not keep access alive. Never raises."""
    exclude = _exclusions(_member(raw, "spec", "excludeNamespaces"))
    return Withdrawals(
        suspend=_member(raw, "spec", "suspend") is True,
        exclude_namespaces=exclude,
        selection=_selection(_member(raw, "spec"), exclude),
    )


def _member(raw: Any, *path: str) -> Any:
    for key in path:
        raw = raw.get(key) if isinstance(raw, Mapping) else None
    return raw


def _selection(spec: Any, exclude: tuple[str, ...]) -> Selection | None:
    if not isinstance(spec, Mapping):
        return None
    listed, selector = spec.get("namespaces"), spec.get("namespaceSelector")
    try:
        return Selection(
            frozenset(() if listed is None else _NAMESPACES.validate_python(listed)),
            None if selector is None else LabelSelector.model_validate(selector),
            exclude,
        )
    except ValidationError:
        return None


def _exclusions(entries: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entry for entry in entries if _is_glob(entry))) if isinstance(entries, list | tuple) else ()


def _is_glob(entry: Any) -> bool:
    try:
        _GLOB.validate_python(entry)
    except ValidationError:
        return False
    return True
