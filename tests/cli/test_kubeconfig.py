"""`kubectl vmaccess kubeconfig`: complete, private, honest about how long it is valid, and clear about what stands in its way."""

from __future__ import annotations

import base64
import os
import signal
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import Cluster, write_kubeconfig
from tests.cli.helpers import (
    MAKE_TOKENS,
    Cli,
    acting_as,
    allow,
    claims,
    credential_secrets,
    lists_machines,
    of,
    runner,
    secrets,
    user_in,
)
from tests.stage import Stage
from vmaccess.cli.__main__ import main
from vmaccess.cli.failed import Failed
from vmaccess.cli.grants import Account, choose, default_namespace, possible_lifetime

ONE, TWO = Account("default", "one"), Account("tools", "two")


# --- decisions ---


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


NOW = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ends", "minutes"),
    [(None, 60), ("2027-01-01T02:00:00Z", 60), ("2027-01-01T00:30:05Z", 30), ("2027-01-01T01:20:05+01:00", 20)],
    ids=["no-end", "later", "sooner", "in-another-zone"],
)
def test_no_token_is_to_outlast_its_grant(ends: str | None, minutes: int) -> None:
    assert possible_lifetime(grant(ONE, expirationTime=ends), timedelta(hours=1), NOW) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("ends", "why"),
    [
        ("2027-01-01T00:00:00Z", "VMAccessGrant 'g' has expired, at 2027-01-01 00:00:00 UTC"),
        ("2027-01-01T00:10:04Z", "ends in 10 min, at 2027-01-01 00:10:04 UTC, and no token is valid for less than 10 min"),
    ],
    ids=["expired", "too-soon"],
)
def test_what_ends_too_soon_gets_no_token(ends: str, why: str) -> None:
    with pytest.raises(Failed) as failed:
        possible_lifetime(grant(ONE, expirationTime=ends), timedelta(hours=1), NOW)
    assert why in str(failed.value)
    assert "set a later spec.expirationTime" in str(failed.value)


# --- on a real API server ---


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

    told = claims(token)
    assert told["sub"] == f"system:serviceaccount:{mine}:runner"
    assert f"{datetime.fromtimestamp(told['exp'], UTC):%Y-%m-%d %H:%M:%S} UTC, for 2 h" in said.out
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


def test_a_namespace_that_is_not_granted_is_told_of(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str
) -> None:
    team, home = stage.unique("team"), stage.namespace("home")
    selected, other = stage.namespace("selected", team=team), stage.namespace("other")
    accounts = [{"namespace": home, "name": "runner"}]
    selecting = stage.grant({"serviceAccounts": accounts, "namespaceSelector": {"matchLabels": {"team": team}}})
    stage.until_ready(selecting)
    listing = runner(stage)

    def told(name: str, namespace: str, *caller: str) -> bool:
        said = cli("kubeconfig", name, "-o", "-", "-n", namespace, *caller)
        assert said.code == 0, said.err
        return f"note: namespace {namespace!r} is not among those of the grant, which has no binding there: " in said.err

    assert [told(selecting, namespace) for namespace in (selected, other)] == [False, True]
    assert [told(listing, namespace) for namespace in (of(stage.get(listing)), other)] == [False, True]
    caller = acting_as(cluster, tmp_path / "caller", reader)
    for name in (selecting, listing):
        allow(stage, reader, of(stage.get(name)), MAKE_TOKENS)
        asked = ("kubeconfig", name, "-o", "-", "--kubeconfig", caller)
        stage.until(lambda asked=asked: cli(*asked).code == 0, "the caller's rights")
    assert [told(name, other, "--kubeconfig", caller) for name in (selecting, listing)] == [False, True], (
        "who cannot know is silent"
    )


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


def test_a_credential_has_a_secret_of_its_own(stage: Stage, cli: Cli) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    said = cli("kubeconfig", name, "-o", "-")
    (secret,) = credential_secrets(stage, mine)
    meta, told = secret["metadata"], claims(user_in(said.out)["token"])
    credential = meta["labels"]["vmaccess.dev/credential"]
    assert said.err.endswith(f"to revoke this credential: kubectl vmaccess revoke {name} --credential {credential}\n")
    assert meta["name"] == f"vmaccess-credential-{credential}"
    assert told["kubernetes.io"]["secret"] == {"name": meta["name"], "uid": meta["uid"]}
    assert "data" not in secret
    (owner,) = meta["ownerReferences"]
    assert (owner["uid"], owner["blockOwnerDeletion"]) == (stage.get(name)["metadata"]["uid"], False)
    notes = {key.removeprefix("vmaccess.dev/"): value for key, value in meta["annotations"].items()}
    assert (notes["route"], notes["service-account"]) == ("kubeconfig", "runner")
    assert abs(datetime.fromisoformat(notes["expires"]).timestamp() - told["exp"]) < 5
    assert abs(datetime.fromisoformat(notes["issued"]).timestamp() - told["iat"]) < 5


def test_a_token_ends_with_its_grant(stage: Stage, cli: Cli) -> None:
    ends = (datetime.now(UTC) + timedelta(minutes=20)).replace(microsecond=0)
    name = runner(stage, expirationTime=f"{ends:%Y-%m-%dT%H:%M:%SZ}")
    said = cli("kubeconfig", name, "-o", "-", "--lifetime", "7d")
    assert said.code == 0
    expires = datetime.fromtimestamp(claims(user_in(said.out)["token"])["exp"], UTC)
    assert ends - timedelta(seconds=30) < expires <= ends
    assert f"; 7 d was asked for, and the grant ends at {ends:%Y-%m-%d %H:%M:%S} UTC" in said.err


def test_nothing_is_made_for_a_grant_that_ends_too_soon(stage: Stage, cli: Cli) -> None:
    name = runner(stage, expirationTime=f"{datetime.now(UTC) + timedelta(minutes=9):%Y-%m-%dT%H:%M:%SZ}")
    said = cli("kubeconfig", name, "-o", "-")
    assert (said.code, said.out) == (1, "")
    assert "no token is valid for less than 10 min" in said.err
    assert not credential_secrets(stage, of(stage.get(name)))


def test_the_grants_deletion_ends_it_all(stage: Stage, cli: Cli) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    token = user_in(cli("kubeconfig", name, "-o", "-").out)["token"]
    assert lists_machines(stage, mine, token) == 200
    stage.delete(name)
    stage.until(lambda: lists_machines(stage, mine, token) in (401, 403), "the rights to be gone", 3)
    stage.until(lambda: lists_machines(stage, mine, token) == 401, "the token to be dead", 15)
    stage.until(lambda: not credential_secrets(stage, mine), "the credential to be gone")


def test_who_may_not_read_grants(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name = runner(stage)
    nobody = acting_as(cluster, tmp_path / "caller", stage.unique("nobody"))
    said = cli("kubeconfig", name, "-o", "-", "--kubeconfig", nobody)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(f"error: you may not read VMAccessGrant {name!r}: ")


def test_who_may_not_make_secrets_gets_a_token_that_cannot_be_revoked(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str
) -> None:
    name, caller = runner(stage), acting_as(cluster, tmp_path / "caller", reader)
    mine = of(stage.get(name))
    refused = stage.until(
        lambda: (said := cli("kubeconfig", name, "-o", "-", "--kubeconfig", caller)) and "not read" not in said.err and said,
        "the caller to be able to read grants",
    )
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"error: you may not create tokens of ServiceAccount {mine}/runner: ")
    assert "create on serviceaccounts/token for the name 'runner'" in refused.err

    allow(stage, reader, mine, MAKE_TOKENS | {"resourceNames": ["runner"]})
    said = stage.until(
        lambda: (said := cli("kubeconfig", name, "-o", "-", "--kubeconfig", caller)) and said.code == 0 and said,
        "the cure in the message to be one",
    )
    note = f"this credential cannot be revoked by itself, because you may not create Secrets in namespace {mine}: "
    assert note in said.err
    token = user_in(said.out)["token"]
    assert "secret" not in claims(token)["kubernetes.io"]
    assert lists_machines(stage, mine, token) == 200
    assert not credential_secrets(stage, mine)


def test_what_else_is_in_the_way_of_a_secret_makes_no_token_that_cannot_be_revoked(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str
) -> None:
    name, caller = runner(stage), acting_as(cluster, tmp_path / "caller", reader)
    mine = of(stage.get(name))
    allow(stage, reader, mine, MAKE_TOKENS, secrets("create"))
    # No controller counts here; what it would write is written for it.
    path = f"/api/v1/namespaces/{mine}/resourcequotas"
    stage.request("POST", path, {"metadata": {"name": "full"}, "spec": {"hard": {"count/secrets": "0"}}})
    full = {"hard": {"count/secrets": "0"}, "used": {"count/secrets": "0"}}
    stage.request("PATCH", f"{path}/full/status", {"status": full})
    for who in ((), ("--kubeconfig", caller)):
        said = stage.until(
            lambda who=who: (said := cli("kubeconfig", name, "-o", "-", *who)) and "exceeded quota" in said.err and said,
            "the quota, and the caller's rights, to be known",
        )
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith("error: the API server answers 403 Forbidden: secrets ")


def test_nothing_is_left_where_no_token_is_to_be_had(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str
) -> None:
    name, caller = runner(stage), acting_as(cluster, tmp_path / "caller", reader)
    mine, made = of(stage.get(name)), stage.mark
    allow(stage, reader, mine, secrets("create", "delete"))
    since = made()
    said = stage.until(
        lambda: (
            (said := cli("kubeconfig", name, "-o", str(tmp_path / "made"), "--kubeconfig", caller))
            and [event for event in cluster.audit_events(since=since) if is_made(event, mine)]
            and said
        ),
        "a Secret to be made",
    )
    assert said.err.startswith(f"error: you may not create tokens of ServiceAccount {mine}/runner: ")
    assert not credential_secrets(stage, mine)
    assert not (tmp_path / "made").exists()


def is_made(event: dict[str, Any], namespace: str) -> bool:
    """Whether an audit event is the creation of a Secret in this namespace."""
    of = event.get("objectRef", {})
    return (event["verb"], of.get("resource"), of.get("namespace"), event["responseStatus"]["code"]) == (
        "create",
        "secrets",
        namespace,
        201,
    )


def test_what_is_left_is_told_of(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str) -> None:
    name, caller = runner(stage), acting_as(cluster, tmp_path / "caller", reader)
    mine = of(stage.get(name))
    allow(stage, reader, mine, secrets("create"))
    said = stage.until(
        lambda: (said := cli("kubeconfig", name, "-o", "-", "--kubeconfig", caller)) and "is left" in said.err and said,
        "a Secret that the caller may not delete",
    )
    (secret,) = credential_secrets(stage, mine)
    assert f"note: Secret {mine}/{secret['metadata']['name']} is left and of no use, delete it: " in said.err


def test_the_credential_is_gone_where_the_file_cannot_be_written(
    stage: Stage, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = runner(stage)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    said = cli("kubeconfig", name, "-o", str(tmp_path / "made"))
    assert said.err == f"error: {tmp_path / 'made'} cannot be written: No space left on device\n"
    assert not list(tmp_path.iterdir())
    assert not credential_secrets(stage, of(stage.get(name)))


def test_ctrl_c_is_too_late_once_the_file_is_there(
    stage: Stage, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file, put = runner(stage), tmp_path / "made", os.replace

    def interrupted(*paths: str) -> None:
        put(*paths)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "replace", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in a shell's background
    try:
        said = cli("kubeconfig", name, "-o", str(file), "--force")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert (said.code, said.err) == (0, "")
    (secret,) = credential_secrets(stage, of(stage.get(name)))
    assert f"--credential {secret['metadata']['labels']['vmaccess.dev/credential']}\n" in said.out
    assert lists_machines(stage, of(stage.get(name)), user_in(file)["token"]) == 200


@pytest.mark.parametrize("verb", ["kubeconfig", "credentials"])
def test_where_nobody_reads_what_is_printed(stage: Stage, cluster: Cluster, verb: str) -> None:
    name = runner(stage)
    command = [sys.executable, "-m", "vmaccess.cli", verb, name, "--kubeconfig", str(cluster.admin_kubeconfig)]
    reads, writes = os.pipe()
    os.close(reads)
    if verb == "credentials":
        subprocess.run([*command[:3], "kubeconfig", name, "-o", "-", *command[-2:]], check=True, capture_output=True, timeout=60)
    asked = [*command, *(["-o", "-"] if verb == "kubeconfig" else [])]
    done = subprocess.run(asked, stdout=writes, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "error: standard output cannot be written: Broken pipe\n")
    assert len(credential_secrets(stage, of(stage.get(name)))) == (1 if verb == "credentials" else 0)


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
        (["--context", "x", "credentials", "runner"], 2, "all options come after the verb, --kubeconfig and --context too"),
        (["--context=x", "credentials", "runner"], 2, "all options come after the verb, --kubeconfig and --context too"),
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


@pytest.mark.parametrize("verb", ["", "kubeconfig", "credentials", "revoke", "credential", "rights"])
def test_help_names_kubectl_and_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert out.startswith("usage: kubectl vmaccess")
    assert not verb or f"kubectl vmaccess {verb} runner" in out.split("example", 1)[1]
