"""When a grant gives access, and what it says about it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from vmaccess.model.grant import withdrawals
from vmaccess.policy.children import GrantId
from vmaccess.policy.grant import Deletion, Give, Grant, Hold, Take, intent, read_grant
from vmaccess.policy.reasons import Reason
from vmaccess.policy.report import Facts, report
from vmaccess.policy.rules import parse
from vmaccess.policy.times import Phase, Reading, in_words, next_transition, phase_of

BEGIN = datetime(2027, 1, 31, 8, tzinfo=UTC)
END = datetime(2027, 1, 31, 18, tzinfo=UTC)
BASE = parse([{"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]}])
TIMES: dict[str, Any] = {"notBeforeTime": in_words(BEGIN), "expirationTime": in_words(END)}
SECOND = timedelta(seconds=1)
ACTIVE: dict[str, Any] = {"observedGeneration": 1, "conditions": [{"type": "Active", "status": "True"}]}


def grant(*, generation: int = 1, status: Any = None, **spec: Any) -> Grant:
    """A grant as the API server hands it out."""
    whole = {"subjects": [{"kind": "User", "name": "alice"}], "namespaces": ["a"], **spec}
    metadata = {"name": "g", "uid": "u", "resourceVersion": "1", "generation": generation}
    return read_grant({"metadata": metadata, "spec": whole, "status": status or {}}, None)


def at(moment: datetime, latest: datetime | None = None) -> Reading:
    """A clock that shows this, or a time between two."""
    return Reading(moment.timestamp(), moment.timestamp(), (latest or moment).timestamp())


def phase(of: Grant, now: Reading, *, begun: bool = False) -> Phase:
    """The phase of a grant at a time."""
    return phase_of(of.limits, of.status, of.generation, now, begun=begun)


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (BEGIN - SECOND, Phase.BEFORE),
        (BEGIN, Phase.DURING),
        (END - SECOND, Phase.DURING),
        (END, Phase.AFTER),
        (END + timedelta(days=900), Phase.AFTER),
    ],
)
def test_access_is_from_the_first_time_until_the_second(moment: datetime, expected: Phase) -> None:
    assert phase(grant(**TIMES, status=ACTIVE), at(moment)) is expected


@pytest.mark.parametrize(
    "status",
    [{}, {**ACTIVE, "observedGeneration": 0}, {"observedGeneration": 1, "conditions": [{"type": "Active", "status": "False"}]}],
    ids=["new", "changed", "without access"],
)
def test_where_nothing_is_given_yet_an_end_that_may_have_passed_has(status: Any) -> None:
    """A Date header tells the time up to a second late."""
    assert phase(grant(**TIMES, status=status), at(END - 2 * SECOND)) is Phase.DURING
    assert phase(grant(**TIMES, status=status), at(END - SECOND)) is Phase.AFTER


def test_in_doubt_nothing_is_given() -> None:
    timed = grant(**TIMES)
    assert phase(timed, at(BEGIN - SECOND, BEGIN + SECOND)) is Phase.BEFORE
    assert phase(timed, at(END - SECOND, END)) is Phase.AFTER
    assert phase(timed, at(BEGIN - SECOND, END + SECOND)) is Phase.AFTER


def test_what_has_begun_does_not_go_back_and_ends_all_the_same() -> None:
    timed = grant(**TIMES)
    assert phase(timed, at(BEGIN - timedelta(hours=1)), begun=True) is Phase.DURING
    assert phase(timed, at(END), begun=True) is Phase.AFTER


def test_without_times_a_grant_always_gives() -> None:
    for moment in (BEGIN, datetime(1971, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC)):
        assert phase(grant(), at(moment)) is Phase.DURING


def expired(generation: int) -> dict[str, Any]:
    """A status that says so."""
    return {"expiredGeneration": generation}


def test_what_has_expired_stays_so_whatever_the_clock_says_until_the_spec_changes() -> None:
    assert phase(grant(generation=3, status=expired(3), **TIMES), at(BEGIN)) is Phase.AFTER
    assert phase(grant(generation=4, status=expired(3), **TIMES), at(BEGIN)) is Phase.DURING
    assert phase(grant(generation=3, status=expired(3)), at(BEGIN)) is Phase.DURING, "without an end nothing expires"


BROKEN: dict[str, Any] = {"role": {"preset": "Viewer"}}


@pytest.mark.parametrize(
    "spec", [{}, BROKEN, {"subjects": 3}, {"suspend": True}], ids=["valid", "preset", "subjects", "suspended"]
)
def test_the_end_comes_before_everything_but_deletion(spec: Any) -> None:
    wanted = intent(grant(**TIMES, **spec), BASE, Phase.AFTER)
    assert isinstance(wanted, Take)
    assert (wanted.reason, wanted.accounts) == (Reason.EXPIRED, False)
    assert "2027-01-31T18:00:00Z" in wanted.message
    without_base = intent(grant(**TIMES, **spec), None, Phase.AFTER)
    assert isinstance(without_base, Take)


def test_before_its_time_a_grant_gives_nothing_whatever_is_wrong_with_it() -> None:
    for spec in ({}, BROKEN):
        wanted = intent(grant(**TIMES, **spec), BASE, Phase.BEFORE)
        assert isinstance(wanted, Take)
        assert (wanted.reason, wanted.accounts) == (Reason.NOT_STARTED, False)
    both = intent(grant(**TIMES, suspend=True), BASE, Phase.BEFORE)
    assert isinstance(both, Take)
    assert both.reason is Reason.SUSPENDED, "its time alone will not give it"


def test_during_its_time_it_is_a_grant_like_any_other() -> None:
    assert isinstance(intent(grant(**TIMES), BASE, Phase.DURING), Give)
    assert isinstance(intent(grant(**TIMES, **BROKEN), BASE, Phase.DURING), Hold)


def test_times_that_cannot_be_read_are_an_invalid_spec() -> None:
    broken = grant(expirationTime="tomorrow")
    assert phase(broken, at(END)) is Phase.DURING
    assert isinstance(intent(broken, BASE, Phase.DURING), Hold)


def test_the_next_transition_is_told() -> None:
    limits = withdrawals({"spec": TIMES})
    assert [next_transition(limits, each) for each in Phase] == [BEGIN, END, None]
    assert next_transition(withdrawals({"spec": {}}), Phase.DURING) is None


def told(of: Grant, phase: Phase, *, bound: int = 0, **facts: Any) -> dict[str, Any]:
    """The status, its conditions by type."""
    found = report(of, Facts(intent(of, BASE, phase), {}, {}, bound, (), base=BASE, phase=phase, **facts), "2027-01-01T00:00:00Z")
    return found | {"conditions": {condition["type"]: condition for condition in found["conditions"]}}


def test_an_expired_grant_is_ready_and_not_active() -> None:
    status = told(grant(**TIMES), Phase.AFTER)
    shown = {kind: (condition["status"], condition["reason"]) for kind, condition in status["conditions"].items()}
    assert shown == {"Ready": ("True", "Expired"), "Active": ("False", "Expired")}
    assert "nextTransitionTime" not in status
    assert status["expiredGeneration"] == 1


def test_it_is_told_before_all_of_it_is_gone() -> None:
    status = told(grant(**TIMES), Phase.AFTER, bound=1)
    assert status["conditions"]["Active"]["status"] == "True"
    assert status["expiredGeneration"] == 1
    assert "expiredGeneration" not in told(grant(**TIMES), Phase.DURING, bound=1)


def test_a_grant_before_its_time_tells_when_it_begins() -> None:
    status = told(grant(**TIMES), Phase.BEFORE)
    shown = {kind: (condition["status"], condition["reason"]) for kind, condition in status["conditions"].items()}
    assert shown == {"Ready": ("True", "NotStarted"), "Active": ("False", "NotStarted")}
    assert status["nextTransitionTime"] == "2027-01-31T08:00:00Z"


def test_the_last_hour_is_told_while_there_is_access() -> None:
    last_hour = told(grant(**TIMES), Phase.DURING, bound=1, ends_soon=True)
    assert "2027-01-31T18:00:00Z" in last_hour["conditions"]["ExpiresSoon"]["message"]
    assert last_hour["nextTransitionTime"] == "2027-01-31T18:00:00Z"
    for status in (
        told(grant(**TIMES), Phase.DURING, bound=1),
        told(grant(**TIMES), Phase.DURING, ends_soon=True),
        told(grant(**TIMES), Phase.AFTER, bound=1, ends_soon=True),
    ):
        assert "ExpiresSoon" not in status["conditions"]


def test_a_clock_that_is_off_is_told_where_it_matters() -> None:
    assert "ClockSkewed" in told(grant(**TIMES), Phase.DURING, skewed=True)["conditions"]
    assert "ClockSkewed" in told(grant(**TIMES), Phase.AFTER, skewed=True)["conditions"]
    assert "ClockSkewed" not in told(grant(), Phase.DURING, skewed=True)["conditions"]
    assert "ClockSkewed" not in told(grant(**TIMES), Phase.DURING)["conditions"]


def test_deletion_comes_before_the_end() -> None:
    doomed = grant(**TIMES)
    deleted = Grant(GrantId("g", "u"), 2, 1, Deletion.REVOKE, doomed.spec, doomed.limits, doomed.accounts, doomed.told)
    wanted = intent(deleted, BASE, Phase.AFTER)
    assert isinstance(wanted, Take)
    assert (wanted.reason, wanted.accounts) == (Reason.DELETED, True)
