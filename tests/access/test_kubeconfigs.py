"""Kubeconfigs that the operator keeps: where it may, as long as the grant gives access, and each to be taken back by itself."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import product
from tests.access.helpers import events
from tests.access.test_times import is_shown, moment, rfc
from tests.stage import GRANTS, OPERATOR, RBAC, Json, Stage
from vmaccess.policy.rights import kubeconfig_rights

NEVER_AGAIN = 25  # seconds within which the API server has forgotten a token: its cache keeps one for ten


def allow(stage: Stage, grant: str, namespace: str, kubeconfigs: Mapping[str, str]) -> None:
    """Give the operator what `kubectl vmaccess rights` prints."""
    for each in kubeconfig_rights(grant, namespace, kubeconfigs.items()):
        stage.request("POST", f"{RBAC}/namespaces/{namespace}/{each['kind'].lower()}s", each)


def account(name: str, namespace: str, secret: str = "", **more: Any) -> Json:
    """An entry of serviceAccounts that asks for a kubeconfig."""
    return {"name": name, "namespace": namespace, "kubeconfig": {"secretName": secret or f"{name}-kubeconfig", **more}}


def grant_of(home: str, *accounts: Json, **more: Any) -> Json:
    """A grant over the namespace of its ServiceAccounts."""
    return {"serviceAccounts": list(accounts), "namespaces": [home], **more}


def secret(stage: Stage, namespace: str, name: str) -> Json | None:
    """A Secret, None where there is none."""
    status, answer = stage.cluster.request("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
    return answer if status == 200 else None


def secrets(stage: Stage, namespace: str) -> list[str]:
    """Names of all Secrets of a namespace."""
    return sorted(each["metadata"]["name"] for each in stage.request("GET", f"/api/v1/namespaces/{namespace}/secrets")["items"])


def kubeconfig(stage: Stage, namespace: str, name: str) -> str:
    """The kubeconfig in a Secret, once it is there."""
    return kubeconfig_in(stage.until(lambda: secret(stage, namespace, name), f"Secret {name}"))


def kubeconfig_in(stored: Json) -> str:
    """The kubeconfig in what was read of a Secret."""
    return base64.b64decode(stored["data"]["kubeconfig"]).decode()


def token_of(text: str) -> str:
    """The token in a kubeconfig."""
    token: str = yaml.safe_load(text)["users"][0]["user"]["token"]
    return token


def lists_machines(stage: Stage, token: str, namespace: str) -> int:
    """What the API server answers to who has this token."""
    status: int = stage.cluster.request("GET", f"/apis/kubevirt.io/v1/namespaces/{namespace}/virtualmachines", token=token)[0]
    return status


def until_dead(stage: Stage, token: str, namespace: str) -> None:
    """Wait until the API server does not know the token any more."""
    stage.until(lambda: lists_machines(stage, token, namespace) == 401, "the token to be refused", NEVER_AGAIN)


def steps(stage: Stage, since: int) -> list[str]:
    """The operator's writes since a mark: verb and kind of what has to do with access and credentials."""
    asked = stage.cluster.audit_events(user=OPERATOR, since=since)
    kinds = ("rolebindings", "roles", "serviceaccounts", "secrets")
    refs = [(event["verb"], event.get("objectRef", {})) for event in asked if event["verb"] not in ("get", "list", "watch")]
    return [
        f"{verb} {ref['resource']}{'/' + ref['subresource'] if 'subresource' in ref else ''} {ref.get('name', '')}"
        for verb, ref in refs
        if ref.get("resource") in kinds
    ]


def test_without_the_right_the_cure_is_told_and_the_access_is_given(stage: Stage, tmp_path: Path) -> None:
    home, elsewhere = stage.namespace(), stage.namespace()
    name = stage.grant(grant_of(home, account("runner", home)))
    found = stage.until_condition(name, "Stalled", reason="KubeconfigForbidden")
    stage.until_condition(name, "Active")
    message = next(each["message"] for each in found["status"]["failures"] if each["reason"] == "KubeconfigForbidden")
    assert f"kubectl vmaccess rights {name} | kubectl apply -f -" in message
    assert secrets(stage, home) == []

    allow(stage, name, home, {"runner": "runner-kubeconfig"})
    stage.until(lambda: stage.condition(name, "Ready")["status"] == "True", "the kubeconfig", 60)  # type: ignore[index]
    text = kubeconfig(stage, home, "runner-kubeconfig")
    assert secrets(stage, home) == ["runner-kubeconfig", "runner-kubeconfig-token-a"]
    file = tmp_path / "kubeconfig"
    file.write_text(text)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return stage.cluster.kubectl(*arguments, kubeconfig=file, check=False)

    listing = ("get", "virtualmachines.kubevirt.io")
    assert run(*listing).returncode == 0
    assert "Forbidden" in run(*listing, "-n", elsewhere).stderr
    assert run("config", "view", "-o", "jsonpath={.contexts[0].context.namespace}").stdout == home
    ends = datetime.fromisoformat(stage.get(name)["status"]["serviceAccounts"][0]["kubeconfigExpirationTime"])
    assert timedelta(minutes=59) < ends - datetime.now(UTC) <= timedelta(minutes=60, seconds=1)


@pytest.fixture
def granted(stage: Stage) -> tuple[str, str]:
    """A grant with two kubeconfigs in a namespace where they are allowed; its name and the namespace."""
    home, name = stage.namespace(), stage.unique("delivered")
    allow(stage, name, home, {"one": "one-kubeconfig", "two": "two-kubeconfig"})
    stage.grant(grant_of(home, account("one", home), account("two", home, tokenLifetimeSeconds=600)), "delivered")
    stage.until_ready(name)
    return name, home


def tokens(stage: Stage, home: str) -> tuple[str, str]:
    """Both tokens, which work."""
    one, two = (token_of(kubeconfig(stage, home, f"{which}-kubeconfig")) for which in ("one", "two"))
    assert [lists_machines(stage, token, home) for token in (one, two)] == [200, 200]
    return one, two


ALL = sorted(f"{which}-kubeconfig{end}" for which in ("one", "two") for end in ("", "-token-a"))


def test_a_kubeconfig_is_marked_and_complete(stage: Stage, granted: tuple[str, str]) -> None:
    name, home = granted
    tokens(stage, home)
    assert secrets(stage, home) == ALL
    for each in ALL:
        found = secret(stage, home, each)
        assert found is not None
        assert found["metadata"]["labels"]["vmaccess.dev/grant"] == name
        assert [owner["name"] for owner in found["metadata"]["ownerReferences"]] == [name]
        assert ("data" in found) is (not each.endswith("token-a")), "what a token is bound to holds nothing"
    bound = secret(stage, home, "two-kubeconfig-token-a")
    assert bound is not None
    marks = bound["metadata"]["annotations"]
    assert (marks["vmaccess.dev/service-account"], marks["vmaccess.dev/route"]) == ("two", "operator")
    life = datetime.fromisoformat(marks["vmaccess.dev/expires"]) - datetime.fromisoformat(marks["vmaccess.dev/issued"])
    assert abs(life.total_seconds() - 600) <= 2


@pytest.mark.parametrize("over", [{"suspend": True}, {"expirationTime": "2020-01-01T00:00:00Z"}], ids=["suspended", "expired"])
def test_bindings_go_first_and_then_what_tokens_are_bound_to(stage: Stage, granted: tuple[str, str], over: Json) -> None:
    name, home = granted
    one, two = tokens(stage, home)
    since, spec = stage.mark(), stage.get(name)["spec"]
    stage.respec(name, {**spec, **over})
    is_shown(stage, name, "Suspended" if "suspend" in over else "Expired")
    assert lists_machines(stage, one, home) in (401, 403), "the binding is gone at once"
    until_dead(stage, one, home)
    until_dead(stage, two, home)
    assert secrets(stage, home) == []
    done = steps(stage, since)
    for which in ("one", "two"):
        order = [f"delete rolebindings vmaccess:{name}", *(f"delete secrets {which}-kubeconfig{end}" for end in ("-token-a", ""))]
        assert [step for step in done if step in order] == order
    assert stage.children(name) == [f"serviceaccounts {home}/one", f"serviceaccounts {home}/two"]
    assert all("annotations" not in (stage.child("serviceaccounts", home, which) or {})["metadata"] for which in ("one", "two"))

    stage.respec(name, spec)
    stage.until_ready(name)
    again = tokens(stage, home)
    assert not {one, two} & {*again}


def test_one_is_taken_back_while_the_other_works_on(stage: Stage, granted: tuple[str, str]) -> None:
    name, home = granted
    one, two = tokens(stage, home)
    spec = stage.get(name)["spec"]
    del spec["serviceAccounts"][0]["kubeconfig"]
    stage.respec(name, spec)
    stage.until_ready(name)
    assert secrets(stage, home) == [each for each in ALL if each.startswith("two")]
    until_dead(stage, one, home)
    assert lists_machines(stage, two, home) == 200
    assert "one" in {each["name"] for each in stage.get(name)["status"]["serviceAccounts"]}


def test_an_account_that_leaves_takes_its_kubeconfig_along(stage: Stage, granted: tuple[str, str]) -> None:
    name, home = granted
    one, two = tokens(stage, home)
    since, spec = stage.mark(), stage.get(name)["spec"]
    spec["serviceAccounts"] = spec["serviceAccounts"][1:]
    stage.respec(name, spec)
    stage.until_ready(name)
    until_dead(stage, one, home)
    assert lists_machines(stage, two, home) == 200
    assert secrets(stage, home) == [each for each in ALL if each.startswith("two")]
    order = [
        f"patch rolebindings vmaccess:{name}",
        "delete secrets one-kubeconfig-token-a",
        "delete secrets one-kubeconfig",
        "delete serviceaccounts one",
    ]
    assert [step for step in steps(stage, since) if step in order] == order


def test_rotation_on_demand_ends_the_old_token(stage: Stage, granted: tuple[str, str]) -> None:
    name, home = granted
    one, _ = tokens(stage, home)
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"annotations": {"vmaccess.dev/rotate": "leaked on Tuesday"}}})
    stage.until(lambda: token_of(kubeconfig(stage, home, "one-kubeconfig")) != one, "another token")
    until_dead(stage, one, home)
    tokens(stage, home)
    assert secrets(stage, home) == [each.replace("token-a", "token-b") for each in ALL]


def test_a_secret_of_somebody_else_is_not_touched(stage: Stage) -> None:
    home, name = stage.namespace(), stage.unique("taken")
    allow(stage, name, home, {"one": "one-kubeconfig", "two": "two-kubeconfig"})
    foreign: Json = {"metadata": {"name": "one-kubeconfig"}, "stringData": {"kubeconfig": "mine"}}
    forged: Json = {
        "metadata": {
            "name": "two-kubeconfig-token-a",
            "labels": {"app.kubernetes.io/managed-by": "vmaccess", "vmaccess.dev/grant": name},
        }
    }
    for each in (foreign, forged):
        stage.request("POST", f"/api/v1/namespaces/{home}/secrets", each)
    before = [secret(stage, home, each["metadata"]["name"]) for each in (foreign, forged)]
    stage.grant(grant_of(home, account("one", home), account("two", home)), "taken")
    found = stage.until_condition(name, "Stalled", reason="NameConflict")
    told = [each["message"] for each in found["status"]["failures"]]
    assert any("one-kubeconfig exists" in each for each in told), told
    stage.until(lambda: len(stage.get(name)["status"]["failures"]) == 2, "both to be told")
    assert [secret(stage, home, each["metadata"]["name"]) for each in (foreign, forged)] == before
    stage.request("DELETE", f"/api/v1/namespaces/{home}/secrets/one-kubeconfig")
    stage.until(lambda: (secret(stage, home, "one-kubeconfig") or {}).get("metadata", {}).get("labels"), "our own", 60)
    stage.delete(name)
    stage.until(lambda: not stage.children(name), "the end of the grant")
    assert secret(stage, home, "two-kubeconfig-token-a") == before[1]


def test_another_name_is_made_before_the_old_one_goes(stage: Stage) -> None:
    home, name = stage.namespace(), stage.unique("renamed")
    for grant, names in ((name, {"one": "old"}), (f"{name}-new", {"one": "new"})):
        allow(stage, grant, home, names)
    stage.grant(grant_of(home, account("one", home, "old")), "renamed")
    stage.until_ready(name)
    old, since = token_of(kubeconfig(stage, home, "old")), stage.mark()
    stage.respec(name, grant_of(home, account("one", home, "new", server="https://api.example.com:6443/k8s")))
    stage.until_ready(name)
    text = kubeconfig(stage, home, "new")
    assert yaml.safe_load(text)["clusters"][0]["cluster"]["server"] == "https://api.example.com:6443/k8s"
    assert lists_machines(stage, token_of(text), home) == 200
    until_dead(stage, old, home)
    assert secrets(stage, home) == ["new", "new-token-a"]
    order = ["patch serviceaccounts one", "create secrets new", "delete secrets old-token-a", "delete secrets old"]
    found = [step for step in steps(stage, since) if step in order]
    assert found[:4] == order


def test_no_token_outlives_the_grant_and_none_is_made_for_its_last_minutes(stage: Stage) -> None:
    home = stage.namespace()
    for name, minutes in (("short", 5), ("long", 30)):
        allow(stage, stage.unique(name), home, {name: f"{name}-kubeconfig"})
        ends = rfc(moment(timedelta(minutes=minutes)))
        stage.grant(grant_of(home, account(name, home, tokenLifetimeSeconds=7200), expirationTime=ends), name)
    stage.until_ready(stage.unique("long"))
    told = stage.until_condition(stage.unique("short"), "Stalled", reason="EndsTooSoon")
    assert "none is valid for less than 10 minutes" in told["status"]["failures"][0]["message"]
    stage.until_condition(stage.unique("short"), "Active")
    assert secrets(stage, home) == ["long-kubeconfig", "long-kubeconfig-token-a"]
    status = stage.get(stage.unique("long"))
    ends, expires = status["spec"]["expirationTime"], status["status"]["serviceAccounts"][0]["kubeconfigExpirationTime"]
    assert expires <= ends
    sooner = {**status["spec"], "expirationTime": rfc(moment(timedelta(minutes=15)))}
    stage.respec(stage.unique("long"), sooner)

    def shortened() -> bool:
        found = stage.get(stage.unique("long"))["status"]["serviceAccounts"][0]
        return bool(found["kubeconfigExpirationTime"] <= sooner["expirationTime"])

    stage.until(shortened, "a token that ends with the grant")


def test_deletion_takes_all_of_it(stage: Stage, granted: tuple[str, str]) -> None:
    name, home = granted
    one, two = tokens(stage, home)
    stage.delete(name, "Foreground")
    for token in (one, two):
        until_dead(stage, token, home)
    stage.until(lambda: secrets(stage, home) == [], "the end of the Secrets", 30)


def test_no_token_is_told_to_anybody(stage: Stage, operator: product.Operator, granted: tuple[str, str]) -> None:
    name, home = granted
    known = tokens(stage, home)
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"annotations": {"vmaccess.dev/rotate": "once more"}}})
    stage.until(lambda: token_of(kubeconfig(stage, home, "one-kubeconfig")) != known[0], "another token")
    said = operator.output() + json.dumps([stage.get(name), events(stage, name)]) + operator.page("/metrics")[1]
    said += json.dumps([stage.child("serviceaccounts", home, which) for which in ("one", "two")])
    said += json.dumps([secret(stage, home, f"{which}-kubeconfig-token-{slot}") for which in ("one", "two") for slot in "ab"])
    for token in (*known, *tokens(stage, home)):
        for part in token.split(".")[1:]:
            assert part not in said


def test_kubeconfigs_at_rest_write_nothing(stage: Stage, granted: tuple[str, str]) -> None:
    name, _ = granted
    stage.until_ready(name)
    stage.until(lambda: not _writes_soon(stage), "rest")
    stage.request("PATCH", f"{GRANTS}/{name}", {"metadata": {"annotations": {"example.com/note": "seen"}}})
    assert not _writes_soon(stage)


def _writes_soon(stage: Stage) -> list[str]:
    since = stage.mark()
    time.sleep(1.5)
    return steps(stage, since)
