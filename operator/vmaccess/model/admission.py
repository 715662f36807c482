"""Refuses unknown fields at admission, for every client: `python -m vmaccess.model.admission` prints the policy.

The API server refuses them by itself only for clients that ask for strict validation, as kubectl does; Flux, most
controllers and plain requests do not. So the CRD keeps them and a ValidatingAdmissionPolicy, which unlike a rule in the CRD
sees them, refuses them. Where there is no such policy the operator still does: see `read_spec`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from vmaccess.model.crd import GROUP, PLURAL, VERSION, grant_schema
from vmaccess.model.problems import UPGRADE
from vmaccess.model.schema import KEEPS_UNKNOWN
from vmaccess.model.structural import Schema

NAME = f"unknown-fields.{PLURAL}.{GROUP}"
LABELS = {"app.kubernetes.io/name": "vmaccess"}

# A stored object must stay deletable whatever is in it, and the garbage collector removes finalizers by an update: what an
# update does not write is not looked at.
CHANGES_MORE_THAN_METADATA = """\
oldObject == null
|| dyn(object).exists(field, !(field in ['metadata', 'status'])
     && !(field in oldObject && dyn(object)[field] == dyn(oldObject)[field]))
"""
# Taking access away comes first, whatever else is wrong.
DOES_MORE_THAN_SUSPEND = """\
oldObject == null
|| dyn(object).spec.?suspend.orValue(false) != true
|| dyn(object).exists(field, !(field in ['metadata', 'status', 'spec'])
     && !(field in oldObject && dyn(object)[field] == dyn(oldObject)[field]))
|| dyn(object).spec.exists(field, field != 'suspend'
     && !(field in dyn(oldObject).spec && dyn(object).spec[field] == dyn(oldObject).spec[field]))
"""


@dataclass(frozen=True)
class Level:
    """The objects at one place of a grant, and the fields that they may have."""

    path: tuple[str, ...]
    known: tuple[str, ...]
    listed: bool
    inside: str = ""
    """The field of the entries of a list that holds the object, where it is not the entry itself."""

    def variable(self) -> dict[str, str]:
        """The paths of the unknown fields: one list for each object that has any."""
        unknown = f"it.filter(field, !(field in [{', '.join(repr(field) for field in self.known)}]))"
        if self.path:
            unknown += f".map(field, '{'.'.join(self._steps())}.' + field)"
        expression = f"{self._objects()}\n.map(it, {unknown})\n.filter(fields, fields != [])\n"
        return {"name": self._variable(), "expression": expression}

    def validation(self) -> dict[str, str]:
        """Refuses them, and names them all."""
        name = f"variables.{self._variable()}"
        why = f"unknown field: known here are {', '.join(self.known)}: correct it, {UPGRADE}"
        return {
            "expression": f"{name} == []",
            "message": f"{'.'.join(self._steps()) or 'beside spec'}: {why}",
            "messageExpression": f"{name}.map(fields, fields.join(', ')).join(', ')\n+ ': {why}'\n",
        }

    def _objects(self) -> str:
        if not self.path:
            return "[dyn(object)]"
        select = f"dyn(object).?{'.?'.join(self.path)}"
        if not self.listed:
            return f"[{select}.orValue({{}})]"
        inner = f".filter(it, has(it.{self.inside})).map(it, it.{self.inside})" if self.inside else ""
        return f"{select}.orValue([]){inner}"

    def _steps(self) -> tuple[str, ...]:
        steps = (*self.path[:-1], f"{self.path[-1]}[]") if self.listed else self.path
        return (*steps, self.inside) if self.inside else steps

    def _variable(self) -> str:
        return "_".join(filter(None, (*self.path, self.inside))) or "grant"


def levels(schema: Schema, path: tuple[str, ...] = (), *, listed: bool = False, inside: str = "") -> Iterator[Level]:
    """Every place at which the API server keeps unknown fields. Raises TypeError where objects are further down in a list."""
    if schema.get(KEEPS_UNKNOWN):
        yield Level(path, tuple(schema["properties"]), listed, inside)
    for name, child in schema.get("properties", {}).items():
        deeper = (*path, name)
        if ("properties" in child.get("items", {}) and listed) or ("properties" in child and inside):
            raise TypeError(f"{'.'.join(deeper)}: objects so far down in a list need an expression of their own")
        if listed:
            yield from levels(child, path, listed=True, inside=name)
        elif "items" in child:
            yield from levels(child["items"], deeper, listed=True)
        else:
            yield from levels(child, deeper)


def policy() -> dict[str, Any]:
    """The ValidatingAdmissionPolicy."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "resourceRules": [
                    {
                        "apiGroups": [GROUP],
                        "apiVersions": [VERSION],
                        "operations": ["CREATE", "UPDATE"],
                        "resources": [PLURAL],
                        "scope": "Cluster",
                    }
                ]
            },
            "matchConditions": [
                {"name": "changes-more-than-metadata", "expression": CHANGES_MORE_THAN_METADATA},
                {"name": "does-more-than-suspend", "expression": DOES_MORE_THAN_SUSPEND},
            ],
            "variables": [level.variable() for level in levels(grant_schema())],
            "validations": [level.validation() for level in levels(grant_schema())],
        },
    }


def binding() -> dict[str, Any]:
    """What puts the policy into force, everywhere."""
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME, "labels": LABELS},
        "spec": {"policyName": NAME, "validationActions": ["Deny"]},
    }


def render() -> str:
    """Both as the text of their file."""
    documents = yaml.dump_all((policy(), binding()), Dumper=_Readable, sort_keys=False, width=130, allow_unicode=True)
    return f"# Made by `python -m vmaccess.model.admission`; a test compares the two.\n{documents}"


class _Readable(yaml.SafeDumper):
    """Writes a value that occurs twice in full, and a text of several lines line by line."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the signature is PyYAML's)
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)


if __name__ == "__main__":
    sys.stdout.write(render())
