"""The rights that a command needs, proven both ways: with exactly these it works, and without any one of them it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.virtctl.commands import COMMANDS, Command, Need
from tests.virtctl.conftest import chosen
from tests.virtctl.places import Place
from tests.virtctl.promises import shipped

pytestmark = pytest.mark.timeout(600)

AT_A_TIME = 8
BY_NAME = {command.name: command for command in COMMANDS}
Verdicts = dict[str, str]


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(COMMANDS)


def everybodys(need: Need) -> bool:
    return any(right.is_in((), shipped().everyone) for right in need)


def try_each(furnished: Callable[[], Place], commands: list[Command]) -> dict[str, Verdicts]:
    here = furnished()
    return {command.name: tried_with_less(here, f"c{number}", command) for number, command in enumerate(commands)}


def tried_with_less(here: Place, tag: str, command: Command) -> Verdicts:
    """Verdicts without each need in turn, with each way of one that has several, and last with all of it."""
    own = [need for need in command.all_needs() if not everybodys(need)]
    verdicts: Verdicts = {}
    for number, need in enumerate(command.needs):
        if need not in own:
            continue
        others = [right for other in own if other != need for right in other]
        outcome = here.with_rights(f"{tag}-without-{number}", others).run(command)
        verdicts["without " + " or ".join(map(str, need))] = outcome.verdict
        for way, right in enumerate(need if len(need) > 1 else ()):
            outcome = here.with_rights(f"{tag}-with-{number}-{way}", [*others, right]).run(command)
            verdicts[f"with {right} alone"] = "works" if outcome.admitted else str(outcome)
    outcome = here.with_rights(f"{tag}-whole", [right for need in own for right in need]).run(command)
    verdicts["with all"] = outcome.verdict if outcome.verdict != "refused" else str(outcome)
    return verdicts


@pytest.fixture(scope="module")
def tried(
    request: pytest.FixtureRequest, furnished: Callable[[], Place], pool: ThreadPoolExecutor
) -> Iterator[dict[str, Future[dict[str, Verdicts]]]]:
    """The commands that are asked for, a few in one place after each other, all places at once."""
    asked = [BY_NAME[name] for name in chosen(request, test_command.__name__)]
    under_way: dict[str, Future[dict[str, Verdicts]]] = {}
    for start in range(0, len(asked), AT_A_TIME):
        some = asked[start : start + AT_A_TIME]
        under_way |= dict.fromkeys((command.name for command in some), pool.submit(try_each, furnished, some))
    yield under_way
    for one in under_way.values():
        one.cancel()


@pytest.mark.parametrize("name", BY_NAME)
def test_command(name: str, tried: dict[str, Future[dict[str, Verdicts]]]) -> None:
    found = tried[name].result()[name]
    assert found == {how: "refused" if how.startswith("without ") else "works" for how in found}
