"""The status of a grant, computed from what is known of its namespaces. Conditions follow kstatus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from pydantic import ValidationError

from vmaccess.model.spec import LabelSelector, Spec
from vmaccess.model.status import (
    MAX_FAILURES,
    MAX_SERVICE_ACCOUNTS,
    Condition,
    Failure,
    Namespaces,
    RoleStatus,
    ServiceAccountStatus,
    Status,
)
from vmaccess.policy.catalogue import preset_of
from vmaccess.policy.grant import Give, Grant, Hold, Intent, Take, rules_hash
from vmaccess.policy.reasons import STALLING, ConditionType, Reason, Warned
from vmaccess.policy.rules import Rules, intersect
from vmaccess.policy.times import Phase, in_words, next_transition
from vmaccess.policy.words import difference

ScopedName = tuple[str, str]

DANGERS = (Warned.SECRETS_REACHABLE, Warned.EVERY_NAMESPACE, Warned.SERVICE_ACCOUNT_EXPOSED)
"""Warnings of what access in force can do, as against those of what a spec does not do."""

EVERY_NAMESPACE = (
    "namespaceSelector is {}, which selects every namespace that is neither protected nor excluded, also those to come: "
    "name a label if that is not meant"
)


CLOCK_SKEWED = (
    "the clocks of the operator and of the API server differ by more than 5 seconds: access begins and ends by the API server's, "
    "see to it that both are kept by NTP"
)


class State(Enum):
    """What a namespace or a ServiceAccount of a grant has come to."""

    GRANTED = "granted"
    PENDING = "pending"
    BLOCKED = "pending until something else is cured"
    FAILED = "failed"
    REVOKING = "revoking"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A state, and for what has failed the reason and a message for a person.

    `final` says that the API server refused it for good, so that waiting does not help.
    """

    state: State
    reason: Reason | None = None
    message: str = ""
    final: bool = False

    def is_like(self, other: Outcome) -> bool:
        """Whether nothing but the wording is different."""
        return (self.state, self.reason, self.final) == (other.state, other.reason, other.final)

    @property
    def moving(self) -> bool:
        """Whether it is being worked on, so that this is not the last that is heard of it."""
        return self.state in (State.PENDING, State.REVOKING)


def failed(wanted: Outcome | None, reason: Reason, message: str, *, final: bool = False) -> Outcome:
    """What has come of a try that failed; a revocation that failed is a failure of its own kind, whatever stood in its way."""
    if wanted is not None and wanted.state is State.REVOKING:
        return Outcome(State.REVOKING, Reason.REVOCATION_FAILED, message, final)
    return Outcome(State.FAILED, reason, message, final)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a status is computed from, beside the grant itself.

    `namespaces` and `accounts` hold an outcome for all that is selected or listed, and for what should be gone and is not.
    `cluster_roles` tells what has come of the ClusterRole behind the bindings, its own or a shared one.
    `bound` is the number of namespaces in which a RoleBinding of the grant exists, `owned` the ServiceAccounts that are its own.
    `base` are the rules of the base role, `before` those that the status was last written for, where they are known.
    `kubeconfigs` tells what has come of those of ServiceAccounts, `tokens` when the tokens in them expire.
    `ends_soon` and `skewed` tell of the time that is left and of the operator's clock.
    """

    intent: Intent
    namespaces: Mapping[str, Outcome]
    accounts: Mapping[ScopedName, Outcome]
    bound: int
    owned: tuple[ScopedName, ...]
    cluster_roles: tuple[Outcome, ...] = ()
    kubeconfigs: Mapping[ScopedName, Outcome] = field(default_factory=dict)
    tokens: Mapping[ScopedName, datetime] = field(default_factory=dict)
    base: Rules | None = None
    before: Rules | None = None
    phase: Phase = Phase.DURING
    ends_soon: bool = False
    skewed: bool = False

    @property
    def moving(self) -> bool:
        """Whether something is being worked on."""
        parts = (self.namespaces.values(), self.accounts.values(), self.kubeconfigs.values(), self.cluster_roles)
        return any(outcome.moving for part in parts for outcome in part)


@dataclass(frozen=True, slots=True)
class _Word:
    reason: str
    message: str


def report(grant: Grant, facts: Facts, now: str) -> dict[str, Any]:
    """The status as JSON. `now` (RFC 3339) dates the conditions that change; the others keep their date."""
    counts = Counter(outcome.state for outcome in facts.namespaces.values())
    selected = len(facts.namespaces) - counts[State.REVOKING]
    granted = counts[State.GRANTED]
    failures = sorted(_failures(facts), key=lambda failure: (failure.namespace, failure.reason, failure.message))

    stalled = _stalled(facts, failures)
    reconciling = None if stalled else _reconciling(facts, failures, counts)
    words: dict[str, tuple[bool, _Word]] = {
        ConditionType.READY: (not (stalled or reconciling), stalled or reconciling or _done(facts, granted, selected)),
        ConditionType.ACTIVE: (facts.bound > 0, _active(facts, selected)),
    }
    for abnormal, word in ((ConditionType.RECONCILING, reconciling), (ConditionType.STALLED, stalled)):
        if word is not None:
            words[abnormal] = (True, word)
    for warning, message in _warnings(grant, facts):
        words[warning] = (True, _Word(warning, message))

    following = next_transition(grant.limits, facts.phase)
    status = Status(
        observed_generation=grant.generation,
        conditions=tuple(_condition(kind, *word, grant=grant, now=now) for kind, word in words.items()),
        namespaces=Namespaces(
            selected=selected,
            granted=granted,
            pending=counts[State.PENDING] + counts[State.BLOCKED],
            failed=counts[State.FAILED],
            revoking=counts[State.REVOKING],
            summary=f"{granted}/{selected}",
        ),
        failures=tuple(failures[:MAX_FAILURES]) or None,
        service_accounts=tuple(
            ServiceAccountStatus(
                namespace=namespace,
                name=name,
                kubeconfig_expiration_time=in_words(expires) if (expires := facts.tokens.get((namespace, name))) else None,
            )
            for namespace, name in sorted(facts.owned)[:MAX_SERVICE_ACCOUNTS]
        )
        or None,
        role=_role(grant, facts),
        expired_generation=grant.generation if facts.phase is Phase.AFTER else None,
        next_transition_time=in_words(following) if following is not None else None,
    )
    return status.dump()


def _failures(facts: Facts) -> Iterable[Failure]:
    for outcome in facts.cluster_roles:
        if outcome.reason is not None:
            yield Failure(namespace="", reason=outcome.reason, message=outcome.message)
    for namespace, outcome in facts.namespaces.items():
        if outcome.reason is not None:
            yield Failure(namespace=namespace, reason=outcome.reason, message=outcome.message)
    for (namespace, _), outcome in (*facts.accounts.items(), *facts.kubeconfigs.items()):
        if outcome.reason is not None:
            yield Failure(namespace=namespace, reason=outcome.reason, message=outcome.message)


def _stalled(facts: Facts, failures: list[Failure]) -> _Word | None:
    match facts.intent:
        case Hold(reason=Reason.INVALID_SPEC, message=message):
            stays = "until then the access given before stays" if facts.bound else "until then nothing is given"
            return _Word(Reason.INVALID_SPEC, f"{message}; {stays}")
        case Hold(reason, message) | Take(reason, message) if reason in STALLING:
            return _Word(reason, message)
    return next((word for reason in STALLING if (word := _first(failures, reason))), None)


def _reconciling(facts: Facts, failures: list[Failure], counts: Counter[State]) -> _Word | None:
    match facts.intent:
        case Hold(reason, message):
            return _Word(reason, message)
    if failures:
        if counts[State.BLOCKED] and (blocker := _blocker(facts)) is not None:
            return blocker
        order = (Reason.REVOCATION_FAILED, *(Reason(failure.reason) for failure in failures))
        return next(word for reason in order if (word := _first(failures, reason)))
    waiting = counts[State.PENDING] + counts[State.BLOCKED]
    if facts.moving or waiting:
        return _Word(
            Reason.PROGRESSING,
            f"namespaces: {waiting} to grant, {counts[State.REVOKING]} to revoke, {counts[State.GRANTED]} granted",
        )
    return None


def _blocker(facts: Facts) -> _Word | None:
    """What namespaces wait for that are well themselves, unless a right stands that should be gone."""
    if any(outcome.reason is Reason.REVOCATION_FAILED for outcome in facts.namespaces.values()):
        return None
    blocked = sum(outcome.state is State.BLOCKED for outcome in facts.namespaces.values())
    for outcome in (*facts.cluster_roles, *facts.accounts.values()):
        if outcome.reason is not None:
            return _Word(outcome.reason, f"{outcome.message}; {_namespaces(blocked)} cannot be granted before that")
    return None


def _first(failures: list[Failure], reason: Reason) -> _Word | None:
    alike = [failure for failure in failures if failure.reason == reason]
    if not alike:
        return None
    more = f" (and {len(failures) - 1} more, see status.failures)" if len(failures) > 1 else ""
    where = f"{alike[0].namespace}: " if alike[0].namespace else ""
    return _Word(reason, f"{where}{alike[0].message}{more}")


def _done(facts: Facts, granted: int, selected: int) -> _Word:
    match facts.intent:
        case Take(reason, message):
            return _Word(reason, message)
    if selected == 0:
        return _Word(Reason.NO_NAMESPACES, "no namespace is selected at present: access is granted as soon as one is")
    return _Word(Reason.GRANTED, f"access is granted in {_namespaces(selected, granted)}")


def _namespaces(count: int, done: int | None = None) -> str:
    of = f"{done} of " if done is not None else ""
    return f"{of}{count} namespace{'' if count == 1 else 's'}"


def _active(facts: Facts, selected: int) -> _Word:
    if facts.bound:
        return _Word(Reason.GRANTED, f"the grant gives access in {_namespaces(facts.bound)}")
    match facts.intent:
        case Take(reason, message) | Hold(reason, message):
            return _Word(reason, message)
    if selected == 0:
        return _Word(Reason.NO_NAMESPACES, "no namespace is selected at present")
    return _Word(Reason.NOTHING_GRANTED, "the grant gives no access anywhere yet")


def _warnings(grant: Grant, facts: Facts) -> Iterable[tuple[str, str]]:
    """Warnings follow the rights that result: those of danger are there while something is in force, as long as it is."""
    if changed := _base_change(grant, facts):
        yield Warned.BASE_CHANGED, changed
    if isinstance(facts.intent, Hold) and facts.bound:
        for told in grant.status.get("conditions") or ():
            if told.get("type") in DANGERS:
                yield told["type"], told["message"]  # what they warn of is still in force
    yield from _warnings_of_time(grant, facts)
    if not isinstance(facts.intent, Give):
        return
    messages: dict[str, list[str]] = {}
    for warning in facts.intent.trimmed.warnings:
        if facts.bound or warning.type not in DANGERS:
            messages.setdefault(warning.type, []).append(warning.message)
    if (selection := grant.limits.selection) is not None and selection.selector == LabelSelector():
        messages[Warned.EVERY_NAMESPACE] = [EVERY_NAMESPACE]
    exposed = sorted(f"{namespace}/{name}" for namespace, name in facts.owned if namespace not in facts.namespaces)
    if exposed:
        exposure = (
            f"whoever may create pods in the namespace of {', '.join(exposed)} can act with this access, and it is not a granted "
            f"namespace: put the ServiceAccount where only its users may create pods"
        )
        messages[Warned.SERVICE_ACCOUNT_EXPOSED] = [exposure]
    for kind in sorted(messages):
        yield kind, "; ".join(messages[kind])


def _warnings_of_time(grant: Grant, facts: Facts) -> Iterable[tuple[str, str]]:
    limits = grant.limits
    if facts.ends_soon and facts.bound and facts.phase is Phase.DURING and limits.ends is not None:
        yield (
            Warned.EXPIRES_SOON,
            f"the access ends at {in_words(limits.ends)}: set a later spec.expirationTime where it is needed for longer",
        )
    if facts.skewed and (limits.begins is not None or limits.ends is not None):
        yield Warned.CLOCK_SKEWED, CLOCK_SKEWED


def _condition(kind: str, holds: bool, word: _Word, *, grant: Grant, now: str) -> Condition:  # noqa: FBT001
    status = "True" if holds else "False"
    previous: Mapping[str, Any] = next((old for old in grant.status.get("conditions") or () if old.get("type") == kind), {})
    since = previous.get("lastTransitionTime") if previous.get("status") == status else None
    return Condition(
        type=kind,
        status=status,
        reason=word.reason,
        message=word.message,
        last_transition_time=since or now,
        observed_generation=grant.generation,
    )


def _role(grant: Grant, facts: Facts) -> RoleStatus | None:
    """The role that is granted; while nothing is given or taken, the one that was reported last and is in force."""
    rules = _rules(facts)
    if rules is None and isinstance(facts.intent, Hold):
        reported = _reported_role(grant)
        if not reported and facts.bound:  # of an earlier spec: which base it came from says nothing about this one
            reported = {key: value for key, value in (grant.status.get("role") or {}).items() if key != "baseHash"}
        try:
            return RoleStatus.model_validate(reported) if reported else None
        except ValidationError:
            return None  # somebody else has written there
    if rules is None or facts.base is None or not isinstance(grant.spec, Spec):
        return None
    return RoleStatus(
        from_=grant.base,
        base_hash=rules_hash(facts.base),
        preset=preset_of(grant.spec.role) or "Custom",
        rules=len(rules),
        hash=rules_hash(rules),
    )


def _rules(facts: Facts) -> Rules | None:
    """The rules that follow from the spec and the base role, None where that cannot be told."""
    match facts.intent:
        case Give(trimmed=trimmed):
            return trimmed.rules
        case Take(reason=Reason.ROLE_EMPTY):
            return ()
        case Hold(ceiling=ceiling) if ceiling is not None and facts.before is not None:
            return intersect(facts.before, ceiling)
    return None


def _base_change(grant: Grant, facts: Facts) -> str:
    """What the last change of the base role has done to this grant, for as long as its spec stays the same."""
    rules, reported = _rules(facts), _reported_role(grant)
    told = next((old["message"] for old in grant.status.get("conditions") or () if old.get("type") == Warned.BASE_CHANGED), "")
    if not reported:
        return ""
    if rules is None or facts.base is None:
        return told if isinstance(facts.intent, Hold) else ""
    if reported.get("baseHash") not in (None, rules_hash(facts.base)) and reported.get("hash") != rules_hash(rules):
        what = difference(facts.before, rules) if facts.before is not None else "which rights changed is not known any more"
        return f"the ClusterRole {grant.base!r} has changed, and this grant with it: {what}"
    return told


def _reported_role(grant: Grant) -> Mapping[str, Any]:
    """`status.role` as it was written for the present spec."""
    return grant.status.get("role") or {} if grant.status.get("observedGeneration") == grant.generation else {}
