"""The rule algebra against what rules mean: a set of requests in a small universe, computed here from Kubernetes' definition."""

from __future__ import annotations

import json
from itertools import product
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmaccess.policy.rules import Rule, Rules, allows, covers, intersect, normalise, overlaps, parse, render, subtract, uncovered

# The universe has a name in every place that no rule ever mentions (`other`), so that a wildcard is more than all that is named.
GROUPS = ("", "g1", "g2")
RESOURCES = ("r1", "r2", "r1/s1", "r2/s1", "r1/s1/t1", "r1/s2")
PATTERNS = ("*", "*/s1", "*/s1/t1", *RESOURCES)
VERBS = ("get", "list", "update")
NAMES = ("n1", "n2")
UNIVERSE = tuple(
    product(
        (*GROUPS, "other"),
        (*RESOURCES, "other", "other/s1", "other/s1/t1", "r1/other", "r2/s1/t1"),
        (*VERBS, "other"),
        (*NAMES, "other", ""),
    )
)
VOCABULARY = (Rule(GROUPS, RESOURCES, VERBS),)

Request: TypeAlias = tuple[str, str, str, str]


def meaning(rules: Rules) -> frozenset[Request]:
    def passes(rule: Rule, request: Request) -> bool:
        group, resource, verb, name = request
        subresource = resource.split("/", 1)[1] if "/" in resource else None
        return (
            ("*" in rule.verbs or verb in rule.verbs)
            and ("*" in rule.api_groups or group in rule.api_groups)
            and (
                "*" in rule.resources
                or resource in rule.resources
                or (subresource is not None and f"*/{subresource}" in rule.resources)
            )
            and (not rule.resource_names or name in rule.resource_names)
        )

    return frozenset(request for request in UNIVERSE if any(passes(rule, request) for rule in rules))


def some(values: tuple[str, ...], least: int = 1) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True).map(tuple)


RULE = st.builds(Rule, some((*GROUPS, "*")), some(PATTERNS), some((*VERBS, "*")), st.one_of(st.just(()), some(NAMES)))
UNNAMED = st.builds(Rule, some((*GROUPS, "*")), some(PATTERNS), some((*VERBS, "*")))
RULES = st.lists(RULE, max_size=4).map(tuple)
EXPLICIT = st.lists(
    st.builds(Rule, some(GROUPS), some(RESOURCES), some(VERBS), st.one_of(st.just(()), some(NAMES))), max_size=4
).map(tuple)


@given(RULES)
def test_allows_is_kubernetes_answer(rules: Rules) -> None:
    assert {request for request in UNIVERSE if allows(rules, request[0], request[1], request[2], request[3])} == meaning(rules)


@given(RULES, RULES)
def test_covers_exactly_what_means_no_more(owner: Rules, wanted: Rules) -> None:
    assert covers(owner, wanted) == (meaning(wanted) <= meaning(owner))


def atoms(rules: Rules) -> list[Rule]:
    """The same rules, each of one group, resource, verb and name."""
    return [
        Rule((group,), (resource,), (verb,), (name,) if name else ())
        for rule in rules
        for group, resource, verb, name in product(rule.api_groups, rule.resources, rule.verbs, rule.resource_names or ("",))
    ]


@given(RULES, RULES)
def test_uncovered_is_all_that_is_wanted_and_not_covered_and_nothing_else(owner: Rules, wanted: Rules) -> None:
    missing = uncovered(owner, wanted)
    assert missing == normalise(missing)
    assert covers((*owner, *missing), wanted)
    assert meaning(wanted) - meaning(owner) <= meaning(missing) <= meaning(wanted)
    assert not [atom for atom in atoms(missing) if covers(owner, (atom,))], "what is covered is not missing"
    assert all(allows(wanted, group, resource, verb, name) for group, resource, verb, name in meaning(missing))
    assert uncovered((*owner, *missing), wanted) == ()


@given(RULES, RULES)
def test_intersect_is_exact(a: Rules, b: Rules) -> None:
    both = meaning(a) & meaning(b)
    assert meaning(intersect(a, b)) == both
    assert overlaps(a, b) == bool(both)
    assert intersect(a, b) == intersect(b, a)


@settings(max_examples=200)
@given(RULES, RULES)
def test_subtract_leaves_nothing_of_what_is_taken_and_adds_nothing(a: Rules, b: Rules) -> None:
    left = meaning(subtract(a, b, VOCABULARY))
    assert not left & meaning(b)
    assert left <= meaning(a)


@settings(max_examples=200)
@given(RULES, st.lists(UNNAMED, max_size=3).map(tuple))
def test_subtract_keeps_every_known_name_that_is_not_taken(a: Rules, b: Rules) -> None:
    def known(requests: frozenset[Request]) -> set[Request]:
        return {
            (group, resource, verb, name)
            for group, resource, verb, name in requests
            if group in GROUPS and resource in RESOURCES and verb in VERBS
        }

    assert known(meaning(subtract(a, b, VOCABULARY))) == known(meaning(a) - meaning(b))


@given(EXPLICIT, st.lists(UNNAMED, max_size=3).map(tuple))
def test_subtract_is_exact_where_nothing_needs_expanding(a: Rules, b: Rules) -> None:
    assert meaning(subtract(a, b, ())) == meaning(a) - meaning(b)


@settings(max_examples=200)
@given(RULES, RULES, st.randoms(use_true_random=False))
def test_how_it_is_written_what_to_subtract_has_no_say(a: Rules, b: Rules, random: Any) -> None:
    mixed = tuple(random.sample(b, len(b)))
    assert subtract(a, (*mixed, *b[:1]), VOCABULARY) == subtract(a, b, VOCABULARY)


def test_what_is_taken_first_does_not_decide_what_a_wildcard_is_spelled_out_as() -> None:
    base, all_of_it, one_verb = (Rule(("g",), *rest) for rest in ((("*",), ("*",)), (("a",), ("*",)), (("a",), ("get",))))
    vocabulary = (Rule(("g",), ("a", "b"), ("get", "list")),)
    expected = (Rule(("g",), ("b",), ("*",)),)
    assert subtract((base,), (all_of_it, one_verb), vocabulary) == expected
    assert subtract((base,), (one_verb, all_of_it), vocabulary) == expected


@given(RULES)
def test_subtract_of_nothing_and_of_itself(rules: Rules) -> None:
    assert subtract(rules, (), ()) == normalise(rules)
    assert subtract(rules, rules, VOCABULARY) == ()


@given(RULES, st.randoms(use_true_random=False))
def test_normalise_is_canonical(rules: Rules, random: Any) -> None:
    short = normalise(rules)
    assert meaning(short) == meaning(rules)
    assert normalise(short) == short

    def shuffled(items: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(random.sample(items, len(items)))

    again = tuple(
        Rule(shuffled(r.api_groups), shuffled(r.resources), shuffled(r.verbs), shuffled(r.resource_names)) for r in rules
    )
    mixed = random.sample(again, len(again)) + list(again[:1])
    assert json.dumps(render(normalise(mixed))) == json.dumps(render(short))


@given(RULES, RULES)
def test_equal_meaning_gives_equal_rules(a: Rules, b: Rules) -> None:
    assert (normalise(a) == normalise(b)) == (meaning(a) == meaning(b))


@given(RULES)
def test_render_and_parse_are_inverse(rules: Rules) -> None:
    assert parse(render(rules)) == rules


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(None, (), id="an aggregated role that is still empty"),
        pytest.param([{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}], (), id="nonResourceURLs only"),
        pytest.param([{"apiGroups": None, "resources": ["pods"], "verbs": ["get"]}], (), id="null groups give nothing"),
        pytest.param([{"apiGroups": [""], "resources": ["pods"]}], (), id="no verbs give nothing"),
        pytest.param(
            [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
            (Rule(("",), ("pods",), ("get",)),),
            id="the core group",
        ),
        pytest.param(
            [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], "resourceNames": ["a"]}],
            (Rule(("",), ("pods",), ("get",), ("a",)),),
            id="resourceNames",
        ),
    ],
)
def test_parse(raw: list[dict[str, Any]] | None, expected: Rules) -> None:
    assert parse(raw) == expected


def rule(resources: str, verbs: str = "get", names: str = "", group: str = "g") -> Rule:
    return Rule((group,), tuple(resources.split()), tuple(verbs.split()), tuple(names.split()))


@pytest.mark.parametrize(
    ("given_rule", "resource", "name", "expected"),
    [
        pytest.param(rule("vms/*"), "vms/vnc", None, False, id="there is no res/*"),
        pytest.param(rule("*/vnc"), "vms/vnc", None, True, id="*/sub matches any resource"),
        pytest.param(rule("*/vnc"), "vms/vnc/screenshot", None, False, id="*/sub does not reach below"),
        pytest.param(rule("*/vnc/screenshot"), "vms/vnc/screenshot", None, True, id="*/sub/sub"),
        pytest.param(rule("*/vnc"), "vnc", None, False, id="*/sub is no resource of that name"),
        pytest.param(rule("vms"), "vms/vnc", None, False, id="a resource is not its subresources"),
        pytest.param(rule("*"), "vms/vnc", None, True, id="* is the subresources too"),
        pytest.param(rule("vms", names="a"), "vms", "a", True, id="named"),
        pytest.param(rule("vms", names="a"), "vms", "b", False, id="another name"),
        pytest.param(rule("vms", names="a"), "vms", None, False, id="list has no name"),
    ],
)
def test_allows(given_rule: Rule, resource: str, name: str | None, expected: bool) -> None:  # noqa: FBT001 - a table column
    assert allows((given_rule,), "g", resource, "get", name) is expected


@pytest.mark.parametrize(
    ("owner", "wanted", "expected"),
    [
        pytest.param(rule("vms", "*"), rule("vms", "get update"), True, id="any verb covers verbs"),
        pytest.param(rule("vms", "get list"), rule("vms", "*"), False, id="verbs never cover any verb"),
        pytest.param(rule("*/scale"), rule("vms/scale"), True, id="*/sub covers a sub"),
        pytest.param(rule("vms/scale"), rule("*/scale"), False, id="a sub does not cover */sub"),
        pytest.param(rule("*"), rule("*/scale vms"), True, id="* covers all"),
        pytest.param(rule("vms"), rule("vms", names="a"), True, id="without names covers named"),
        pytest.param(rule("vms", names="a"), rule("vms"), False, id="named does not cover without names"),
        pytest.param(rule("vms", names="a b"), rule("vms", names="b"), True, id="names cover a name"),
        pytest.param(rule("vms", group="*"), rule("vms"), True, id="any group"),
        pytest.param(rule("vms"), rule("vms", group="*"), False, id="a group does not cover any group"),
    ],
)
def test_covers(owner: Rule, wanted: Rule, expected: bool) -> None:  # noqa: FBT001 - a table column
    assert covers((owner,), (wanted,)) is expected


@pytest.mark.parametrize(
    ("owner", "wanted", "expected"),
    [
        pytest.param(
            rule("vms", "get list"), rule("vms", "*"), [rule("vms", "*")], id="any verb is more than all that are named"
        ),
        pytest.param(rule("vms", names="a"), rule("vms"), [rule("vms")], id="any name is more than one"),
        pytest.param(rule("vms"), rule("vms", names="a"), [], id="one name is in any"),
        pytest.param(
            rule("vms", names="a"),
            rule("vms", "get list", "a b"),
            [rule("vms", "list", "a"), rule("vms", "get list", "b")],
            id="a name and a verb",
        ),
        pytest.param(rule("vms", "get"), rule("vms", "get list"), [rule("vms", "list")], id="a verb"),
        pytest.param(rule("vms/vnc"), rule("*/vnc"), [rule("*/vnc")], id="a subresource of any resource"),
        pytest.param(rule("*/vnc"), rule("vms/vnc vms"), [rule("vms")], id="a resource"),
        pytest.param(rule("vms", group="g"), rule("vms", group="*"), [rule("vms", group="*")], id="any group"),
    ],
)
def test_uncovered(owner: Rule, wanted: Rule, expected: list[Rule]) -> None:
    assert uncovered((owner,), (wanted,)) == normalise(expected)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        pytest.param(rule("vms", "*"), rule("vms", "delete"), [rule("vms", "get update")], id="verbs are spelled out"),
        pytest.param(
            rule("*", "get delete"),
            rule("vms", "delete"),
            [rule("*", "get"), rule("disks vms/vnc vmis/vnc", "delete")],
            id="verbs that are not touched keep the wildcard",
        ),
        pytest.param(rule("*/vnc"), rule("vms/vnc"), [rule("vmis/vnc")], id="*/sub is spelled out"),
        pytest.param(rule("*/vnc"), rule("*/console"), [rule("*/vnc")], id="*/sub that is not touched stays"),
        pytest.param(rule("vms"), rule("vms", names="a"), [], id="any name without one name cannot be said: nothing"),
        pytest.param(rule("vms", names="a b"), rule("vms", names="a"), [rule("vms", names="b")], id="names"),
        pytest.param(rule("vms", names="a"), rule("vms"), [], id="taken for any name"),
        pytest.param(rule("vms", "* get"), rule("vms", "list"), [rule("vms", "get update delete")], id="verbs beside a wildcard"),
    ],
)
def test_subtract(a: Rule, b: Rule, expected: list[Rule]) -> None:
    vocabulary = (rule("vms disks vms/vnc vmis/vnc", "get update delete"),)
    spelled = subtract((a,), (b,), vocabulary)
    assert spelled == normalise(expected)


def test_normalise_is_readable() -> None:
    scattered = [
        rule("vms", "watch"),
        rule("vms", "get"),
        rule("vmis", "watch get", group="g"),
        rule("vms vmis", "get watch", group="h"),
        rule("vms", "update", "b"),
        rule("vms", "update get", "a"),
        rule("disks", "delete * get"),
    ]
    assert render(normalise(scattered)) == [
        {"apiGroups": ["g"], "resources": ["disks"], "verbs": ["*"]},
        {"apiGroups": ["g"], "resources": ["vms"], "resourceNames": ["a", "b"], "verbs": ["update"]},
        {"apiGroups": ["g", "h"], "resources": ["vmis", "vms"], "verbs": ["get", "watch"]},
    ]
