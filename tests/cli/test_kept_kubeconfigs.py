"""What the operator keeps, as `kubectl vmaccess` allows it, shows it and takes it back."""

from __future__ import annotations

import pytest

from tests.access.test_kubeconfigs import account, grant_of, kubeconfig, lists_machines, secrets, token_of, until_dead
from tests.cli.helpers import Cli
from tests.stage import OPERATOR, Stage, Who

SECRET, TOKEN = "/secrets", "/serviceaccounts/token"


@pytest.fixture
def asked(stage: Stage) -> tuple[str, str]:
    """A grant that asks for a kubeconfig, where nothing is allowed yet; its name and its namespace."""
    home = stage.namespace()
    name = stage.grant(grant_of(home, account("one", home)))
    stage.until_condition(name, "Stalled", reason="KubeconfigForbidden")
    return name, home


def test_the_rights_are_those_of_the_names_alone(stage: Stage, cli: Cli, asked: tuple[str, str]) -> None:
    name, home = asked
    operator = Who(OPERATOR, ("system:serviceaccounts", "system:serviceaccounts:vmaccess-system", "system:authenticated"))

    def may(verb: str, resource: str, object_name: str, namespace: str = home) -> bool:
        return stage.can(operator, verb, resource, namespace, name=object_name)

    assert not may("create", SECRET, "")
    stage.cluster.apply(cli("rights", name).out)
    stage.until(lambda: may("create", SECRET, ""), "the right")
    for secret in ("one-kubeconfig", "one-kubeconfig-token-a", "one-kubeconfig-token-b"):
        assert [may(verb, SECRET, secret) for verb in ("get", "patch", "delete")] == [True] * 3
        assert [may(verb, SECRET, secret) for verb in ("list", "watch")] == [False] * 2
        assert not may("get", SECRET, secret, "default")
    assert may("create", TOKEN, "one")
    assert not may("create", TOKEN, "default")
    assert not may("get", SECRET, "another")
    assert not may("get", SECRET, "")

    stage.until(lambda: (stage.condition(name, "Ready") or {})["status"] == "True", "the kubeconfig", 60)
    assert secrets(stage, home) == ["one-kubeconfig", "one-kubeconfig-token-a"]


def test_a_kept_credential_is_listed_and_revoked_and_another_takes_its_place(
    stage: Stage, cli: Cli, asked: tuple[str, str]
) -> None:
    name, home = asked
    stage.cluster.apply(cli("rights", name).out)
    stage.until(lambda: (stage.condition(name, "Ready") or {})["status"] == "True", "the kubeconfig", 60)
    token = token_of(kubeconfig(stage, home, "one-kubeconfig"))
    listed = cli("credentials", name).out.splitlines()
    assert listed[0].split()[:4] == ["ID", "SERVICE", "ACCOUNT", "ROUTE"]
    identity, of, route, *_ = listed[1].split()
    assert (of, route) == (f"{home}/one", "operator")
    assert lists_machines(stage, token, home) == 200
    assert cli("revoke", name, "--credential", identity).code == 0
    until_dead(stage, token, home)


def test_who_asks_for_none_is_told(stage: Stage, cli: Cli) -> None:
    home = stage.namespace()
    name = stage.grant({"serviceAccounts": [{"name": "one", "namespace": home}], "namespaces": [home]})
    said = cli("rights", name)
    assert (said.code, said.out) == (1, "")
    assert "asks for no kubeconfig" in said.err


def test_after_a_change_of_name_the_rights_cover_what_is_to_be_taken_back(stage: Stage, cli: Cli, asked: tuple[str, str]) -> None:
    name, home = asked
    stage.cluster.apply(cli("rights", name).out)
    stage.until(lambda: (stage.condition(name, "Ready") or {})["status"] == "True", "the kubeconfig", 60)
    old = token_of(kubeconfig(stage, home, "one-kubeconfig"))
    stage.respec(name, grant_of(home, account("one", home, "renamed")))
    stage.until_condition(name, "Stalled", reason="KubeconfigForbidden")
    stage.cluster.apply(cli("rights", name).out)
    stage.until(lambda: (stage.condition(name, "Ready") or {})["status"] == "True", "the other kubeconfig", 60)
    assert secrets(stage, home) == ["renamed", "renamed-token-a"]
    until_dead(stage, old, home)
