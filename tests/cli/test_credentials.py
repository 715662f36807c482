"""What is out for a grant, and that one of it can be taken back while the others go on."""

from __future__ import annotations

import json
import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from localcluster import Cluster
from tests.cli.helpers import Cli, acting_as, allow, credential_secrets, lists_machines, of, runner, secrets, user_in
from tests.stage import Json, Stage
from vmaccess.cli.caller import read_caller
from vmaccess.cli.connection import Connection
from vmaccess.cli.credentials import is_kept, is_over, table
from vmaccess.policy.children import GrantId
from vmaccess.policy.credentials import Credential, Route, credential_body, read_credential

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)


def credential(
    name: str = "1a2b3c4d", expires: str = "2027-01-01T13:00:00Z", route: str = "kubeconfig", **other: str
) -> Credential:
    fields = {"uid": "u", "namespace": "default", "secret": "s", "account": "runner", "issued": "2027-01-01T11:00:00Z", **other}
    return Credential(id=name, route=route, expires=expires, **fields)


@pytest.mark.parametrize(
    ("expires", "over"),
    [
        ("2027-01-01T12:00:01Z", False),
        ("2027-01-01T12:00:00Z", True),
        ("2027-01-01T13:00:00+01:00", True),
        ("", False),
        ("someday", False),
        ("9999-12-31T23:59:59-12:00", False),
        ("0001-01-01T00:00:00+12:00", True),
        ("2027-01-01T12:00:00", True),
    ],
)
def test_what_is_over(expires: str, *, over: bool) -> None:
    assert is_over(credential(expires=expires), NOW) is over


def test_the_list_is_a_table_and_no_terminal_is_commanded() -> None:
    shown = table(
        [credential(), credential("x" * 12, "", "exec"), credential(expires="2027-01-01T12:00:00Z", account="\x1b[2J\n")], NOW
    )
    assert shown.splitlines() == [
        "ID             SERVICE ACCOUNT   ROUTE        ISSUED                 EXPIRES                STATE",
        "1a2b3c4d       default/runner    kubeconfig   2027-01-01T11:00:00Z   2027-01-01T13:00:00Z   valid",
        "xxxxxxxxxxxx   default/runner    exec         2027-01-01T11:00:00Z   -                      valid",
        "1a2b3c4d       default/?[2J?     kubeconfig   2027-01-01T11:00:00Z   2027-01-01T12:00:00Z   expired",
    ]


def test_what_is_written_is_what_is_read() -> None:
    body = credential_body(GrantId("g", "7"), "s", "1a2b3c4d", "runner", Route.EXEC, "2027-01-01T11:00:00Z", "")
    body["metadata"] |= {"uid": "u", "namespace": "default"}
    assert read_credential(body) == credential(expires="", route="exec")


def keeping(**changes: Any) -> Json:
    """A grant that has the operator keep a kubeconfig."""
    accounts = [{"namespace": "default", "name": "runner", "kubeconfig": {"secretName": "kept"}}]
    return {"metadata": changes.pop("metadata", {}), "spec": {"serviceAccounts": accounts, **changes}}


@pytest.mark.parametrize(
    ("grant", "made", "kept"),
    [
        (keeping(), {"secret": "kept-token-b"}, True),
        (keeping(expirationTime="2027-01-01T12:00:01Z"), {"secret": "kept-token-a"}, True),
        (keeping(expirationTime="2027-01-01T12:00:00Z"), {"secret": "kept-token-a"}, False),
        (keeping(suspend=True), {"secret": "kept-token-a"}, False),
        (keeping(metadata={"deletionTimestamp": "now"}), {"secret": "kept-token-a"}, False),
        (keeping(serviceAccounts=[{"namespace": "default", "name": "runner"}]), {"secret": "kept-token-a"}, False),
        (keeping(), {"secret": "earlier-token-a"}, False),
        (keeping(), {"secret": "kept-token-a", "account": "another"}, False),
        (keeping(), {"secret": "kept-token-a", "route": "kubeconfig"}, False),
    ],
    ids=["kept", "not-over", "over", "suspended", "deleted", "not-asked-for", "another-name", "another-account", "not-kept"],
)
def test_where_the_operator_makes_another(grant: Json, made: dict[str, str], *, kept: bool) -> None:
    assert is_kept(grant, credential(**{"route": "operator", **made}), NOW) is kept


# --- on a real API server ---


def issue(cli: Cli, name: str, *options: str) -> tuple[str, str]:
    """A new credential: its id and its token."""
    said = cli("kubeconfig", name, "-o", "-", *options)
    assert said.code == 0, said.err
    return said.err.split()[-1], user_in(said.out)["token"]


def listed(cli: Cli, name: str) -> dict[str, Json]:
    """The list for machines, by id."""
    said = cli("credentials", name, "-o", "json")
    assert (said.code, said.err) == (0, "")
    return {each["id"]: each for each in json.loads(said.out)}


def test_one_is_taken_back_and_its_sibling_goes_on(stage: Stage, cluster: Cluster, cli: Cli) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    (first, stolen), (second, kept) = issue(cli, name), issue(cli, name)
    unbound = cluster.service_account_token(mine, "runner")
    assert [lists_machines(stage, mine, token) for token in (stolen, kept, unbound)] == [200, 200, 200]
    assert set(listed(cli, name)) == {first, second}

    said = cli("revoke", name, "--credential", first)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[0] == f"revoked credential {first} of ServiceAccount {mine}/runner"
    assert "dies within 10 seconds" in said.out
    assert "bound to no credential end with the grant" in said.out
    stage.until(lambda: lists_machines(stage, mine, stolen) == 401, "the token to be dead", 15)
    assert [lists_machines(stage, mine, token) for token in (kept, unbound)] == [200, 200]
    assert set(listed(cli, name)) == {second}

    again = cli("revoke", name, "--credential", first)
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith(f"error: VMAccessGrant {name!r} has no credential {first}; it has:\nID ")
    assert second in again.err
    assert lists_machines(stage, mine, kept) == 200


def test_the_list_tells_what_is_out(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    empty = cli("credentials", name)
    assert (empty.code, empty.out) == (0, "")
    assert (
        f"no credential with a Secret of its own is known of VMAccessGrant {name!r}; tokens that were made without one"
        in empty.err
    )
    (one, _) = issue(cli, name, "--lifetime", "2h")
    assert cli("kubeconfig", name, "--exec", "-o", str(tmp_path / "made")).code == 0
    found = listed(cli, name)
    (two,) = set(found) - {one}
    assert (found[one]["route"], found[two]["route"], found[two]["expires"]) == ("kubeconfig", "exec", None)
    assert {each["state"] for each in found.values()} == {"valid"}
    assert found[one]["serviceAccount"] == {"namespace": mine, "name": "runner"}
    lasts = datetime.fromisoformat(found[one]["expires"]) - datetime.fromisoformat(found[one]["issued"])
    assert lasts.total_seconds() == 7200
    lines = cli("credentials", name).out.splitlines()
    assert lines[0].split() == ["ID", "SERVICE", "ACCOUNT", "ROUTE", "ISSUED", "EXPIRES", "STATE"]
    assert {line.split()[0] for line in lines[1:]} == {one, two}


@pytest.mark.parametrize(
    ("spec", "why"),
    [({"suspend": True}, "Suspended"), ({"notBeforeTime": "2100-01-01T00:00:00Z"}, "NotStarted")],
    ids=["suspended", "not-started"],
)
def test_the_list_says_where_a_grant_gives_no_access(stage: Stage, cli: Cli, spec: Json, why: str) -> None:
    name = runner(stage, **spec)
    for output in ((), ("-o", "json")):
        said = cli("credentials", name, *output)
        assert said.code == 0
        assert f"note: the grant gives no access at present: {why}: " in said.err


def test_nothing_is_revoked_by_a_slip(stage: Stage, cli: Cli) -> None:
    name = runner(stage)
    one, _ = issue(cli, name)
    said = cli("revoke", name)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("error: say which with --credential ID, or --all; credentials of VMAccessGrant")
    assert one in said.err
    assert set(listed(cli, name)) == {one}
    assert cli("revoke", name, "--all", "--credential", one).code == 2
    assert set(listed(cli, name)) == {one}


def test_all_of_a_grant_and_of_no_other(stage: Stage, cli: Cli) -> None:
    mine = stage.namespace()
    names = []
    for account in ("one", "two"):
        names.append(stage.grant({"serviceAccounts": [{"namespace": mine, "name": account}], "namespaces": [mine]}))
        stage.until_ready(names[-1])
    (one, dead), (other, alive) = issue(cli, names[0]), issue(cli, names[1])
    said = cli("revoke", names[0], "--all")
    assert said.code == 0
    assert one in said.out
    assert other not in said.out
    stage.until(lambda: lists_machines(stage, mine, dead) == 401, "the token to be dead", 15)
    assert lists_machines(stage, mine, alive) == 200
    assert cli("revoke", names[0], "--all").out.startswith(
        "nothing to revoke: no credential with a Secret of its own is known of "
    )


def test_what_only_looks_like_ours_is_left_alone(stage: Stage, cli: Cli) -> None:
    name = runner(stage)
    mine, uid = of(stage.get(name)), stage.get(name)["metadata"]["uid"]
    for number, (grant, labels) in enumerate(
        ((GrantId("other", uid), {}), (GrantId(name, "another"), {}), (GrantId(name, uid), {"app.kubernetes.io/managed-by": "x"}))
    ):
        body = credential_body(grant, f"s{number}", "1a2b3c4d", "runner", Route.KUBECONFIG, "", "")
        body["metadata"]["labels"] |= labels
        del body["metadata"]["ownerReferences"]
        stage.request("POST", f"/api/v1/namespaces/{mine}/secrets", body)
    assert listed(cli, name) == {}
    assert cli("revoke", name, "--all").code == 0
    assert len(credential_secrets(stage, mine)) == 3


def test_a_secret_of_another_type_is_left_alone_whatever_its_labels(stage: Stage, cli: Cli) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    id_ = GrantId(name, stage.get(name)["metadata"]["uid"])
    body = credential_body(id_, "precious", "1a2b3c4d", "runner", Route.KUBECONFIG, "", "") | {"type": "Opaque"}
    stage.request("POST", f"/api/v1/namespaces/{mine}/secrets", body)
    assert listed(cli, name) == {}
    assert cli("revoke", name, "--all").out.startswith("nothing to revoke: no credential with a Secret of its own is known of ")
    assert [secret["metadata"]["name"] for secret in credential_secrets(stage, mine)] == ["precious"]


def test_what_a_finalizer_holds_is_not_said_to_be_revoked(stage: Stage, cluster: Cluster, cli: Cli) -> None:
    """A Secret that waits to be deleted: its tokens are good for another minute, and never again after that."""
    name = runner(stage)
    mine = of(stage.get(name))
    (one, token), (two, other) = issue(cli, name), issue(cli, name)
    paths = {each: f"/api/v1/namespaces/{mine}/secrets/vmaccess-credential-{each}" for each in (one, two)}
    for path in paths.values():
        stage.request("PATCH", path, {"metadata": {"finalizers": ["example.com/hold"]}})
    assert lists_machines(stage, mine, other) == 200
    assert cli("revoke", name, "--credential", two).code == 1

    said = cli("revoke", name, "--credential", one)
    assert (said.code, said.out) == (1, "")
    assert f"error: not everything is revoked: credential {one}: finalizers (example.com/hold) hold its Secret, so" in said.err
    assert (listed(cli, name)[one]["state"], lists_machines(stage, mine, token)) == ("revoking", 200)
    until, cure = re.findall(r"takes its tokens until (.*); to end them within 10 seconds: kubectl (.*)$", said.err)[0]
    cluster.kubectl(*shlex.split(cure))
    assert one not in listed(cli, name)
    stage.until(lambda: lists_machines(stage, mine, token) == 401, "the cure to be one", 15)

    stage.until(lambda: lists_machines(stage, mine, other) == 401, "the token to be dead", 90)
    over = datetime.fromisoformat(until.replace(" UTC", "+00:00"))
    assert datetime.now(UTC) < over + timedelta(seconds=5), "it is no longer than was said"
    stage.until(lambda: listed(cli, name)[two]["state"] == "revoked", "the list to say so", 15)
    said = cli("revoke", name, "--credential", two)
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"revoked credential {two} of ServiceAccount {mine}/runner\n")
    stage.request("PATCH", paths[two], {"metadata": {"finalizers": None}})


def test_what_has_expired_is_tidied_up(stage: Stage, cli: Cli, tmp_path: Path) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    (old, _), (new, token) = issue(cli, name), issue(cli, name)
    assert cli("kubeconfig", name, "--exec", "-o", str(tmp_path / "made")).code == 0
    past = {"metadata": {"annotations": {"vmaccess.dev/expires": "2026-01-01T00:00:00Z"}}}
    stage.request("PATCH", f"/api/v1/namespaces/{mine}/secrets/vmaccess-credential-{old}", past)
    id_ = GrantId(name, stage.get(name)["metadata"]["uid"])
    kept = credential_body(id_, "kept", "kept", "runner", Route.OPERATOR, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z")
    stage.request("POST", f"/api/v1/namespaces/{mine}/secrets", kept)
    assert listed(cli, name)[old]["state"] == "expired"
    said = cli("revoke", name, "--expired")
    assert (said.code, said.out) == (0, f"revoked credential {old} of ServiceAccount {mine}/runner\n")
    assert cli("revoke", name, "--expired").out == "nothing to revoke: no credential of `kubeconfig` has expired\n"
    assert len(listed(cli, name)) == 3, "what the operator keeps is the operator's to tidy up"
    assert new in listed(cli, name)
    assert lists_machines(stage, mine, token) == 200


def test_what_took_the_place_of_a_credential_is_not_revoked(stage: Stage, cluster: Cluster, cli: Cli) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    issue(cli, name)
    (secret,) = credential_secrets(stage, mine)
    with Connection(read_caller(str(cluster.admin_kubeconfig), None)) as api:
        api.delete(f"/api/v1/namespaces/{mine}/secrets/{secret['metadata']['name']}", "the uid of an earlier one")
        assert credential_secrets(stage, mine) == [secret]
        api.delete(f"/api/v1/namespaces/{mine}/secrets/{secret['metadata']['name']}", secret["metadata"]["uid"])
    assert not credential_secrets(stage, mine)


def test_credentials_in_several_namespaces(stage: Stage, cli: Cli) -> None:
    one, two = stage.namespace(), stage.namespace()
    accounts = [{"namespace": namespace, "name": "runner"} for namespace in (one, two)]
    name = stage.grant({"serviceAccounts": accounts, "namespaces": [one]})
    stage.until_ready(name)
    first, _ = issue(cli, name, "--service-account", f"{one}/runner")
    second, _ = issue(cli, name, "--service-account", f"{two}/runner")
    assert set(listed(cli, name)) == {first, second}
    assert {(each["id"], each["serviceAccount"]["namespace"]) for each in listed(cli, name).values()} == {
        (first, one),
        (second, two),
    }


def test_who_may_not_look_everywhere_is_told(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, reader: str) -> None:
    one, two = stage.namespace(), stage.namespace()
    accounts = [{"namespace": namespace, "name": "runner"} for namespace in (one, two)]
    name = stage.grant({"serviceAccounts": accounts, "namespaces": [one]})
    stage.until_ready(name)
    first, _ = issue(cli, name, "--service-account", f"{one}/runner")
    issue(cli, name, "--service-account", f"{two}/runner")
    caller = acting_as(cluster, tmp_path / "caller", reader)
    allow(stage, reader, one, secrets("list"))
    shown = stage.until(
        lambda: (said := cli("credentials", name, "--kubeconfig", caller)) and first in said.out and said, "the right to list"
    )
    assert shown.code == 0
    assert len(shown.out.splitlines()) == 2
    assert f"note: you may not list Secrets in namespace {two!r}: " in shown.err

    refused = cli("revoke", name, "--all", "--kubeconfig", caller)
    assert refused.code == 1
    assert refused.err.startswith("error: not everything is revoked: ")
    assert f"credential {first}: you may not delete Secrets in namespace {one!r}: " in refused.err
    assert f"you may not list Secrets in namespace {two!r}: " in refused.err
    assert len(listed(cli, name)) == 2


def test_what_secrets_hold_is_not_asked_for(stage: Stage, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    name = runner(stage)
    mine = of(stage.get(name))
    one, _ = issue(cli, name)
    path = f"/api/v1/namespaces/{mine}/secrets/vmaccess-credential-{one}"
    stage.request("PATCH", path, {"stringData": {"kubeconfig": "precious"}})
    seen = []
    look = Connection.list_metadata

    def watched(self: Connection, path: str, **query: str) -> list[Json]:
        seen.append(look(self, path, **query))
        return seen[-1]

    monkeypatch.setattr(Connection, "list_metadata", watched)
    assert set(listed(cli, name)) == {one}
    assert [set(item) for item in seen[0]] == [{"apiVersion", "kind", "metadata"}]
