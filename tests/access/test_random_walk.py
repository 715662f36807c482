"""Random walks through specs, labels, deletions and sabotage; after every few steps the truth table must be the model's.

The model is written apart from the operator: it knows specs and labels, and nothing of Roles.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import pytest

from tests.stage import Json, Stage, Who

PEOPLE = ("ann", "bob", "cid")
TEAMS = ("red", "blue")
STEPS, AT_ONCE = 30, 3


@dataclass
class Model:
    """What was asked for, and what must follow from it."""

    stage: Stage
    rng: random.Random
    labels: dict[str, str | None] = field(default_factory=dict)
    specs: dict[str, Json] = field(default_factory=dict)

    def allowed(self, person: str, verb: str, namespace: str) -> bool:
        """Whether any grant gives this."""
        return any(self._gives(spec, person, verb, namespace) for spec in self.specs.values())

    def _gives(self, spec: Json, person: str, verb: str, namespace: str) -> bool:
        if spec.get("suspend") or person not in {subject["name"] for subject in spec["subjects"]}:
            return False
        if any(fnmatchcase(namespace, glob) for glob in spec.get("excludeNamespaces", ())):
            return False
        selector = spec.get("namespaceSelector")
        selected = selector is not None and self.labels[namespace] == selector["matchLabels"]["team"]
        if namespace not in spec.get("namespaces", ()) and not selected:
            return False
        role = spec.get("role", {})
        rights = {"get", "list", "watch"}
        if "keep" in role:
            rights = {verb for rule in role["keep"] for verb in rule["verbs"]}
        for rule in role.get("drop", ()):
            rights -= set(rule["verbs"])
        return verb in rights

    def random_spec(self) -> Json:
        """A valid spec over the stage's namespaces."""
        rng = self.rng
        spec: Json = {"subjects": [{"kind": "User", "name": self.user(name)} for name in rng.sample(PEOPLE, rng.randint(1, 3))]}
        if rng.random() < 0.7:
            spec["namespaces"] = rng.sample(sorted(self.labels), rng.randint(1, len(self.labels)))
        if "namespaces" not in spec or rng.random() < 0.4:
            spec["namespaceSelector"] = {"matchLabels": {"team": self.team(rng.choice(TEAMS))}}
        if rng.random() < 0.3:
            spec["excludeNamespaces"] = [rng.choice(sorted(self.labels))]
        if rng.random() < 0.5:
            keep = ["get", "list", *rng.sample(["delete", "create", "patch"], rng.randint(0, 2))]
            spec["role"] = {"keep": [{"resources": ["virtualmachines"], "verbs": keep}]}
        if rng.random() < 0.3:
            spec.setdefault("role", {})["drop"] = [{"resources": ["virtualmachines"], "verbs": ["list"]}]
        if rng.random() < 0.15:
            spec["suspend"] = True
        return spec

    def user(self, name: str) -> str:
        """A user that only this stage knows."""
        return f"{self.stage.tag}-{name}"

    def team(self, name: str) -> str:
        """A label value that only this stage knows."""
        return f"{self.stage.tag}-{name}"

    def step(self) -> str:
        """Do one random thing, and say what."""
        rng, stage = self.rng, self.stage
        moves = ["create", "relabel", "tamper", "relabel"] + (["respec", "respec", "delete"] if self.specs else [])
        move = rng.choice(moves)
        if move == "create" and len(self.specs) < 6:
            spec = self.random_spec()
            self.specs[stage.grant(spec)] = spec
        elif move == "respec":
            name = rng.choice(sorted(self.specs))
            self.specs[name] = self.random_spec()
            stage.respec(name, self.specs[name])
        elif move == "delete":
            name = rng.choice(sorted(self.specs))
            del self.specs[name]
            stage.delete(name, rng.choice(["Background", "Foreground"]))
        elif move == "relabel":
            namespace = rng.choice(sorted(self.labels))
            self.labels[namespace] = rng.choice([None, *(self.team(team) for team in TEAMS)])
            stage.relabel(namespace, team=self.labels[namespace])
        elif move == "tamper":
            self._tamper()
        return move

    def _tamper(self) -> None:
        namespace, kind = self.rng.choice(sorted(self.labels)), self.rng.choice(["roles", "rolebindings"])
        items = self.stage.request("GET", self.stage.path(kind, namespace))["items"]
        if not items:
            return
        target = self.stage.path(kind, namespace, self.rng.choice(items)["metadata"]["name"])
        changes: list[Any] = [
            {"metadata": {"labels": None}},
            {"metadata": {"ownerReferences": None}},
            {"metadata": {"finalizers": ["example.com/held"]}},
            {"subjects": []} if kind == "rolebindings" else {"rules": []},
            None,
        ]
        change = self.rng.choice(changes)
        if change is None:
            self.stage.request("DELETE", target, expect=None)
        else:
            self.stage.request("PATCH", target, change, expect=None)

    def table(self) -> dict[tuple[str, str, str], bool]:
        """What must hold now."""
        verbs = ("list", "delete")
        return {
            (person, verb, namespace): self.allowed(self.user(person), verb, namespace)
            for person in PEOPLE
            for verb in verbs
            for namespace in self.labels
        }

    def actual(self) -> dict[tuple[str, str, str], bool]:
        """What the API server says."""
        return {
            (person, verb, namespace): self.stage.can(Who(self.user(person)), verb, "kubevirt.io/virtualmachines", namespace)
            for person, verb, namespace in self.table()
        }


@pytest.mark.parametrize("seed", range(4))
def test_the_truth_table_is_the_models(stage: Stage, seed: int) -> None:
    model = Model(stage, random.Random(seed))
    for _ in range(4):
        model.labels[stage.namespace()] = None
    done: list[str] = []
    for number in range(STEPS):
        done.append(model.step())
        if number % AT_ONCE == AT_ONCE - 1:
            expected = model.table()
            try:
                stage.until(lambda: model.actual() == model.table(), "the model's truth table")
            except Exception as error:
                actual = model.actual()
                wrong = {key: actual[key] for key in expected if expected[key] != actual[key]}
                raise AssertionError(f"after {done}: {wrong}; specs {model.specs}; labels {model.labels}") from error
            for name in model.specs:
                stage.until(lambda name=name: _settled(stage, name), f"{name} to be Ready")
    for name in list(model.specs):
        stage.delete(name)
        del model.specs[name]
    stage.until(lambda: model.actual() == model.table(), "nothing for anybody")
    stage.until(lambda: not _left_over(stage, model), "no leftovers")


def _left_over(stage: Stage, model: Model) -> list[str]:
    kinds = [(kind, namespace) for namespace in model.labels for kind in ("roles", "rolebindings")]
    return [item["metadata"]["name"] for where in kinds for item in stage.request("GET", stage.path(*where))["items"]]


def _settled(stage: Stage, name: str) -> bool:
    grant = stage.get(name)
    status = grant.get("status", {})
    ready = {condition["type"]: condition["status"] for condition in status.get("conditions", ())}.get("Ready")
    return ready == "True" and status["observedGeneration"] == grant["metadata"]["generation"]
