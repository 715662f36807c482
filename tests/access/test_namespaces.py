"""Where a grant reaches: listed and selected namespaces, exclusions, and namespaces that come, change and go."""

from __future__ import annotations

from tests.stage import Stage, Who

ALICE = Who("alice")


def alice(**spec: object) -> dict[str, object]:
    """A spec that lets alice view."""
    return {"subjects": [{"kind": "User", "name": "alice"}], **spec}


def test_listed_namespaces_and_no_other(stage: Stage) -> None:
    one, two, other = stage.namespace(), stage.namespace(), stage.namespace()
    stage.assert_access(ALICE, {one: False, two: False, other: False})
    grant = stage.until_ready(stage.grant(alice(namespaces=[one, two])))
    stage.assert_access(ALICE, {one: True, two: True, other: False, "default": False})
    assert grant["status"]["namespaces"] == {
        "selected": 2,
        "granted": 2,
        "pending": 0,
        "failed": 0,
        "revoking": 0,
        "summary": "2/2",
    }


def test_a_selector_follows_labels_at_once(stage: Stage) -> None:
    team = stage.unique("team")
    inside, outside = stage.namespace(team=team), stage.namespace(team="another")
    name = stage.grant(alice(namespaceSelector={"matchLabels": {"team": team}}))
    stage.until_ready(name)
    stage.assert_access(ALICE, {inside: True, outside: False})

    stage.relabel(outside, team=team)
    stage.until(lambda: stage.views(ALICE, outside), "access after the label has come")
    stage.relabel(inside, team=None)
    stage.until(lambda: not stage.views(ALICE, inside), "no access after the label has gone")
    later = stage.namespace(team=team)
    stage.until(lambda: stage.views(ALICE, later), "access in a namespace that appears")
    stage.until(lambda: stage.get(name)["status"]["namespaces"]["summary"] == "2/2", "a status of 2/2")


def test_expressions_are_kubernetes_own(stage: Stage) -> None:
    team = stage.unique("team")
    prod, dev, bare = (stage.namespace(team=team, env="prod"), stage.namespace(team=team, env="dev"), stage.namespace(team=team))
    expressions = [
        {"key": "team", "operator": "In", "values": [team]},
        {"key": "env", "operator": "NotIn", "values": ["prod"]},
    ]
    stage.until_ready(stage.grant(alice(namespaceSelector={"matchExpressions": expressions})))
    stage.assert_access(ALICE, {prod: False, dev: True, bare: True})  # NotIn holds for an absent label


def test_exclusions_win_over_lists_and_selectors(stage: Stage) -> None:
    team = stage.unique("team")
    plain, secret, listed = (
        stage.namespace("plain", team=team),
        stage.namespace("a-secret", team=team),
        stage.namespace("b-secret"),
    )
    spec = alice(namespaces=[listed], namespaceSelector={"matchLabels": {"team": team}}, excludeNamespaces=["*-secret"])
    name = stage.grant(spec)
    grant = stage.until_ready(name)
    stage.assert_access(ALICE, {plain: True, secret: False, listed: False})
    assert grant["status"]["namespaces"]["selected"] == 1

    del spec["excludeNamespaces"]
    stage.respec(name, spec)
    stage.until_ready(name)
    stage.assert_access(ALICE, {plain: True, secret: True, listed: True})


def test_an_empty_selector_takes_all_but_protected_namespaces(stage: Stage) -> None:
    mine = stage.namespace()
    name = stage.grant(alice(namespaceSelector={}))
    stage.until_ready(name)
    stage.assert_access(
        ALICE, {mine: True, "default": True, "kube-system": False, "kube-public": False, "vmaccess-system": False}
    )
    stage.delete(name)
    stage.until(lambda: not stage.children(name), "everything to be revoked")
    stage.assert_access(ALICE, {mine: False, "default": False})


def test_a_listed_namespace_that_is_missing_is_granted_when_it_appears(stage: Stage) -> None:
    here, missing = stage.namespace(), stage.unique("later")
    name = stage.grant(alice(namespaces=[here, missing]))
    grant = stage.until_condition(name, "Reconciling", reason="NamespaceNotFound")
    assert stage.views(ALICE, here), "one namespace does not hold up another"
    assert grant["status"]["failures"] == [
        {"namespace": missing, "reason": "NamespaceNotFound", "message": grant["status"]["failures"][0]["message"]}
    ]
    assert (stage.condition(name, "Ready") or {})["status"] == "False"
    assert stage.namespace("later") == missing
    stage.until_ready(name)
    assert stage.views(ALICE, missing)


def test_a_namespace_that_goes_away_and_comes_back(stage: Stage) -> None:
    team = stage.unique("team")
    listed, selected = stage.namespace("listed"), stage.namespace("selected", team=team)
    name = stage.grant(alice(namespaces=[listed], namespaceSelector={"matchLabels": {"team": team}}))
    stage.until_ready(name)
    stage.delete_namespace(selected)
    stage.until(lambda: stage.get(name)["status"]["namespaces"]["summary"] == "1/1", "the selected one to be forgotten")
    stage.delete_namespace(listed)
    stage.until_condition(name, "Reconciling", reason="NamespaceNotFound")
    assert stage.namespace("listed") == listed
    stage.until_ready(name)
    assert stage.views(ALICE, listed)
    assert stage.namespace("selected") == selected  # without the label this time
    assert not stage.views(ALICE, selected)


def test_a_protected_namespace_is_refused_by_name(stage: Stage) -> None:
    mine = stage.namespace()
    name = stage.grant(alice(namespaces=[mine, "kube-system", "vmaccess-system"]))
    grant = stage.until_condition(name, "Stalled", reason="ProtectedNamespace")
    stage.assert_access(ALICE, {mine: True, "kube-system": False, "vmaccess-system": False})
    assert [failure["namespace"] for failure in grant["status"]["failures"]] == ["kube-system", "vmaccess-system"]
    assert grant["status"]["namespaces"] == {
        "selected": 3,
        "granted": 1,
        "pending": 0,
        "failed": 2,
        "revoking": 0,
        "summary": "1/3",
    }


def test_removing_a_namespace_from_the_list_revokes_there_only(stage: Stage) -> None:
    one, two = stage.namespace(), stage.namespace()
    name = stage.grant(alice(namespaces=[one, two]))
    stage.until_ready(name)
    since = stage.mark()
    stage.respec(name, alice(namespaces=[one]))
    stage.until_ready(name)
    stage.assert_access(ALICE, {one: True, two: False})
    assert stage.children(name) == [f"rolebindings {one}/vmaccess:{name}", f"roles {one}/vmaccess:{name}"]
    assert [write for write in stage.writes(since) if "vmaccessgrants" not in write] == [
        f"delete rolebindings {two}/vmaccess:{name} 200",
        f"delete roles {two}/vmaccess:{name} 200",
    ]


def test_nothing_selected_is_ready_and_inactive(stage: Stage) -> None:
    name = stage.grant(alice(namespaceSelector={"matchLabels": {"team": stage.unique("nobody")}}))
    stage.until_condition(name, "Ready", reason="NoNamespaces")
    stage.until_condition(name, "Active", "False", "NoNamespaces")
