"""The files are good for the clients that people have, as they are: kubectl, programs with client-go, and the Python client."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from kubernetes import client, config

from localcluster import BinariesError, Cluster, gobuild
from tests.cli.helpers import Cli, of, runner
from tests.stage import Stage

GO = gobuild.Recipe(
    what="a program with client-go",
    module=Path(__file__).with_name("go"),
    packages=("vmaccess.dev/listmachines",),
    version_of="k8s.io/client-go",
    version_in="k8s.io/client-go/pkg/version",
    minutes=2,
)

Lists = Callable[[Path, str, str], str]


@pytest.fixture(scope="module", params=["kubectl", "go", "python"])
def lists(request: pytest.FixtureRequest, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Lists:
    """Lists VirtualMachines by a file, a context and a namespace; returns what the client says on stderr."""

    def by_kubectl(file: Path, context: str, namespace: str) -> str:
        return cluster.kubectl("get", "vms", "-n", namespace, "--context", context, kubeconfig=file, check=False).stderr

    def by_go(file: Path, context: str, namespace: str) -> str:
        command = [str(folder / "listmachines"), str(file), context, namespace]
        return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=os.environ, timeout=60).stderr

    def by_python(file: Path, context: str, namespace: str) -> str:
        with config.new_client_from_config(str(file), context) as api:
            try:
                client.CustomObjectsApi(api).list_namespaced_custom_object("kubevirt.io", "v1", namespace, "virtualmachines")
            except client.ApiException as refused:
                return str(refused.body)
        return ""

    if request.param == "go":
        folder = tmp_path_factory.mktemp("go") / "bin"
        try:
            gobuild.build(GO, folder, print)
        except BinariesError as error:
            pytest.skip(str(error))
        return by_go
    return by_kubectl if request.param == "kubectl" else by_python


FORMS = {
    "stand-alone": (),
    "merged": ("--merge",),
    "exec": ("--exec",),
    "merged-exec": ("--merge", "--exec"),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.usefixtures("on_path")
def test_the_file_is_taken_as_it_is(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path, form: str, lists: Lists) -> None:
    name, file = runner(stage), tmp_path / "config"
    mine = of(stage.get(name))
    if "merged" in form:
        cluster.kubeconfig(file)
    said = cli("kubeconfig", name, *FORMS[form], "--output", str(file))
    assert said.code == 0, said.err
    context = f"{name}@cluster" if "merged" in form else name
    assert lists(file, context, mine) in ("", f"No resources found in {mine} namespace.\n")
    refused = lists(file, context, "default")
    assert "forbidden" in refused
    assert f"system:serviceaccount:{mine}:runner" in refused, "it is that ServiceAccount who asks"


@pytest.mark.usefixtures("on_path")
def test_no_token_is_left_in_any_log(stage: Stage, cluster: Cluster, cli: Cli, tmp_path: Path) -> None:
    name, file = runner(stage), tmp_path / "made"
    assert cli("kubeconfig", name, "--output", str(file)).code == 0
    token = config.new_client_from_config(str(file)).configuration.api_key["BearerToken"].removeprefix("Bearer ")
    verbose = cluster.kubectl("get", "vms", "-v=9", kubeconfig=file)
    logs = [path for path in cluster.directory.iterdir() if path.suffix == ".log"]
    assert {"audit.log", "operator.log"} <= {path.name for path in logs}
    for text in (verbose.stdout, verbose.stderr, *(path.read_text(errors="replace") for path in logs)):
        assert token not in text
        assert cluster.admin_token not in text
