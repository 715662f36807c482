"""`kubectl vmaccess kubeconfig`: complete, private, honest about how long it is valid, and clear about what stands in its way."""

from __future__ import annotations

import argparse
import base64
import json
import os
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import Cluster, write_kubeconfig
from tests.cli.conftest import Cli
from tests.stage import Stage
from vmaccess.cli import kubeconfig
from vmaccess.cli.__main__ import main
from vmaccess.cli.connection import ClusterEntry, Failed
from vmaccess.cli.kubeconfig import Account, Token, choose, default_namespace, render

ONE, TWO = Account("default", "one"), Account("tools", "two")


# --- decisions ---


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10m", 600), ("1h", 3600), ("90m", 5400), ("1h30m", 5400), ("7d", 7 * 86400), ("600s", 600), ("49710d", 49710 * 86400)],
)
def test_lifetimes(text: str, seconds: int) -> None:
    assert kubeconfig._lifetime(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "9m", "1", "h", "-1h", "1.5h", "1w", "1h ", "49711d", "999999999d", "9999999999d", "٣h"])
def test_impossible_lifetimes(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        kubeconfig._lifetime(text)


def grant(*listed: Account, owned: tuple[Account, ...] | None = None, failures: Any = (), **spec: Any) -> dict[str, Any]:
    """A grant as the API server returns it."""
    accounts = [{"namespace": account.namespace, "name": account.name} for account in listed]
    there = [{"namespace": account.namespace, "name": account.name} for account in (listed if owned is None else owned)]
    ready = {"type": "Ready", "status": "False" if failures else "True", "reason": "Why", "message": "because"}
    return {
        "metadata": {"name": "g"},
        "spec": {"serviceAccounts": accounts, **spec},
        "status": {"serviceAccounts": there, "failures": list(failures), "conditions": [ready]},
    }


@pytest.mark.parametrize(
    ("of", "named", "chosen"),
    [(grant(ONE), None, ONE), (grant(ONE), ONE, ONE), (grant(ONE, TWO), TWO, TWO), (grant(ONE, TWO, owned=(TWO,)), TWO, TWO)],
    ids=["the-only-one", "the-only-one-named", "one-of-two", "the-other-is-not-there"],
)
def test_which_service_account(of: dict[str, Any], named: Account | None, chosen: Account) -> None:
    assert choose(of, named) == chosen


TAKEN = {"namespace": "default", "reason": "NameConflict", "message": "ServiceAccount default/one exists"}
ELSEWHERE = {"namespace": "default", "reason": "NamespaceNotFound", "message": "namespace 'default' does not exist"}


@pytest.mark.parametrize(
    ("of", "named", "why"),
    [
        (grant(), None, "has no serviceAccounts: the users, groups and ServiceAccounts under subjects bring credentials"),
        (grant(ONE, TWO), None, "choose one with --service-account: default/one, tools/two"),
        (grant(ONE), TWO, "tools/two is not among the serviceAccounts of VMAccessGrant 'g', which are: default/one"),
        (grant(ONE, owned=(), failures=[TAKEN]), None, "is not there: NameConflict: ServiceAccount default/one exists"),
        (grant(ONE, owned=(), failures=[ELSEWHERE]), None, "is not there: Why: because"),
        ({**grant(ONE), "status": {"observedGeneration": -1}}, None, "the operator has not looked at the grant yet"),
        ({**grant(ONE), "metadata": {"name": "g", "deletionTimestamp": "now"}}, None, "'g' is being deleted"),
    ],
    ids=["none", "several", "a-stranger", "taken", "another-failure", "not-seen", "deleting"],
)
def test_why_no_service_account(of: dict[str, Any], named: Account | None, why: str) -> None:
    with pytest.raises(Failed, match=r".") as failed:
        choose(of, named)
    assert why in str(failed.value)


@pytest.mark.parametrize(
    ("of", "namespace"),
    [
        (grant(ONE, namespaces=["b", "a"]), "b"),
        (grant(ONE, namespaces=["b", "a"], failures=[{"namespace": "b"}]), "a"),
        (grant(ONE, namespaces=["b-x", "a"], excludeNamespaces=["b-*"]), "a"),
        (grant(ONE, namespaceSelector={}), None),
    ],
    ids=["first-listed", "not-failing", "not-excluded", "selected-only"],
)
def test_default_namespace(of: dict[str, Any], namespace: str | None) -> None:
    assert default_namespace(of) == namespace


def test_what_is_peculiar_to_a_cluster_is_carried_over() -> None:
    cluster = ClusterEntry("prod", "https://10.0.0.1:6443", None, "api.example.com", "http://proxy.example.com:3128")
    made = render(cluster, "g", ONE, "t", None)
    assert made["clusters"] == [
        {
            "name": "prod",
            "cluster": {
                "server": "https://10.0.0.1:6443",
                "tls-server-name": "api.example.com",
                "proxy-url": "http://proxy.example.com:3128",
            },
        }
    ]
    assert made["contexts"][0]["context"] == {"cluster": "prod", "user": "default/one"}


def test_less_time_than_asked_for_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    token = Token("secret", made, made + timedelta(hours=1))
    kubeconfig._tell(grant(ONE), ONE, token, "file", "a", asked=timedelta(days=2))
    out = capsys.readouterr().out
    assert out.splitlines()[1] == "the token is valid until 2026-01-01 01:00:00 UTC, for 1 h; 2 d was asked for"
    assert "secret" not in out


# --- on a real API server ---


def runner(stage: Stage, **spec: Any) -> str:
    """A ready grant with one ServiceAccount `runner` in a namespace that it also grants."""
    mine = stage.namespace()
    name = stage.grant({"serviceAccounts": [{"namespace": mine, "name": "runner"}], "namespaces": [mine], **spec})
    stage.until_ready(name)
    return name


def of(grant: dict[str, Any]) -> str:
    """Namespace of the grant's first ServiceAccount."""
    return str(grant["spec"]["serviceAccounts"][0]["namespace"])


def test_a_complete_and_private_file(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name = runner(stage)
    mine, file = of(stage.get(name)), tmp_path / "made"
    wide = os.umask(0)
    try:
        said = cli("kubeconfig", name, "--output", str(file), "--lifetime", "2h")
    finally:
        os.umask(wide)
    assert (said.code, said.err) == (0, "")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    made = yaml.safe_load(file.read_text())
    assert set(made) == {"apiVersion", "kind", "clusters", "users", "contexts", "current-context"}
    entry = made["clusters"][0]["cluster"]
    assert base64.b64decode(entry["certificate-authority-data"]) == cluster.ca_file.read_bytes()
    assert "insecure-skip-tls-verify" not in entry
    assert made["contexts"][0]["context"]["namespace"] == mine
    token = made["users"][0]["user"]["token"]
    assert token not in said.out

    claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    assert claims["sub"] == f"system:serviceaccount:{mine}:runner"
    assert f"{datetime.fromtimestamp(claims['exp'], UTC):%Y-%m-%d %H:%M:%S} UTC, for 2 h" in said.out
    assert cluster.kubectl("get", "vms", kubeconfig=file).returncode == 0
    assert cluster.kubectl("get", "vms", "-n", "default", kubeconfig=file, check=False).returncode == 1


def test_the_file_has_a_name_of_its_own(stage: Stage, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("kubeconfig", runner(stage)).out.startswith("wrote runner.kubeconfig, ")
    assert [file.name for file in tmp_path.iterdir()] == ["runner.kubeconfig"]


def test_nothing_is_overwritten_unless_told(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    name, file, elsewhere = runner(stage), tmp_path / "made", tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    elsewhere.chmod(0o644)
    file.symlink_to(elsewhere)
    refused = cli("kubeconfig", name, "--output", str(file))
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == f"error: {file} exists: name another file with --output, or replace it with --force\n"
    assert cli("kubeconfig", name, "--output", str(file), "--force").code == 0
    assert elsewhere.read_text() == "precious", "a link is replaced, not followed"
    assert not file.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"made", "elsewhere"}


@pytest.mark.parametrize("where", ["missing/made", "."], ids=["no-such-folder", "a-folder"])
def test_where_no_file_can_be(stage: Stage, cli: Cli, tmp_path: Path, where: str) -> None:
    said = cli("kubeconfig", runner(stage), "--output", str(tmp_path / where))
    assert (said.code, said.err.count("\n")) == (1, 1)
    assert said.err.startswith("error: ")


def test_the_kubeconfig_is_printed_only_when_asked_for(stage: Stage, cli: Cli) -> None:
    name = runner(stage)
    said = cli("kubeconfig", name, "--output", "-", "--namespace", "elsewhere")
    assert yaml.safe_load(said.out)["contexts"][0]["context"]["namespace"] == "elsewhere"
    assert "the token is valid until" in said.err
    assert "eyJ" not in said.err


def test_one_of_several(stage: Stage, cli: Cli) -> None:
    mine = stage.namespace()
    accounts = [{"namespace": mine, "name": name} for name in ("one", "two")]
    name = stage.grant({"serviceAccounts": accounts, "namespaces": [mine]})
    stage.until_ready(name)
    said = cli("kubeconfig", name, "--output", "-")
    assert said.code == 1
    assert said.err.endswith(f"choose one with --service-account: {mine}/one, {mine}/two\n")
    said = cli("kubeconfig", name, "--output", "-", "--service-account", f"{mine}/two")
    assert yaml.safe_load(said.out)["users"][0]["name"] == f"{mine}/two"


def test_a_grant_that_only_selects(stage: Stage, cli: Cli) -> None:
    team, home = stage.unique("team"), stage.namespace("home")
    selected = stage.namespace("selected", team=team)
    spec = {
        "serviceAccounts": [{"namespace": home, "name": "runner"}],
        "namespaceSelector": {"matchLabels": {"team": team}},
    }
    name = stage.grant(spec)
    stage.until_ready(name)
    assert yaml.safe_load(cli("kubeconfig", name, "-o", "-").out)["contexts"][0]["context"]["namespace"] == selected
    stage.relabel(selected, team=None)
    stage.until(lambda: stage.get(name)["status"]["namespaces"]["summary"] == "0/0", "nothing to be selected")
    said = cli("kubeconfig", name, "-o", "-")
    assert "namespace" not in yaml.safe_load(said.out)["contexts"][0]["context"]
    assert "note: no granted namespace is known" in said.err


def test_a_suspended_grant_is_told_of(stage: Stage, cli: Cli) -> None:
    said = cli("kubeconfig", runner(stage, suspend=True), "-o", "-")
    assert said.code == 0
    assert "note: the grant gives no access at present: Suspended: " in said.err


def test_a_foreign_service_account_gets_no_kubeconfig(stage: Stage, cli: Cli) -> None:
    mine = stage.namespace()
    stage.request("POST", f"/api/v1/namespaces/{mine}/serviceaccounts", {"metadata": {"name": "runner"}})
    name = stage.grant({"serviceAccounts": [{"namespace": mine, "name": "runner"}], "namespaces": [mine]})
    stage.until_condition(name, "Stalled", reason="NameConflict")
    said = cli("kubeconfig", name, "-o", "-")
    assert (said.code, said.out) == (1, "")
    assert f"ServiceAccount {mine}/runner of VMAccessGrant {name!r} is not there: NameConflict: " in said.err


def test_a_caller_without_rights(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    stage.request("POST", f"/api/v1/namespaces/{mine}/serviceaccounts", {"metadata": {"name": "caller"}})
    token = cluster.service_account_token(mine, "caller")
    caller = str(cluster.kubeconfig(tmp_path / "caller", token=token))
    said = cli("kubeconfig", name, "-o", "-", "--kubeconfig", caller)
    assert said.code == 1
    assert said.err.startswith(f"error: you may not read VMAccessGrant {name!r}: ")

    role = stage.unique("reader")
    subject = {"kind": "ServiceAccount", "namespace": mine, "name": "caller"}
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    rule = {"apiGroups": ["vmaccess.dev"], "resources": ["vmaccessgrants"], "verbs": ["get"]}
    stage.request("POST", f"{rbac}/clusterroles", {"metadata": {"name": role}, "rules": [rule]})
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}
    try:
        binding = {"metadata": {"name": role}, "roleRef": reference, "subjects": [subject]}
        stage.request("POST", f"{rbac}/clusterrolebindings", binding)
        refused = stage.until(
            lambda: (said := cli("kubeconfig", name, "-o", "-", "--kubeconfig", caller)) and "not read" not in said.err and said,
            "the caller to be able to read grants",
        )
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith(f"error: you may not create tokens of ServiceAccount {mine}/runner: ")
        assert "create on serviceaccounts/token for the name 'runner'" in refused.err

        allow = {"apiGroups": [""], "resources": ["serviceaccounts/token"], "resourceNames": ["runner"], "verbs": ["create"]}
        stage.request("POST", f"{rbac}/namespaces/{mine}/roles", {"metadata": {"name": "token"}, "rules": [allow]})
        local = {"metadata": {"name": "token"}, "roleRef": {**reference, "kind": "Role", "name": "token"}, "subjects": [subject]}
        stage.request("POST", f"{rbac}/namespaces/{mine}/rolebindings", local)
        stage.until(
            lambda: cli("kubeconfig", name, "-o", "-", "--kubeconfig", caller).code == 0, "the cure in the message to be one"
        )
    finally:
        stage.request("DELETE", f"{rbac}/clusterrolebindings/{role}", expect=None)
        stage.request("DELETE", f"{rbac}/clusterroles/{role}", expect=None)


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["kubeconfig", "no-such-grant"], 1, "VMAccessGrant 'no-such-grant' does not exist"),
        (["kubeconfig", "../../../../api/v1/secrets"], 1, "is not the name of a VMAccessGrant"),
        (["kubeconfig", "x", "--kubeconfig", "no-such-file"], 1, "no usable kubeconfig"),
        (["kubeconfig", "x", "--context", "no-such-context"], 1, "no-such-context"),
        (["kubeconfig", "x", "--service-account", "runner"], 2, "write it as namespace/name"),
        (["kubeconfig", "x", "--namespace", "Not A Name"], 2, "is not the name of a namespace"),
        (["kubeconfig", "x", "--lifetime", "5m"], 2, "Kubernetes makes tokens for 10m up to"),
        ([], 2, "VERB"),
    ],
)
@pytest.mark.usefixtures("operator")
def test_what_is_wrong_is_said(cli: Cli, arguments: list[str], code: int, why: str) -> None:
    said = cli(*arguments)
    assert (said.code, said.out) == (code, "")
    assert why in said.err
    assert "Traceback" not in said.err


def test_a_server_that_cannot_be_trusted(cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    kubeconfig = cluster.kubeconfig(tmp_path / "mine")
    content = yaml.safe_load(kubeconfig.read_text())
    entry = content["clusters"][0]["cluster"]

    def tried(**changes: Any) -> str:
        changed = {key: value for key, value in (entry | changes).items() if value is not None}
        kubeconfig.write_text(yaml.safe_dump({**content, "clusters": [{"name": "cluster", "cluster": changed}]}))
        said = cli("kubeconfig", "x", "--kubeconfig", str(kubeconfig))
        assert (said.code, said.out, said.err.count("\n")) == (1, "", 1), said
        return said.err

    skipped = {"certificate-authority-data": None, "insecure-skip-tls-verify": True}
    assert "skips the verification" in tried(**skipped)
    assert "is not reached by https" in tried(server=cluster.url.replace("https", "http"))
    assert "no answer from https://127.0.0.1:1: " in tried(server="https://127.0.0.1:1")
    assert "certificate verify failed" in tried(**{"certificate-authority-data": None}).lower()


def test_wrong_credentials(cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    wrong = write_kubeconfig(tmp_path / "wrong", cluster.admin.identified_by("not-a-token"))
    assert "does not accept your credentials" in cli("kubeconfig", "x", "--kubeconfig", str(wrong)).err


@pytest.mark.parametrize("arguments", [["--help"], ["kubeconfig", "--help"]])
def test_help_names_kubectl(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: kubectl vmaccess")
