"""docs/roles.md is held to the data and to what follows from it: every name, every sentence, every cell of its tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.virtctl.commands import COMMANDS, Command
from tests.virtctl.promises import released, shipped
from vmaccess.model.spec import AddOn, Preset, Role
from vmaccess.policy.catalogue import ADD_ONS, PRESETS
from vmaccess.policy.reasons import Warned
from vmaccess.policy.role import trim

PAGE = Path(__file__).parents[2] / "docs" / "roles.md"
BY_NAME = {command.name: command for command in COMMANDS}
GIVEN = [command for command in COMMANDS if any(shipped().ways(command, preset) for preset in PRESETS)]
PREFIXES = {"`virtctl`": "virtctl ", "`kubectl`": "kubectl ", "right": ""}
"""The tables of commands, by their first heading, and what the names in their first column leave out."""


@dataclass(frozen=True)
class Table:
    """A table of the page: its headings and its rows."""

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@cache
def tables() -> dict[str, Table]:
    """The tables of the page by their first heading."""
    found = {}
    for block in re.findall(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE):
        headings, ruler, *rows = (
            tuple(cell.strip() for cell in line.strip().strip("|").split("|")) for line in block.splitlines()
        )
        assert set("".join(ruler)) == {"-"}
        assert {len(row) for row in rows} == {len(headings)}
        assert headings[0] not in found or headings[0] == "command"
        found[headings[0] if headings[0] != "command" else headings[1]] = Table(headings, tuple(rows))
    return found


def quoted(text: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def cells() -> Iterator[tuple[str, Preset, str]]:
    """Every cell about a command and a preset."""
    for heading, prefix in PREFIXES.items():
        table = tables()[heading]
        assert table.headings[1:] == tuple(PRESETS)
        for names, *row in table.rows:
            yield from (
                (prefix + name, preset, said) for name in quoted(names) for preset, said in zip(PRESETS, row, strict=True)
            )


def test_there_are_no_other_tables() -> None:
    assert set(tables()) == {"preset", "add-on", "lacks", "works since", *PREFIXES}


# --- presets and add-ons


def test_every_preset_with_its_sentence() -> None:
    assert [row[:2] for row in tables()["preset"].rows] == [(name, preset.sentence) for name, preset in PRESETS.items()]


@pytest.mark.parametrize("preset", PRESETS)
def test_who_reaches_secrets(preset: Preset) -> None:
    (said,) = (row[2] for row in tables()["preset"].rows if row[0] == preset)
    warned = {warning.type for warning in shipped().trimmed(preset).warnings}
    assert said == ("yes" if Warned.SECRETS_REACHABLE in warned else "no")


def test_every_preset_is_told_about() -> None:
    text = PAGE.read_text()
    for preset in PRESETS:
        assert re.search(rf"^\*\*{preset}\*\* (?:[^\n]+\n){{3,}}", text, re.MULTILINE), preset


def test_every_add_on_with_its_sentence() -> None:
    assert [row[:2] for row in tables()["add-on"].rows] == [(name, add_on.sentence) for name, add_on in ADD_ONS.items()]


@pytest.mark.parametrize("name", ADD_ONS)
def test_what_an_add_on_is_and_does(name: AddOn) -> None:
    (row,) = (row for row in tables()["add-on"].rows if row[0] == name)
    add_on, (_, _, danger, how, commands) = ADD_ONS[name], row
    assert re.match(r"(low|middle|high)\b", danger)
    assert how == " and ".join(word for word, rules in (("keeps", add_on.keeps), ("adds", add_on.adds)) if rules)
    more = [it.name for it in COMMANDS if shipped().works(it, "View", (name,)) and not shipped().works(it, "View")]
    assert sorted(quoted(commands)) == sorted(more)
    assert more or commands.startswith("none without VNC")


def test_no_add_on_gives_secrets_and_those_that_reach_them_say_so() -> None:
    everything = shipped().trimmed("Admin", tuple(ADD_ONS)).rules
    assert not {"secrets", "*", "pods", "services"} & {resource for rule in everything for resource in rule.resources}
    for add_on in ADD_ONS:
        warned = Warned.SECRETS_REACHABLE in {warning.type for warning in shipped().trimmed("View", (add_on,)).warnings}
        (danger,) = (row[2] for row in tables()["add-on"].rows if row[0] == add_on)
        assert warned == ("reaches Secrets" in danger), add_on


def test_the_role_that_is_shown_first_can_be_had() -> None:
    shown = re.search(r"^```yaml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    trimmed = trim(shipped().base, Role.model_validate(yaml.safe_load(shown[1])["role"]))
    assert trimmed.rules
    assert {warning.type for warning in trimmed.warnings} == {Warned.NOT_RESTRICTABLE}


# --- commands


def test_every_command_that_a_grant_can_give_stands_in_one_row() -> None:
    assert sorted((name, preset) for name, preset, _ in cells()) == sorted(
        (it.name, preset) for it in GIVEN for preset in PRESETS
    )


@pytest.mark.parametrize("command", GIVEN, ids=lambda command: command.name)
def test_cells(command: Command) -> None:
    said = {preset: cell for name, preset, cell in cells() if name == command.name}
    assert said == {preset: shipped().cell(command, preset) for preset in PRESETS}


def test_what_no_grant_gives_and_why() -> None:
    said = {name: quoted(lacks) for names, lacks in tables()["lacks"].rows for name in quoted(names)}
    everything = tuple(ADD_ONS)
    found = {it.name: [" or ".join(map(str, need)) for need in shipped().missing(it, "Admin", everything)] for it in COMMANDS}
    assert said == {name: lacks for name, lacks in found.items() if BY_NAME[name] not in GIVEN}


def test_what_older_versions_lack() -> None:
    said = {name: since for names, since in tables()["works since"].rows for name in quoted(names)}
    found = {}
    for command in COMMANDS:
        now = shipped().ways(command, "Admin")
        lacking = [version for version, promises in released().items() if now and not promises.ways(command, "Admin")]
        versions = list(released())
        assert lacking == versions[: len(lacking)], "what works with one version works with all later ones"
        if lacking:
            found[command.name] = versions[len(lacking)] if len(lacking) < len(versions) else f"after {versions[-1]}"
    assert said == found


def test_who_could_migrate_before_it_was_kept_apart() -> None:
    able = [version for version, promises in released().items() if promises.works(BY_NAME["virtctl migrate"], "Admin")]
    assert able == [f"v1.{minor}.0" for minor in range(5)]
    assert "Before v1.5.0 the other way round" in PAGE.read_text()


@pytest.mark.parametrize("preset", PRESETS)
def test_otherwise_older_versions_give_the_same(preset: Preset) -> None:
    """With an older base a command works as the table says or, if it is listed there, not at all; but for migrating."""
    lacking = {name for names, _ in tables()["works since"].rows for name in quoted(names)}
    for version, promises in released().items():
        for command in GIVEN:
            allowed = {shipped().cell(command, preset)}
            allowed |= {"no"} if command.name in lacking else set()
            allowed |= {"yes"} if "migrat" in command.name and preset == "Admin" else set()
            assert promises.cell(command, preset) in allowed, f"{command.name} over {version}"
