"""Turns pydantic's errors into sentences for the person who wrote the grant: the field, what is wrong, the cure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vmaccess.model.names import IN_WORDS
from vmaccess.model.schema import Error

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

    from vmaccess.model.structural import Schema

MAX_GRANT_NAME = 63
GRANT_NAME_TOO_LONG = "a grant's name becomes the value of a label: use at most 63 characters"
MAX_SHOWN = 60
MAX_EXPLAINED = 100
UPGRADE = "remove it or upgrade to a version that knows it"


@dataclass(frozen=True)
class Problems:
    """Why a grant cannot be read: one line per mistake, each `<field>: <why and cure>`, in the order of the fields."""

    messages: tuple[str, ...]

    def summary(self, *, most: int = 10) -> str:
        """All of it in one text, cut to the first `most` mistakes."""
        more = len(self.messages) - most
        return "; ".join(self.messages[:most]) + (f"; and {more} more" if more > 0 else "")


def explain(invalid: ValidationError, root: str, schema: Schema) -> Iterator[str]:
    """One line per mistake; `root` is the JSON path of what was validated, `schema` its schema.

    No more than MAX_EXPLAINED: looking for the nearest name takes time, and a hostile object may have many thousand mistakes.
    """
    for error in invalid.errors(include_url=False)[:MAX_EXPLAINED]:
        path = root + "".join(_step(step) for step in error["loc"])
        for field, why in _reasons(error, schema):
            yield f"{path}{field}: {why}"


def unknown_field(field: str, known: Iterable[str]) -> str:
    """Why a field is refused, and the cure, given the names that are known beside it."""
    if near := nearest(field, known):
        return f"unknown field: did you mean {near}? If not, {UPGRADE}"
    return f"unknown field: known here are {', '.join(known)}: {UPGRADE}"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant, None where there is none like it."""
    by_case = {candidate.casefold(): candidate for candidate in known}
    near = difflib.get_close_matches(name[:MAX_SHOWN].casefold(), by_case, n=1)
    return by_case[near[0]] if near else None


def field_path(field: str) -> str:
    """The step that leads from an object to one of its fields, as part of a JSON path."""
    plain = field.isascii() and field.isidentifier() and len(field) <= MAX_SHOWN
    return f".{field}" if plain else f"[{_shown(field)}]"


def _step(step: str | int) -> str:
    return f"[{step}]" if isinstance(step, int) else field_path(step)


def _reasons(error: ErrorDetails, schema: Schema) -> Iterator[tuple[str, str]]:
    """Pairs of the path below the error's own location, and the sentence."""
    value, context = error["input"], error.get("ctx", {})
    match error["type"]:
        case Error.RULE_BROKEN:
            yield from ((f".{rule.field}" if rule.field else "", rule.message) for rule in context["rules"])
        case Error.DUPLICATE:
            yield f"[{context['index']}]", f"the same as entry {context['first']}: remove one"
        case "extra_forbidden":
            *parents, field = error["loc"]
            yield "", unknown_field(str(field), _known(schema, parents))
        case _:
            yield "", _why(error["type"], value, context)


def _known(schema: Schema, path: Iterable[str | int]) -> Iterable[str]:
    for step in path:
        schema = schema["items"] if isinstance(step, int) else schema["properties"][step]
    return schema["properties"].keys()  # type: ignore[no-any-return]


def _why(kind: str, value: Any, context: Mapping[str, Any]) -> str:
    match kind:
        case "missing":
            return "is required: set it"
        case "string_type":
            cure = ": put it in quotes" if isinstance(value, bool | int | float) else ""
            return f"must be a string, not {_kind(value)}{cure}"
        case "bool_type":
            cure = ": remove the quotes" if value in ("true", "false") else ""
            return f"must be true or false, not {_kind(value)}{cure}"
        case "tuple_type":
            return f"must be a list, not {_kind(value)}"
        case "model_type" | "dict_type":
            return "is required: set it" if value is None else f"must be an object with fields, not {_kind(value)}"
        case "literal_error":
            return _unknown(value, context["expected"])
        case "string_pattern_mismatch":
            return f"{_shown(value)} is not allowed: use {IN_WORDS[context['pattern']]}"
        case "string_too_long":
            return f"has {len(value)} characters: use at most {context['max_length']}"
        case "string_too_short":
            return "is empty: give it a value or remove it"
        case "too_long":
            return f"has {context['actual_length']} entries: use at most {context['max_length']}"
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {_kind(value)}"
        case "greater_than_equal":
            return f"is {value}: use at least {context['ge']}"
        case "less_than_equal":
            return f"is {value}: use at most {context['le']}"
        case "too_short":
            return "is empty: add an entry or remove the field"
        case _:
            return f"must not be {_kind(value)}: correct it"


def _unknown(value: Any, expected: str) -> str:
    known = [name.strip("'") for name in expected.replace(" or ", ", ").split(", ")]
    choice = ", ".join(name or '""' for name in known)
    if not isinstance(value, str):
        return f"must be one of {choice}, not {_kind(value)}"
    near = nearest(value, known)
    hint = f"did you mean {near}? " if near else ""
    return f"{_shown(value)} is not known: {hint}Use one of {choice}"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return f"the boolean {str(value).lower()}"
        case int() | float():
            return "a number"
        case str():
            return f"the string {_shown(value)}"
        case Mapping():
            return "an object"
        case list() | tuple():
            return "a list"
        case _:
            return f"a {type(value).__name__}"


def _shown(text: str) -> str:
    """A text on one line of printable ASCII, cut: it ends up in conditions, events and logs."""
    quoted = json.dumps(text[: MAX_SHOWN + 1])
    return quoted if len(quoted) <= MAX_SHOWN else quoted[: MAX_SHOWN - 3] + "..."
