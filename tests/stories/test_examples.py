"""The examples that are shipped: each is admitted by the API server, understood by the operator, and explained in its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from localcluster import Cluster
from tests.stage import GRANTS, RBAC, Json, Stage, Who
from tests.stories.conftest import EXAMPLES
from vmaccess.policy.rights import kubeconfig_rights

FILES = sorted(EXAMPLES.glob("*.yaml"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def example(request: pytest.FixtureRequest, stage: Stage) -> Iterator[Path]:
    """One example; its grant is gone afterwards."""
    file: Path = request.param
    grant = yaml.safe_load(file.read_text())
    name = grant["metadata"]["name"]
    rights = list(needed(grant))
    for path, each in rights:
        stage.request("POST", path, each)
    yield file
    stage.request("DELETE", f"{GRANTS}/{name}", expect=None)
    stage.until(lambda: not stage.children(name), "the grant's children to be gone")
    for path, each in rights:
        stage.request("DELETE", f"{path}/{each['metadata']['name']}")


def needed(grant: Json) -> Iterator[tuple[str, Json]]:
    """What an admin applies for the kubeconfigs of a grant, with the paths to post it to."""
    for entry in grant["spec"].get("serviceAccounts", ()):
        if "kubeconfig" in entry:
            kubeconfigs = [(entry["name"], entry["kubeconfig"]["secretName"])]
            for each in kubeconfig_rights(grant["metadata"]["name"], entry["namespace"], kubeconfigs):
                yield f"{RBAC}/namespaces/{entry['namespace']}/{each['kind'].lower()}s", each


def test_there_are_the_promised_ones() -> None:
    assert {file.stem for file in FILES} >= {
        "runner",
        "team-viewers",
        "custom-role",
        "suspended",
        "operators",
        "one-machine",
        "cluster-wide",
        "contractor",
        "pipeline",
    }


def test_it_is_admitted_and_understood(example: Path, stage: Stage, cluster: Cluster) -> None:
    text = example.read_text()
    assert text.startswith("# "), "an example says what it is for"
    cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", str(example))
    name = yaml.safe_load(text)["metadata"]["name"]

    def seen() -> bool:
        return bool((stage.condition(name, "Ready") or {}).get("observedGeneration") == 1)

    stage.until(seen, "the operator to have looked at it")
    stalled = stage.condition(name, "Stalled")
    assert stalled is None, stalled
    ready = stage.condition(name, "Ready") or {}
    ended = ("NotStarted", "Expired")  # when this is run long after it was written
    assert ready["reason"] in ("Granted", "Suspended", "NoNamespaces", "NamespaceNotFound", "Progressing", *ended)


def test_the_team_viewers_follow_labels_and_exclusions(stage: Stage) -> None:
    spec = yaml.safe_load((EXAMPLES / "team-viewers.yaml").read_text())["spec"]
    team, group = stage.unique("team"), stage.unique("group")
    spec["subjects"][0]["name"] = group
    spec["namespaceSelector"]["matchLabels"]["team"] = team
    inside, secret = stage.namespace("web", team=team), stage.namespace("web-secret", team=team)
    stage.until_ready(stage.grant(spec))
    stage.assert_access(Who("somebody", (group,)), {inside: True, secret: False, "default": False})
