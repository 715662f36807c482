"""What the tests about access share: identities, specs, and ways to look at children, Events and access over time."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from tests.stage import RBAC, Json, Stage, Who

ALICE, BOB, EVE = Who("alice"), Who("bob"), Who("eve")

VMS, VMIS = "kubevirt.io/virtualmachines", "kubevirt.io/virtualmachineinstances"
CONSOLE = "subresources.kubevirt.io/virtualmachineinstances/console"

ANYTHING: list[Json] = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]
LIST_VMS: Json = {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["list"]}
START_VMS: Json = {"apiGroups": ["subresources.kubevirt.io"], "resources": ["virtualmachines/start"], "verbs": ["update"]}
DELETE_VMS: Json = {"apiGroups": ["kubevirt.io"], "resources": ["virtualmachines"], "verbs": ["delete"]}

Question = tuple[Who, str, str, str]  # who, verb, resource, namespace


def users(*names: str) -> list[Json]:
    """Subjects of kind User, as a grant lists them."""
    return [{"kind": "User", "name": name} for name in names]


def subjects(*names: str) -> list[Json]:
    """Subjects of kind User, as RBAC stores them."""
    return [{"apiGroup": "rbac.authorization.k8s.io", **user} for user in users(*names)]


def spec(*names: str, **fields: Any) -> Json:
    """A spec for these users (alice where none is named)."""
    return {"subjects": users(*(names or ("alice",))), **fields}


def own(kind: str, namespace: str, grant: str) -> tuple[str, str, str]:
    """Where a grant's Role or RoleBinding is, as arguments of Stage.child and Stage.path."""
    return kind, namespace, f"vmaccess:{grant}"


def managed(child: Json | None) -> Json | None:
    """What the operator answers for in a child, so that two states can be compared."""
    if child is None:
        return None
    meta = child["metadata"]
    fields = ("rules", "subjects", "roleRef", "automountServiceAccountToken")
    marks = {field: meta.get(field) for field in ("labels", "ownerReferences", "finalizers", "deletionTimestamp")}
    return marks | {field: child.get(field) for field in fields}


def marks_of(child: Json) -> Json:
    """The labels and ownerReferences of a child, to be put on another object."""
    return {field: child["metadata"][field] for field in ("labels", "ownerReferences")}


def role(name: str, rules: list[Json], **metadata: Any) -> Json:
    """A Role."""
    return {"metadata": {"name": name, **metadata}, "rules": rules}


def binding(name: str, bound: list[Json], to: str = "ClusterRole/kubevirt.io:admin", **metadata: Any) -> Json:
    """A RoleBinding."""
    kind, _, target = to.partition("/")
    ref = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": target}
    return {"metadata": {"name": name, **metadata}, "roleRef": ref, "subjects": bound}


def events(stage: Stage, grant: str) -> list[Json]:
    """The Events about a grant."""
    found: list[Json] = stage.request("GET", "/apis/events.k8s.io/v1/namespaces/default/events")["items"]
    return [event for event in found if event["regarding"]["name"] == grant]


def until_event(stage: Stage, grant: str, reason: str, *, count: int = 1) -> None:
    """Wait until so many Events of this reason are told about a grant."""
    stage.until(
        lambda: sum(event["reason"] == reason for event in events(stage, grant)) >= count,
        f"{count} Events {reason} about {grant}",
    )


def writes_to_children(stage: Stage, since: int) -> list[str]:
    """The operator's writes since a mark without those to the status."""
    return [write for write in stage.writes(since) if "vmaccessgrants/status" not in write]


def base_role(stage: Stage, *rules: Json, name: str = "base") -> str:
    """Create a ClusterRole to be trimmed and return its (unique) name; the test removes it with `remove_base_role`."""
    full = stage.unique(name)
    stage.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": full}, "rules": list(rules)})
    return full


def set_base_role(stage: Stage, name: str, *rules: Json) -> None:
    """Give a ClusterRole other rules."""
    stage.request("PATCH", f"{RBAC}/clusterroles/{name}", {"rules": list(rules)})


def remove_base_role(stage: Stage, name: str) -> None:
    """Delete a ClusterRole, if it is there."""
    stage.request("DELETE", f"{RBAC}/clusterroles/{name}", expect=None)


class Watched:
    """Asks again and again, for as long as the context lasts, and fails at its end where an answer was ever wrong."""

    def __init__(self, stage: Stage, *, always: Iterable[Question] = (), never: Iterable[Question] = ()) -> None:
        self._stage = stage
        self._expected = {**dict.fromkeys(always, True), **dict.fromkeys(never, False)}
        self._wrong: set[Question] = set()
        self._rounds = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Self:
        self._thread.start()
        self._stage.until(lambda: self._rounds, "the first round of questions")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            assert self._rounds > 1, "the questions were not asked"
            assert not self._wrong, f"answered wrongly at least once: {self._wrong}"

    def _ask(self) -> None:
        while not self._over.is_set():
            self._wrong |= {question for question, answer in self._expected.items() if self._stage.can(*question) is not answer}
            self._rounds += 1
