"""Where a kubeconfig is written to: nobody else's entries are touched, and nobody else can read it."""

from __future__ import annotations

import base64
import copy
import dataclasses
import os
import secrets
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import Cluster
from tests.cli.helpers import Cli, of, runner, user_in
from tests.stage import Stage
from vmaccess.cli.failed import Failed
from vmaccess.cli.files import MergedFile, OwnFile, Written, merged
from vmaccess.policy.kubeconfig import ClusterEntry, kubeconfig

Json = dict[str, Any]

CA = b"a certificate"
PROD = ClusterEntry("prod", "https://api.example.com:6443", CA)


def ours(value: str = "one") -> Json:
    """What is to be added."""
    return kubeconfig(PROD, "runner@prod", "default/runner@prod", {"token": value}, "myvms")


def theirs(**sections: Any) -> Json:
    """A kubeconfig as people have it, with what we know nothing of."""
    return {
        "kind": "Config",
        "preferences": {"colors": True},
        "clusters": [{"name": "home", "cluster": {"server": "https://home.example.com", "disable-compression": True}}],
        "users": [{"name": "me", "user": {"auth-provider": {"name": "oidc", "config": {"expiry": "2027-01-01T00:00:00Z"}}}}],
        "contexts": [{"name": "home", "context": {"cluster": "home", "user": "me"}}],
        "current-context": "home",
        **sections,
    }


FILE = Path("config")


def test_what_is_there_stays_as_it_is() -> None:
    before = theirs()
    result = merged(copy.deepcopy(before), ours(), FILE, replace=False)
    for section in ("clusters", "users", "contexts"):
        assert result[section][0] == before[section][0]
        assert [entry["name"] for entry in result[section][1:]] == [ours()[section][0]["name"]]
    assert (result["current-context"], result["preferences"]) == ("home", {"colors": True})
    assert merged({}, ours(), FILE, replace=False)["current-context"] == "runner@prod"


def test_our_own_entries_are_replaced_when_told() -> None:
    once = merged(theirs(), ours(), FILE, replace=False)
    with pytest.raises(Failed, match="that was written before: replace it with --force"):
        merged(once, ours("two"), FILE, replace=False)
    twice = merged(once, ours("two"), FILE, replace=True)
    assert [entry["user"].get("token") for entry in twice["users"]] == [None, "two"]
    assert len(twice["contexts"]) == 2


def taken(section: str, field: str, name: str, content: Json) -> Json:
    return theirs(**{section: [{"name": name, field: content}]})


@pytest.mark.parametrize(
    ("file", "what"),
    [
        (taken("users", "user", "default/runner@prod", {"token": "mine"}), "user 'default/runner@prod'"),
        (taken("contexts", "context", "runner@prod", {"cluster": "prod"}), "context 'runner@prod'"),
        (taken("clusters", "cluster", "prod", {"server": "https://other.example.com"}), "cluster 'prod'"),
        (taken("clusters", "cluster", "prod", PROD.render() | {"insecure-skip-tls-verify": True}), "cluster 'prod'"),
    ],
    ids=["user", "context", "cluster", "insecure"],
)
def test_entries_of_others_are_never_replaced(file: Json, what: str) -> None:
    for replace in (False, True):
        with pytest.raises(Failed, match="which is not touched") as failed:
            merged(file, ours(), FILE, replace=replace)
        assert what in str(failed.value)


def moved() -> Json:
    """What is to be added once the cluster `prod` has another address."""
    return kubeconfig(
        dataclasses.replace(PROD, server="https://new.example.com"), "runner@prod", "default/runner@prod", {"token": "t"}, None
    )


def test_no_context_of_others_is_led_elsewhere() -> None:
    once = merged(theirs(), ours(), FILE, replace=False)
    again = merged(copy.deepcopy(once), moved(), FILE, replace=True)
    assert again["clusters"][1]["cluster"]["server"] == "https://new.example.com", "nobody else uses it"
    once["contexts"].append({"name": "admin", "context": {"cluster": "prod", "user": "me"}})
    for force in (False, True):
        with pytest.raises(Failed, match="with another server or CA, which is not touched, as these contexts would") as failed:
            merged(copy.deepcopy(once), moved(), FILE, replace=force)
        assert "lead elsewhere: admin; " in str(failed.value)
    assert merged(copy.deepcopy(once), ours("two"), FILE, replace=True)["clusters"] == once["clusters"]


def test_no_token_of_ours_is_led_to_another_cluster_of_the_same_name() -> None:
    one = kubeconfig(PROD, "runner@prod", "default/runner@prod", {"token": "of one"}, None)
    other = dataclasses.replace(PROD, server="https://other.example.com")
    two = kubeconfig(other, "pipeline@prod", "default/pipeline@prod", {"token": "of two"}, None)
    file = merged(theirs(), one, FILE, replace=False)
    for force in (False, True):
        with pytest.raises(Failed, match="these contexts would lead elsewhere: runner@prod; "):
            merged(copy.deepcopy(file), two, FILE, replace=force)


def test_strange_entries_are_no_reason_to_fall() -> None:
    strange = [{"name": "a", "context": "text"}, {"name": "b"}, {"name": "c", "context": {"extensions": "text"}}]
    file = theirs(contexts=strange, clusters=[{"name": "prod", "cluster": ["text"]}])
    with pytest.raises(Failed, match="has another cluster 'prod', which is not touched"):
        merged(file, ours(), FILE, replace=True)


@pytest.mark.parametrize("written", ["data", "file"])
def test_a_cluster_that_says_the_same_is_used_as_it_is(tmp_path: Path, written: str) -> None:
    (tmp_path / "ca.crt").write_bytes(CA)
    ca = {"data": {"certificate-authority-data": base64.b64encode(CA).decode()}, "file": {"certificate-authority": "ca.crt"}}
    same = [{"name": "prod", "cluster": {"server": f"{PROD.server}/", **ca[written]}}]
    assert merged(theirs(clusters=same), ours(), tmp_path / "config", replace=False)["clusters"] == same


@pytest.mark.parametrize(("before", "after"), [(None, 0o600), (0o644, 0o600), (0o600, 0o600), (0o400, 0o400)])
def test_a_merged_file_is_private_and_never_wider_than_before(tmp_path: Path, before: int | None, after: int) -> None:
    real, link = tmp_path / "dotfiles" / "config", tmp_path / "config"
    real.parent.mkdir()
    if before is not None:
        real.write_text(yaml.safe_dump(theirs()))
        real.chmod(before)
    link.symlink_to(real)
    wide = os.umask(0)
    try:
        MergedFile(link, replace=False).write(ours())
    finally:
        os.umask(wide)
    assert link.is_symlink(), "where somebody keeps a file is left to them"
    assert stat.S_IMODE(real.stat().st_mode) == after
    assert [path.name for path in real.parent.iterdir()] == ["config"]


def test_paths_and_locks_are_beside_a_link_and_not_beside_its_target(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles" / "real", tmp_path / "home" / "config"
    for folder, content in ((real.parent, b"another"), (link.parent, CA)):
        folder.mkdir()
        (folder / "ca.crt").write_bytes(content)
    same = [{"name": "prod", "cluster": {"server": PROD.server, "certificate-authority": "ca.crt"}}]
    real.write_text(yaml.safe_dump(theirs(clusters=same)))
    link.symlink_to(real)
    (link.parent / "config.lock").touch()
    with pytest.raises(Failed, match=f"another program is changing {link}: try again, and if none is, remove {link}.lock"):
        MergedFile(link, replace=False).write(ours())
    (link.parent / "config.lock").unlink()
    (real.parent / "real.lock").touch()
    MergedFile(link, replace=False).write(ours())
    written = yaml.safe_load(real.read_text())
    assert (written["clusters"], len(written["contexts"])) == (same, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody")
def test_a_merged_file_stays_its_owners(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(theirs()))
    os.chown(file, 65534, 65533)
    MergedFile(file, replace=False).write(ours())
    assert (file.stat().st_uid, file.stat().st_gid, stat.S_IMODE(file.stat().st_mode)) == (65534, 65533, 0o600)


def test_a_draft_that_somebody_swaps_leads_to_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may merge into the folder of a user, who may do there as he likes."""
    file, precious, make = tmp_path / "config", tmp_path / "precious", tempfile.mkstemp
    for path in (file, precious):
        path.write_text("{}")
        path.chmod(0o644)

    def swapped(**where: Any) -> tuple[int, str]:
        handle, draft = make(**where)
        os.unlink(draft)
        os.symlink(precious, draft)
        return handle, draft

    monkeypatch.setattr(tempfile, "mkstemp", swapped)
    MergedFile(file, replace=False).write(ours())
    assert (stat.S_IMODE(precious.stat().st_mode), precious.read_text()) == (0o644, "{}")


@pytest.mark.parametrize("kind", [OwnFile, MergedFile])
def test_no_draft_is_left(tmp_path: Path, kind: type[OwnFile | MergedFile], monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config"
    file.write_text("{}")

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Failed, match="config cannot be written: Operation not permitted"):
        kind(file, replace=True).write(ours())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("config", "{}")]


@pytest.mark.parametrize("kind", [OwnFile, MergedFile])
def test_where_nobody_may_look_is_said(unreadable: Path, kind: type[OwnFile | MergedFile]) -> None:
    with pytest.raises(Failed, match="made cannot be written: Permission denied"):
        kind(unreadable / "made", replace=False).check(ours())


def test_times_and_words_are_written_back_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("users: [{name: me, user: {auth-provider: {config: {expiry: 2027-01-01T00:00:00Z, flag: 'yes'}}}}]\n")
    MergedFile(file, replace=False).write(ours())
    written = yaml.safe_load(file.read_text())["users"][0]["user"]["auth-provider"]["config"]
    assert written == {"expiry": "2027-01-01T00:00:00Z", "flag": "yes"}


def test_two_do_not_write_at_once(tmp_path: Path) -> None:
    file, lock = tmp_path / "config", tmp_path / "config.lock"
    lock.touch()
    with pytest.raises(Failed, match="another program is changing"):
        MergedFile(file, replace=False).write(ours())
    assert not file.exists()
    lock.unlink()
    MergedFile(file, replace=False).write(ours())
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


# --- as a person does it ---


def named(file: Path) -> Json:
    """What the last user of a file tells of its credential."""
    (extension,) = user_in(file)["extensions"]
    assert (extension["name"], extension["extension"].pop("writtenBy")) == ("vmaccess.dev", "kubectl vmaccess")
    told: Json = extension["extension"]
    return told


@pytest.mark.parametrize("options", [(), ("--exec",), ("--merge",), ("--merge", "--exec")], ids=" ".join)
def test_a_file_names_its_credential_and_what_gives_way_is_told(
    stage: Stage, cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    name, file = runner(stage), tmp_path / "config"
    asked = ("kubeconfig", name, *options, "--output", str(file))
    first = cli(*asked)
    old = first.out.split()[-1]
    assert named(file) == {"grant": name, "credential": old}
    assert first.out.startswith(("wrote ", "added context "))

    second = cli(*asked, "--force")
    assert (second.code, second.err) == (0, "")
    assert second.out.startswith(f"replaced context {name}@cluster in {file}, " if "--merge" in options else f"replaced {file}, ")
    revocation, left = second.out.splitlines()[2:]
    assert named(file) == {"grant": name, "credential": revocation.split()[-1]}
    assert left.startswith(f"credential {old}, which was there before, is not revoked by this; to revoke it: kubectl vmaccess ")
    assert old in cli("credentials", name).out
    assert cli(*left.partition("kubectl vmaccess ")[2].split()).out.startswith(f"revoked credential {old} ")


@pytest.mark.usefixtures("on_path")
def test_kubectl_takes_no_id_for_a_number(
    stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, file = runner(stage), tmp_path / "config"
    monkeypatch.setattr(secrets, "token_hex", lambda _: "12345e67")
    assert cli("kubeconfig", name, "--exec", "--output", str(file)).code == 0
    assert cluster.kubectl("get", "vms", kubeconfig=file).returncode == 0
    cluster.kubectl("config", "set-context", name, "--namespace=elsewhere", kubeconfig=file)
    assert named(file) == {"grant": name, "credential": "12345e67"}


@pytest.mark.parametrize(
    "before",
    ["precious", "a: [", "users: [{name: a, user: text}]", "users: [{name: a, user: {extensions: [{name: vmaccess.dev}]}}]"],
    ids=["words", "no-yaml", "no-fields", "no-credential"],
)
def test_what_names_no_credential_gives_way_without_a_word(tmp_path: Path, before: str) -> None:
    file = tmp_path / "made"
    file.write_text(before)
    assert OwnFile(file, replace=True).write(ours()) == Written(replaced=True)


def test_what_somebody_else_wrote_into_a_mark_is_not_said(tmp_path: Path) -> None:
    file = tmp_path / "made"
    for grant, credential in (("g; rm -rf ~", "1a2b3c4d"), ("g", "\x1b[2J"), ("g", 7), (None, None)):
        extension = {"name": "vmaccess.dev", "extension": {"grant": grant, "credential": credential}}
        file.write_text(yaml.safe_dump({"users": [{"name": "a", "user": {"extensions": [extension]}}]}))
        assert OwnFile(file, replace=True).write(ours()) == Written(replaced=True)


def test_into_the_callers_own_kubeconfig(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name, file = runner(stage), cluster.kubeconfig(tmp_path / "config")
    before = yaml.safe_load(file.read_text())
    said = cli("kubeconfig", name, "--merge", "--output", str(file), "--kubeconfig", str(file))
    assert said.out.startswith(f"added context {name}@cluster to {file}, readable by its owner alone: ")
    after = yaml.safe_load(file.read_text())
    assert after["clusters"] == before["clusters"]
    assert (after["users"][0], after["contexts"][0]) == (before["users"][0], before["contexts"][0])
    assert after["current-context"] == before["current-context"]
    asked = ("get", "vms", "--context", f"{name}@cluster")
    assert cluster.kubectl(*asked, kubeconfig=file).returncode == 0
    refused = cluster.kubectl(*asked, "-n", "default", kubeconfig=file, check=False)
    assert f"system:serviceaccount:{of(stage.get(name))}:runner" in refused.stderr

    again = cli("kubeconfig", name, "--merge", "--output", str(file), "--kubeconfig", str(file))
    assert (again.code, again.out) == (1, "")
    assert "replace it with --force" in again.err
    assert cli("kubeconfig", name, "--merge", "--force", "--output", str(file), "--kubeconfig", str(file)).code == 0


def test_kubectl_itself_keeps_our_mark(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name, file = runner(stage), cluster.kubeconfig(tmp_path / "config")
    arguments = ("kubeconfig", name, "--merge", "--output", str(file))
    assert cli(*arguments).code == 0
    cluster.kubectl("config", "set-context", f"{name}@cluster", "--namespace=elsewhere", kubeconfig=file)
    assert cli(*arguments, "--force").code == 0, "what kubectl has written is still known as ours"


def test_several_accounts_of_a_grant_in_one_file(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    mine, file = stage.namespace(), tmp_path / "config"
    accounts = [{"namespace": mine, "name": name} for name in ("one", "two")]
    name = stage.grant({"serviceAccounts": accounts, "namespaces": [mine]})
    stage.until_ready(name)
    for account in ("one", "two"):
        said = cli("kubeconfig", name, "--service-account", f"{mine}/{account}", "--merge", "--output", str(file))
        assert said.code == 0, said.err
    shown = "jsonpath={.status.userInfo.username}"
    for account in ("one", "two"):
        asked = ("auth", "whoami", "-o", shown, "--context", f"{name}:{mine}/{account}@cluster")
        assert cluster.kubectl(*asked, kubeconfig=file).stdout == f"system:serviceaccount:{mine}:{account}"
    assert len(yaml.safe_load(file.read_text())["clusters"]) == 1


@pytest.mark.parametrize("output", [(), ("--output", "-"), ("--output", "")], ids=["none", "printed", "not-set"])
def test_a_merge_needs_a_file(stage: Stage, cli: Cli, output: tuple[str, ...]) -> None:
    said = cli("kubeconfig", runner(stage), "--merge", *output)
    assert (said.code, said.out) == (1, "")
    assert "name the kubeconfig to merge into with --output" in said.err
