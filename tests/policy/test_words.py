"""Rights in words: a person reads what a change of the base role gave and took, and no change goes without a word."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.policy.test_rules import RULES, meaning
from vmaccess.policy.rules import Rule, Rules, covers, normalise, parse
from vmaccess.policy.words import MOST, difference, rights


def vms(*verbs: str, names: tuple[str, ...] = ()) -> Rules:
    """One rule over virtualmachines."""
    return (Rule(("kubevirt.io",), ("virtualmachines",), verbs, names),)


ALL_VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
CONSOLE: Rules = (Rule(("subresources.kubevirt.io",), ("virtualmachineinstances/console",), ("get",)),)
ANY_CONSOLE: Rules = (Rule(("subresources.kubevirt.io",), ("*/console",), ("get",)),)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        pytest.param(vms("get"), vms("get"), "", id="nothing"),
        pytest.param(vms("get", "list"), (*vms("list"), *vms("get")), "", id="the same in other rules"),
        pytest.param(vms("get", names=("web-1",)), vms("get"), "+virtualmachines get", id="from a name to any"),
        pytest.param(vms("get"), vms("get", names=("web-1",)), "-virtualmachines get", id="from any to a name"),
        pytest.param(
            vms("get", names=("web-1",)),
            vms("get", names=("web-2",)),
            "-virtualmachines [web-1] get; +virtualmachines [web-2] get",
            id="from a name to another",
        ),
        pytest.param(
            vms("get", names=("web-1",)),
            (*vms("get", names=("web-1",)), *vms("list")),
            "+virtualmachines list",
            id="one verb for any name beside a name",
        ),
        pytest.param(vms(*ALL_VERBS), vms("*"), "+virtualmachines *", id="from every verb there is to any"),
        pytest.param(vms("*"), vms(*ALL_VERBS), "-virtualmachines *", id="and back"),
        pytest.param(vms("get"), (Rule(("*",), ("*",), ("get",)),), "+* (*) get", id="from a kind to any in any group"),
        pytest.param((Rule(("*",), ("*",), ("get",)),), vms("get"), "-* (*) get", id="from any kind to one"),
        pytest.param(CONSOLE, ANY_CONSOLE, "+*/console get", id="from a subresource of one kind to that of any"),
        pytest.param((), vms("get"), "+virtualmachines get", id="from nothing"),
        pytest.param(vms("get"), (), "-virtualmachines get", id="to nothing"),
        pytest.param(
            (), parse([{"apiGroups": [""], "resources": ["events"], "verbs": ["get"]}]), "+events (core) get", id="core"
        ),
    ],
)
def test_difference(before: Rules, after: Rules, words: str) -> None:
    assert difference(before, after) == words


@given(RULES, RULES)
def test_no_change_goes_without_a_word(before: Rules, after: Rules) -> None:
    words = difference(before, after)
    assert (words == "") == (meaning(before) == meaning(after))
    told = words.split("; ") if words else []
    assert any(word.startswith("+") for word in told) == (not covers(before, after))
    assert any(word.startswith("-") for word in told) == (not covers(after, before))


@given(RULES, RULES)
def test_the_way_back_is_told_with_the_signs_changed(before: Rules, after: Rules) -> None:
    there, back = difference(before, after), difference(after, before)
    flipped = str.maketrans("+-", "-+")
    assert {word.translate(flipped) for word in there.split("; ")} == set(back.split("; "))


def test_one_entry_for_each_resource_of_each_group() -> None:
    rule = Rule(("kubevirt.io", "snapshot.kubevirt.io"), ("a", "b"), ("get", "list"), ("web-1", "web-2"))
    assert rights((rule,)) == [
        "a [web-1, web-2] get, list",
        "b [web-1, web-2] get, list",
        "a (snapshot.kubevirt.io) [web-1, web-2] get, list",
        "b (snapshot.kubevirt.io) [web-1, web-2] get, list",
    ]


def test_what_is_lost_is_named_first_where_not_all_can_be() -> None:
    lost = normalise([Rule(("kubevirt.io",), tuple(f"old-{number:02}" for number in range(MOST)), ("get",))])
    gained = normalise([Rule(("kubevirt.io",), ("new",), ("get",))])
    told = difference(lost, gained).split("; ")
    assert told[:-1] == [f"-old-{number:02} get" for number in range(MOST)]
    assert told[-1] == "and 1 more"
