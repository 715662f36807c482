"""`kubectl vmaccess credential`: tokens that renew themselves, all of which end with their credential."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from localcluster import Cluster
from tests.cli.helpers import Cli, claims, credential_secrets, lists_machines, of, runner, user_in
from tests.stage import Json, Stage
from vmaccess.cli.exec import renewal
from vmaccess.cli.tokens import Token

MADE = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("lifetime", "ends", "told"),
    [(60, None, 48), (10, None, 8), (60, 600, 48), (60, 65, 48), (60, 60, 60), (30, 34, 30)],
    ids=["an-hour", "the-shortest", "the-end-is-far", "one-more", "as-long-as-the-grant", "too-little-is-left-for-another"],
)
def test_a_client_renews_in_time_where_there_is_time(lifetime: int, ends: int | None, told: int) -> None:
    token = Token("t", MADE, MADE + timedelta(minutes=lifetime))
    assert renewal(token, MADE + timedelta(minutes=ends) if ends else None) == MADE + timedelta(minutes=told)


def written(cli: Cli, name: str, file: Path, *options: str) -> list[str]:
    """The arguments of the plugin, after they are written into the file."""
    said = cli("kubeconfig", name, "--exec", "--output", str(file), *options)
    assert said.code == 0, said.err
    block = user_in(file)["exec"]
    return list(block["args"])


@pytest.mark.usefixtures("on_path")
def test_the_file_holds_no_token(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name, file = runner(stage), tmp_path / "made"
    mine = of(stage.get(name))
    said = cli("kubeconfig", name, "--exec", "--output", str(file), "--lifetime", "1h30m")
    assert "each of its tokens is valid for 1 h 30 min, and is asked for as your context admin" in said.out
    assert (file.stat().st_mode & 0o777, "eyJ" in file.read_text()) == (0o600, False)
    (secret,) = credential_secrets(stage, mine)
    assert secret["metadata"]["annotations"]["vmaccess.dev/route"] == "exec"
    assert "vmaccess.dev/expires" not in secret["metadata"]["annotations"]
    credential = secret["metadata"]["labels"]["vmaccess.dev/credential"]
    assert user_in(file) == {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "kubectl-vmaccess",
            "args": [
                *("credential", name, "--service-account", f"{mine}/runner", "--credential", credential),
                *("--lifetime", "1h30m", "--kubeconfig", str(cluster.admin_kubeconfig), "--context", "admin"),
            ],
            "installHint": "kubectl-vmaccess comes with the Python package vmaccess: install it, and have it on PATH",
            "interactiveMode": "Never",
            "provideClusterInfo": False,
        },
        "extensions": [
            {"name": "vmaccess.dev", "extension": {"writtenBy": "kubectl vmaccess", "grant": name, "credential": credential}}
        ],
    }


def test_the_program_is_found_where_it_is_not_on_path(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file = runner(stage), tmp_path / "made"
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    written(cli, name, file)
    assert Path(user_in(file)["exec"]["command"]).is_absolute()
    assert cluster.kubectl("get", "vms", kubeconfig=file).returncode == 0


def test_every_call_gives_another_token(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    arguments = written(cli, name, tmp_path / "made", "--lifetime", "10m")
    (secret,) = credential_secrets(stage, mine)
    tokens = []
    for _ in range(2):
        said = cli(*arguments)
        assert (said.code, said.err) == (0, "")
        answer = json.loads(said.out)
        status = answer.pop("status")
        assert answer == {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
        told = claims(status["token"])
        assert told["exp"] - told["iat"] == 600
        assert told["kubernetes.io"]["secret"]["uid"] == secret["metadata"]["uid"]
        assert abs(datetime.fromisoformat(status["expirationTimestamp"]).timestamp() - (told["iat"] + 480)) <= 2
        assert lists_machines(stage, mine, status["token"]) == 200
        tokens.append(status["token"])
    assert len(set(tokens)) == 2
    assert len(credential_secrets(stage, mine)) == 1


@pytest.mark.usefixtures("on_path")
def test_revoked_it_ends_with_all_its_tokens(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name, file = runner(stage), tmp_path / "made"
    mine = of(stage.get(name))
    arguments = written(cli, name, file)
    credential = arguments[arguments.index("--credential") + 1]
    tokens = [json.loads(cli(*arguments).out)["status"]["token"] for _ in range(2)]
    assert cluster.kubectl("get", "vms", kubeconfig=file).returncode == 0
    assert cli("revoke", name, "--credential", credential).code == 0
    said = cli(*arguments)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"error: credential {credential} of ServiceAccount {mine}/runner has been revoked: ")
    refused = cluster.kubectl("get", "vms", kubeconfig=file, check=False)
    assert refused.returncode != 0
    assert f"credential {credential} of ServiceAccount {mine}/runner has been revoked" in refused.stderr
    for token in tokens:
        stage.until(lambda token=token: lists_machines(stage, mine, token) == 401, "the token to be dead", 15)


def test_tokens_end_with_the_grant(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    ends = (datetime.now(UTC) + timedelta(minutes=15)).replace(microsecond=0)
    name = runner(stage, expirationTime=f"{ends:%Y-%m-%dT%H:%M:%SZ}")
    arguments = written(cli, name, tmp_path / "made")
    status = json.loads(cli(*arguments).out)["status"]
    assert ends - timedelta(seconds=30) < datetime.fromtimestamp(claims(status["token"])["exp"], UTC) <= ends
    told = datetime.fromisoformat(status["expirationTimestamp"])
    assert ends - timedelta(seconds=30) < told <= ends, "nothing could be had after 80 % of it"
    spec = stage.get(name)["spec"]
    stage.respec(name, spec | {"expirationTime": f"{datetime.now(UTC) + timedelta(minutes=5):%Y-%m-%dT%H:%M:%SZ}"})
    said = cli(*arguments)
    assert (said.code, said.out) == (1, "")
    assert "no token is valid for less than 10 min" in said.err


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"apiVersion": "client.authentication.k8s.io/v1beta1"}, "the client asks for client.authentication.k8s.io/v1beta1, and"),
        ({}, "KUBERNETES_EXEC_INFO is not what a client sets"),
        (None, "KUBERNETES_EXEC_INFO is not what a client sets"),
    ],
)
def test_what_a_client_may_not_ask_for(cli: Cli, monkeypatch: pytest.MonkeyPatch, info: Json | None, why: str) -> None:
    monkeypatch.setenv("KUBERNETES_EXEC_INFO", json.dumps(info))
    said = cli("credential", "x")
    assert (said.code, said.out) == (1, "")
    assert why in said.err


def test_what_a_client_asks_for_is_answered(stage: Stage, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    name = runner(stage)
    info = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "spec": {"interactive": False}}
    monkeypatch.setenv("KUBERNETES_EXEC_INFO", json.dumps(info))
    said = cli("credential", name)
    assert said.code == 0
    assert "secret" not in claims(json.loads(said.out)["status"]["token"])["kubernetes.io"]


def test_it_does_not_call_itself(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    name, file = runner(stage), tmp_path / "made"
    arguments = written(cli, name, file)
    content = yaml.safe_load(file.read_text())
    args = content["users"][0]["user"]["exec"]["args"]
    args[args.index("--kubeconfig") + 1 :] = [str(file), "--context", name]
    file.write_text(yaml.safe_dump(content))
    elsewhere = arguments[: arguments.index("--kubeconfig")]
    for asked in ([*elsewhere, "--kubeconfig", str(file)], ["kubeconfig", name, "--exec", "-o", "-", "--kubeconfig", str(file)]):
        said = cli(*asked)
        assert (said.code, said.out) == (1, "")
        assert f"the context {name!r} of {file} is itself one that `kubectl vmaccess kubeconfig --exec` wrote" in said.err


def test_the_callers_files_are_named_wherever_it_runs(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = runner(stage)
    cluster.kubeconfig(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    arguments = written(cli, name, tmp_path / "made", "--kubeconfig", os.pathsep.join(("missing", "mine")))
    monkeypatch.chdir("/")
    assert arguments[-4:] == ["--kubeconfig", str(tmp_path / "mine"), "--context", "user"]
    assert cli(*arguments).code == 0
