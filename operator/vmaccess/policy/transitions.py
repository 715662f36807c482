"""Which changes of a status are worth an Event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vmaccess.policy.reasons import ConditionType, Reason, Warned


@dataclass(frozen=True, slots=True)
class Note:
    """An Event to be posted."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def transitions(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterable[Note]:
    """One note for every condition that has begun to hold or holds for another reason; progress is not news."""
    before = {_identity(condition) for condition in old.get("conditions") or ()}
    for condition in new.get("conditions") or ():
        if condition["status"] != "True" or _identity(condition) in before:
            continue
        kind, reason = condition["type"], condition["reason"]
        if kind == ConditionType.ACTIVE or reason == Reason.PROGRESSING:
            continue
        yield Note("Normal" if kind == ConditionType.READY else "Warning", reason, condition["message"])


def _identity(condition: Mapping[str, Any]) -> tuple[Any, ...]:
    news = condition.get("message") if condition.get("type") == Warned.BASE_CHANGED else None
    return condition.get("type"), condition.get("status"), condition.get("reason"), news
