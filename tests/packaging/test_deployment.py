"""The Deployment: complete, consistent with the rest of the checkout, and held to the restricted Pod Security Standard."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from localcluster import Cluster
from tests.packaging.manifests import Json, of_kind, one, shipped

PODS = "/api/v1/namespaces/vmaccess-system/pods?dryRun=All"


def pod(sabotage: Callable[[Json, Json], Any] = lambda _, __: None) -> Json:
    """The pod that the Deployment would make, changed by `sabotage(pod spec, its container)`."""
    template = copy.deepcopy(one("Deployment", "vmaccess-operator")["spec"]["template"])
    sabotage(template["spec"], template["spec"]["containers"][0])
    return {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "check", **template["metadata"]}}


def test_everything_that_an_installation_needs_is_there() -> None:
    found = sorted(f"{item['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in shipped())
    assert found == [
        "ClusterRole /vmaccess-catalogue",
        "ClusterRole /vmaccess-operator",
        "ClusterRoleBinding /vmaccess-catalogue",
        "ClusterRoleBinding /vmaccess-operator",
        "ClusterRoleBinding /vmaccess-operator-kubevirt",
        "CustomResourceDefinition /vmaccessgrants.vmaccess.dev",
        "Deployment vmaccess-system/vmaccess-operator",
        "Namespace /vmaccess-system",
        "Role default/vmaccess-operator-events",
        "RoleBinding default/vmaccess-operator-events",
        "ServiceAccount vmaccess-system/vmaccess-operator",
        "ValidatingAdmissionPolicy /unknown-fields.vmaccessgrants.vmaccess.dev",
        "ValidatingAdmissionPolicyBinding /unknown-fields.vmaccessgrants.vmaccess.dev",
    ]


def test_the_deployment_selects_its_own_pods_and_runs_as_the_account_that_has_the_rights() -> None:
    spec = one("Deployment", "vmaccess-operator")["spec"]
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    subjects = [subject for binding in of_kind("ClusterRoleBinding", "RoleBinding") for subject in binding["subjects"]]
    account = {"kind": "ServiceAccount", "namespace": "vmaccess-system", "name": spec["template"]["spec"]["serviceAccountName"]}
    assert subjects == [account] * len(subjects)


def test_probes_ask_for_the_pages_on_the_port_that_is_open() -> None:
    (container,) = one("Deployment", "vmaccess-operator")["spec"]["template"]["spec"]["containers"]
    assert container["ports"] == [{"name": "health", "containerPort": 8080}]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


def test_the_pod_is_accepted_where_restricted_is_enforced_and_has_its_token(cluster: Cluster) -> None:
    status, labels = cluster.request("GET", "/api/v1/namespaces/vmaccess-system")
    assert labels["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    status, made = cluster.request("POST", PODS, pod())
    assert status == 201, made
    (container,) = made["spec"]["containers"]
    assert "/var/run/secrets/kubernetes.io/serviceaccount" in [mount["mountPath"] for mount in container["volumeMounts"]]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_another_pod_of_the_account_gets_no_token_unasked(cluster: Cluster) -> None:
    status, made = cluster.request("POST", PODS, pod(lambda spec, _: spec.pop("automountServiceAccountToken")))
    assert status == 201, made
    assert "volumeMounts" not in made["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("sabotage", "complaint"),
    [
        pytest.param(
            lambda _, box: box["securityContext"].pop("allowPrivilegeEscalation"), "allowPrivilegeEscalation", id="escalation"
        ),
        pytest.param(lambda _, box: box["securityContext"].pop("capabilities"), "unrestricted capabilities", id="capabilities"),
        pytest.param(lambda spec, _: spec["securityContext"].pop("runAsNonRoot"), "runAsNonRoot", id="may be root"),
        pytest.param(lambda spec, _: spec["securityContext"].update(runAsUser=0), "runAsUser=0", id="is root"),
        pytest.param(lambda spec, _: spec["securityContext"].pop("seccompProfile"), "seccompProfile", id="no seccomp profile"),
        pytest.param(lambda spec, _: spec.update(hostNetwork=True), "host namespaces", id="host network"),
        pytest.param(
            lambda spec, _: spec.update(volumes=[{"name": "host", "hostPath": {"path": "/"}}]), "hostPath", id="host's files"
        ),
    ],
)
def test_a_weakened_pod_is_refused(cluster: Cluster, sabotage: Callable[[Json, Json], Any], complaint: str) -> None:
    status, answer = cluster.request("POST", PODS, pod(sabotage))
    assert status == 403, answer
    assert "violates PodSecurity" in answer["message"]
    assert complaint in answer["message"]
