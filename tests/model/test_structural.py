from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, create_model

from vmaccess.model.schema import Distinct, MapBy, Model, Rule, SetOf
from vmaccess.model.structural import NotStructuralError, structural

Text = Annotated[str, Field(max_length=10)]


class Entry(BaseModel):
    """An entry."""

    name: Text = Field(description="Its name.")
    note: Text | None = Field(None, description="A note.")


class WithDefault(BaseModel):
    """An entry with a default."""

    name: Text = Field("a", description="Its name.")


class Endless(BaseModel):
    """A tree."""

    child: Endless | None = Field(None, description="Itself.")


class Open(BaseModel):
    """An object with further fields."""

    model_config = ConfigDict(extra="allow")

    name: Text = Field(description="Its name.")


def listed(item: Any, **keywords: Any) -> Any:
    return Annotated[tuple[item, ...], Field(max_length=3, json_schema_extra=keywords or None)]


def model(annotation: Any, **field: Any) -> type[BaseModel]:
    return create_model("Thing", field=(annotation, Field(**({"description": "A field."} | field))))


REFUSED = {
    "no description": (model(Text, description=None), "Thing.field: has no description"),
    "text without a limit": (model(str), "Thing.field: has no maxLength"),
    "text without a limit in a list": (
        model(listed(str, **{"x-kubernetes-list-type": "set"})),
        r"Thing.field\[\]: has no maxLength",
    ),
    "list without a limit": (model(Annotated[tuple[Text, ...], SetOf()]), "Thing.field: has no maxItems"),
    "list without a list type": (model(listed(Text)), "Thing.field: has no x-kubernetes-list-type"),
    "list of an unknown list type": (model(listed(Text, **{"x-kubernetes-list-type": "bag"})), "has the list type bag"),
    "list of anything": (model(Annotated[list[Any], Field(max_length=3), SetOf()]), r"Thing.field\[\]: has no type"),
    "set of objects": (model(Annotated[tuple[Entry, ...], Field(max_length=3), SetOf()]), "breaks server-side apply"),
    "map by an optional key": (
        model(Annotated[tuple[Entry, ...], Field(max_length=3), MapBy(("note",))]),
        "keys are not required",
    ),
    "map without keys": (model(listed(Entry, **{"x-kubernetes-list-type": "map"})), "keys are not required"),
    "default in a list": (
        model(listed(WithDefault, **{"x-kubernetes-list-type": "atomic"})),
        r"Thing.field\[\].name: has a default",
    ),
    "default in a map": (model(Annotated[dict[str, WithDefault], Field(max_length=3)]), r"Thing.field\[\*\].name: has a default"),
    "map without a limit": (model(dict[str, Text]), "Thing.field: has no maxProperties"),
    "map of anything": (model(Annotated[dict[str, Any], Field(max_length=3)]), "either named properties or values of one type"),
    "map with a pattern for keys": (
        model(Annotated[dict[Annotated[str, Field(pattern="^a$")], Text], Field(max_length=3)]),
        "patternProperties",
    ),
    "object that allows more": (model(Open), "cannot have further properties"),
    "anything": (model(Any), "Thing.field: has no type"),
    "nothing": (model(None), "Thing.field: has the type null"),
    "union": (model(int | Text), "Thing.field: is a union"),
    "optional union": (model(int | Text | None), "Thing.field: is a union"),
    "decimal": (model(Decimal), "Thing.field: is a union"),
    "recursion": (Endless, "contains itself"),
    "pair": (model(tuple[int, int]), "prefixItems"),
    "Python set": (model(Annotated[set[Text], Field(max_length=3)]), "uniqueItems"),
    "duration": (model(Annotated[timedelta, Field(json_schema_extra={"maxLength": 9})]), "has the format duration"),
    "time without a limit": (model(datetime), "Thing.field: has no maxLength"),
    "multiple of": (model(Annotated[int, Field(multiple_of=2)]), "multipleOf"),
    "example": (model(Text, examples=["a"]), "examples"),
    "class that is ASCII on one side only": (model(Annotated[str, Field(pattern=r"^\S+$", max_length=3)]), "write the class out"),
    "pattern that is not anchored": (model(Annotated[str, Field(pattern="a", max_length=3)]), "put it between"),
}


@pytest.mark.parametrize(("thing", "why"), REFUSED.values(), ids=REFUSED)
def test_refuses_what_a_structural_schema_cannot_or_must_not_say(thing: type[BaseModel], why: str) -> None:
    with pytest.raises(NotStructuralError, match=why):
        structural(thing)


CONVERTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "text": (Text, {"type": "string", "maxLength": 10}),
    "optional text": (Text | None, {"type": "string", "maxLength": 10}),
    "one choice": (Literal["a"], {"type": "string", "enum": ["a"]}),
    "choices": (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
    "exclusive bound": (Annotated[int, Field(gt=0)], {"type": "integer", "minimum": 0, "exclusiveMinimum": True}),
    "set": (
        Annotated[tuple[Text, ...], Field(max_length=3), SetOf()],
        {"type": "array", "x-kubernetes-list-type": "set", "maxItems": 3, "items": {"type": "string", "maxLength": 10}},
    ),
    "map of texts": (
        Annotated[dict[str, Text], Field(max_length=3)],
        {"type": "object", "maxProperties": 3, "additionalProperties": {"type": "string", "maxLength": 10}},
    ),
}


@pytest.mark.parametrize(("annotation", "expected"), CONVERTED.values(), ids=CONVERTED)
def test_converts(annotation: Any, expected: dict[str, Any]) -> None:
    schema = structural(model(annotation))
    assert schema["properties"]["field"] == {"description": "A field.", **expected}


def test_a_model_is_inlined_with_the_description_of_the_field() -> None:
    assert structural(model(Entry))["properties"]["field"] == {
        "description": "A field.",
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"description": "Its name.", "type": "string", "maxLength": 10},
            "note": {"description": "A note.", "type": "string", "maxLength": 10},
        },
    }


class Closed(BaseModel):
    """An object that knows all its fields."""

    model_config = ConfigDict(extra="forbid")

    name: Text = Field(description="Its name.")


def test_an_object_that_forbids_further_fields_keeps_them_to_be_refused() -> None:
    assert structural(model(Closed))["properties"]["field"] == {
        "description": "A field.",
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": True,
        "required": ["name"],
        "properties": {"name": {"description": "Its name.", "type": "string", "maxLength": 10}},
    }


class Pair(Model):
    """Two numbers."""

    validations = (Rule(cel="self.a != self.b", holds=lambda it: it.a != it.b, message="make them differ", field="b"),)

    a: int = Field(description="One.")
    b: int = Field(description="The other.")

    def identity(self) -> tuple[int, int]:
        return self.a, self.b


def test_rules_of_a_model_and_of_a_list_are_validations() -> None:
    short = Rule(cel="size(self) < 3", holds=lambda it: len(it) < 3, message="remove one")
    schema = structural(model(Annotated[tuple[Pair, ...], Field(max_length=9), Distinct("a == b"), short]))["properties"]["field"]
    assert schema["x-kubernetes-list-type"] == "atomic"
    assert schema["x-kubernetes-validations"] == [
        {"rule": "self.all(a, self.exists_one(b, a == b))", "message": "an entry is listed twice: remove one"},
        {"rule": "size(self) < 3", "message": "remove one"},
    ]
    assert schema["items"]["x-kubernetes-validations"] == [
        {"rule": "self.a != self.b", "message": "make them differ", "fieldPath": ".b"}
    ]
