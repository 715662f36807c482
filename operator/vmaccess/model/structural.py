"""Turns a pydantic model into the structural schema of a CustomResourceDefinition, or says why it cannot.

A structural schema says less than JSON Schema, and the API server drops or refuses the rest. So the conversion raises on
whatever it cannot carry over, and on what would hurt later: fields nobody can look up, and texts, lists and maps without
a limit, which make a CEL rule too dear to be accepted.

A structural schema cannot forbid further properties: unless told to keep them, the API server drops them unread. So an
object that forbids them keeps them, for the admission policy and the operator to refuse.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vmaccess.model.schema import KEEPS_UNKNOWN, LIST_MAP_KEYS, LIST_TYPE, VALIDATIONS

if TYPE_CHECKING:
    from pydantic import BaseModel

Schema = dict[str, Any]

# In the order in which they are written.
KEYWORDS = (
    "description", "type", "format", "nullable", "default", "enum", "pattern", "minLength", "maxLength", "minimum",
    "exclusiveMinimum", "maximum", "exclusiveMaximum", LIST_TYPE, LIST_MAP_KEYS, "minItems", "maxItems",
    "minProperties", "maxProperties", KEEPS_UNKNOWN, VALIDATIONS, "required", "properties", "items", "additionalProperties",
)  # fmt: skip
FORMATS = {"string": {"date-time"}, "integer": {"int32", "int64"}}
# ASCII in RE2, Unicode in Rust.
AMBIGUOUS_CLASS = re.compile(r"\\[sSwWdDbB]")


class NotStructuralError(TypeError):
    """A model says something that the schema of a CustomResourceDefinition cannot, or must not, say."""


def structural(model: type[BaseModel]) -> Schema:
    """The structural schema of a model. Raises NotStructuralError, which names the field."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    definitions = schema.pop("$defs", {})
    return _Conversion(definitions).convert(schema, model.__name__, ())


def without_null(node: Schema, path: str) -> Schema:
    """The node of an optional field: `X | None` means that it may be absent, as the API server drops a null unread."""
    node = dict(node)
    variants = node.pop("anyOf", None)
    if variants is None:
        return node
    real = [variant for variant in variants if variant != {"type": "null"}]
    if len(real) != 1 or len(variants) != 2:
        raise NotStructuralError(f"{path}: is a union; use one optional field for each alternative, and a rule")
    if node.get("default", ...) is None:
        del node["default"]
    return real[0] | node  # type: ignore[no-any-return]


def plain(node: Schema) -> Schema:
    """The node in the words of OpenAPI 3.0."""
    node = {keyword: value for keyword, value in node.items() if keyword != "title"}
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for exclusive, inclusive in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if exclusive in node:
            node[inclusive], node[exclusive] = node[exclusive], True
    if "properties" in node and node.get("additionalProperties") is False:
        del node["additionalProperties"]
        node[KEEPS_UNKNOWN] = True
    return node


class _Conversion:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, node: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        node = without_null(node, path)
        if reference := node.pop("$ref", None):
            name = reference.rsplit("/", 1)[-1]
            if name in parents:
                raise NotStructuralError(f"{path}: {name} contains itself, and a structural schema has no recursion")
            parents = (*parents, name)
            node = self._definitions[name] | node
        node = plain(node)
        _check(node, path)
        match node["type"]:
            case "object" if "properties" in node:
                node["properties"] = {
                    name: self._property(child, f"{path}.{name}", parents) for name, child in node["properties"].items()
                }
            case "object":
                node["additionalProperties"] = self.convert(node["additionalProperties"], f"{path}[*]", parents)
            case "array":
                node["items"] = self.convert(node["items"], f"{path}[]", parents)
                _check_list(node, path)
        return {keyword: node[keyword] for keyword in KEYWORDS if keyword in node}

    def _property(self, node: Schema, path: str, parents: tuple[str, ...]) -> Schema:
        converted = self.convert(node, path, parents)
        if not converted.get("description"):
            raise NotStructuralError(f"{path}: has no description")
        return converted


def _check(node: Schema, path: str) -> None:
    def refuse(why: str) -> None:
        raise NotStructuralError(f"{path}: {why}")

    if unknown := sorted(node.keys() - set(KEYWORDS)):
        refuse(f"a structural schema has no {', '.join(unknown)}")
    if "[" in path and "default" in node:
        refuse("has a default inside a list or map, which GitOps tools show as a difference for ever")
    if "default" in node and node["default"] is None:
        refuse("has the default null, which the API server drops")
    if "format" in node and node["format"] not in FORMATS.get(str(node.get("type")), ()):
        refuse(f"has the format {node['format']}, which the API server ignores or reads otherwise")
    match node.get("type"):
        case "object":
            if ("properties" in node) == isinstance(node.get("additionalProperties"), dict):
                refuse("must have either named properties or values of one type")
            if "additionalProperties" in node and "properties" in node:
                refuse("cannot have further properties beside the named ones")
            if "properties" not in node and "maxProperties" not in node:
                refuse("has no maxProperties")
        case "array":
            if missing := [keyword for keyword in ("items", "maxItems", LIST_TYPE) if keyword not in node]:
                refuse(f"has no {', '.join(missing)}")
        case "string":
            if "maxLength" not in node and "enum" not in node:
                refuse("has no maxLength")
            _check_pattern(node.get("pattern"), path)
        case "integer" | "number" | "boolean":
            pass
        case other:
            refuse(f"has the type {other}" if other else "has no type")


def _check_pattern(pattern: str | None, path: str) -> None:
    if pattern is None:
        return
    if AMBIGUOUS_CLASS.search(pattern):
        raise NotStructuralError(f"{path}: the API server reads {pattern} as ASCII, pydantic as Unicode: write the class out")
    if not (pattern.startswith("^") and pattern.endswith("$")):
        raise NotStructuralError(f"{path}: the pattern {pattern} matches a part of the text: put it between ^ and $")


def _check_list(node: Schema, path: str) -> None:
    items = node["items"]
    match node[LIST_TYPE]:
        case "set":
            if items["type"] in ("object", "array"):
                raise NotStructuralError(f"{path}: is a set of what is not a scalar, which breaks server-side apply")
        case "map":
            required = items.get("required", ())
            if not (keys := node.get(LIST_MAP_KEYS)) or any(key not in required for key in keys):
                raise NotStructuralError(f"{path}: is a map whose keys are not required properties of its entries")
        case "atomic":
            pass
        case other:
            raise NotStructuralError(f"{path}: has the list type {other}")
