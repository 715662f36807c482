from __future__ import annotations

from pathlib import Path

from vmaccess.model import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text() == reference.render(), "run: python -m vmaccess.model.reference > docs/reference/api.md"
