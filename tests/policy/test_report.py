"""The status, by kstatus' reading of it and by the counts that must add up."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from vmaccess.policy.children import GrantId
from vmaccess.policy.grant import Give, Grant, Hold, Intent, Take, read_grant, status_text
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Facts, Outcome, State, failed, report
from vmaccess.policy.role import Trimmed, Warning_
from vmaccess.policy.rules import Rule, Rules
from vmaccess.policy.target import role_target
from vmaccess.policy.transitions import transitions

NOW, EARLIER = "2026-11-22T12:00:00Z", "2026-11-01T00:00:00Z"
METADATA = {"name": "g", "uid": "u", "generation": 3, "resourceVersion": "7"}
RULES = (Rule(("kubevirt.io",), ("virtualmachines",), ("get",)),)
TARGET = role_target(GrantId("g", "u"))
GIVE = Give(Trimmed(RULES, ()), TARGET, ())
SUSPENDED = Take(Reason.SUSPENDED, "suspended")
GRANTED, PENDING, REVOKING = Outcome(State.GRANTED), Outcome(State.PENDING), Outcome(State.REVOKING)
BLOCKED = Outcome(State.BLOCKED)
CONFLICT = Outcome(State.FAILED, Reason.NAME_CONFLICT, "taken")
MISSING = Outcome(State.FAILED, Reason.NAMESPACE_NOT_FOUND, "missing")
STUCK = failed(REVOKING, Reason.API_ERROR, "no answer")


def grant(status: dict[str, Any] | None = None, **spec: Any) -> Grant:
    """A grant of generation 3."""
    whole = {"subjects": [{"kind": "User", "name": "ann"}], "namespaces": ["a"], **spec}
    return read_grant({"metadata": METADATA, "spec": whole, "status": status or {}}, None)


def status(
    intent: Intent, *outcomes: Outcome, bound: int = 0, of: Grant | None = None, cluster_roles: tuple[Outcome, ...] = ()
) -> dict[str, Any]:
    """The status with these outcomes in namespaces n0, n1, …"""
    namespaces = {f"n{number}": outcome for number, outcome in enumerate(outcomes)}
    return report(of or grant(), Facts(intent, namespaces, {}, bound, (), cluster_roles, base=RULES), NOW)


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


def test_a_status_that_comes_back_is_the_one_that_was_written() -> None:
    told = status(GIVE, GRANTED, failed(GRANTED, Reason.API_ERROR, "café …"), bound=1)
    assert grant(json.loads(json.dumps(told, sort_keys=True))).told == grant(told).told == status_text(told)
    assert grant(told).status == told
    assert grant().told == status_text({}) == read_grant({"metadata": METADATA, "status": None}, None).told


def test_a_report_leaves_the_status_before_it_as_it_is() -> None:
    before = grant(status(GIVE, GRANTED, CONFLICT, bound=1))
    said = deepcopy(before.status)
    for wanted in (GIVE, SUSPENDED, Hold(Reason.INVALID_SPEC, "wrong")):
        assert status(wanted, PENDING, bound=1, of=before) != said
    assert before.status == said


def test_warnings_follow_the_rights_and_go_with_them() -> None:
    warned = Give(Trimmed(RULES, (Warning_("SecretsReachable", "one"), Warning_("SecretsReachable", "two"))), TARGET, ())
    everywhere = grant(namespaceSelector={})
    facts = Facts(warned, {"n0": GRANTED}, {}, 1, (("elsewhere", "runner"),))
    told = {condition["type"]: condition for condition in report(everywhere, facts, NOW)["conditions"]}
    assert "every namespace" in told["EveryNamespaceSelected"]["message"]
    assert told["SecretsReachable"]["message"] == "one; two"
    assert "elsewhere/runner" in told["ServiceAccountExposed"]["message"]
    assert told["Ready"]["status"] == "True", "a warning does not make a grant unready"
    assert set(conditions(status(SUSPENDED, of=everywhere))) == {"Ready", "Active"}


def test_a_danger_is_told_for_as_long_as_it_is_in_force() -> None:
    dangerous = Give(Trimmed(RULES, (Warning_("SecretsReachable", "one"), Warning_("RuleUnmatched", "two"))), TARGET, ())
    refused = status(dangerous, MISSING)
    assert set(conditions(refused)) == {"Ready", "Active", "Reconciling", "RuleUnmatched"}, "nobody can do anything yet"
    given = status(dangerous, GRANTED, bound=1)
    assert conditions(given)["SecretsReachable"] == ("True", "SecretsReachable")
    invalid = Hold(Reason.INVALID_SPEC, "spec.role: why")
    held = status(invalid, GRANTED, bound=1, of=grant(given))
    assert set(conditions(held)) == {"Ready", "Active", "Stalled", "SecretsReachable"}
    assert "spec.role: why; until then the access given before stays" in str(held["conditions"])
    nothing = status(invalid, BLOCKED, of=grant(given))
    assert set(conditions(nothing)) == {"Ready", "Active", "Stalled"}
    assert "until then nothing is given" in str(nothing["conditions"])


def test_what_holds_up_namespaces_that_are_well_is_named_first() -> None:
    awaited = {("not-yet", "runner"): Outcome(State.FAILED, Reason.NAMESPACE_NOT_FOUND, "ServiceAccount 'runner': no namespace")}
    elsewhere = Outcome(State.FAILED, Reason.PROTECTED_NAMESPACE, "protected")
    found = report(grant(), Facts(GIVE, {"a": elsewhere, "b": BLOCKED, "c": BLOCKED}, awaited, 0, ()), NOW)
    ready = next(condition for condition in found["conditions"] if condition["type"] == "Ready")
    assert ready["reason"] == "ProtectedNamespace"
    found = report(grant(), Facts(GIVE, {"b": BLOCKED, "c": BLOCKED}, awaited, 0, ()), NOW)
    ready = next(condition for condition in found["conditions"] if condition["type"] == "Ready")
    assert ready["message"] == "ServiceAccount 'runner': no namespace; 2 namespaces cannot be granted before that"


def test_events_are_about_what_begins() -> None:
    before, after = status(GIVE, PENDING), status(GIVE, GRANTED, bound=1)
    assert [(note.kind, note.reason) for note in transitions({}, before)] == []
    assert [(note.kind, note.reason) for note in transitions(before, after)] == [("Normal", "Granted")]
    assert list(transitions(after, after)) == []
    failing = status(GIVE, CONFLICT)
    assert [(note.kind, note.reason) for note in transitions(after, failing)] == [("Warning", "NameConflict")]


# --- the ClusterRole behind the bindings ---


@pytest.mark.parametrize(
    ("intent", "outcomes", "cluster_role", "ready", "abnormal", "read"),
    [
        pytest.param(GIVE, [GRANTED], GRANTED, "Granted", None, "Current", id="as it should be"),
        pytest.param(GIVE, [BLOCKED], PENDING, "Progressing", "Reconciling", "InProgress", id="on the way"),
        pytest.param(GIVE, [BLOCKED], GRANTED, "Progressing", "Reconciling", "InProgress", id="there, and not bound to yet"),
        pytest.param(GIVE, [GRANTED, BLOCKED], None, "Progressing", "Reconciling", "InProgress", id="nothing heard of it yet"),
        pytest.param(GIVE, [GRANTED], PENDING, "Progressing", "Reconciling", "InProgress", id="being repaired"),
        pytest.param(
            GIVE, [GRANTED], REVOKING, "Progressing", "Reconciling", "InProgress", id="of another target, on its way out"
        ),
        pytest.param(GIVE, [BLOCKED], CONFLICT, "NameConflict", "Stalled", "Failed", id="the name is taken"),
        pytest.param(GIVE, [MISSING], CONFLICT, "NameConflict", "Stalled", "Failed", id="taken, and a namespace is missing"),
        pytest.param(GIVE, [GRANTED], STUCK, "RevocationFailed", "Reconciling", "InProgress", id="it should be gone and is not"),
        pytest.param(
            GIVE,
            [BLOCKED],
            failed(PENDING, Reason.ESCALATION, "no", final=True),
            "Escalation",
            "Stalled",
            "Failed",
            id="the operator does not hold it",
        ),
        pytest.param(
            GIVE, [BLOCKED], failed(PENDING, Reason.API_ERROR, "no"), "APIError", "Reconciling", "InProgress", id="no answer"
        ),
        pytest.param(SUSPENDED, [], None, "Suspended", None, "Current", id="suspended and gone"),
        pytest.param(SUSPENDED, [], REVOKING, "Progressing", "Reconciling", "InProgress", id="suspended, not gone yet"),
        pytest.param(SUSPENDED, [], STUCK, "RevocationFailed", "Reconciling", "InProgress", id="suspended, and it will not go"),
    ],
)
def test_what_became_of_the_cluster_role(
    intent: Intent, outcomes: list[Outcome], cluster_role: Outcome | None, ready: str, abnormal: str | None, read: str
) -> None:
    found = status(intent, *outcomes, cluster_roles=(cluster_role,) if cluster_role is not None else ())
    assert kstatus(found) == read
    told = conditions(found)
    assert told["Ready"] == ("True" if read == "Current" else "False", ready)
    assert set(told) == {"Ready", "Active"} | ({abnormal} if abnormal else set())
    counts = found["namespaces"]
    assert counts["selected"] == counts["granted"] + counts["pending"] + counts["failed"] == len(outcomes), "it is no namespace"
    assert counts["revoking"] == 0


def test_a_failing_cluster_role_is_listed_first_and_in_no_namespace() -> None:
    found = status(GIVE, *[MISSING] * 25, cluster_roles=(CONFLICT, GRANTED))
    assert found["failures"][0] == {"namespace": "", "reason": "NameConflict", "message": "taken"}
    assert [failure["namespace"] for failure in found["failures"][1:]] == sorted(f"n{number}" for number in range(25))[:19]
    assert found["namespaces"]["failed"] == 25
    stalled = next(condition for condition in found["conditions"] if condition["type"] == "Stalled")
    assert stalled["message"] == "taken (and 25 more, see status.failures)"


# --- the base role, and what became of it ---

READING = Rule(("kubevirt.io",), ("virtualmachines",), ("get", "list"))
STARTING = Rule(("subresources.kubevirt.io",), ("virtualmachines/start",), ("update",))
RESETTING = Rule(("subresources.kubevirt.io",), ("virtualmachineinstances/reset",), ("update",))
EMPTY = Take(Reason.ROLE_EMPTY, "nothing left")
BASELESS = Hold(Reason.BASE_ROLE_NOT_FOUND, "no such ClusterRole")


def giving(*rules: Rule) -> Give:
    """The intent to give these rights."""
    return Give(Trimmed(rules, ()), TARGET, ())


def over(
    base: Rules | None, intent: Intent, of: Grant | None = None, before: Rules | None = None, bound: int = 1
) -> dict[str, Any]:
    """The status of a grant in one namespace over this base; `before` are the rules that the status was last written for."""
    return report(of or grant(), Facts(intent, {"n0": GRANTED}, {}, bound, (), base=base, before=before), NOW)


def changed(found: dict[str, Any]) -> str | None:
    """What the condition BaseRoleChanged says."""
    told = (condition for condition in found["conditions"] if condition["type"] == "BaseRoleChanged")
    return next((condition["message"] for condition in told if condition["status"] == "True"), None)


def test_the_status_names_the_base_and_fingerprints_it() -> None:
    one, two = over((READING, STARTING), giving(READING)), over((READING, RESETTING), giving(READING))
    assert one["role"]["from"] == "kubevirt.io:admin"
    assert one["role"]["baseHash"] != two["role"]["baseHash"]
    assert one["role"]["hash"] == two["role"]["hash"]
    assert over((READING, STARTING), giving(READING, STARTING))["role"]["hash"] != one["role"]["hash"]
    assert [one["role"][field] for field in ("preset", "rules")] == ["View", 1]
    own = grant(role={"from": "team-base", "keep": [{"resources": ["virtualmachines"], "verbs": ["get"]}]})
    assert [over((READING,), giving(READING), own)["role"][field] for field in ("from", "preset")] == ["team-base", "Custom"]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param([READING], [READING, RESETTING], "+virtualmachineinstances/reset update", id="a right gained"),
        pytest.param([READING, RESETTING], [READING], "-virtualmachineinstances/reset update", id="a right lost"),
        pytest.param(
            [READING, STARTING],
            [READING, RESETTING],
            "-virtualmachines/start update; +virtualmachineinstances/reset update",
            id="one for another",
        ),
        pytest.param(
            [READING],
            [Rule(("kubevirt.io",), ("virtualmachines",), ("get", "watch"))],
            "-virtualmachines list; +virtualmachines watch",
            id="another verb",
        ),
        pytest.param(
            [READING],
            [READING, Rule(("",), ("events",), ("get", "list"))],
            "+events (core) get, list",
            id="the core group",
        ),
        pytest.param(
            [READING],
            [READING, Rule(("snapshot.kubevirt.io",), ("virtualmachinesnapshots",), ("get",))],
            "+virtualmachinesnapshots (snapshot.kubevirt.io) get",
            id="another group",
        ),
        pytest.param(
            [READING],
            [READING, Rule(("kubevirt.io",), ("virtualmachineinstances",), ("get",), ("web-1", "web-2"))],
            "+virtualmachineinstances [web-1, web-2] get",
            id="named machines",
        ),
        pytest.param([READING, RESETTING], [], "-virtualmachines get, list; -virtualmachineinstances/reset update", id="all"),
    ],
)
def test_a_change_of_the_base_is_told_in_words(before: list[Rule], after: list[Rule], words: str) -> None:
    first = over(tuple(before), giving(*before))
    assert changed(first) is None, "the first base is no change"
    intent = giving(*after) if after else EMPTY
    second = over(tuple(after), intent, grant(first), tuple(before))
    message = changed(second)
    assert message is not None
    start, colon, told = message.partition(": ")
    assert start + colon == "the ClusterRole 'kubevirt.io:admin' has changed, and this grant with it: "
    assert sorted(told.split("; ")) == sorted(words.split("; "))
    assert second["role"]["baseHash"] != first["role"]["baseHash"]
    assert second["role"]["rules"] == len(after)
    assert conditions(second)["Ready"][0] == ("True" if after else "False"), "by itself a warning"
    (note,) = [note for note in transitions(first, second) if note.reason == "BaseRoleChanged"]
    assert (note.kind, note.message) == ("Warning", message)
    assert over(tuple(after), intent, grant(second), tuple(before)) == second, "and it stays as it is"
    assert over(tuple(after), intent, grant(second)) == second, "after a restart too, when nobody knows what was before"
    assert not [note for note in transitions(second, second) if note.reason == "BaseRoleChanged"]


def test_a_second_change_is_told_anew_and_a_next_spec_ends_it() -> None:
    first = over((READING,), giving(READING))
    second = over((READING, STARTING), giving(READING, STARTING), grant(first), (READING,))
    third = over((READING, RESETTING), giving(READING, RESETTING), grant(second), (READING, STARTING))
    assert changed(third) != changed(second)
    assert [note.reason for note in transitions(second, third)] == ["BaseRoleChanged"]
    later = replace(grant(third), generation=4)
    assert changed(over((READING, RESETTING), giving(READING, RESETTING), later, (READING, STARTING))) is None


def test_a_spec_that_changes_together_with_the_base_is_no_change_of_the_base() -> None:
    first = over((READING,), giving(READING))
    assert changed(over((READING, STARTING), giving(STARTING), replace(grant(first), generation=4), (READING,))) is None


def test_a_change_that_concerns_nothing_of_the_grant_shows_in_the_fingerprint_alone() -> None:
    first = over((READING,), giving(READING))
    second = over((READING, STARTING), giving(READING), grant(first))
    assert changed(second) is None
    assert second["role"]["baseHash"] != first["role"]["baseHash"]
    assert second["role"]["hash"] == first["role"]["hash"]
    assert list(transitions(first, second)) == []


def test_a_change_whose_beginning_nobody_knows_any_more_is_told_all_the_same() -> None:
    first = over((READING,), giving(READING))
    message = changed(over((READING, STARTING), giving(READING, STARTING), grant(first), None))
    assert message is not None
    assert message.endswith("which rights changed is not known any more")


def test_a_status_from_before_there_were_fingerprints_is_no_change() -> None:
    first = over((READING,), giving(READING))
    del first["role"]["baseHash"]
    assert changed(over((READING, STARTING), giving(READING, STARTING), grant(first))) is None


@pytest.mark.parametrize("hold", [BASELESS, Hold(Reason.INVALID_SPEC, "a name has vanished from the base")])
def test_while_nothing_is_given_or_taken_the_role_stays_as_it_was_told(hold: Hold) -> None:
    first = over((READING, STARTING), giving(READING, STARTING))
    held = over(None, hold, grant(first))
    assert held["role"] == first["role"]
    back = over((READING,), giving(READING), grant(held), (READING, STARTING))
    message = changed(back)
    assert message is not None
    assert message.endswith(": -virtualmachines/start update")
    same = over((READING, STARTING), giving(READING, STARTING), grant(held))
    assert changed(same) is None
    assert same["role"] == first["role"]


def test_the_role_of_an_earlier_spec_is_told_while_it_is_in_force() -> None:
    """And what the base does then is not mixed up with what the new spec does."""
    first = over((READING,), giving(READING))
    held = over(None, BASELESS, replace(grant(first), generation=4))
    assert held["role"] == {key: value for key, value in first["role"].items() if key != "baseHash"}
    assert changed(over((STARTING,), giving(STARTING), replace(grant(held), generation=4))) is None
    assert "role" not in over(None, BASELESS, replace(grant(first), generation=4), bound=0)
    assert "role" not in over((READING,), SUSPENDED, grant(first))


def test_a_change_was_told_while_the_base_is_away_for_a_moment() -> None:
    """The same base comes back: what its last change has done is still true."""
    first = over((READING, STARTING), giving(READING, STARTING))
    second = over((READING,), giving(READING), grant(first), (READING, STARTING))
    away = over(None, BASELESS, grant(second))
    assert changed(over((READING,), giving(READING), grant(away))) == changed(second)


def test_no_more_rights_are_named_than_a_person_reads() -> None:
    many = tuple(Rule(("kubevirt.io",), (f"kind{number}",), ("get",)) for number in range(60))
    message = changed(over(many, giving(*many), grant(over((), EMPTY)), ()))
    assert message is not None
    assert message.count("+kind") == 40
    assert message.endswith("; and 20 more")
