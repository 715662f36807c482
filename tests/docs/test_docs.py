"""The documentation is held to the code: a reason for every entry, an entry for every reason, and no link into nowhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

import vmaccess
from vmaccess.cli.__main__ import _parser
from vmaccess.model.grant import read_spec
from vmaccess.model.spec import Spec
from vmaccess.policy.reasons import ConditionType, Reason, Warned

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def entries(section: str) -> list[str]:
    """Headings of the third level below one of the second."""
    body = re.split(r"^## ", prose(TROUBLESHOOTING), flags=re.MULTILINE)
    found = next(part for part in body if part.startswith(f"{section}\n"))
    return re.findall(r"^### (.+)$", found, re.MULTILINE)


def told() -> set[str]:
    """The reasons that the operator spells out where it posts an Event, beside those of conditions."""
    calls = (
        node
        for file in Path(vmaccess.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("tell", "remark")
    )
    words = (argument for call in calls for argument in call.args[2:3])
    return {word.value for word in words if isinstance(word, ast.Constant) and isinstance(word.value, str)}


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("Conditions", [kind.value for kind in ConditionType]),
        ("Warnings", [kind.value for kind in Warned]),
        ("Reasons", [reason.value for reason in Reason]),
        ("Events", sorted(told())),
    ],
    ids=["conditions", "warnings", "reasons", "events"],
)
def test_troubleshooting_has_one_entry_for_each_and_no_other(section: str, words: list[str]) -> None:
    assert words
    assert sorted(entries(section)) == sorted(words)


def test_every_entry_says_something() -> None:
    parts = re.split(r"^#+ (.+)$", TROUBLESHOOTING.read_text(), flags=re.MULTILINE)
    short = [title for title, body in zip(parts[1::2], parts[2::2], strict=True) if len(body.split()) < 10]
    assert set(short) <= {"Conditions", "Reasons"}


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as they are made from Markdown: lower case, words joined by dashes."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        if not to.is_relative_to(ROOT) or not to.exists() or (anchor and anchor not in anchors(to)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_grants_on_a_page_are_valid(page: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL):
        for document in yaml.safe_load_all(block):
            if isinstance(document, dict) and document.get("kind") == "VMAccessGrant":
                assert isinstance(read_spec(document), Spec), read_spec(document)


def test_the_readme_shows_the_example_as_it_is() -> None:
    example = (ROOT / "deploy" / "examples" / "runner.yaml").read_text()
    shown = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "".join(line for line in example.splitlines(keepends=True) if not line.startswith("#")) in shown


def test_every_documented_kubectl_verb_of_ours_exists() -> None:
    known = _parser().format_help()
    for page in PAGES:
        for verb in re.findall(r"kubectl vmaccess ([a-z][a-z-]*)", page.read_text()):
            assert re.search(rf"^ +{verb}\b", known, re.MULTILINE), f"{name(page)}: {verb}"
