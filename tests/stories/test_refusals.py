"""Identities that nobody may give rights to by a grant: refused at admission, with the reason and the cure."""

from __future__ import annotations

from typing import Any

import pytest

from tests.stage import GRANTS, Stage

DEFAULT = "every pod of a namespace runs as its ServiceAccount default unless told otherwise: name one of its own"
SYSTEM = "names that begin with system: belong to Kubernetes itself: name a user or group of your own"
LOGIN = "use kind ServiceAccount with its own name and namespace"

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "own-default-service-account": (
        {"serviceAccounts": [{"name": "default", "namespace": "myvms"}]},
        "spec.serviceAccounts[0].name",
        DEFAULT,
    ),
    "existing-default-service-account": (
        {"subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "myvms"}]},
        "spec.subjects[0].name",
        DEFAULT,
    ),
    "default-service-account-as-user": (
        {"subjects": [{"kind": "User", "name": "system:serviceaccount:myvms:default"}]},
        "spec.subjects[0].name",
        LOGIN,
    ),
    "service-account-as-user": (
        {"subjects": [{"kind": "User", "name": "system:serviceaccount:default:mykubevirtrunner"}]},
        "spec.subjects[0].name",
        LOGIN,
    ),
    "everybody": ({"subjects": [{"kind": "Group", "name": "system:authenticated"}]}, "spec.subjects[0].name", SYSTEM),
    "nobody-in-particular": (
        {"subjects": [{"kind": "Group", "name": "system:unauthenticated"}]},
        "spec.subjects[0].name",
        SYSTEM,
    ),
    "anonymous": ({"subjects": [{"kind": "User", "name": "system:anonymous"}]}, "spec.subjects[0].name", SYSTEM),
    "all-service-accounts": (
        {"subjects": [{"kind": "Group", "name": "system:serviceaccounts"}]},
        "spec.subjects[0].name",
        SYSTEM,
    ),
    "those-of-a-namespace": (
        {"subjects": [{"kind": "Group", "name": "system:serviceaccounts:myvms"}]},
        "spec.subjects[0].name",
        SYSTEM,
    ),
    "masters": ({"subjects": [{"kind": "Group", "name": "system:masters"}]}, "spec.subjects[0].name", SYSTEM),
    "second-entry": (
        {"subjects": [{"kind": "User", "name": "alice"}, {"kind": "Group", "name": "system:nodes"}]},
        "spec.subjects[1].name",
        SYSTEM,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_such_a_grant_is_not_admitted(stage: Stage, case: str) -> None:
    who, field, why = REFUSED[case]
    name, mine = stage.unique(case[:30]), stage.namespace()
    grant = {
        "apiVersion": "vmaccess.dev/v1alpha1",
        "kind": "VMAccessGrant",
        "metadata": {"name": name},
        "spec": {**who, "namespaces": [mine]},
    }
    answer = stage.request("POST", GRANTS, grant, expect=422)
    causes = [(cause["field"], cause["message"]) for cause in answer["details"]["causes"]]
    assert any(where == field and why in message for where, message in causes), causes
    assert stage.cluster.request("GET", f"{GRANTS}/{name}")[0] == 404
    assert not stage.children(name)


def test_a_change_to_such_an_identity_is_refused_and_changes_nothing(stage: Stage) -> None:
    mine = stage.namespace()
    name = stage.grant({"subjects": [{"kind": "User", "name": "alice"}], "namespaces": [mine]})
    stage.until_ready(name)
    children, since = stage.children(name), stage.mark()
    refused = stage.request(
        "PATCH", f"{GRANTS}/{name}", {"spec": {"subjects": [{"kind": "Group", "name": "system:authenticated"}]}}, expect=422
    )
    assert SYSTEM in refused["message"]
    assert stage.children(name) == children
    assert stage.writes(since) == []
