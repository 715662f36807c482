from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from vmaccess.model import crd
from vmaccess.model.status import MAX_FAILURES, Condition, Failure, Namespaces, RoleStatus, ServiceAccountStatus, Status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcluster import Cluster

FILE = Path(__file__).parents[2] / "crds" / "vmaccessgrants.yaml"
UNWATCHED = "unwatched.vmaccess.dev"
ENDS = "2027-01-31T18:00:00Z"
GRANTS = f"/apis/{UNWATCHED}/v1alpha1/vmaccessgrants"


def test_the_file_is_what_the_models_say() -> None:
    assert FILE.read_text() == crd.render(), "run: python -m vmaccess.model.crd > crds/vmaccessgrants.yaml"
    assert yaml.safe_load(crd.render()) == crd.crd()


@pytest.fixture(scope="module")
def grants_api(cluster: Cluster) -> Iterator[Cluster]:
    """The same kind in a group that no operator watches, so that its status is ours to write."""
    copy = crd.crd()
    copy["metadata"]["name"] = f"vmaccessgrants.{UNWATCHED}"
    copy["spec"]["group"] = UNWATCHED
    copy["spec"]["names"] |= {"shortNames": [], "categories": []}
    cluster.apply(yaml.safe_dump(copy))
    yield cluster
    cluster.request("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{copy['metadata']['name']}")


def grant(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": f"{UNWATCHED}/v1alpha1",
        "kind": "VMAccessGrant",
        "metadata": {"name": name},
        "spec": {"subjects": [{"kind": "Group", "name": "oidc:team-a"}], "namespaces": ["default"]} | spec,
    }


@pytest.fixture
def stored(grants_api: Cluster) -> Iterator[str]:
    """The path of a grant nobody has looked at yet."""
    status, answer = grants_api.request("POST", GRANTS, grant("stored", expirationTime=ENDS))
    assert status == 201, answer
    yield f"{GRANTS}/stored"
    grants_api.request("DELETE", f"{GRANTS}/stored")


def condition(kind: str, **more: Any) -> Condition:
    fields = {"status": "True", "reason": "Granted", "message": "", "lastTransitionTime": "2026-11-22T10:00:00Z"}
    return Condition.model_validate({"type": kind, "observedGeneration": 1} | fields | more)


def test_a_new_grant_never_looks_healthy(grants_api: Cluster, stored: str) -> None:
    assert grants_api.request("GET", stored)[1]["status"] == {"observedGeneration": -1}
    assert Status().dump() == {"observedGeneration": -1}


def test_a_status_given_at_creation_is_dropped(grants_api: Cluster) -> None:
    early = grant("early") | {"status": {"observedGeneration": 1}}
    assert grants_api.request("POST", f"{GRANTS}?dryRun=All", early)[1]["status"] == {"observedGeneration": -1}


def test_the_fullest_status_is_stored_and_shown(grants_api: Cluster, stored: str) -> None:
    status = Status(
        observed_generation=1,
        conditions=(condition("Ready", message="m" * 100_000), condition("Active"), condition("Stalled", status="False")),
        namespaces=Namespaces(selected=5000, granted=4980, failed=20, summary="4980/5000"),
        failures=(
            Failure(namespace="", reason="NameConflict", message="a ClusterRole is in no namespace"),
            *(Failure(namespace="n" * 63, reason="NameConflict", message="m" * 100_000) for _ in range(MAX_FAILURES - 1)),
        ),
        service_accounts=tuple(ServiceAccountStatus(namespace="n" * 63, name=f"{index}" + "a" * 250) for index in range(100)),
        role=RoleStatus(from_="kubevirt.io:admin", base_hash="1" * 64, preset="View", rules=14, hash="0" * 64),
        next_transition_time=ENDS,
    ).dump()
    code, answer = grants_api.request("PATCH", f"{stored}/status", {"status": status})
    assert code == 200, answer
    assert answer["status"] == status
    assert Status.model_validate(answer["status"]).dump() == status
    assert len(json.dumps(status)) < 100_000
    rows = grants_api.kubectl("get", f"vmaccessgrants.{UNWATCHED}", "stored", "-o", "wide").stdout.splitlines()
    assert rows[0].split() == ["NAME", "READY", "ACTIVE", "PRESET", "NAMESPACES", "EXPIRES", "AGE", "REASON"]
    shown = rows[1].split()
    assert [*shown[:6], shown[7]] == ["stored", "True", "True", "View", "4980/5000", ENDS, "Granted"]


def test_server_side_apply_owns_entries_and_replaces_objects(grants_api: Cluster) -> None:
    def apply(manager: str, **spec: Any) -> Any:
        code, answer = grants_api.request(
            "PATCH",
            f"{GRANTS}/applied?fieldManager={manager}&force=true",
            json.dumps(grant("applied") | {"spec": spec}),
            content_type="application/apply-patch+yaml",
        )
        assert code in (200, 201), answer
        return answer["spec"]

    one = {"kind": "User", "name": "one"}
    account = {"name": "runner", "namespace": "default"}
    keep = [{"resources": ["virtualmachines"], "verbs": ["get"]}]
    apply("one", subjects=[one], namespaces=["a"], serviceAccounts=[account], role={"keep": keep})
    both = apply("two", subjects=[one], namespaces=["b"], serviceAccounts=[account | {"name": "other"}])
    assert both["namespaces"] == ["a", "b"]
    assert [entry["name"] for entry in both["serviceAccounts"]] == ["runner", "other"]
    assert apply("one", subjects=[one], namespaces=["a"])["namespaces"] == ["a", "b"]
    grants_api.request("DELETE", f"{GRANTS}/applied")
