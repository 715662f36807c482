"""The reference story, word for word: an identity of its own, two namespaces, a kubeconfig without copying a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from localcluster import Cluster
from tests.stage import GRANTS, Stage, Who
from tests.stories.conftest import EXAMPLES, Shell, machines_path

RUNNER = Who.service_account("default", "mykubevirtrunner")
ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/mykubevirtrunner"
ALLOWED = {"default": True, "myvms": True, "othervms": False, "kube-system": False}
NOWHERE = dict.fromkeys(ALLOWED, False)


@pytest.fixture
def without_grant(stage: Stage) -> Iterator[None]:
    """The name `runner` is free, before and after."""
    yield
    stage.request("DELETE", f"{GRANTS}/runner", expect=None)
    stage.until(lambda: not stage.children("runner"), "the grant's children to be gone")


@pytest.mark.usefixtures("without_grant")
def test_access_appears_is_refused_elsewhere_and_vanishes(
    stage: Stage, cluster: Cluster, machines: Mapping[str, list[str]], kubectl: Shell, tmp_path: Path
) -> None:
    assert cluster.request("GET", ACCOUNT)[0] == 404
    stage.assert_access(RUNNER, NOWHERE)
    before = kubectl("get", "vms", "-n", "myvms", f"--as={RUNNER.user}")
    assert (before.returncode, "Forbidden" in before.stderr) == (1, True)

    applied = kubectl("apply", "-f", str(EXAMPLES / "runner.yaml"))
    assert applied.returncode == 0, applied.stderr
    stage.until_ready("runner")
    stage.assert_access(RUNNER, ALLOWED)

    made = kubectl("vmaccess", "kubeconfig", "runner", "--output", "runner.kubeconfig")
    assert made.returncode == 0, made.stderr
    mine = tmp_path / "runner.kubeconfig"
    token = yaml.safe_load(mine.read_text())["users"][0]["user"]["token"]

    def answers(namespace: str) -> int:
        status: int = cluster.request("GET", machines_path(namespace), token=token)[0]
        return status

    for namespace in ("default", "myvms"):
        listed = kubectl("get", "vms", "-n", namespace, "--no-headers", kubeconfig=mine)
        assert [line.split()[0] for line in listed.stdout.splitlines()] == machines[namespace], listed.stderr
    assert "web-1" in kubectl("get", "vms", kubeconfig=mine).stdout, "the context's namespace is the first granted one"
    for refused in (("-n", "othervms"), ("-n", "kube-system"), ("--all-namespaces",)):
        answer = kubectl("get", "vms", *refused, kubeconfig=mine)
        assert (answer.returncode, answer.stdout) == (1, ""), refused
        assert "Forbidden" in answer.stderr
    assert [answers(namespace) for namespace in ALLOWED] == [200, 200, 403, 403]

    removed = kubectl("delete", "-f", str(EXAMPLES / "runner.yaml"))
    assert removed.returncode == 0, removed.stderr
    stage.until(lambda: answers("myvms") != 200 and answers("default") != 200, "the rights to be gone", seconds=2)
    stage.assert_access(RUNNER, NOWHERE)
    stage.until(lambda: not stage.children("runner"), "the grant's children to be gone", seconds=2)
    stage.until(lambda: answers("myvms") == 401, "the token to be dead: the API server remembers a good one for 10 s", seconds=20)
    assert "Unauthorized" in kubectl("get", "vms", "-n", "myvms", kubeconfig=mine).stderr
    assert cluster.request("GET", ACCOUNT)[0] == 404
    assert cluster.request("GET", machines_path("myvms"))[0] == 200


@pytest.mark.usefixtures("without_grant", "machines")
def test_a_token_survives_a_suspension_and_means_nothing_meanwhile(stage: Stage, cluster: Cluster) -> None:
    cluster.apply(EXAMPLES / "runner.yaml")
    stage.until_ready("runner")
    token = cluster.service_account_token("default", "mykubevirtrunner")
    for suspended, answer in ((True, 403), (False, 200)):
        stage.request("PATCH", f"{GRANTS}/runner", {"spec": {"suspend": suspended}})
        stage.until_condition("runner", "Active", str(not suspended))
        assert cluster.request("GET", machines_path("myvms"), token=token)[0] == answer
        stage.assert_access(RUNNER, NOWHERE if suspended else ALLOWED)


@pytest.mark.usefixtures("without_grant", "machines")
def test_leaving_a_namespace_is_refused_there_at_once(stage: Stage, cluster: Cluster) -> None:
    cluster.apply(EXAMPLES / "runner.yaml")
    stage.until_ready("runner")
    token = cluster.service_account_token("default", "mykubevirtrunner")
    stage.request("PATCH", f"{GRANTS}/runner", {"spec": {"namespaces": ["default"]}})
    stage.until_ready("runner")
    assert [cluster.request("GET", machines_path(namespace), token=token)[0] for namespace in ("default", "myvms")] == [200, 403]
