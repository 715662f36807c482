from __future__ import annotations

import json
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmaccess.model.grant import Selection, Withdrawals, read_spec, withdrawals
from vmaccess.model.names import DNS_SUBDOMAIN, IN_WORDS, TIME
from vmaccess.model.problems import MAX_EXPLAINED, Problems
from vmaccess.model.spec import SERVICE_ACCOUNT_AS_USER, AddOn, LabelSelector, Spec
from vmaccess.model.structural import structural

Grant = dict[str, Any]

WHO = {"subjects": [{"kind": "Group", "name": "oidc:team-a"}]}
WHERE = {"namespaces": ["default"]}

LABEL_IN_WORDS = "use lower case letters, digits and '-', with a letter or digit at both ends"
ADD_ONS_IN_WORDS = ", ".join(get_args(AddOn))

MESSAGES: dict[str, tuple[Any, list[str]]] = {
    "no spec": (None, ["spec: is required: set it"]),
    "spec of a wrong type": ("x", ['spec: must be an object with fields, not the string "x"']),
    "nobody and nowhere": (
        {},
        [
            "spec: nobody is named: add at least one entry to serviceAccounts or subjects, and mind the spelling",
            "spec: no namespace is named: add at least one entry to namespaces, or a namespaceSelector, and mind the spelling",
        ],
    ),
    "missing field": (WHERE | {"subjects": [{"kind": "User"}]}, ["spec.subjects[0].name: is required: set it"]),
    "number for a name": (WHO | {"namespaces": [123]}, ["spec.namespaces[0]: must be a string, not a number: put it in quotes"]),
    "unquoted yes": (
        WHO | {"namespaces": [True]},
        ["spec.namespaces[0]: must be a string, not the boolean true: put it in quotes"],
    ),
    "text for a list": (WHO | {"namespaces": "default"}, ['spec.namespaces: must be a list, not the string "default"']),
    "null in a list": (WHO | {"namespaces": [None]}, ["spec.namespaces[0]: must be a string, not null"]),
    "quoted boolean": (
        WHO | WHERE | {"suspend": "true"},
        ['spec.suspend: must be true or false, not the string "true": remove the quotes'],
    ),
    "bad name": (
        WHO | {"namespaces": ["My_NS"]},
        [f'spec.namespaces[0]: "My_NS" is not allowed: {LABEL_IN_WORDS}'],
    ),
    "long name": (WHO | {"namespaces": ["a" * 64]}, ["spec.namespaces[0]: has 64 characters: use at most 63"]),
    "empty name": (WHO | {"namespaces": [""]}, ["spec.namespaces[0]: is empty: give it a value or remove it"]),
    "too many": (
        WHO | {"namespaces": [f"n{index}" for index in range(5001)]},
        ["spec.namespaces: has 5001 entries: use at most 5000"],
    ),
    "empty list": (WHO | WHERE | {"role": {"keep": []}}, ["spec.role.keep: is empty: add an entry or remove the field"]),
    "duplicate": (WHO | {"namespaces": ["a", "b", "a"]}, ["spec.namespaces[2]: the same as entry 0: remove one"]),
    "unknown preset": (
        WHO | WHERE | {"role": {"preset": "view"}},
        ['spec.role.preset: "view" is not known: did you mean View? Use one of View, Operate, Edit, Admin'],
    ),
    "add-ons in other letters and misspelt": (
        WHO | WHERE | {"role": {"include": ["storageview", "Migrat", "VNC", "Sudo"]}},
        [
            f'spec.role.include[0]: "storageview" is not known: did you mean StorageView? Use one of {ADD_ONS_IN_WORDS}',
            f'spec.role.include[1]: "Migrat" is not known: did you mean Migrate? Use one of {ADD_ONS_IN_WORDS}',
            f'spec.role.include[3]: "Sudo" is not known: Use one of {ADD_ONS_IN_WORDS}',
        ],
    ),
    "named machines with a ClusterRole": (
        WHO | WHERE | {"role": {"kind": "ClusterRole", "virtualMachines": ["web-1"]}},
        [
            "spec.role.virtualMachines: virtual machines can be named only with kind Role: remove kind, or virtualMachines",
        ],
    ),
    "bad name of a machine": (
        WHO | WHERE | {"role": {"virtualMachines": ["web-1", "Web_2", ""]}},
        [
            f'spec.role.virtualMachines[1]: "Web_2" is not allowed: use {IN_WORDS[DNS_SUBDOMAIN]}',
            "spec.role.virtualMachines[2]: is empty: give it a value or remove it",
        ],
    ),
    "a day without a time": (
        WHO | WHERE | {"expirationTime": "2027-01-31"},
        [f'spec.expirationTime: "2027-01-31" is not allowed: use {IN_WORDS[TIME]}'],
    ),
    "a day that the calendar lacks": (
        WHO | WHERE | {"expirationTime": "2027-02-30T00:00:00Z"},
        [f"spec.expirationTime: no such time: use {IN_WORDS[TIME]}, and of a day that the calendar has"],
    ),
    "an end before the start": (
        WHO | WHERE | {"notBeforeTime": "2027-02-01T00:00:00Z", "expirationTime": "2027-01-01T00:00:00Z"},
        ["spec.expirationTime: access would end before it begins: set a time after notBeforeTime"],
    ),
    "a machine twice and no add-on": (
        WHO | WHERE | {"role": {"include": [], "virtualMachines": ["web-1", "web-1"]}},
        [
            "spec.role.include: is empty: add an entry or remove the field",
            "spec.role.virtualMachines[1]: the same as entry 0: remove one",
        ],
    ),
    "unknown kind": (
        WHERE | {"subjects": [{"kind": "Groups", "name": "a"}, {"kind": "Robot", "name": "b"}]},
        [
            'spec.subjects[0].kind: "Groups" is not known: did you mean Group? Use one of User, Group, ServiceAccount',
            'spec.subjects[1].kind: "Robot" is not known: Use one of User, Group, ServiceAccount',
        ],
    ),
    "list for a kind": (
        WHERE | {"subjects": [{"kind": [], "name": "a"}]},
        ["spec.subjects[0].kind: must be one of User, Group, ServiceAccount, not a list"],
    ),
    "system group": (
        WHERE | {"subjects": [{"kind": "Group", "name": "system:masters"}]},
        ["spec.subjects[0].name: names that begin with system: belong to Kubernetes itself: name a user or group of your own"],
    ),
    "ServiceAccount as a user": (
        WHERE | {"subjects": [{"kind": "User", "name": "system:serviceaccount:a:b"}]},
        [f"spec.subjects[0].name: {SERVICE_ACCOUNT_AS_USER}"],
    ),
    "label with a prefix": (
        WHO | {"namespaceSelector": {"matchLabels": {"example.com/a": 1}}},
        ['spec.namespaceSelector.matchLabels["example.com/a"]: must be a string, not a number: put it in quotes'],
    ),
    "many mistakes, in the order of the fields": (
        {"suspend": 0, "namespaces": ["B", "ok", "C"], "subjects": [{"kind": "User", "name": "a", "namespace": "b"}]},
        [
            "spec.subjects[0].namespace: only a subject of kind ServiceAccount has a namespace: remove namespace",
            f'spec.namespaces[0]: "B" is not allowed: {LABEL_IN_WORDS}',
            f'spec.namespaces[2]: "C" is not allowed: {LABEL_IN_WORDS}',
            "spec.suspend: must be true or false, not a number",
        ],
    ),
    "hostile text": (
        WHO | {"namespaces": ["\x1b[31m\u202e\n" + "x" * 50]},
        [
            'spec.namespaces[0]: "\\u001b[31m\\u202e\\n' + "x" * 38 + f"... is not allowed: {LABEL_IN_WORDS}",
        ],
    ),
}


@pytest.mark.parametrize(("spec", "messages"), MESSAGES.values(), ids=MESSAGES)
def test_every_mistake_is_named_with_its_field_and_cure(spec: Any, messages: list[str]) -> None:
    assert read_spec({"metadata": {"name": "a"}, "spec": spec}) == Problems(tuple(messages))


def test_a_long_name_is_a_problem_beside_the_others() -> None:
    long = {"metadata": {"name": "a" * 64}, "spec": WHO | WHERE}
    too_long = "metadata.name: a grant's name becomes the value of a label: use at most 63 characters"
    assert read_spec(long) == Problems((too_long,))
    assert read_spec(long | {"spec": None}) == Problems((too_long, "spec: is required: set it"))


def test_a_summary_is_short() -> None:
    problems = read_spec({"spec": WHO | {"namespaces": ["A"] * 5000}})
    assert isinstance(problems, Problems)
    assert len(problems.messages) == MAX_EXPLAINED
    assert problems.summary(most=1).endswith(f"at both ends; and {MAX_EXPLAINED - 1} more")
    assert Problems(("a", "b")).summary() == "a; b"


def test_any_mapping_is_read() -> None:
    spec = read_spec(MappingProxyType({"spec": MappingProxyType(WHO | WHERE)}))
    assert isinstance(spec, Spec)
    assert spec.namespaces == ("default",)


GRANT = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant", "metadata": {"name": "a"}, "status": {"newer": 1}}
IF_NOT = "If not, remove it or upgrade to a version that knows it"
OR_ELSE = "remove it or upgrade to a version that knows it"
FIELDS_OF_ROLE = "kind, from, preset, keep, drop, include, virtualMachines"

UNKNOWN: dict[str, tuple[Grant, str]] = {
    "labels": (
        {"namespaceSelector": {"matchLabel": {"team": "a"}}},
        f"spec.namespaceSelector.matchLabel: unknown field: did you mean matchLabels? {IF_NOT}",
    ),
    "labels in Python's spelling": (
        {"namespaceSelector": {"match_labels": {"team": "a"}}},
        f"spec.namespaceSelector.match_labels: unknown field: did you mean matchLabels? {IF_NOT}",
    ),
    "drop": ({"role": {"dorp": []}}, f"spec.role.dorp: unknown field: did you mean drop? {IF_NOT}"),
    "from in Python's spelling": ({"role": {"from_": "a"}}, f"spec.role.from_: unknown field: did you mean from? {IF_NOT}"),
    "exclusion": (
        {"excludeNamespace": ["a"]},
        f"spec.excludeNamespace: unknown field: did you mean excludeNamespaces? {IF_NOT}",
    ),
    "suspension": ({"suspended": True}, f"spec.suspended: unknown field: did you mean suspend? {IF_NOT}"),
    "null": ({"suspended": None}, f"spec.suspended: unknown field: did you mean suspend? {IF_NOT}"),
    "in an entry of a list": (
        {"role": {"drop": [{"verbs": ["get"]}, {"verbs": ["list"], "resource": ["secrets"]}]}},
        f"spec.role.drop[1].resource: unknown field: did you mean resources? {IF_NOT}",
    ),
    "a field of a later version": (
        {"quota": 3},
        f"spec.quota: unknown field: known here are {', '.join(structural(Spec)['properties'])}: {OR_ELSE}",
    ),
    "add-ons in the plural": (
        {"role": {"includes": ["Migrate"]}},
        f"spec.role.includes: unknown field: did you mean include? {IF_NOT}",
    ),
    "machines in Python's spelling": (
        {"role": {"virtual_machines": ["web-1"]}},
        f"spec.role.virtual_machines: unknown field: did you mean virtualMachines? {IF_NOT}",
    ),
    "a later field of the role": (
        {"role": {"ttl": "1h"}},
        f"spec.role.ttl: unknown field: known here are {FIELDS_OF_ROLE}: {OR_ELSE}",
    ),
    "hostile text": (
        {"role": {"\u202e\n": 1}},
        f'spec.role["\\u202e\\n"]: unknown field: known here are {FIELDS_OF_ROLE}: {OR_ELSE}',
    ),
}


@pytest.mark.parametrize(("fields", "message"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_field_is_refused_with_the_one_that_was_meant(fields: Grant, message: str) -> None:
    assert read_spec({**GRANT, "spec": WHO | WHERE | fields}) == Problems((message,))


def test_an_unknown_field_beside_spec_is_refused_too() -> None:
    beside = {**GRANT, "spec": WHO | WHERE, "suspend": True, "x": 1}
    known = "apiVersion, kind, metadata, spec, status, " + ", ".join(f"spec.{field}" for field in structural(Spec)["properties"])
    assert read_spec(beside) == Problems(
        (
            f"suspend: unknown field: did you mean spec.suspend? {IF_NOT}",
            f"x: unknown field: known here are {known}: {OR_ELSE}",
        )
    )


NOTHING = Withdrawals(suspend=False, exclude_namespaces=(), selection=None)
NOWHERE = Selection(frozenset(), None, ())
SELECTOR = LabelSelector(match_labels={"team": "a"})

WITHDRAWN: dict[str, tuple[Any, Withdrawals]] = {
    "no spec": (None, NOTHING),
    "spec of a wrong type": (["a"], NOTHING),
    "nothing selected": ({}, Withdrawals(suspend=False, exclude_namespaces=(), selection=NOWHERE)),
    "the rest is invalid": (
        {"subjects": 3, "role": "x", "namespaces": ["a"], "suspend": True},
        Withdrawals(suspend=True, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
    "suspend is no boolean": (
        {"suspend": "true", "namespaces": ["a"]},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
    "valid entries among the exclusions": (
        {"excludeNamespaces": ["a-*", 3, "A", None, "b", "a-*", ""], "namespaces": []},
        Withdrawals(suspend=False, exclude_namespaces=("a-*", "b"), selection=Selection(frozenset(), None, ("a-*", "b"))),
    ),
    "exclusions of a wrong type": (
        {"excludeNamespaces": "secret", "namespaces": ["a"]},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
    "a namespace that cannot be read": (
        {"namespaces": ["a", "B"], "excludeNamespaces": ["c"]},
        Withdrawals(suspend=False, exclude_namespaces=("c",), selection=None),
    ),
    "namespaces of a wrong type": ({"namespaces": {"a": 1}}, NOTHING),
    "a namespace twice": (
        {"namespaces": ["a", "a"]},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
    "a selector": (
        {"namespaces": None, "namespaceSelector": {"matchLabels": {"team": "a"}}},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=Selection(frozenset(), SELECTOR, ())),
    ),
    "a selector that cannot be read": ({"namespaces": ["a"], "namespaceSelector": {"matchLabels": {"team": 1}}}, NOTHING),
    "a selector with a null label": ({"namespaceSelector": {"matchLabels": {"team": None}}}, NOTHING),
    "a selector of a wrong type": ({"namespaceSelector": "team=a"}, NOTHING),
    "a selector with an unknown field": ({"namespaces": ["a"], "namespaceSelector": {"matchLabel": {"team": "a"}}}, NOTHING),
    "a selector with an unknown field beside a known one": (
        {"namespaceSelector": {"matchLabels": {"team": "a"}, "matchFields": []}},
        NOTHING,
    ),
    "a selector in Python's spelling": ({"namespaceSelector": {"match_labels": {"team": "a"}}}, NOTHING),
    "an expression with an unknown field": (
        {"namespaceSelector": {"matchExpressions": [{"key": "team", "operator": "Exists", "value": "a"}]}},
        NOTHING,
    ),
    "a selector that is misspelt": ({"namespaces": ["a"], "namespaceselectors": {"matchLabels": {"team": "a"}}}, NOTHING),
    "a selector in Python's spelling beside namespaces": ({"namespaces": ["a"], "namespace_selector": {}}, NOTHING),
    "a list that is misspelt": ({"namespace": ["a"], "namespaceSelector": {}}, NOTHING),
    "an unknown field that selects nothing": (
        {"namespaces": ["a"], "quota": 3, "role": {"dorp": []}, "suspend": True},
        Withdrawals(suspend=True, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
    "times beside what is invalid": (
        {"notBeforeTime": "2027-01-31T08:00:00Z", "expirationTime": "2027-01-31T18:00:00+01:00", "subjects": 3},
        Withdrawals(
            suspend=False,
            exclude_namespaces=(),
            selection=NOWHERE,
            begins=datetime(2027, 1, 31, 8, tzinfo=UTC),
            ends=datetime(2027, 1, 31, 17, tzinfo=UTC),
        ),
    ),
    "times that cannot be read": (
        {"notBeforeTime": 3, "expirationTime": "2027-02-30T00:00:00Z"},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=NOWHERE),
    ),
    "an exclusion that is misspelt": (
        {"namespaces": ["a"], "excludeNamespace": ["a"]},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
    "an exclusion beside a selector with an unknown field": (
        {"excludeNamespaces": ["b"], "suspend": True, "namespaceSelector": {"matchLabel": {"team": "a"}}},
        Withdrawals(suspend=True, exclude_namespaces=("b",), selection=None),
    ),
    "a suspension that is misspelt": (
        {"namespaces": ["a"], "suspended": True, "Suspend": True},
        Withdrawals(suspend=False, exclude_namespaces=(), selection=Selection(frozenset({"a"}), None, ())),
    ),
}


@pytest.mark.parametrize(("spec", "expected"), WITHDRAWN.values(), ids=WITHDRAWN)
def test_what_takes_access_away_is_read_by_itself(spec: Any, expected: Withdrawals) -> None:
    assert withdrawals({"spec": spec}) == expected


@pytest.mark.parametrize(("field", "held"), [("namespaceSelector", True), ("namespaces", True), ("suspend", False), ("x", False)])
def test_what_selects_and_stands_beside_spec_holds_the_selection(field: str, held: bool) -> None:  # noqa: FBT001
    assert (withdrawals({"spec": {"namespaces": ["a"]}, field: []}).selection is None) == held


FIELDS = (
    *("metadata", "name", "spec", "serviceAccounts", "subjects", "kind", "apiGroup", "namespace", "namespaces"),
    *("namespaceSelector", "matchLabels", "matchExpressions", "operator", "key", "values", "excludeNamespaces", "role", "from"),
    *(
        "keep",
        "drop",
        "include",
        "virtualMachines",
        "preset",
        "resources",
        "verbs",
        "suspend",
        "[key]",
        "a.b/c",
        "suspended",
        "match_labels",
    ),
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["a", "User", "In", "\ud800", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner, max_size=6),
    max_leaves=40,
)


SPECS = st.builds(lambda spec: {"spec": spec}, st.dictionaries(st.sampled_from(FIELDS), JSON))


@given(raw=st.dictionaries(st.sampled_from(FIELDS[:3]), JSON) | SPECS)
def test_nothing_that_is_stored_raises(raw: dict[str, Any]) -> None:
    problems = read_spec(raw)
    withdrawals(raw)
    if isinstance(problems, Problems):
        assert problems.messages
        assert all(message.isprintable() for message in problems.messages), problems
        json.dumps(problems.messages).encode()
