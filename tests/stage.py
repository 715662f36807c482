"""A test's own corner of a real cluster: its namespaces, its grants, and the questions that decide whether access is right."""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from localcluster import Cluster, ClusterError, wait_until

Json = dict[str, Any]

GRANTS = "/apis/vmaccess.dev/v1alpha1/vmaccessgrants"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
OPERATOR = "system:serviceaccount:vmaccess-system:vmaccess-operator"
QUIET = 0.1  # seconds in which every request that was answered is in the audit log
CHILDREN = {
    "clusterroles": RBAC,
    "serviceaccounts": "/api/v1",
    "roles": RBAC,
    "rolebindings": RBAC,
}


@dataclass(frozen=True)
class Who:
    """An identity as a SubjectAccessReview names it."""

    user: str
    groups: tuple[str, ...] = ()

    @classmethod
    def service_account(cls, namespace: str, name: str) -> Who:
        """The user and the groups that a ServiceAccount's token stands for."""
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated")
        return cls(f"system:serviceaccount:{namespace}:{name}", groups)


class Stage:
    """Names are unique to the stage, so that tests share a cluster without meeting; leaving it removes everything."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.tag = secrets.token_hex(3)
        self._count = itertools.count(1)
        self._namespaces: list[str] = []
        self._grants: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in self._grants:
            self.request("DELETE", f"{GRANTS}/{name}", expect=None)
        for name in self._namespaces:
            self.request("DELETE", f"/api/v1/namespaces/{name}", expect=None)

    # --- objects ---

    def request(self, method: str, path: str, body: object = None, *, expect: int | None = 200, **options: Any) -> Any:
        """One request as the admin; fails the test where the answer is not `expect` (201 counts as 200, None takes any)."""
        status, answer = self.cluster.request(method, path, body, **options)
        assert expect is None or status == expect or (expect, status) == (200, 201), f"{method} {path}: {status} {answer}"
        return answer

    def unique(self, name: str = "") -> str:
        """A name that no other test uses."""
        return f"t{self.tag}-{name or next(self._count)}"

    def namespace(self, name: str = "", **labels: str) -> str:
        """Create a namespace and return its (unique) name."""
        full = self.unique(name)
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": full, "labels": labels}})
        self._namespaces.append(full)
        return full

    def relabel(self, namespace: str, **labels: str | None) -> None:
        """Change labels of a namespace; None removes one."""
        self.request("PATCH", f"/api/v1/namespaces/{namespace}", {"metadata": {"labels": labels}})

    def delete_namespace(self, namespace: str) -> None:
        """Delete a namespace and wait until it is gone."""
        self.request("DELETE", f"/api/v1/namespaces/{namespace}")
        self.until(lambda: self.cluster.request("GET", f"/api/v1/namespaces/{namespace}")[0] == 404, f"{namespace} to be gone")

    def grant(self, spec: Json, name: str = "", **metadata: Any) -> str:
        """Create a grant and return its (unique) name."""
        full = self.unique(name or f"grant-{next(self._count)}")
        self._grants.append(full)
        self.request("POST", GRANTS, {**_TYPE, "metadata": {"name": full, **metadata}, "spec": spec})
        return full

    def respec(self, name: str, spec: Json) -> int:
        """Replace the whole spec of a grant; returns the new generation."""
        patch = [{"op": "replace", "path": "/spec", "value": spec}]  # a PUT would meet the statuses written meanwhile
        changed = self.request("PATCH", f"{GRANTS}/{name}", patch, content_type="application/json-patch+json")
        generation: int = changed["metadata"]["generation"]
        return generation

    def delete(self, name: str, cascade: str = "Background") -> None:
        """Delete a grant; returns when the API server has answered."""
        self.request("DELETE", f"{GRANTS}/{name}", {"propagationPolicy": cascade})

    def get(self, name: str) -> Json:
        """A grant as it is now."""
        found: Json = self.request("GET", f"{GRANTS}/{name}")
        return found

    def children(self, grant: str, kinds: Iterable[str] = tuple(CHILDREN)) -> list[str]:
        """`kind namespace/name` of every object with the grant's label, sorted."""
        found = []
        for kind in kinds:
            items = self.request("GET", f"{CHILDREN[kind]}/{kind}?labelSelector=vmaccess.dev/grant={grant}")["items"]
            found += [f"{kind} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in items]
        return sorted(found)

    def child(self, kind: str, namespace: str, name: str) -> Json | None:
        """One ServiceAccount, Role, RoleBinding or (without a namespace) ClusterRole, or None."""
        status, answer = self.cluster.request("GET", self.path(kind, namespace, name))
        return answer if status == 200 else None

    @staticmethod
    def path(kind: str, namespace: str, name: str = "") -> str:
        """URL path of a child, or of the collection; no namespace for what is in none."""
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{CHILDREN[kind]}{scope}/{kind}" + (f"/{name}" if name else "")

    # --- waiting ---

    def until(self, probe: Any, what: str, seconds: float = 15) -> Any:
        """The first truthy answer of `probe`."""
        return wait_until(probe, what, timeout=seconds)

    def condition(self, name: str, kind: str) -> Json | None:
        """One condition of a grant, None where it is absent."""
        conditions = self.get(name).get("status", {}).get("conditions", ())
        return next((condition for condition in conditions if condition["type"] == kind), None)

    def until_condition(self, name: str, kind: str, status: str = "True", reason: str | None = None) -> Json:
        """Wait until a condition of the newest generation has the status (and reason); returns the grant."""

        def holds() -> Json | None:
            grant = self.get(name)
            found = grant.get("status", {})
            if found.get("observedGeneration") != grant["metadata"]["generation"]:
                return None
            for condition in found["conditions"]:
                if (condition["type"], condition["status"]) == (kind, status) and reason in (None, condition["reason"]):
                    return grant
            return None

        try:
            ready: Json = self.until(holds, f"{name} {kind}={status} {reason or ''}")
        except ClusterError as error:
            raise AssertionError(f"{error}; it is {self.get(name).get('status')}") from None
        return ready

    def until_ready(self, name: str) -> Json:
        """Wait until the newest generation is Ready; returns the grant."""
        return self.until_condition(name, "Ready")

    # --- access ---

    def can(self, who: Who, verb: str, resource: str, namespace: str, *, name: str = "") -> bool:
        """Ask the API server whether it would let `who` do this; resource as `group/resource[/subresource]`."""
        group, _, rest = resource.partition("/")
        kind, _, subresource = rest.partition("/")
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "resource": kind,
            "subresource": subresource,
            "name": name,
        }
        review = {"spec": {"user": who.user, "groups": list(who.groups), "resourceAttributes": attributes}}
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        allowed: bool = answer["status"]["allowed"]
        return allowed

    def views(self, who: Who, namespace: str) -> bool:
        """Whether `who` may list VirtualMachines there, the shortest form of having access by a View grant."""
        return self.can(who, "list", "kubevirt.io/virtualmachines", namespace)

    def assert_access(self, who: Who, expected: Mapping[str, bool]) -> None:
        """The truth table of one identity over namespaces, all at once.

        The API server's authorizer hears of a write a moment after the writer has its answer, so it gets a second.
        """

        def actual() -> dict[str, bool]:
            return {namespace: self.views(who, namespace) for namespace in expected}

        try:
            self.until(lambda: actual() == dict(expected), "the truth table", 1)
        except ClusterError:
            raise AssertionError(f"{who.user}: {actual()}, expected {dict(expected)}") from None

    # --- what the operator did ---

    def mark(self) -> int:
        """A position in the audit log."""
        return self.cluster.audit_position()

    def writes(self, since: int) -> list[str]:
        """Every write of the operator since a mark, Events left out, as `verb resource[/subresource] namespace/name code`."""
        return [_worded(event) for event in self._asked(since) if _is_write(event)]

    def writes_so_far(self, since: int) -> int:
        """How many writes of the operator are in the audit log already, without waiting for those that are on their way."""
        return sum(map(_is_write, self.cluster.audit_events(user=OPERATOR, since=since)))

    def reads(self, since: int) -> list[str]:
        """Every read of a single object by the operator since a mark."""
        return [
            _worded(event) for event in self._asked(since) if event["verb"] == "get" and "objectRef" in event
        ]  # else: discovery

    def _asked(self, since: int) -> list[Json]:
        """The operator's requests. What was written can be seen by others a moment before its line is in the log."""
        events = self.cluster.audit_events(user=OPERATOR, since=since)
        while True:
            time.sleep(QUIET)
            later = self.cluster.audit_events(user=OPERATOR, since=since)
            if len(later) == len(events):
                return later
            events = later


_TYPE = {"apiVersion": "vmaccess.dev/v1alpha1", "kind": "VMAccessGrant"}


def _is_write(event: Json) -> bool:
    verbs = ("create", "update", "patch", "delete", "deletecollection")
    return event["verb"] in verbs and event["objectRef"]["resource"] != "events"


def _worded(event: Json) -> str:
    ref = event["objectRef"]
    resource = ref["resource"] + (f"/{ref['subresource']}" if "subresource" in ref else "")
    return f"{event['verb']} {resource} {ref.get('namespace', '')}/{ref.get('name', '')} {event['responseStatus']['code']}"
