"""The status, by kstatus' reading of it and by the counts that must add up."""

from __future__ import annotations

from typing import Any

import pytest

from vmaccess.policy.grant import Give, Grant, Hold, Intent, Take, read_grant
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Facts, Outcome, State, failed, report
from vmaccess.policy.role import Trimmed, Warning_
from vmaccess.policy.rules import Rule
from vmaccess.policy.transitions import transitions

NOW, EARLIER = "2026-11-22T12:00:00Z", "2026-11-01T00:00:00Z"
RULES = (Rule(("kubevirt.io",), ("virtualmachines",), ("get",)),)
GIVE = Give(Trimmed(RULES, ()), ())
SUSPENDED = Take(Reason.SUSPENDED, "suspended")
GRANTED, PENDING, REVOKING = Outcome(State.GRANTED), Outcome(State.PENDING), Outcome(State.REVOKING)
CONFLICT = Outcome(State.FAILED, Reason.NAME_CONFLICT, "taken")
MISSING = Outcome(State.FAILED, Reason.NAMESPACE_NOT_FOUND, "missing")
STUCK = failed(REVOKING, Reason.API_ERROR, "no answer")


def grant(status: dict[str, Any] | None = None, **spec: Any) -> Grant:
    """A grant of generation 3."""
    whole = {"subjects": [{"kind": "User", "name": "ann"}], "namespaces": ["a"], **spec}
    metadata = {"name": "g", "uid": "u", "generation": 3, "resourceVersion": "7"}
    return read_grant({"metadata": metadata, "spec": whole, "status": status or {}}, None)


def status(intent: Intent, *outcomes: Outcome, bound: int = 0, of: Grant | None = None) -> dict[str, Any]:
    """The status with these outcomes in namespaces n0, n1, …"""
    namespaces = {f"n{number}": outcome for number, outcome in enumerate(outcomes)}
    return report(of or grant(), Facts(intent, namespaces, {}, bound, ()), NOW)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Status and reason by type."""
    return {condition["type"]: (condition["status"], condition["reason"]) for condition in status["conditions"]}


def kstatus(status: dict[str, Any]) -> str:
    """How cli-utils' kstatus reads it (generic conditions: Reconciling, Stalled, then Ready)."""
    held = {kind for kind, (value, _) in conditions(status).items() if value == "True"}
    if "Reconciling" in held:
        return "InProgress"
    if "Stalled" in held:
        return "Failed"
    return "Current" if "Ready" in held else "InProgress"


@pytest.mark.parametrize(
    ("intent", "outcomes", "bound", "ready", "active", "abnormal", "read"),
    [
        pytest.param(GIVE, [GRANTED, GRANTED], 2, "Granted", "Granted", None, "Current", id="all granted"),
        pytest.param(GIVE, [], 0, "NoNamespaces", "NoNamespaces", None, "Current", id="nothing selected"),
        pytest.param(GIVE, [GRANTED, PENDING], 1, "Progressing", "Granted", "Reconciling", "InProgress", id="on the way"),
        pytest.param(GIVE, [GRANTED, REVOKING], 2, "Progressing", "Granted", "Reconciling", "InProgress", id="still taking away"),
        pytest.param(GIVE, [GRANTED, MISSING], 1, "NamespaceNotFound", "Granted", "Reconciling", "InProgress", id="may pass"),
        pytest.param(GIVE, [GRANTED, CONFLICT], 1, "NameConflict", "Granted", "Stalled", "Failed", id="needs a person"),
        pytest.param(GIVE, [MISSING, CONFLICT], 0, "NameConflict", "NothingGranted", "Stalled", "Failed", id="both: Stalled"),
        pytest.param(
            GIVE, [GRANTED, STUCK], 2, "RevocationFailed", "Granted", "Reconciling", "InProgress", id="revocation fails"
        ),
        pytest.param(SUSPENDED, [], 0, "Suspended", "Suspended", None, "Current", id="suspended and gone"),
        pytest.param(
            SUSPENDED, [REVOKING], 1, "Progressing", "Granted", "Reconciling", "InProgress", id="suspended, not gone yet"
        ),
        pytest.param(
            Hold(Reason.INVALID_SPEC, "why"),
            [GRANTED],
            1,
            "InvalidSpec",
            "Granted",
            "Stalled",
            "Failed",
            id="invalid, still active",
        ),
        pytest.param(
            Hold(Reason.BASE_ROLE_NOT_FOUND, "why"),
            [],
            0,
            "BaseRoleNotFound",
            "BaseRoleNotFound",
            "Reconciling",
            "InProgress",
            id="no base",
        ),
        pytest.param(Take(Reason.ROLE_EMPTY, "why"), [], 0, "RoleEmpty", "RoleEmpty", "Stalled", "Failed", id="an empty role"),
    ],
)
def test_conditions(
    intent: Intent, outcomes: list[Outcome], bound: int, ready: str, active: str, abnormal: str | None, read: str
) -> None:
    found = status(intent, *outcomes, bound=bound)
    assert kstatus(found) == read
    told = conditions(found)
    assert told.pop("Ready") == ("True" if read == "Current" else "False", ready)
    assert told.pop("Active") == ("True" if bound else "False", active)
    assert told == ({abnormal: ("True", ready)} if abnormal else {})
    assert found["observedGeneration"] == 3
    assert {condition["observedGeneration"] for condition in found["conditions"]} == {3}
    counts = found["namespaces"]
    assert counts["selected"] == counts["granted"] + counts["pending"] + counts["failed"]
    assert counts["summary"] == f"{counts['granted']}/{counts['selected']}"


def test_the_first_twenty_failures_in_order_and_the_count_of_all() -> None:
    found = status(GIVE, *[MISSING] * 25)
    assert [failure["namespace"] for failure in found["failures"]] == sorted(f"n{number}" for number in range(25))[:20]
    assert found["namespaces"]["failed"] == 25
    assert "and 24 more" in next(condition["message"] for condition in found["conditions"] if condition["type"] == "Ready")


def test_more_accounts_than_a_status_may_list_do_not_lose_the_status() -> None:
    owned = tuple(("ns", f"sa-{number:03}") for number in range(150))
    found = report(grant(), Facts(GIVE, {"n0": GRANTED}, {}, 1, owned), NOW)
    assert len(found["serviceAccounts"]) == 100


def test_a_condition_keeps_its_date_while_its_status_lasts() -> None:
    before = status(GIVE, GRANTED, bound=1)
    for condition in before["conditions"]:
        condition["lastTransitionTime"] = EARLIER
    after = status(GIVE, GRANTED, MISSING, bound=1, of=grant(before))
    dates = {condition["type"]: condition["lastTransitionTime"] for condition in after["conditions"]}
    assert dates == {"Ready": NOW, "Active": EARLIER, "Reconciling": NOW}
    assert status(GIVE, GRANTED, bound=1, of=grant(before)) == before, "the same facts give the same status"


def test_warnings_follow_the_rights_and_go_with_them() -> None:
    warned = Give(Trimmed(RULES, (Warning_("SecretsReachable", "one"), Warning_("SecretsReachable", "two"))), ())
    everywhere = grant(namespaceSelector={})
    facts = Facts(warned, {"n0": GRANTED}, {}, 1, (("elsewhere", "runner"),))
    told = {condition["type"]: condition for condition in report(everywhere, facts, NOW)["conditions"]}
    assert "every namespace" in told["EveryNamespaceSelected"]["message"]
    assert told["SecretsReachable"]["message"] == "one; two"
    assert "elsewhere/runner" in told["ServiceAccountExposed"]["message"]
    assert told["Ready"]["status"] == "True", "a warning does not make a grant unready"
    assert set(conditions(status(SUSPENDED, of=everywhere))) == {"Ready", "Active"}


def test_events_are_about_what_begins() -> None:
    before, after = status(GIVE, PENDING), status(GIVE, GRANTED, bound=1)
    assert [(note.kind, note.reason) for note in transitions({}, before)] == []
    assert [(note.kind, note.reason) for note in transitions(before, after)] == [("Normal", "Granted")]
    assert list(transitions(after, after)) == []
    failing = status(GIVE, CONFLICT)
    assert [(note.kind, note.reason) for note in transitions(after, failing)] == [("Warning", "NameConflict")]
