"""Times as a grant spells them: RFC 3339, which admission and operator read alike."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from vmaccess.model.names import IN_WORDS, TIME
from vmaccess.model.schema import Rule


def read_time(text: str) -> datetime | None:
    """The moment that a text of the pattern TIME names; None where the calendar has no such day."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


# Without `format: date-time`: by that the API server takes a list, too. The pattern stands in the rule as well, since of a
# pattern alone the API server tells nothing but the pattern.
Time = Annotated[
    str,
    Field(pattern=TIME, min_length=1, max_length=40),
    Rule(
        cel=f"self.matches('{TIME}') && timestamp(self) > timestamp(0)",
        holds=lambda text: read_time(text) is not None,
        message=f"no such time: use {IN_WORDS[TIME]}, and of a day that the calendar has",
    ),
]
