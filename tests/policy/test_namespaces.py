"""Where a grant reaches, by tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmaccess.model.grant import withdrawals
from vmaccess.policy.namespaces import Globs, Namespace, Place, place

LABELS = (("env", "dev"), ("team", "red"))
HERE = Namespace("ns", "uid", 1, LABELS, terminating=False)
GOING = Namespace("ns", "uid", 1, LABELS, terminating=True)


def selector(**expression: object) -> dict[str, object]:
    """A spec that selects by one expression."""
    return {"namespaceSelector": {"matchExpressions": [expression]}}


@pytest.mark.parametrize(
    ("spec", "namespace", "expected"),
    [
        pytest.param({"namespaces": ["ns"]}, HERE, Place.SELECTED, id="listed"),
        pytest.param({"namespaces": ["ns"]}, None, Place.MISSING, id="listed and missing"),
        pytest.param({"namespaces": ["ns"]}, GOING, Place.TERMINATING, id="listed and going"),
        pytest.param({"namespaces": ["other"]}, HERE, Place.OUTSIDE, id="not listed"),
        pytest.param({"namespaces": ["ns"], "excludeNamespaces": ["n?"]}, HERE, Place.OUTSIDE, id="excluded"),
        pytest.param({"namespaceSelector": {}}, HERE, Place.SELECTED, id="the empty selector"),
        pytest.param({"namespaceSelector": {}}, None, Place.OUTSIDE, id="selected things exist"),
        pytest.param({"namespaceSelector": {"matchLabels": {"team": "red"}}}, HERE, Place.SELECTED, id="a label"),
        pytest.param(
            {"namespaceSelector": {"matchLabels": {"team": "red", "env": "prod"}}}, HERE, Place.OUTSIDE, id="all labels"
        ),
        pytest.param(selector(key="env", operator="In", values=["dev", "test"]), HERE, Place.SELECTED, id="In"),
        pytest.param(selector(key="zone", operator="In", values=["a"]), HERE, Place.OUTSIDE, id="In needs the label"),
        pytest.param(selector(key="zone", operator="NotIn", values=["a"]), HERE, Place.SELECTED, id="NotIn does not"),
        pytest.param(selector(key="team", operator="Exists"), HERE, Place.SELECTED, id="Exists"),
        pytest.param(selector(key="team", operator="DoesNotExist"), HERE, Place.OUTSIDE, id="DoesNotExist"),
        pytest.param({"namespaces": "ns"}, HERE, Place.UNKNOWN, id="unreadable"),
        pytest.param({"namespaces": "ns", "excludeNamespaces": ["ns"]}, HERE, Place.OUTSIDE, id="unreadable, but excluded"),
    ],
)
def test_place(spec: dict[str, object], namespace: Namespace | None, expected: Place) -> None:
    assert place(withdrawals({"spec": spec}), "ns", namespace, Globs(())) is expected


@pytest.mark.parametrize(
    ("spec", "expected"),
    [({"namespaces": ["kube-system"]}, Place.PROTECTED), ({"namespaceSelector": {}}, Place.OUTSIDE)],
    ids=["listed", "selected"],
)
def test_protected(spec: dict[str, object], expected: Place) -> None:
    system = Namespace("kube-system", "uid", 1, LABELS, terminating=False)
    assert place(withdrawals({"spec": spec}), "kube-system", system, Globs(["kube-*"])) is expected


@pytest.mark.timeout(10)
def test_no_glob_can_freeze_the_operator() -> None:
    assert "a" * 60 not in Globs(["*a" * 20 + "*b"])


@given(glob=st.text("ab*?", max_size=8), name=st.text("ab", min_size=1, max_size=8))
def test_globs_match_as_shells_do(glob: str, name: str) -> None:
    def matches(glob: str, name: str) -> bool:
        if not glob:
            return not name
        if glob[0] == "*":
            return any(matches(glob[1:], name[skipped:]) for skipped in range(len(name) + 1))
        return bool(name) and glob[0] in ("?", name[0]) and matches(glob[1:], name[1:])

    assert (name in Globs([glob])) == matches(glob, name)
