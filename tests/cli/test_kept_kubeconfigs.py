"""What the operator keeps, as `kubectl vmaccess` allows it, shows it and takes it back."""

from __future__ import annotations

from pathlib import Path

import pytest

from localcluster import Cluster
from tests.access.test_kubeconfigs import account, grant_of, kubeconfig, lists_machines, secrets, token_of, until_dead
from tests.cli.helpers import Cli, acting_as, allow
from tests.cli.helpers import secrets as of_secrets
from tests.stage import GRANTS, OPERATOR, RBAC, Stage, Who
from vmaccess.policy.children import GrantId

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
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str, asked: tuple[str, str]
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
    caller = acting_as(cluster, tmp_path / "caller", reader)
    allow(stage, reader, home, of_secrets("list"))
    refused = stage.until(
        lambda: (said := cli("revoke", name, "--all", "--kubeconfig", caller)) and identity in said.err and said,
        "the right to list",
    )
    assert (refused.code, refused.out) == (1, ""), "nothing is said to come in the place of what is still there"
    said = cli("revoke", name, "--credential", identity)
    assert said.code == 0
    assert f"at once: kubectl annotate vmaccessgrants {name} --overwrite vmaccess.dev/rotate=" in said.out
    until_dead(stage, token, home)
    notes = {"annotations": {"vmaccess.dev/rotate": "as it was told"}}
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": notes})
    stage.until(lambda: token_of(kubeconfig(stage, home, "one-kubeconfig")) != token, "another")


def test_who_asks_for_none_is_told(stage: Stage, cli: Cli) -> None:
    home = stage.namespace()
    name = stage.grant({"serviceAccounts": [{"name": "one", "namespace": home}], "namespaces": [home]})
    said = cli("rights", name)
    assert (said.code, said.out) == (1, "")
    assert "asks for no kubeconfig" in said.err
    assert said.err.endswith(f"kubectl delete role,rolebinding --all-namespaces -l vmaccess.dev/kubeconfigs-of={name}\n")


def test_rights_are_found_when_the_grant_is_gone(stage: Stage, cluster: Cluster, cli: Cli, asked: tuple[str, str]) -> None:
    name, home = asked
    cluster.apply(cli("rights", name).out)
    stage.until(lambda: (stage.condition(name, "Ready") or {})["status"] == "True", "the kubeconfig", 60)

    def rights() -> list[str]:
        paths = (f"{RBAC}/namespaces/{home}/{kind}" for kind in ("roles", "rolebindings"))
        found = [item["metadata"]["name"] for path in paths for item in stage.request("GET", path)["items"]]
        return [each for each in found if each.startswith("vmaccess-kubeconfigs:")]

    stage.delete(name)
    stage.until(lambda: not stage.children(name) and not secrets(stage, home), "all of the grant to be gone")
    assert len(rights()) == 2, "the operator does not take them for its own"
    said = cli("rights", name)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"error: VMAccessGrant {name!r} does not exist: ")
    cluster.kubectl(*said.err.partition("for it: kubectl ")[2].split())
    assert rights() == []


def test_a_secret_of_others_that_has_the_name_is_told_of(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str, asked: tuple[str, str]
) -> None:
    name, home = asked
    stage.request("POST", f"/api/v1/namespaces/{home}/secrets", {"metadata": {"name": "one-kubeconfig-token-b"}})
    said = cli("rights", name)
    assert said.code == 0
    assert said.err.startswith(f"note: Secret {home}/one-kubeconfig-token-b exists and is not this grant's: ")
    assert said.err.count("note: ") == 1
    caller = acting_as(cluster, tmp_path / "caller", reader)
    blind = stage.until(
        lambda: (said := cli("rights", name, "--kubeconfig", caller)) and said.code == 0 and said, "the caller to read grants"
    )
    assert (blind.out, "NameConflict" in blind.err) == (said.out, False)
    cluster.apply(said.out)
    stage.until_condition(name, "Stalled", reason="NameConflict")
    stage.request("DELETE", f"/api/v1/namespaces/{home}/secrets/one-kubeconfig-token-b")
    stage.until(lambda: (stage.condition(name, "Ready") or {})["status"] == "True", "the kubeconfig", 60)
    assert cli("rights", name).err == "", "what is the grant's own is none of others"


def test_names_in_a_service_account_of_others_do_not_count(stage: Stage, cli: Cli) -> None:
    home = stage.namespace()
    path = f"/api/v1/namespaces/{home}/serviceaccounts"
    forged = {"vmaccess.dev/kubeconfigs": "of-others"}
    stage.request("POST", path, {"metadata": {"name": "one", "annotations": forged}})
    name = stage.grant(grant_of(home, account("one", home)))
    stage.until_condition(name, "Stalled", reason="NameConflict")
    id_ = GrantId(name, stage.get(name)["metadata"]["uid"])
    for marks in ({}, {"labels": id_.labels()}, {"labels": None, "ownerReferences": id_.owner_references()}):
        stage.request("PATCH", f"{path}/one", {"metadata": marks})
        said = cli("rights", name)
        assert (said.code, said.err) == (0, "")
        assert "one-kubeconfig" in said.out
        assert "of-others" not in said.out


def test_what_only_a_service_account_asks_for_is_pointed_out(stage: Stage, cli: Cli, asked: tuple[str, str]) -> None:
    """Anybody who may change it can have the admin asked for rights to any Secret."""
    name, home = asked
    path = f"/api/v1/namespaces/{home}/serviceaccounts/one"
    stage.request("PATCH", path, {"metadata": {"annotations": {"vmaccess.dev/kubeconfigs": "db-password,one-kubeconfig"}}})
    said = cli("rights", name)
    assert said.code == 0
    assert "note: these are rights to Secret 'db-password'" in said.err
    assert "one-kubeconfig" not in said.err


def test_rights_that_may_lack_something_are_told_of(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str, asked: tuple[str, str]
) -> None:
    name, home = asked
    caller = acting_as(cluster, tmp_path / "caller", reader)
    said = stage.until(
        lambda: (said := cli("rights", name, "--kubeconfig", caller)) and said.code == 0 and said, "the caller to read grants"
    )
    assert said.out == cli("rights", name).out
    assert said.err.startswith(f"note: ServiceAccount {home}/one cannot be read, so rights to kubeconfigs that are still to be")
    assert "is forbidden" in said.err


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
