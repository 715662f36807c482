"""The rights that docs/credentials.md gives are those that the command needs: enough for what they are for, and for no more."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from localcluster import Cluster
from tests.cli.helpers import Cli, acting_as, claims, of, runner, user_in
from tests.stage import RBAC, Json, Stage
from vmaccess.cli.__main__ import main

PAGE = Path(__file__).parents[2] / "docs" / "credentials.md"


def documented() -> list[Json]:
    """The roles on the page."""
    blocks = re.findall(r"^```yaml\n(apiVersion: rbac.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def test_the_page_has_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    verbs = re.findall(r"^    (\w+)(?: |$)", capsys.readouterr().out, re.MULTILINE)
    assert {"kubeconfig", "rights"} <= set(verbs)
    table = re.findall(r"^\| \[?`(\w+)`.*\|.*\| `.*\|$", PAGE.read_text(), re.MULTILINE)
    assert sorted(table) == sorted(verbs)


@pytest.fixture
def people(stage: Stage, cluster: Cluster, tmp_path: Path) -> Iterator[tuple[str, str, str]]:
    """A grant, and kubeconfigs of alice, who makes credentials, and bob, who revokes them."""
    name = runner(stage)
    mine, tag = of(stage.get(name)), stage.unique()
    reader, maker, revoker = documented()
    reader["metadata"]["name"] = tag
    maker["rules"][0]["resourceNames"] = ["runner"]
    users = {"alice": f"{tag}-alice", "bob": f"{tag}-bob"}
    for role, names in ((reader, ("alice", "bob")), (maker, ("alice",)), (revoker, ("bob",))):
        where = RBAC if role["kind"] == "ClusterRole" else f"{RBAC}/namespaces/{mine}"
        role["metadata"].pop("namespace", None)
        subjects = [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": users[each]} for each in names]
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]}
        stage.request("POST", f"{where}/{role['kind'].lower()}s", role)
        binding = {"metadata": {"name": role["metadata"]["name"]}, "roleRef": reference, "subjects": subjects}
        stage.request("POST", f"{where}/{role['kind'].lower()}bindings", binding)
    yield name, acting_as(cluster, tmp_path / "alice", users["alice"]), acting_as(cluster, tmp_path / "bob", users["bob"])
    for kind in ("clusterrolebindings", "clusterroles"):
        stage.request("DELETE", f"{RBAC}/{kind}/{tag}")


def test_one_makes_and_another_revokes(stage: Stage, cli: Cli, people: tuple[str, str, str]) -> None:
    name, alice, bob = people
    made = stage.until(
        lambda: (said := cli("kubeconfig", name, "-o", "-", "--kubeconfig", alice)) and "to revoke" in said.err and said,
        "alice's rights to be enough",
    )
    assert "secret" in claims(user_in(made.out)["token"])["kubernetes.io"]
    credential = made.err.split()[-1]
    for asked in (("credentials", name), ("revoke", name, "--credential", credential)):
        said = cli(*asked, "--kubeconfig", alice)
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith("error: you may not list Secrets in namespace ")
        assert "ask for a Role that allows list on secrets" in said.err

    stage.until(lambda: credential in cli("credentials", name, "--kubeconfig", bob).out, "bob's rights to be enough")
    assert "you may not create tokens" in cli("kubeconfig", name, "-o", "-", "--kubeconfig", bob).err
    said = cli("revoke", name, "--credential", credential, "--kubeconfig", bob)
    assert (said.code, said.err) == (0, "")
    assert credential not in cli("credentials", name).out
