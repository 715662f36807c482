"""The CustomResourceDefinition, generated from the models: `python -m vmaccess.model.crd` prints it."""

from __future__ import annotations

import sys
from typing import Any

import yaml

from vmaccess.model.problems import GRANT_NAME_TOO_LONG, MAX_GRANT_NAME
from vmaccess.model.schema import KEEPS_UNKNOWN, VALIDATIONS
from vmaccess.model.spec import Spec
from vmaccess.model.status import Status
from vmaccess.model.structural import Schema, structural

GROUP = "vmaccess.dev"
VERSION = "v1alpha1"
KIND = "VMAccessGrant"
PLURAL = "vmaccessgrants"


def grant_schema() -> Schema:
    """The schema of the whole object."""
    status = structural(Status)
    return {
        "description": "Delegates access to KubeVirt virtual machines: who may do what in which namespaces.",
        "type": "object",
        KEEPS_UNKNOWN: True,  # what is written beside spec instead of in it must not vanish either
        VALIDATIONS: [
            {
                "rule": f"size(self.metadata.name) <= {MAX_GRANT_NAME}",
                "message": GRANT_NAME_TOO_LONG,
                "fieldPath": ".metadata.name",
            }
        ],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"description": "Group and version of this API.", "type": "string"},
            "kind": {"description": f"Always {KIND}.", "type": "string"},
            # The name is there for the rule's fieldPath.
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            "spec": structural(Spec),
            # Without a status a new grant would look healthy to whoever waits for it.
            "status": {**status, "default": Status().dump()},
        },
    }


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Cluster",
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": KIND.lower(),
                "shortNames": ["vmag"],
                "categories": ["vmaccess"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        _column("Ready", _condition("Ready", "status"), "Whether access is what the spec asks for."),
                        _column("Active", _condition("Active", "status"), "Whether the grant gives access now."),
                        _column("Preset", ".status.role.preset", "The preset in use."),
                        _column("Namespaces", ".status.namespaces.summary", "Granted and selected namespaces."),
                        _column("Expires", ".spec.expirationTime", "When the access ends."),
                        _column("Age", ".metadata.creationTimestamp", "Time since creation.", type="date"),
                        _column("Reason", _condition("Ready", "reason"), "Reason of Ready.", priority=1),
                    ],
                    "schema": {"openAPIV3Schema": grant_schema()},
                }
            ],
        },
    }


def _column(name: str, path: str, description: str, **more: str | int) -> dict[str, Any]:
    return {"name": name, "type": "string", "description": description, "jsonPath": path, **more}


def _condition(kind: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].{field}'


def render() -> str:
    """The CustomResourceDefinition as the text of its file."""
    return "# Made by `python -m vmaccess.model.crd`; a test compares the two.\n" + yaml.dump(
        crd(), Dumper=_NoAliases, sort_keys=False, width=130, allow_unicode=True
    )


class _NoAliases(yaml.SafeDumper):
    """Writes a value that occurs twice in full."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 (the signature is PyYAML's)
        return True


if __name__ == "__main__":
    sys.stdout.write(render())
