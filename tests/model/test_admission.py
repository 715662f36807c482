"""The policy against unknown fields: what it covers, and what it must let pass once such a field is stored."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from localcluster import wait_until
from vmaccess.model import admission, crd
from vmaccess.model.grant import read_spec
from vmaccess.model.problems import Problems

if TYPE_CHECKING:
    from localcluster import Cluster

    Json = dict[str, Any]

FILE = Path(__file__).parents[2] / "deploy" / "kustomize" / "admission.yaml"
GROUP = "guarded.vmaccess.dev"
GRANTS = f"/apis/{GROUP}/v1alpha1/vmaccessgrants"
POLICIES = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
TYPO: Json = {"namespaceSelector": {"matchLabel": {"team": "a"}}}


def test_the_file_is_what_the_models_say() -> None:
    assert FILE.read_text() == admission.render(), "run: python -m vmaccess.model.admission > deploy/kustomize/admission.yaml"
    assert list(yaml.safe_load_all(admission.render())) == [admission.policy(), admission.binding()]


def test_every_place_that_keeps_unknown_fields_is_covered() -> None:
    kept = json.dumps(crd.crd()).count('"x-kubernetes-preserve-unknown-fields": true')
    levels = list(admission.levels(crd.grant_schema()))
    assert len(levels) == kept == 10
    assert {".".join(level.path) for level in levels} >= {"", "spec", "spec.subjects", "spec.namespaceSelector.matchExpressions"}
    status = crd.grant_schema()["properties"]["status"]
    assert not list(admission.levels(status)), "of the status, which is the operator's own, the rest may be dropped"


def test_a_list_inside_a_list_is_not_covered_silently() -> None:
    entry = {"type": "object", "properties": {"name": {"type": "string"}}}
    inner = {"type": "object", "properties": {"inner": {"type": "array", "items": entry}}}
    with pytest.raises(TypeError, match=r"outer\.inner"):
        list(admission.levels({"type": "object", "properties": {"outer": {"type": "array", "items": inner}}}))


def grant(name: str, **spec: Any) -> Json:
    fields = {"subjects": [{"kind": "Group", "name": "oidc:team-a"}], "namespaces": ["default"]} | spec
    return {"apiVersion": f"{GROUP}/v1alpha1", "kind": "VMAccessGrant", "metadata": {"name": name}, "spec": fields}


STORED = (
    *("labels", "annotations", "finalizer", "status", "suspend", "suspend-more", "suspend-root", "resume", "respec", "heal"),
    *("Background", "Foreground", "Orphan", "held"),
)


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Iterator[Cluster]:
    """The same kind and policy in a group that no operator watches, and bad grants stored there before the policy came."""
    definition = copy.deepcopy(crd.crd())
    definition["metadata"]["name"] = f"vmaccessgrants.{GROUP}"
    definition["spec"]["group"] = GROUP
    definition["spec"]["names"] |= {"shortNames": [], "categories": []}
    cluster.apply(yaml.safe_dump(definition))
    cluster.wait_for_garbage_collector(GROUP, "vmaccessgrants")
    for name in STORED:
        metadata = {"name": name.lower(), "finalizers": ["example.com/hold"] if name in ("finalizer", "held") else []}
        status, answer = cluster.request("POST", GRANTS, grant(name, **TYPO) | {"metadata": metadata})
        assert status == 201, answer
    policy, binding = admission.policy(), admission.binding()
    policy["metadata"]["name"] = binding["metadata"]["name"] = binding["spec"]["policyName"] = GROUP
    policy["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = [GROUP]
    cluster.apply(yaml.safe_dump_all((policy, binding)))
    wait_until(lambda: cluster.request("POST", f"{GRANTS}?dryRun=All", grant("probe", **TYPO))[0] == 422, "the policy")
    yield cluster
    cluster.request("DELETE", f"{POLICIES}ybindings/{GROUP}")
    cluster.request("DELETE", f"{POLICIES}ies/{GROUP}")
    cluster.request("PATCH", f"{GRANTS}/held", {"metadata": {"finalizers": None}})
    cluster.request("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/vmaccessgrants.{GROUP}")


def test_without_the_policy_the_field_is_stored_and_the_operator_refuses_it(guarded: Cluster) -> None:
    stored = guarded.request("GET", f"{GRANTS}/labels")[1]
    assert stored["spec"]["namespaceSelector"] == TYPO["namespaceSelector"]
    problems = read_spec(stored)
    assert isinstance(problems, Problems)
    assert problems.summary().startswith("spec.namespaceSelector.matchLabel: unknown field: did you mean matchLabels? ")


LET_PASS: dict[str, tuple[str, Json]] = {
    "labels": ("labels", {"metadata": {"labels": {"a": "b"}}}),
    "annotations": ("annotations", {"metadata": {"annotations": {"a": "b"}}}),
    "a finalizer removed": ("finalizer", {"metadata": {"finalizers": None}}),
    "the status": ("status/status", {"status": {"observedGeneration": 1}}),
    "suspended and nothing else": ("suspend", {"spec": {"suspend": True}}),
    "the field removed": ("heal", {"spec": {"namespaceSelector": {"matchLabel": None, "matchLabels": {"team": "a"}}}}),
}


@pytest.mark.parametrize(("name", "patch"), LET_PASS.values(), ids=LET_PASS)
def test_a_stored_grant_stays_changeable_where_nothing_unknown_is_written(guarded: Cluster, name: str, patch: Json) -> None:
    status, answer = guarded.request("PATCH", f"{GRANTS}/{name}", patch)
    assert status == 200, answer


REFUSED: dict[str, tuple[str, Json]] = {
    "another change of the spec": ("respec", {"spec": {"namespaces": ["default", "more"]}}),
    "suspended together with another change": ("suspend-more", {"spec": {"suspend": True, "namespaces": ["more"]}}),
    "suspended together with a field beside spec": ("suspend-root", {"suspend": True, "spec": {"suspend": True}}),
    "not suspended": ("resume", {"spec": {"suspend": False}}),
}


@pytest.mark.parametrize(("name", "patch"), REFUSED.values(), ids=REFUSED)
def test_a_stored_grant_is_refused_as_soon_as_its_spec_is_written(guarded: Cluster, name: str, patch: Json) -> None:
    status, answer = guarded.request("PATCH", f"{GRANTS}/{name}", patch)
    assert status == 422, answer
    assert "unknown field" in answer["message"]


def test_a_suspended_one_cannot_be_resumed_with_the_field(guarded: Cluster) -> None:
    assert guarded.request("PATCH", f"{GRANTS}/respec", {"spec": {"suspend": True}})[0] == 200
    assert guarded.request("PATCH", f"{GRANTS}/respec", {"spec": {"suspend": None}})[0] == 422


@pytest.mark.parametrize("cascade", ["Background", "Foreground", "Orphan"])
def test_a_stored_grant_can_be_deleted(guarded: Cluster, cascade: str) -> None:
    path = f"{GRANTS}/{cascade.lower()}"
    status, answer = guarded.request("DELETE", path, {"propagationPolicy": cascade})
    assert status == 200, answer
    wait_until(lambda: guarded.request("GET", path)[0] == 404, f"the grant to be gone after {cascade} deletion")


def test_a_stored_grant_that_something_holds_can_be_let_go(guarded: Cluster) -> None:
    assert guarded.request("DELETE", f"{GRANTS}/held", {"propagationPolicy": "Foreground"})[0] == 200
    assert guarded.request("PATCH", f"{GRANTS}/held", {"metadata": {"finalizers": None}})[0] == 200
    assert guarded.request("GET", f"{GRANTS}/held")[0] == 404


@pytest.mark.parametrize(
    ("method", "content_type"),
    [("PUT", None), ("PATCH", None), ("PATCH", "application/apply-patch+yaml"), ("PATCH", "application/json-patch+json")],
    ids=["update", "merge patch", "server-side apply", "JSON patch"],
)
def test_a_sound_grant_cannot_be_edited_into_a_typo(guarded: Cluster, method: str, content_type: str | None) -> None:
    status, sound = guarded.request("GET", f"{GRANTS}/sound")
    if status == 404:
        sound = guarded.request("POST", GRANTS, grant("sound"))[1]
    edited = grant("sound", **TYPO)
    edited["metadata"]["resourceVersion"] = sound["metadata"]["resourceVersion"]
    body: Any = edited
    if content_type == "application/json-patch+json":
        body = [{"op": "add", "path": "/spec/namespaceSelector", "value": TYPO["namespaceSelector"]}]
    options = "?fieldValidation=Ignore" + ("&fieldManager=flux&force=true" if "apply" in (content_type or "") else "")
    status, answer = guarded.request(method, f"{GRANTS}/sound{options}", body, content_type=content_type)
    assert status == 422, answer
    assert "spec.namespaceSelector.matchLabel: unknown field" in answer["message"]


def test_kubectl_says_which_field_it_is(guarded: Cluster) -> None:
    for validate in ("strict", "ignore"):
        done = guarded.kubectl("apply", f"--validate={validate}", "-f", "-", input=json.dumps(grant("new", **TYPO)), check=False)
        assert done.returncode != 0
        assert "spec.namespaceSelector.matchLabel: unknown field: known here are matchLabels, matchExpressions" in done.stderr


def test_the_greatest_grant_is_checked_within_the_budget(guarded: Cluster) -> None:
    names = [f"n{index:04}" + "x" * 58 for index in range(5000)]
    rules = [{"resources": [f"r{entry}-{index}" for index in range(100)], "verbs": ["get"]} for entry in range(50)]
    great = grant(
        "great",
        namespaces=names,
        excludeNamespaces=names[:500],
        subjects=[{"kind": "User", "name": f"{index:03}" + "a" * 509} for index in range(100)],
        serviceAccounts=[{"namespace": "a", "name": f"a{index}"} for index in range(100)],
        namespaceSelector={"matchExpressions": [{"key": f"k{index}", "operator": "Exists"} for index in range(100)]},
        role={"keep": rules, "drop": rules},
    )
    status, stored = guarded.request("POST", GRANTS, great)
    assert status == 201, stored
    stored["spec"]["namespaces"][-1] = "another"
    status, stored = guarded.request("PUT", f"{GRANTS}/great", stored)
    assert status == 200, stored
    status, stored = guarded.request("PATCH", f"{GRANTS}/great", {"spec": {"suspend": True}})
    assert status == 200, stored
    stored["spec"]["role"]["drop"][-1]["verb"] = ["get"]
    assert guarded.request("PUT", f"{GRANTS}/great", stored)[0] == 422
