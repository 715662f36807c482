"""A role of one's own, cut from the admin's: what it keeps is allowed and what it drops is refused, for every kind of subject."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from localcluster import Cluster
from tests.stage import Stage, Who
from tests.stories.conftest import EXAMPLES, create_machine, machines_path

MACHINES, SCREENS = "kubevirt.io/virtualmachines", "subresources.kubevirt.io/virtualmachineinstances"
POWER = "subresources.kubevirt.io/virtualmachines"
ALLOWED = [
    *((verb, kind) for verb in ("get", "list", "watch") for kind in (MACHINES, "kubevirt.io/virtualmachineinstances")),
    ("update", f"{POWER}/start"),
    ("update", f"{POWER}/stop"),
]
REFUSED = [
    *((verb, MACHINES) for verb in ("create", "update", "patch", "delete", "deletecollection")),
    ("delete", "kubevirt.io/virtualmachineinstances"),
    ("get", f"{SCREENS}/console"),
    ("get", f"{SCREENS}/vnc"),
    ("update", f"{POWER}/restart"),
    ("list", "snapshot.kubevirt.io/virtualmachinesnapshots"),
    ("list", "/secrets"),
]


class Scene:
    """The example's grant in a namespace of the test, given to a group, a user and a ServiceAccount of the test."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.inside, self.outside = stage.namespace("inside"), stage.namespace("outside")
        stage.request("POST", f"/api/v1/namespaces/{self.outside}/serviceaccounts", {"metadata": {"name": "patrol"}})
        group, user = stage.unique("night-shift"), stage.unique("alice")
        spec = yaml.safe_load((EXAMPLES / "custom-role.yaml").read_text())["spec"]
        assert [subject["kind"] for subject in spec["subjects"]] == ["Group", "User", "ServiceAccount"]
        for subject, change in zip(
            spec["subjects"], ({"name": group}, {"name": user}, {"namespace": self.outside, "name": "patrol"}), strict=True
        ):
            subject.update(change)
        self.spec = spec | {"namespaces": [self.inside]}
        self.subjects = {
            "Group": Who("somebody", (group, "system:authenticated")),
            "User": Who(user, ("system:authenticated",)),
            "ServiceAccount": Who.service_account(self.outside, "patrol"),
        }

    def request(self, who: Who, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One real request as a subject."""
        # http.client takes a header once, so only the group that matters is named; a ServiceAccount's follow from its name.
        headers = {"Impersonate-User": who.user}
        if not who.user.startswith("system:"):
            headers["Impersonate-Group"] = who.groups[0]
        return self.stage.cluster.request(method, path, body, headers=headers)


@pytest.fixture
def scene(stage: Stage) -> Scene:
    return Scene(stage)


@pytest.mark.parametrize("kind", ["Group", "User", "ServiceAccount"])
def test_what_is_kept_is_allowed_and_what_is_dropped_is_refused(scene: Scene, kind: str) -> None:
    stage, who = scene.stage, scene.subjects[kind]
    create_machine(stage, scene.inside, "web-1")
    path = machines_path(scene.inside, "web-1")
    assert scene.request(who, "GET", path)[0] == 403

    name = stage.grant(scene.spec)
    stage.until_ready(name)
    rights = {(verb, resource): stage.can(who, verb, resource, scene.inside) for verb, resource in (*ALLOWED, *REFUSED)}
    assert rights == dict.fromkeys(ALLOWED, True) | dict.fromkeys(REFUSED, False)
    assert not any(stage.can(who, verb, resource, scene.outside) for verb, resource in ALLOWED)

    status, listed = scene.request(who, "GET", machines_path(scene.inside))
    assert (status, [item["metadata"]["name"] for item in listed["items"]]) == (200, ["web-1"])
    status, refusal = scene.request(who, "DELETE", path)
    assert (status, refusal["reason"]) == (403, "Forbidden")
    assert scene.request(who, "PATCH", path, {"metadata": {"labels": {"mine": "now"}}})[0] == 403
    screen = f"/apis/subresources.kubevirt.io/v1/namespaces/{scene.inside}/virtualmachineinstances/web-1/console"
    assert scene.request(who, "GET", screen)[0] == 403
    start = f"/apis/subresources.kubevirt.io/v1/namespaces/{scene.inside}/virtualmachines/web-1/start"
    assert scene.request(who, "PUT", start)[0] == 404, "admitted, and then nobody is there to serve it"
    assert scene.request(who, "GET", machines_path(scene.outside))[0] == 403
    assert stage.request("GET", path)["metadata"].get("labels") is None, "the machine is there and untouched"

    stage.delete(name)
    stage.until(lambda: scene.request(who, "GET", path)[0] == 403, "the rights to be gone", seconds=2)


def test_a_drop_added_later_takes_away_at_once(scene: Scene, cluster: Cluster) -> None:
    stage, who = scene.stage, scene.subjects["User"]
    name = stage.grant(scene.spec)
    stage.until_ready(name)
    assert stage.can(who, "update", f"{POWER}/stop", scene.inside)
    drop = [*scene.spec["role"]["drop"], {"resources": ["virtualmachines/stop"]}]
    stage.respec(name, {**scene.spec, "role": {**scene.spec["role"], "drop": drop}})
    stage.until_ready(name)
    assert not stage.can(who, "update", f"{POWER}/stop", scene.inside)
    assert stage.can(who, "update", f"{POWER}/start", scene.inside)
    assert cluster.request("GET", machines_path(scene.inside), headers={"Impersonate-User": who.user})[0] == 200
