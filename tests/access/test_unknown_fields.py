"""A field that nobody knows, stored past the admission policy, gives nothing and takes nothing; the rest still takes away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import yaml

from localcluster import wait_until
from tests.access.helpers import ALICE, BOB, START_VMS, spec, writes_to_children
from tests.stage import GRANTS, Json, Stage
from vmaccess.model import admission

BINDINGS = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings"
TYPO = "spec.namespaceSelector.matchLabel: unknown field: did you mean matchLabels?"


def is_guarded(stage: Stage) -> bool:
    """Whether the API server refuses an unknown field to whoever asks for no validation."""
    probe = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant", "metadata": {"name": stage.unique("probe")}}
    status, answer = stage.cluster.request("POST", f"{GRANTS}?dryRun=All", probe | {"spec": spec(namespaces=["a"], newer=1)})
    assert status in (201, 422), answer
    return bool(status == 422)


@contextlib.contextmanager
def unguarded(stage: Stage) -> Iterator[None]:
    """A while in which the policy is not in force, as on a cluster that never had it."""
    wait_until(lambda: is_guarded(stage), "the admission policy to be in force")
    stage.request("DELETE", f"{BINDINGS}/{admission.NAME}")
    try:
        wait_until(lambda: not is_guarded(stage), "the admission policy to be out of force")
        yield
    finally:
        stage.cluster.apply(yaml.safe_dump(admission.binding()))
        wait_until(lambda: is_guarded(stage), "the admission policy to be in force again")


def respec(stage: Stage, name: str, bad: Json) -> str:
    """Write a bad spec past the policy; returns what the operator says to it."""
    with unguarded(stage):
        stage.respec(name, bad)
    return told(stage, name)


def told(stage: Stage, name: str) -> str:
    """The message of a grant that is Stalled for its spec."""
    stage.until_condition(name, "Stalled", reason="InvalidSpec")
    message: str = (stage.condition(name, "Stalled") or {})["message"]
    return message


def test_a_selector_with_a_typo_selects_nothing(stage: Stage) -> None:
    team = stage.unique("team")
    inside, outside = stage.namespace(team=team), stage.namespace()
    with unguarded(stage):
        since = stage.mark()
        name = stage.grant(spec(namespaceSelector={"matchLabel": {"team": team}}))
        assert told(stage, name).startswith(TYPO)
    assert stage.get(name)["spec"]["namespaceSelector"] == {"matchLabel": {"team": team}}
    later = stage.namespace(team=team)
    stage.relabel(outside, team=team)
    sound = stage.grant(spec("bob", namespaces=[later, outside]))
    stage.until_ready(sound)  # so the operator has seen both
    stage.assert_access(ALICE, {inside: False, outside: False, later: False, "default": False, "kube-system": False})
    assert stage.children(name) == []
    assert not [write for write in writes_to_children(stage, since) if write.endswith(f"vmaccess:{name} 201")]
    assert (stage.condition(name, "Active") or {})["status"] == "False"


def test_a_working_grant_edited_into_a_typo_keeps_what_it_has_and_gains_nothing(stage: Stage) -> None:
    team = stage.unique("team")
    inside, outside = stage.namespace(team=team), stage.namespace()
    sound = spec(namespaceSelector={"matchLabels": {"team": team}})
    name = stage.grant(sound)
    stage.until_ready(name)
    before = stage.children(name)

    since = stage.mark()
    message = respec(stage, name, spec("alice", "bob", namespaceSelector={"matchLabel": {"team": team}}, namespaces=[outside]))
    assert message.startswith(TYPO)
    later = stage.namespace(team=team)
    stage.until_ready(stage.grant(spec("eve", namespaces=[inside, outside, later])))
    stage.assert_access(ALICE, {inside: True, outside: False, later: False, "default": False})
    stage.assert_access(BOB, {inside: False, outside: False, later: False, "default": False})
    assert stage.children(name) == before
    assert not [write for write in writes_to_children(stage, since) if write.split(" ")[2].endswith(f"vmaccess:{name}")]

    stage.respec(name, sound)
    stage.until_ready(name)
    stage.assert_access(ALICE, {inside: True, outside: False, later: True})


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("spec.excludeNamespace", {"excludeNamespace": ["*"]}),
        ("spec.suspended", {"suspended": True}),
        ("spec.expiryTime", {"expiryTime": "2020-01-01T00:00:00Z"}),
        ("spec.role.dorp", {"role": {"dorp": [START_VMS]}}),
        ("spec.role.includes", {"role": {"includes": ["Migrate"]}}),
        ("spec.subjects[0].nam", {"subjects": [{"kind": "User", "name": "alice", "nam": "x"}, {"kind": "User", "name": "bob"}]}),
        ("suspend", {}),
    ],
)
def test_every_other_unknown_field_holds_too(stage: Stage, field: str, bad: Json) -> None:
    first, second = stage.namespace(), stage.namespace()
    name = stage.grant(spec(namespaces=[first]))
    stage.until_ready(name)
    with unguarded(stage):
        grant = stage.get(name)
        beside = {} if "." in field else {field: True}
        stage.request(
            "PUT", f"{GRANTS}/{name}", grant | beside | {"spec": spec("alice", "bob", namespaces=[first, second]) | bad}
        )
        assert told(stage, name).startswith(f"{field}: unknown field: ")
    stage.assert_access(ALICE, {first: True, second: False})
    stage.assert_access(BOB, {first: False, second: False})


def test_what_can_be_read_still_takes_access_away(stage: Stage) -> None:
    team = stage.unique("team")
    kept, excluded, deselected = stage.namespace(), stage.namespace(), stage.namespace()
    selected = stage.namespace(team=team)
    by_label = {"namespaceSelector": {"matchLabels": {"team": team}}}
    name = stage.grant(spec(namespaces=[kept, excluded, deselected], **by_label))
    stage.until_ready(name)

    respec(stage, name, spec(namespaces=[kept, excluded], **by_label, excludeNamespaces=[excluded], expiryTime="x"))
    stage.until(lambda: not stage.views(ALICE, excluded), "no access where it is excluded")
    stage.until(lambda: not stage.views(ALICE, deselected), "no access where it is no longer listed")
    stage.assert_access(ALICE, {kept: True, excluded: False, deselected: False, selected: True})

    selector = {"namespaceselector": by_label["namespaceSelector"]}
    respec(stage, name, spec(namespaces=[excluded], excludeNamespaces=[excluded], **selector))
    stage.assert_access(ALICE, {kept: True, excluded: False, deselected: False, selected: True})

    stage.request("PATCH", f"{GRANTS}/{name}", {"spec": {"suspend": True}})  # the policy lets this pass
    stage.until_condition(name, "Active", "False", "Suspended")
    stage.assert_access(ALICE, {kept: False, excluded: False, deselected: False, selected: False})
    assert stage.cluster.request("PATCH", f"{GRANTS}/{name}", {"spec": {"suspend": False}})[0] == 422


@pytest.mark.parametrize("cascade", ["Background", "Foreground", "Orphan"])
def test_a_stored_typo_does_not_keep_a_grant_from_being_deleted(stage: Stage, cascade: str) -> None:
    namespace = stage.namespace()
    name = stage.grant(spec(namespaces=[namespace]))
    stage.until_ready(name)
    children = stage.children(name)
    respec(stage, name, spec(namespaces=[namespace], suspended=True))
    stage.delete(name, cascade)
    stage.until(lambda: stage.cluster.request("GET", f"{GRANTS}/{name}")[0] == 404, "the grant to be gone")
    if cascade == "Orphan":
        assert stage.children(name) == children
        assert stage.views(ALICE, namespace)
    else:
        stage.until(lambda: not stage.children(name), "its children to be gone")
        assert not stage.views(ALICE, namespace)
