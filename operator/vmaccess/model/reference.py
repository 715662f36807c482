"""The reference page of the API, generated from the models: `python -m vmaccess.model.reference` prints it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from vmaccess.model.admission import NAME as POLICY
from vmaccess.model.crd import GROUP, KIND, VERSION, grant_schema
from vmaccess.model.names import IN_WORDS
from vmaccess.model.schema import LIST_MAP_KEYS, LIST_TYPE, VALIDATIONS
from vmaccess.model.spec import Spec
from vmaccess.model.status import Status
from vmaccess.model.structural import Schema, plain, without_null

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import BaseModel

INTRODUCTION = f"""\
<!-- Made by `python -m vmaccess.model.reference`; a test compares the two. -->
# {KIND}

{{description}} Cluster-scoped, `apiVersion: {GROUP}/{VERSION}`, `kind: {KIND}`.

`kubectl explain vmaccessgrants.spec --recursive` shows the same on a cluster. The API server refuses an object that breaks
a limit or a rule below. Should one get in nevertheless, the operator gives nothing for it and says why in the condition
`Stalled`, reason `InvalidSpec`.

`metadata.name`: {{name}}.

## Unknown fields

A field that this version does not know, misspelt or of a later version, is never accepted and ignored: a grant that has lost
`matchLabels` to a typo would select every namespace. The keys of `matchLabels` itself are free.

- **At admission** the ValidatingAdmissionPolicy `{POLICY}` refuses it and names it, whatever validation
  the client asks for. Updates that leave everything but metadata as it is pass, so that whatever is stored can be deleted;
  so does one that only sets `suspend: true`.
- **Should it be stored nevertheless** (no such policy on the cluster, or a grant written for a later version), the grant is
  `Stalled`, reason `InvalidSpec`, and the message names the field and the nearest known one. Nothing is given, and what was
  given before stays, except for what the rest of the spec takes away for certain: `suspend: true`, `expirationTime`,
  `notBeforeTime`, an entry of `excludeNamespaces`, and a namespace that is no longer selected. The last does not count when the
  unknown field is in `namespaceSelector`, or looks like `namespaces` or `namespaceSelector` misspelt: then it is not known what
  is selected.
"""


def render() -> str:
    """The page as Markdown."""
    root = grant_schema()
    pages = [INTRODUCTION.format(description=root["description"], name=root[VALIDATIONS][0]["message"])]
    pages += [_section(name, schema) for model in (Spec, Status) for name, schema in _types(model)]
    return "\n".join(pages)


def _types(model: type[BaseModel]) -> Iterator[tuple[str, Schema]]:
    """The model and those it is made of, each before its parts."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})
    waiting = [(model.__name__, schema)]
    while waiting:
        name, current = waiting.pop(0)
        yield name, current
        parts = (_reference(without_null(node, name)) for node in current["properties"].values())
        waiting[:0] = [(part, definitions[part]) for part in parts if part]


def _reference(node: Schema) -> str | None:
    """The name of the model that a field holds, alone or in a list."""
    reference = node.get("items", node).get("$ref")
    return reference.rsplit("/", 1)[-1] if reference else None


def _section(name: str, schema: Schema) -> str:
    required = schema.get("required", ())
    rows = "\n".join(
        f"| {' | '.join(_escape(cell) for cell in _row(field, plain(without_null(node, field)), required=field in required))} |"
        for field, node in schema["properties"].items()
    )
    rules = "".join(f"- {_rule(rule)}\n" for rule in schema.get(VALIDATIONS, ()))
    table = f"| field | type | required | description | limits |\n|---|---|---|---|---|\n{rows}\n"
    return f"## {name}\n\n{schema['description']}\n\n{table}" + (f"\nRefused, with these words:\n\n{rules}" if rules else "")


def _row(field: str, node: Schema, *, required: bool) -> tuple[str, ...]:
    return f"`{field}`", _type(node), "yes" if required else "no", node["description"], "; ".join(_limits(node))


def _rule(rule: Mapping[str, str]) -> str:
    field = rule.get("fieldPath", "").lstrip(".")
    return f"`{field}`: {rule['message']}" if field else rule["message"]


def _type(node: Schema) -> str:
    if "items" in node:
        return f"list of {_type(node['items'])}"
    if "additionalProperties" in node:
        return f"map of {_type(node['additionalProperties'])}"
    part = _reference(node)
    return f"[{part}](#{part.lower()})" if part else str(node["type"])


def _limits(node: Schema) -> Iterator[str]:
    if "enum" in node:
        yield "one of " + ", ".join(f"`{value}`" if value else '`""`' for value in node["enum"])
    if "pattern" in node:
        yield IN_WORDS.get(node["pattern"]) or f"`{node['pattern']}`"
    if node.get("type") == "string":
        yield from _range(node.get("minLength"), node.get("maxLength"), "characters")
    yield from _range(node.get("minimum"), node.get("maximum"), "")
    yield from _range(node.get("minItems"), node.get("maxItems"), "entries")
    yield from _range(node.get("minProperties"), node.get("maxProperties"), "entries")
    if node.get(LIST_TYPE) == "set":
        yield "no duplicates"
    if keys := node.get(LIST_MAP_KEYS):
        yield f"entries differ in {' or '.join(keys)}"
    yield from (f"refused with “{_rule(rule)}”" for rule in node.get(VALIDATIONS, ()))
    each = node.get("items") or node.get("additionalProperties")
    if each and (limits := "; ".join(_limits(each))):
        yield f"each: {limits}"
    if "default" in node:
        yield f"default `{node['default']}`"


def _range(least: int | None, most: int | None, unit: str) -> Iterator[str]:
    match least, most:
        case None | 0, None:
            pass
        case None | 0, _:
            yield f"at most {most} {unit}".rstrip()
        case _, None:
            yield f"at least {least} {unit}".rstrip()
        case _:
            yield f"{least} to {most} {unit}".rstrip()


def _escape(cell: str) -> str:
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
