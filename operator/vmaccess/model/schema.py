"""What a Kubernetes schema says beyond JSON Schema: list types and CEL rules, each with its twin check in Python.

Admission may be off or older than the operator, so every rule is checked on both sides. Stating the two in one value
keeps them side by side, with one message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from pydantic.json_schema import JsonSchemaValue

VALIDATIONS = "x-kubernetes-validations"
LIST_TYPE = "x-kubernetes-list-type"
LIST_MAP_KEYS = "x-kubernetes-list-map-keys"
KEEPS_UNKNOWN = "x-kubernetes-preserve-unknown-fields"


class Error(StrEnum):
    """The types of pydantic's errors that are raised here."""

    RULE_BROKEN = "rule_broken"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule over one value: as CEL for admission, as a predicate for the operator, and one message that names the cure.

    `field` is the JSON name of the property to blame; without it the value itself is. A rule over an object stands in its
    model's `validations`, a rule over a list or map in the annotations of the field.
    """

    cel: str
    holds: Callable[[Any], bool]
    message: str
    field: str | None = None

    def validation(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`."""
        entry = {"rule": self.cel, "message": self.message}
        return entry if self.field is None else {**entry, "fieldPath": f".{self.field}"}

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        return {**schema, VALIDATIONS: [*schema.get(VALIDATIONS, ()), self.validation()]}

    def _check(self, value: Any) -> Any:
        if not self.holds(value):
            raise _broken(self)
        return value


def _broken(*rules: Rule) -> PydanticCustomError:
    messages = "; ".join(rule.message for rule in rules)
    return PydanticCustomError(Error.RULE_BROKEN, "{messages}", {"rules": rules, "messages": messages})


@dataclass(frozen=True)
class _ListOf:
    """A list that refuses a second entry of the same identity."""

    def identity(self, item: Any) -> Hashable:
        raise NotImplementedError

    def keywords(self) -> dict[str, Any]:
        raise NotImplementedError

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core), **self.keywords()}

    def _check(self, items: tuple[Any, ...]) -> tuple[Any, ...]:
        seen: dict[Hashable, int] = {}
        for index, item in enumerate(items):
            first = seen.setdefault(self.identity(item), index)
            if first != index:
                raise PydanticCustomError(Error.DUPLICATE, "the same as entry {first}", {"index": index, "first": first})
        return items


@dataclass(frozen=True)
class SetOf(_ListOf):
    """A list of scalars that are all different.

    Never of objects: the API server accepts such a schema, and then refuses every server-side apply with
    "associative list without keys has an element that's a map type".
    """

    def identity(self, item: Any) -> Hashable:
        return item  # type: ignore[no-any-return]

    def keywords(self) -> dict[str, Any]:
        return {LIST_TYPE: "set"}


@dataclass(frozen=True)
class MapBy(_ListOf):
    """A list of objects that differ in the named properties, which are required ones."""

    keys: tuple[str, ...]

    def identity(self, item: Any) -> Hashable:
        return tuple(getattr(item, key) for key in self.keys)

    def keywords(self) -> dict[str, Any]:
        return {LIST_TYPE: "map", LIST_MAP_KEYS: [to_camel(key) for key in self.keys]}


@dataclass(frozen=True)
class Distinct(_ListOf):
    """An atomic list of objects that are all different.

    `same` says in CEL when two entries, a and b, are the same; in Python their `identity()` says it.
    """

    same: str

    def identity(self, item: Any) -> Hashable:
        return item.identity()  # type: ignore[no-any-return]

    def keywords(self) -> dict[str, Any]:
        rule = {"rule": f"self.all(a, self.exists_one(b, {self.same}))", "message": "an entry is listed twice: remove one"}
        return {LIST_TYPE: "atomic", VALIDATIONS: [rule]}


class Model(BaseModel):
    """Kept immutable, checked against its `validations`. A field that it does not know is an error.

    Ignored, a misspelt field or one of a later version would leave a grant wider, or let it live longer, than was written.
    """

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True, extra="forbid")

    validations: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def read(cls, raw: Any) -> Self:
        """The model of a JSON value. Raises ValidationError.

        Only JSON's names count: to the API server `match_labels` is an unknown field.
        """
        return cls.model_validate(raw, by_alias=True, by_name=False)

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if offended := [rule for rule in self.validations if not rule.holds(self)]:
            raise _broken(*offended)
        return self

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        if cls.validations:
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.validation() for rule in cls.validations]
        return schema
