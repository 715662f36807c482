"""Where commands are tried: a namespace with machines of its own for each identity, so that none disturbs another."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from localcluster import LocalCluster, VirtApi, wait_until
from tests.stage import RBAC, Stage, Who
from tests.virtctl.commands import ANYWHERE, VM, Command, Right
from tests.virtctl.objects import Json, export, files, furniture, instance, machine, manifest
from vmaccess.policy.kubevirt import KUBEVIRT
from vmaccess.policy.rules import Rules, parse

RBAC_GROUP = "rbac.authorization.k8s.io"
REFUSAL = re.compile(r'is forbidden: User "system:serviceaccount:t|the server has asked for the client to provide credentials')


@dataclass(frozen=True)
class Outcome:
    """What became of one command: its exit code (None while it still waited), its output, and the requests that were refused."""

    command: Command
    code: int | None
    output: str
    refusals: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        """Whether it came as far as it can here."""
        if self.code is None:
            return self.command.endless is not None
        return re.search(self.command.admitted, self.output) is not None if self.command.admitted else self.code == 0

    @property
    def verdict(self) -> str:
        """`works` in whole, `refused`, or all that is known where it is neither."""
        if self.lost:
            return "refused"
        if self.admitted and not REFUSAL.search(self.output):
            return "works"
        return f"neither refused nor at its end: exit code {self.code}, {self.output}"

    @property
    def lost(self) -> tuple[str, ...]:
        """The refusals that matter to it."""
        shrugs = self.command.shrugs
        return tuple(refusal for refusal in self.refusals if shrugs is None or not re.match(shrugs, refusal))


class Place:
    """A namespace with machines, volumes, exports and Secrets, where commands are run as ServiceAccounts of it."""

    def __init__(self, stage: Stage, cluster: LocalCluster, virt: VirtApi) -> None:
        self.stage, self.cluster, self.virt = stage, cluster, virt
        self.namespace = stage.namespace()
        self.files = cluster.directory / self.namespace
        self.files.mkdir()
        self.grant = ""
        self._runs = count()
        for file, content in files().items():
            (self.files / f"{file}.json").write_text(json.dumps(content))
        made = {body["metadata"]["name"]: self.create(body) for body in furniture()}
        self.create(instance("db-1", made["db-1"]))

    # --- identities

    def granted(self, role: Mapping[str, Any]) -> Caller:
        """Make a grant with a ServiceAccount of its own; returns when both are there and the authorizer knows."""
        account = {"name": "runner", "namespace": self.namespace}
        spec = {"serviceAccounts": [account], "namespaces": [self.namespace], "role": dict(role)}
        self.grant = self.stage.grant(spec)
        self.stage.until_ready(self.grant)
        caller = Caller(self, "runner")
        named = next(iter(role.get("virtualMachines", ())), "")
        wait_until(lambda: caller.can(Right("get", KUBEVIRT, VM), named), f"{caller.who.user} to be let in")
        return caller

    def with_rights(self, name: str, rights: Iterable[Right]) -> Caller:
        """Make a ServiceAccount with these rights and no other; returns when the authorizer knows."""
        wanted = list(rights)
        self.create(manifest("v1", "ServiceAccount", name))
        for where in {right.where for right in wanted} - {ANYWHERE}:
            rules = [
                {"apiGroups": [right.group], "resources": [right.resource], "verbs": [right.verb]}
                for right in wanted
                if right.where == where
            ]
            role = manifest(f"{RBAC_GROUP}/v1", "Role", f"{self.namespace}-{name}", rules=rules)
            self.create(role, where)
            self._bind(name, "Role", role["metadata"]["name"], where)
        caller = Caller(self, name)
        wait_until(lambda: all(map(caller.can, wanted)), f"{caller.who.user} to have its rights")
        return caller

    def bound_to(self, cluster_role: str, name: str) -> Caller:
        """Make a ServiceAccount that is bound to a ClusterRole here, by hand."""
        self.create(manifest("v1", "ServiceAccount", name))
        self._bind(name, "ClusterRole", cluster_role)
        caller = Caller(self, name)
        wait_until(lambda: caller.can(Right("get", KUBEVIRT, VM)), f"{caller.who.user} to be let in")
        return caller

    def _bind(self, name: str, kind: str, role: str, where: str = "") -> None:
        ref = {"apiGroup": RBAC_GROUP, "kind": kind, "name": role}
        subject = {"kind": "ServiceAccount", "name": name, "namespace": self.namespace}
        full = f"{self.namespace}-{name}"
        self.create(manifest(f"{RBAC_GROUP}/v1", "RoleBinding", full, roleRef=ref, subjects=[subject]), where)

    # --- commands

    def prepare(self, command: Command) -> list[str]:
        """Make what a single run uses up; returns the command line for it."""
        run = str(next(self._runs))
        consumed = {
            "vm spare-": machine(f"spare-{run}"),
            "vmi spare-": instance(f"spare-{run}"),
            "delete old-": export(f"old-{run}"),
        }
        for word, body in consumed.items():
            if word in command.line:
                self.create(body)
        return command.argv(ns=self.namespace, files=str(self.files), run=run)

    def create(self, body: Json, where: str = "") -> Json:
        """Make an object, in this namespace unless another is named; returns it."""
        version, plural = body["apiVersion"], body["kind"].lower() + "s"
        prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
        path = f"{prefix}/namespaces/{where or self.namespace}/{plural}"
        made: Json = self.stage.request("POST", path, body)
        if "status" in body and "status" not in made:  # the kind has a status apart
            self.stage.request("PATCH", f"{path}/{body['metadata']['name']}/status", {"status": body["status"]})
        return made


class Caller:
    """A ServiceAccount of a place, with its real token."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.who = Who.service_account(place.namespace, name)
        self._token = place.cluster.service_account_token(place.namespace, name)
        path = place.files / f"{name}.kubeconfig"
        self._kubeconfig = place.cluster.kubeconfig(path, token=self._token, namespace=place.namespace)

    def run(self, command: Command) -> Outcome:
        """Run a command to its end."""
        argv = self.place.prepare(command)
        since = self.place.cluster.audit_position()
        code, output = self._start(argv, command.endless)
        return Outcome(command, code, output, tuple(self.place.virt.refusals(self.who.user, since=since)))

    def _start(self, argv: list[str], endless: float | None) -> tuple[int | None, str]:
        cluster = self.place.cluster
        match argv:
            case ["kubectl", *arguments]:
                done = cluster.kubectl(*arguments, kubeconfig=self._kubeconfig, check=False)
            case ["virtctl", *arguments]:
                try:
                    done = self.place.virt.virtctl(*arguments, kubeconfig=self._kubeconfig, timeout=endless or 60)
                except subprocess.TimeoutExpired:
                    return None, ""
            case [method, path, body]:
                # virt-api's own answers are seldom JSON, and it refuses to be asked for that.
                sent = json.loads(body) if body else None
                status, answer = cluster.request(method, path, sent, token=self._token, headers={"Accept": "*/*"})
                return int(status >= 300), f"{status} {answer}"
        return done.returncode, f"{done.stdout}{done.stderr}"

    def can(self, right: Right, name: str = "") -> bool:
        """Ask the API server whether it would let this ServiceAccount do it, in its own namespace unless the right says where."""
        namespace = {"": self.place.namespace, ANYWHERE: ""}.get(right.where, right.where)
        return self.place.stage.can(self.who, right.verb, f"{right.group}/{right.resource}", namespace, name=name)

    def may_go_on(self, command: Command) -> bool:
        """Ask the API server for the rights that a run does not get to."""
        return all(any(map(self.can, need)) for need in command.beyond)

    def rules(self) -> Rules:
        """What it has been given: the rules of all roles that RoleBindings of its namespace give it."""
        request, namespace = self.place.stage.request, self.place.namespace
        found: list[Json] = []
        for binding in request("GET", f"{RBAC}/namespaces/{namespace}/rolebindings")["items"]:
            subjects = binding.get("subjects", ())
            if self.who.user in {f"system:serviceaccount:{who.get('namespace')}:{who['name']}" for who in subjects}:
                ref = binding["roleRef"]
                scope = f"/namespaces/{namespace}/roles" if ref["kind"] == "Role" else "/clusterroles"
                found += request("GET", f"{RBAC}{scope}/{ref['name']}")["rules"]
        return parse(found)
