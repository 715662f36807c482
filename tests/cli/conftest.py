"""The command as a person runs it, in this process, so that a test may look at all it says."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcluster import Cluster
from tests.cli.helpers import READ_GRANTS, Cli, Said
from tests.stage import RBAC, Stage
from vmaccess.cli.__main__ import main


@pytest.fixture
def cli(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs `kubectl vmaccess` with the admin's kubeconfig, unless another is named.

    No run may say a token where none was asked for: a ServiceAccount's begins with eyJ, the admin's is known.
    """

    def run(*arguments: str) -> Said:
        named = () if "--kubeconfig" in arguments else ("--kubeconfig", str(cluster.admin_kubeconfig))
        capsys.readouterr()
        try:
            main([*arguments, *named])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        said = Said(code, *capsys.readouterr())
        asked_for = "-" in arguments or arguments[:1] == ("credential",)
        for text in (said.err, "" if asked_for else said.out):
            assert "eyJ" not in text
            assert cluster.admin_token not in text
        return said

    return run


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not look into, and be it root's."""
    folder, me = tmp_path / "unreadable", os.geteuid()
    folder.mkdir(mode=0)
    if me == 0:
        os.seteuid(65534)
    yield folder
    os.seteuid(me)


@pytest.fixture
def on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has `kubectl-vmaccess` on PATH, as its installation does."""
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")


@pytest.fixture
def reader(stage: Stage) -> Iterator[str]:
    """A user who may read grants and nothing else."""
    user = stage.unique("reader")
    stage.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": user}, "rules": [READ_GRANTS]})
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    stage.request("POST", f"{RBAC}/clusterrolebindings", binding)
    yield user
    stage.request("DELETE", f"{RBAC}/clusterrolebindings/{user}", expect=None)
    stage.request("DELETE", f"{RBAC}/clusterroles/{user}", expect=None)
