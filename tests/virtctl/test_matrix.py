"""Every preset and every add-on against every command: what a role promises works in whole, and all else is refused.

The identities are ServiceAccounts that grants made, with their real tokens; the clients are virtctl and kubectl; who decides are
kube-apiserver and KubeVirt's own virt-api behind it. What is expected is worked out from the rules that the grant's role has in
the cluster, and from what everybody has. A command works when no request of it was refused (the audit log tells, since virtctl
hides some refusals) and it came to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.virtctl.commands import COMMANDS, Command
from tests.virtctl.conftest import chosen
from tests.virtctl.places import Caller, Place
from tests.virtctl.promises import shipped
from tests.virtctl.roles import PROMISED, ROLES
from vmaccess.model.spec import Role
from vmaccess.policy.role import trim
from vmaccess.policy.rules import Rules, normalise

pytestmark = pytest.mark.timeout(600)

ROWS: Mapping[str, tuple[Mapping[str, Any], tuple[Command, ...]]] = {
    **{name: (role, COMMANDS) for name, role in ROLES.items()},
    **PROMISED,
}
Row = tuple[dict[str, str], dict[str, str]]


def try_all(place: Callable[[], Place], role: Mapping[str, Any], commands: tuple[Command, ...]) -> Row:
    """Expected and actual verdicts of the commands, one after the other, with a grant of this role."""
    caller = place().granted(role)
    rules = caller.rules()
    assert normalise(rules) == trim(shipped().base, Role.model_validate(role)).rules
    wanted = {command.name: expected(command, rules) for command in commands}
    return wanted, {command.name: verdict(caller, command) for command in commands}


def expected(command: Command, rules: Rules) -> str:
    return "refused" if any(command.missing(rules, shipped().everyone)) else "works"


def verdict(caller: Caller, command: Command) -> str:
    outcome = caller.run(command)
    if outcome.verdict == "works" and not caller.may_go_on(command):
        return "refused"
    return outcome.verdict


@pytest.fixture(scope="module")
def rows(
    request: pytest.FixtureRequest, furnished: Callable[[], Place], pool: ThreadPoolExecutor
) -> Iterator[dict[str, Future[Row]]]:
    """The rows that are asked for, all under way at once."""
    under_way = {name: pool.submit(try_all, furnished, *ROWS[name]) for name in chosen(request, test_row.__name__)}
    yield under_way
    for row in under_way.values():
        row.cancel()


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str, rows: dict[str, Future[Row]]) -> None:
    wanted, found = rows[name].result()
    wrong = {command: f"{found[command]}, expected: {wanted[command]}" for command in wanted if found[command] != wanted[command]}
    assert not wrong
    if name in PROMISED:
        assert set(wanted.values()) == {"works"}
