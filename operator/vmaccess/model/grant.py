"""Reads a VMAccessGrant as the API server hands it out, whatever a client has managed to store in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vmaccess.model.crd import grant_schema
from vmaccess.model.moments import Time, read_time
from vmaccess.model.names import NamespaceGlob, NamespaceName
from vmaccess.model.problems import (
    GRANT_NAME_TOO_LONG,
    MAX_EXPLAINED,
    MAX_GRANT_NAME,
    Problems,
    explain,
    field_path,
    nearest,
    unknown_field,
)
from vmaccess.model.spec import LabelSelector, Spec

_FIELDS = grant_schema()["properties"]
_SPEC_FIELDS = tuple(_FIELDS["spec"]["properties"])
# What is written beside spec was probably meant to be in it.
_FIELDS_AND_SPEC = (*_FIELDS, *(f"spec.{field}" for field in _SPEC_FIELDS))
_GLOB: TypeAdapter[str] = TypeAdapter(NamespaceGlob)
_TIME: TypeAdapter[str] = TypeAdapter(Time)
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

    `begins` and `ends` are None where there is no such time, or none that can be read.
    `selection` is None when the object does not tell which namespaces it is about: a part of it cannot be read, or has a
    field that nobody knows. Nothing is withdrawn for that reason.
    """

    suspend: bool
    exclude_namespaces: tuple[str, ...]
    selection: Selection | None
    begins: datetime | None = None
    ends: datetime | None = None


def read_spec(raw: Mapping[str, Any]) -> Spec | Problems:
    """The spec of a grant, or everything that is wrong with the grant. Never raises, whatever `raw` holds."""
    name = _member(raw, "metadata", "name")
    messages = [f"metadata.name: {GRANT_NAME_TOO_LONG}"] if isinstance(name, str) and len(name) > MAX_GRANT_NAME else []
    messages += (
        f"{field_path(field).removeprefix('.')}: {unknown_field(field, _FIELDS_AND_SPEC)}" for field in _unknown(raw, _FIELDS)
    )
    try:
        spec = Spec.read(_member(raw, "spec"))
    except ValidationError as invalid:
        return Problems((*messages, *explain(invalid, "spec", _FIELDS["spec"])))
    return Problems(tuple(messages)) if messages else spec


def withdrawals(raw: Mapping[str, Any]) -> Withdrawals:
    """What takes access away, read by itself: a mistake elsewhere in the spec must not keep access alive. Never raises."""
    exclude = _exclusions(_member(raw, "spec", "excludeNamespaces"))
    return Withdrawals(
        suspend=_member(raw, "spec", "suspend") is True,
        exclude_namespaces=exclude,
        selection=None if _may_select_more(raw) else _selection(_member(raw, "spec"), exclude),
        begins=_time(_member(raw, "spec", "notBeforeTime")),
        ends=_time(_member(raw, "spec", "expirationTime")),
    )


def _unknown(node: Any, known: Collection[str]) -> Iterator[str]:
    return (str(field) for field in node if field not in known) if isinstance(node, Mapping) else iter(())


def _may_select_more(raw: Any) -> bool:
    """Whether a field that nobody knows looks like a misspelt one of those that select.

    Other unknown fields leave the selection readable: a namespace taken out of it loses its access. Nobody makes a hundred of
    them by mistake; then what is selected counts as not readable.
    """
    besides, insides = list(_unknown(raw, _FIELDS)), list(_unknown(_member(raw, "spec"), _SPEC_FIELDS))
    if len(besides) + len(insides) > MAX_EXPLAINED:
        return True
    beside = (nearest(field, _FIELDS_AND_SPEC) for field in besides)
    inside = (nearest(field, _SPEC_FIELDS) for field in insides)
    return any(near in ("spec.namespaces", "spec.namespaceSelector") for near in beside) or any(
        near in ("namespaces", "namespaceSelector") for near in inside
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
            None if selector is None else LabelSelector.read(selector),
            exclude,
        )
    except ValidationError:
        return None


def _time(text: Any) -> datetime | None:
    try:
        return read_time(_TIME.validate_python(text))
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
